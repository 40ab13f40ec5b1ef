//! The list of runs: what is found, on which page, and how many there are.

use std::collections::BTreeMap;

use cmbagent::journal::runs::{Tally, Wanted};
use cmbagent::journal::{Claim, Entry, Journal, Store};
use serde_json::{Value, json};

use super::shelf::{Shelf, at, claim, commit};

/// Runs that came to their end, one after the other.
fn filled(shelf: &Shelf) {
    for (id, workflow, status, parent) in [
        ("a", "one", "completed", None),
        ("b", "two", "failed", None),
        ("c", "one", "completed", None),
        ("d", "one", "completed", Some("c")),
        ("e", "one", "running", None),
    ] {
        let about = json!({"workflow": {"id": workflow}});
        let claim =
            Claim { about, parent: parent.map(str::to_owned), work_dir: format!("/{id}"), ..claim(id) };
        let journal = shelf.open().begin(&claim).unwrap();
        let usage = json!({"calls": 2, "prompt_tokens": 10, "completion_tokens": 3, "cost": 0.5});
        journal.append(1.0, at(0, 0, 0), Entry::Status { status: status.into(), usage }).unwrap();
        commit(&journal).unwrap();
    }
    // Told apart by more than the clock's resolution.
    for (id, created) in [("a", 1), ("b", 2), ("c", 3), ("d", 4), ("e", 5)] {
        shelf.sql().execute("UPDATE runs SET created = ?2 WHERE id = ?1", (id, created)).unwrap();
    }
}

/// The ids that are found, and how many there are on all pages.
fn found(store: &Store, wanted: Value) -> (String, u64) {
    let wanted: Wanted = serde_json::from_value(wanted).unwrap();
    let ids = store.runs(&wanted).unwrap().into_iter().map(|row| row.id).collect();
    (ids, store.count_runs(&wanted).unwrap())
}

#[test]
fn runs_are_filtered_and_paged_the_newest_first() {
    let shelf = Shelf::new();
    filled(&shelf);
    let store = shelf.open();
    for (wanted, ids, count) in [
        (json!({}), "edcba", 5),
        (json!({"top_level": true}), "ecba", 4),
        (json!({"workflow_id": "one"}), "edca", 4),
        (json!({"workflow_id": "one", "top_level": true, "limit": 2, "offset": 1}), "ca", 3),
        (json!({"limit": 2}), "ed", 5),
        (json!({"offset": 4}), "a", 5),
        (json!({"limit": 2, "offset": 7}), "", 5),
        (json!({"status": "completed"}), "dca", 3),
        (json!({"status": "completed", "workflow_id": "two"}), "", 0),
        // Nobody runs it any more.
        (json!({"status": "running"}), "", 0),
        (json!({"status": "interrupted"}), "e", 1),
        (json!({"work_dir": "/b"}), "b", 1),
        (json!({"status": "stopping", "told": {"a": "stopping", "c": "paused"}}), "a", 1),
        (json!({"status": "completed", "told": {"a": "stopping", "c": "paused"}, "limit": 1}), "d", 1),
    ] {
        assert_eq!(found(&store, wanted.clone()), (ids.to_owned(), count), "{wanted}");
    }
    assert!(serde_json::from_value::<Wanted>(json!({"odd": 1})).is_err());
}

#[test]
fn a_run_that_somebody_runs_is_found_as_it_stands() {
    let shelf = Shelf::new();
    let journal = shelf.begin("run-1");
    let usage = Value::Null;
    journal.append(1.0, at(0, 0, 0), Entry::Status { status: "running".into(), usage }).unwrap();
    commit(&journal).unwrap();
    assert_eq!(found(&shelf.open(), json!({"status": "running"})), ("run-1".into(), 1));
    drop(journal);
    assert_eq!(found(&shelf.open(), json!({"status": "interrupted"})), ("run-1".into(), 1));
}

#[test]
fn runs_are_counted_with_what_they_spent() {
    let shelf = Shelf::new();
    filled(&shelf);
    let tally = shelf.open().tally().unwrap();
    let told: BTreeMap<&str, &Tally> = tally.iter().map(|each| (each.status.as_str(), each)).collect();
    assert_eq!(told.keys().copied().collect::<Vec<_>>(), ["completed", "failed", "interrupted"]);
    let Tally { runs, calls, prompt_tokens, completion_tokens, cost, .. } = told["completed"];
    assert_eq!((*runs, *calls, *prompt_tokens, *completion_tokens), (2, 4, 20, 6));
    assert_eq!(cost.to_string(), "1");
}

#[test]
fn a_store_of_an_earlier_version_knows_its_runs_workflows() {
    let shelf = Shelf::new();
    filled(&shelf);
    let earlier = "DROP INDEX runs_by_age; DROP INDEX runs_by_workflow; ALTER TABLE runs DROP COLUMN workflow; \
                   UPDATE runs SET about = '{}' WHERE id = 'b'; PRAGMA user_version = 2";
    shelf.sql().execute_batch(earlier).unwrap();
    assert_eq!(found(&shelf.open(), json!({"workflow_id": "one"})).0, "edca");
    assert_eq!(found(&shelf.open(), json!({"workflow_id": ""})).0, "b");
}

#[test]
fn pages_are_found_by_an_index() {
    let shelf = Shelf::new();
    shelf.open();
    for (condition, index) in [
        ("parent IS NULL", "runs_by_age"),
        ("workflow = 'w' AND parent IS NULL", "runs_by_workflow"),
        ("work_dir = '/w'", "runs_by_work_dir"),
    ] {
        let sql =
            format!("EXPLAIN QUERY PLAN SELECT * FROM runs WHERE {condition} ORDER BY created DESC, no DESC");
        let plan: String = shelf.sql().query_row(&sql, [], |row| row.get(3)).unwrap();
        assert!(plan.contains(index), "{condition}: {plan}");
    }
}
