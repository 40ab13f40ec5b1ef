//! The file itself: who may read it, what is refused, what is deleted, and network file systems.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use cmbagent::journal::Claim;
use cmbagent::journal::lease::{self, Owner, STALE_SECONDS};
use cmbagent::journal::runs::Wanted;
use cmbagent::journal::{Demand, Journal, Store};
use rusqlite::params;
use serde_json::json;

use super::shelf::{Shelf, at, claim, commit, event, finished, wait};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn only_its_owner_can_read_a_store() {
    let shelf = Shelf::new();
    let journal = shelf.begin("run-1");
    journal.append(0.0, at(0, 0, 0), event("e", json!(1))).unwrap();
    commit(&journal).unwrap();
    let place = shelf.temp.path().join("place");
    assert_eq!(mode(&place), 0o700);
    let mut files: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 3, "the database, its log, its index: {files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn a_directory_that_was_there_keeps_its_mode() {
    let shelf = Shelf::new();
    let place = shelf.temp.path().join("place");
    fs::create_dir(&place).unwrap();
    fs::set_permissions(&place, fs::Permissions::from_mode(0o755)).unwrap();
    shelf.open();
    assert_eq!((mode(&place), mode(&shelf.path())), (0o755, 0o600));
}

#[test]
fn a_newer_schema_is_refused_and_left_as_it_is() {
    let shelf = Shelf::new();
    drop(shelf.begin("run-1"));
    let newer = 1 + shelf.sql().pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0)).unwrap();
    shelf.sql().pragma_update(None, "user_version", newer).unwrap();
    let refusal = shelf.refusal();
    assert!(refusal.contains("newer cmbagent") && refusal.contains(&format!("schema {newer}")), "{refusal}");
    assert!(refusal.contains("update cmbagent") && refusal.contains("CMBAGENT_STORE"), "{refusal}");
    let version = shelf.sql().pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0)).unwrap();
    assert_eq!(version, newer);
}

#[test]
fn a_database_of_another_program_is_refused_and_left_as_it_is() {
    let shelf = Shelf::new();
    fs::create_dir(shelf.temp.path().join("place")).unwrap();
    shelf.sql().execute_batch("CREATE TABLE runs (id TEXT); INSERT INTO runs VALUES ('mine')").unwrap();
    assert!(shelf.refusal().contains("a database of another program"), "{}", shelf.refusal());
    let mine: String = shelf.sql().query_row("SELECT id FROM runs", [], |row| row.get(0)).unwrap();
    let tables: i64 =
        shelf.sql().query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!((mine.as_str(), tables), ("mine", 1));
}

#[test]
fn what_is_no_database_is_refused_in_words() {
    let shelf = Shelf::new();
    fs::create_dir(shelf.temp.path().join("place")).unwrap();
    let text = "A file of the user's, long enough to be taken for a header of a database.\n".repeat(20);
    fs::write(shelf.path(), &text).unwrap();
    assert!(shelf.refusal().contains("it is damaged"), "{}", shelf.refusal());
    assert_eq!(fs::read_to_string(shelf.path()).unwrap(), text);
    fs::remove_file(shelf.path()).unwrap();
    fs::create_dir(shelf.path()).unwrap();
    assert!(shelf.refusal().contains("could not be opened"), "{}", shelf.refusal());
}

#[test]
fn an_empty_file_becomes_a_store() {
    let shelf = Shelf::new();
    fs::create_dir(shelf.temp.path().join("place")).unwrap();
    fs::write(shelf.path(), "").unwrap();
    assert!(shelf.open().runs(&Wanted::default()).unwrap().is_empty());
}

#[test]
fn a_deleted_run_leaves_nothing_and_its_space_is_given_back() {
    let shelf = Shelf::new();
    for id in ["run-1", "run-2"] {
        let journal = shelf.begin(id);
        for n in 0..20 {
            let text = format!("{n} {}", "x".repeat(50_000));
            journal.append(0.0, at(0, 0, n), finished(json!(text))).unwrap();
        }
        journal.ask("q", &json!({"message": "?"})).unwrap();
        commit(&journal).unwrap();
        shelf.open().demand(id, Demand::Pause).unwrap();
        if id == "run-1" {
            let refusal = shelf.open().delete(id).unwrap_err().to_string();
            assert!(refusal.contains("stop it before deleting it"), "{refusal}");
        }
    }
    let store = shelf.open();
    // What was let go is free once the thread has said so, which the next begin waits for.
    drop(store.begin(&claim("run-3")).unwrap());
    store.delete("run-1").unwrap();
    store.shrink().unwrap();
    let left = |table: &str| -> i64 {
        let sql = format!(
            "SELECT count(*) FROM {table} WHERE {}",
            if table == "runs" { "id = 'run-1'" } else { "run = 1" }
        );
        shelf.sql().query_row(&sql, [], |row| row.get(0)).unwrap()
    };
    for table in ["runs", "events", "texts", "demands", "questions"] {
        assert_eq!(left(table), 0, "{table}");
    }
    assert!(fs::metadata(shelf.path()).unwrap().len() < 1_500_000, "of twice a million");
    assert_eq!(store.records("run-2", 1).unwrap().len(), 20);
    assert!(store.delete("run-1").unwrap_err().to_string().contains("no run run-1"));
}

