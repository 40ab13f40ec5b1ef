//! A damaged file: an error in words, or what was recorded; never a crash and never anything else.

use std::fs;

use cmbagent::journal::{Journal, Record, Store};
use rusqlite::params;
use serde_json::json;

use super::shelf::{Shelf, at, ended, event, finished};

/// A store with one run of every kind of record, in one file; and the records.
fn written() -> (Shelf, Vec<Record>) {
    let shelf = Shelf::new();
    let journal = shelf.begin("run-1");
    let mut text = String::new();
    for n in 0..12 {
        text.extend(["line ", &n.to_string(), " ", &"x".repeat(200), "\n"]);
        journal.append(f64::from(n), at(n, 1, 0), finished(json!({"text": text, "n": n}))).unwrap();
        journal.append(f64::from(n), at(n, 1, 0), event("e", json!(n))).unwrap();
        journal
            .append(f64::from(n), at(n, 0, 0), ended(json!({"text": text, "list": vec![n; n as usize]})))
            .unwrap();
    }
    let records = journal.records(1).unwrap();
    drop(journal);
    shelf.sql().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    (shelf, records)
}

fn damage(shelf: &Shelf) -> String {
    let said = shelf.open().records("run-1", 1).unwrap_err().to_string();
    assert!(said.contains("damaged at run run-1") && said.contains("cmbagent prune --run run-1"), "{said}");
    assert!(shelf.open().begin(&super::shelf::claim("run-1")).is_err());
    assert!(shelf.open().begin(&super::shelf::claim("run-2")).is_ok(), "other runs are not affected");
    said
}

#[test]
fn a_missing_record_is_named() {
    let (shelf, _) = written();
    shelf.sql().execute("DELETE FROM events WHERE seq = 5", []).unwrap();
    assert!(damage(&shelf).contains("record 5 is missing"));
}

#[test]
fn a_missing_first_record_is_named() {
    let (shelf, _) = written();
    shelf.sql().execute("DELETE FROM events WHERE seq = 1", []).unwrap();
    assert!(damage(&shelf).contains("record 1 is missing"));
}

#[test]
fn a_lost_last_record_is_the_journal_before_it() {
    let (shelf, records) = written();
    shelf.sql().execute("DELETE FROM events WHERE seq = ?1", [records.len()]).unwrap();
    assert_eq!(shelf.open().records("run-1", 1).unwrap(), records[..records.len() - 1]);
}

#[test]
fn a_torn_or_changed_record_is_named() {
    let changes = [
        "body = substr(body, 1, length(body) / 2)",
        "body = ''",
        "body = replace(body, '\"n\":4', '\"n\":5')",
        "body = (SELECT body FROM events WHERE seq = 1)",
        "at = at + 1",
        "kind = 'event'",
        "seal = seal + 1",
    ];
    for change in changes {
        let (shelf, _) = written();
        shelf.sql().execute(&format!("UPDATE events SET {change} WHERE seq = 13"), []).unwrap();
        assert!(damage(&shelf).contains("record 13 is not what was written"), "{change}");
    }
}

#[test]
fn a_record_of_another_type_is_an_error_in_words() {
    for change in ["body = 7", "body = x'00ff'", "at = 'noon'", "seal = NULL"] {
        let (shelf, _) = written();
        let changed = shelf.sql().execute(&format!("UPDATE events SET {change} WHERE seq = 13"), []);
        if changed.is_ok() {
            assert!(shelf.open().records("run-1", 1).is_err(), "{change}");
        } else {
            assert!(change.contains("NULL"), "{change}");
        }
    }
}

#[test]
fn a_missing_or_changed_text_is_named() {
    let (shelf, _) = written();
    shelf.sql().execute("UPDATE texts SET body = body || ' '", []).unwrap();
    assert!(damage(&shelf).contains("a text of record 7 is not what was written"), "{}", damage(&shelf));
    shelf.sql().execute("DELETE FROM texts", []).unwrap();
    assert!(damage(&shelf).contains("a text of record 7 is missing"), "{}", damage(&shelf));
}

#[test]
fn records_that_change_places_are_found_out() {
    let (shelf, _) = written();
    let sql = shelf.sql();
    for (from, to) in [(4, 1000), (7, 4), (1000, 7)] {
        sql.execute("UPDATE events SET seq = ?2 WHERE seq = ?1", params![from, to]).unwrap();
    }
    damage(&shelf);
}

/// Bytes of the file changed at random: what can be read is what was recorded, or its beginning, as if the
/// run had ended there.
#[test]
fn changed_bytes_never_give_anything_that_was_not_recorded() {
    let (shelf, records) = written();
    let bytes = fs::read(shelf.path()).unwrap();
    let mut random = fastrand::Rng::with_seed(11);
    let (mut refused, mut read) = (0, 0);
    for round in 0..300 {
        let mut changed = bytes.clone();
        match round % 4 {
            0 => changed.truncate(random.usize(..changed.len())),
            1 => {
                let start = random.usize(..changed.len());
                let end = (start + random.usize(1..4096)).min(changed.len());
                changed[start..end].fill(random.u8(..));
            }
            _ => {
                for _ in 0..random.usize(1..20) {
                    let place = random.usize(..changed.len());
                    changed[place] ^= 1 << random.u8(..8);
                }
            }
        }
        let copy = shelf.temp.path().join(format!("copy-{round}.db"));
        fs::write(&copy, changed).unwrap();
        match Store::open(&copy).and_then(|store| store.records("run-1", 1)) {
            Ok(found) => {
                assert!(records.starts_with(&found), "round {round}: {} records", found.len());
                read += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains(copy.to_str().unwrap()), "round {round}: {error}");
                refused += 1;
            }
        }
        fs::remove_file(&copy).unwrap();
    }
    assert!(refused > 50 && read > 20, "{refused} refused, {read} read: the changes reach what matters");
}
