//! What a resume of a failed run does anew.
#![allow(clippy::unwrap_used)]

use cmbagent::engine::executor::rewind;
use cmbagent::journal::{Effect, Entry, Journal, MemoryJournal, Position};
use serde_json::{Value, json};

fn at(phase: u32, step: u32, call: u32) -> Position {
    Position { phase, step, call, ..Position::default() }
}

fn ended(phase: u32, kind: &str, status: &str, error: Value) -> (Position, Entry) {
    (at(phase, 0, 0), Entry::Ended { kept: json!({"phase_type": kind, "status": status, "error": error}) })
}

fn step_failed(phase: u32, step: u32) -> (Position, Entry) {
    let data = json!({"status": "failed"});
    (at(phase, step, 0), Entry::Event { kind: "step_finished".into(), data, once: false })
}

fn call_failed(phase: u32, step: u32, effect: Effect) -> (Position, Entry) {
    (at(phase, step, 1), Entry::Failed { effect, error: "500".into() })
}

/// From where on a run with these records and this status is done anew.
fn anew(records: Vec<(Position, Entry)>, status: &str) -> Option<Position> {
    let journal = MemoryJournal::default();
    let status = (Position::of_attempt(0), Entry::Status { status: status.into(), usage: Value::Null });
    for (position, entry) in records.into_iter().chain([status]) {
        journal.append(0.0, position, entry).unwrap();
    }
    rewind(&journal, 0.0, |kind| kind == "control").unwrap();
    journal.records(1).unwrap().into_iter().find_map(|record| match record.entry {
        Entry::Rewound { to } => Some(to),
        _ => None,
    })
}

#[test]
fn a_step_that_failed_is_done_anew_whether_or_not_its_phase_failed() {
    let fine = || ended(0, "planning", "completed", Value::Null);
    let failed = || ended(1, "control", "failed", json!("no"));
    let soft = ended(1, "control", "completed", json!("no"));
    assert_eq!(anew(vec![fine(), step_failed(1, 2), failed()], "failed"), Some(at(1, 2, 0)));
    assert_eq!(anew(vec![fine(), step_failed(1, 2), soft], "failed"), Some(at(1, 2, 0)));
    assert_eq!(anew(vec![fine(), step_failed(1, 2), failed()], "cancelled"), None);
    assert_eq!(anew(vec![fine(), failed()], "failed"), Some(at(1, 0, 0)), "a phase without steps");
    assert_eq!(anew(vec![fine()], "failed"), None, "an exception of a phase that did not end");
}

#[test]
fn what_failed_without_a_result_acts_again_and_what_came_before_it_stays() {
    let records = |effect| {
        vec![call_failed(1, 2, effect), step_failed(1, 2), ended(1, "control", "failed", json!("500"))]
    };
    assert_eq!(anew(records(Effect::Call), "failed"), None);
    assert_eq!(anew(records(Effect::Observe), "failed"), Some(at(1, 2, 0)), "a look is no reason to fail");
}

#[test]
fn a_phase_of_a_user_keeps_its_effects_and_decides_anew() {
    let own = || ended(0, "mine", "failed", json!("no"));
    assert_eq!(anew(vec![own()], "failed"), None);
    assert_eq!(anew(vec![step_failed(0, 3), own()], "failed"), Some(at(0, 3, 0)), "a built-in within it");
}