#[test]
fn a_lease_whose_heartbeat_is_old_is_taken_over_and_a_fresh_one_is_not() {
    let shelf = Shelf::new();
    let old = shelf.begin("run-1");
    old.append(0.0, at(0, 0, 0), event("mine", json!(1))).unwrap();
    commit(&old).unwrap();
    let elsewhere = Owner { host: "elsewhere".into(), pid: 7, ..Owner::here() };
    let owned = |heartbeat: f64| {
        let sql = "UPDATE runs SET owner = ?1, heartbeat = ?2";
        shelf.sql().execute(sql, params![json!(elsewhere).to_string(), heartbeat]).unwrap();
    };
    owned(lease::now());
    let refusal = shelf.open().begin(&claim("run-1")).err().unwrap().to_string();
    for word in ["run run-1", "process 7 on elsewhere", "60 s"] {
        assert!(refusal.contains(word), "{word}: {refusal}");
    }
    // A clock that was set back leaves signs of life in the future: they are as good as none.
    for heartbeat in [lease::now() - STALE_SECONDS - 1.0, lease::now() + STALE_SECONDS + 60.0] {
        owned(heartbeat);
        assert_eq!(shelf.open().run("run-1").unwrap().unwrap().status, "interrupted");
        let new = shelf.begin("run-1");
        assert_eq!(new.records(1).unwrap().len(), 1);
    }
    // The old owner records nothing more, is told why, and its run is cancelled.
    old.append(0.0, at(0, 0, 1), event("mine", json!(2))).unwrap();
    let told = commit(&old).unwrap_err().to_string();
    assert!(told.contains("taken over by another process"), "{told}");
    assert_eq!(wait(old.demand()), Demand::Cancel);
    assert!(old.append(0.0, at(0, 0, 1), event("mine", json!(3))).is_err());
    assert_eq!(shelf.open().records("run-1", 1).unwrap().len(), 1);
}

#[test]
fn a_work_directory_has_one_guarding_run_and_its_family() {
    let shelf = Shelf::new();
    let store = shelf.open();
    let guard = |id: &str, root: &str, work_dir: &str| Claim {
        root: root.into(),
        work_dir: work_dir.into(),
        guards: true,
        ..claim(id)
    };
    let first = store.begin(&guard("first", "first", "/w")).unwrap();
    let refusal = store.begin(&guard("second", "second", "/w")).err().unwrap().to_string();
    for word in ["/w", "run first", "process", "cmbagent stop first"] {
        assert!(refusal.contains(word), "{word}: {refusal}");
    }
    assert!(store.run("second").unwrap().is_none(), "what is refused leaves no trace");
    let child = store.begin(&guard("child", "first", "/w")).unwrap();
    let other = store.begin(&guard("other", "other", "/v")).unwrap();
    let plain = store.begin(&claim("plain")).unwrap();
    drop((first, child));
    let second = store.begin(&guard("second", "second", "/w")).unwrap();
    drop((other, plain, second));
}

#[test]
fn on_a_network_file_system_there_is_no_shared_memory_and_all_else_holds() {
    let shelf = Shelf::new();
    let open = || Store::open_on(&shelf.path(), |_| Some("NFS")).unwrap();
    let store = open();
    assert_eq!(store.network(), Some("NFS"));
    let journal = store.begin(&claim("run-1")).unwrap();
    for n in 0..10 {
        journal.append(0.0, at(0, 0, n), finished(json!("x".repeat(1000)))).unwrap();
        commit(&journal).unwrap();
    }
    let names: Vec<_> =
        fs::read_dir(shelf.temp.path().join("place")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().ends_with("-shm")), "{names:?}");
    let mode: String = shelf.sql().pragma_query_value(None, "journal_mode", |row| row.get(0)).unwrap();
    assert_eq!(mode, "delete");
    drop((journal, store));
    assert_eq!(open().begin(&claim("run-1")).unwrap().records(1).unwrap().len(), 10);
}

#[test]
fn a_run_that_has_ended_takes_no_record() {
    let shelf = Shelf::new();
    let journal = shelf.begin("run-1");
    journal.release();
    let refusal = journal.append(0.0, at(0, 0, 0), event("e", json!(1))).unwrap_err().to_string();
    assert!(refusal.contains("run run-1 has ended"), "{refusal}");
}

#[test]
fn a_run_that_was_deleted_meanwhile_ends() {
    let shelf = Shelf::new();
    let journal = shelf.begin("run-1");
    shelf.sql().execute("DELETE FROM runs", []).unwrap();
    journal.append(0.0, at(0, 0, 0), event("e", json!(1))).unwrap();
    assert!(commit(&journal).unwrap_err().to_string().contains("deleted by another process"));
    assert_eq!(wait(journal.demand()), Demand::Cancel);
}
