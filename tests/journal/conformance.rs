//! The conformance suite of the port [`Journal`]: every implementation passes it.

use std::sync::Arc;

use cmbagent::engine::executor;
use cmbagent::journal::{Effect, Entry, History, Journal, MemoryJournal, Position, Record};
use serde_json::{Value, json};

use super::shelf::{Shelf, at, commit, ended, entries, event, finished, started};

/// Something that holds one run's journal over several lives.
trait Life {
    /// The journal of the next life; the one before is gone.
    fn journal(&mut self) -> Arc<dyn Journal>;
}

#[derive(Default)]
struct Memory(Option<Arc<MemoryJournal>>);

impl Life for Memory {
    fn journal(&mut self) -> Arc<dyn Journal> {
        let left = self.0.take().map(|journal| journal.records(1).unwrap());
        let journal = Arc::new(MemoryJournal::replaying(left.unwrap_or_default()));
        self.0 = Some(journal.clone());
        journal
    }
}

struct Sqlite(Shelf);

impl Life for Sqlite {
    fn journal(&mut self) -> Arc<dyn Journal> {
        Arc::new(self.0.begin("run-1"))
    }
}

/// Makes a test of each function for each implementation.
macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod memory {
            $(#[test] fn $name() { super::$name(&mut super::Memory::default()); })*
        }
        mod sqlite {
            $(#[test] fn $name() { super::$name(&mut super::Sqlite(super::Shelf::new())); })*
        }
    };
}

conformance!(
    every_entry_comes_back_in_order,
    numbers_go_on_after_a_reopening,
    records_are_seen_before_a_commit,
    a_part_of_the_records_is_like_that_part_of_all,
    many_threads_append_without_gaps,
    ends_come_back_whole_however_they_changed,
    long_texts_come_back_wherever_they_stand,
    numbers_come_back_to_the_last_bit,
    a_rewound_step_is_done_anew_in_the_next_life,
    an_unanswered_call_is_unknown_in_the_next_life,
);

fn every_kind() -> Vec<(Position, Entry)> {
    let place = Position { attempt: 1, phase: 2, phase_try: 3, nested: 4, step: 5, turn: 6, call: 7 };
    vec![
        (Position::of_attempt(1), event("run_started", json!({"task": "é \u{0} 𝛼"}))),
        (place, started(json!({"agent": "engineer", "bound": 0.25}))),
        (place, Entry::Started { effect: Effect::Observe, input: String::new(), about: Value::Null }),
        (place, finished(json!({"text": "hi"}))),
        (place, Entry::Failed { effect: Effect::Execute, error: "no".into() }),
        (place, Entry::Event { kind: "run_resumed".into(), data: json!([]), once: true }),
        (place.phase_place(), ended(json!({"state": {"a": [1, 2.5, null, true]}}))),
        (Position::of_attempt(1), Entry::Status { status: "failed".into(), usage: json!({"calls": 1}) }),
        (Position::of_attempt(1), Entry::Rewound { to: place }),
    ]
}

fn every_entry_comes_back_in_order(life: &mut dyn Life) {
    let journal = life.journal();
    let mut expected = Vec::new();
    for (seq, (position, entry)) in (1..).zip(every_kind()) {
        #[allow(clippy::cast_precision_loss)]
        let at = 1.7e9 + seq as f64 / 3.0;
        assert_eq!(journal.append(at, position, entry.clone()).unwrap(), seq);
        expected.push(Record { seq, at, position, entry });
    }
    commit(&*journal).unwrap();
    assert!(journal.keeps());
    assert_eq!(journal.records(1).unwrap(), expected);
    drop(journal);
    assert_eq!(life.journal().records(1).unwrap(), expected);
}

fn numbers_go_on_after_a_reopening(life: &mut dyn Life) {
    for round in 0..3u64 {
        let journal = life.journal();
        assert_eq!(journal.append(0.0, at(0, 0, 0), event("a", json!(round))).unwrap(), 2 * round + 1);
        assert_eq!(journal.append(0.0, at(0, 0, 0), event("b", json!(round))).unwrap(), 2 * round + 2);
        // Nobody waits for it: what was appended is kept all the same when a life ends by itself.
    }
    let numbers: Vec<u64> = life.journal().records(1).unwrap().iter().map(|record| record.seq).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6]);
}

fn records_are_seen_before_a_commit(life: &mut dyn Life) {
    let journal = life.journal();
    journal.append(0.0, at(0, 1, 0), event("a", json!(1))).unwrap();
    assert_eq!(journal.records(1).unwrap().len(), 1);
}

fn a_part_of_the_records_is_like_that_part_of_all(life: &mut dyn Life) {
    let journal = life.journal();
    let mut text = String::new();
    for n in 0..9 {
        text.push_str(["a line\n", "another\n", "a third, longer\n"][n as usize % 3]);
        journal.append(0.0, at(n, 0, 0), ended(json!({"text": text, "n": n}))).unwrap();
        journal.append(0.0, at(n, 0, 0), event("e", json!(n))).unwrap();
    }
    let all = journal.records(1).unwrap();
    for from in 1..=all.len() + 1 {
        assert_eq!(journal.records(from as u64).unwrap(), all[from - 1..], "from {from}");
    }
}

fn many_threads_append_without_gaps(life: &mut dyn Life) {
    let journal = life.journal();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let journal = journal.clone();
            scope.spawn(move || {
                for n in 0..50 {
                    journal.append(0.0, at(thread, 0, n), event("e", json!(n))).unwrap();
                    if n % 10 == 0 {
                        commit(&*journal).unwrap();
                    }
                }
            });
        }
    });
    let records = journal.records(1).unwrap();
    assert!(records.iter().map(|record| record.seq).eq(1..=200));
    for thread in 0..4 {
        let own = records.iter().filter(|record| record.position.phase == thread);
        assert!(own.map(|record| record.position.call).eq(0..50), "thread {thread} in its order");
    }
}

fn ends_come_back_whole_however_they_changed(life: &mut dyn Life) {
    let long = "x".repeat(2000);
    let states = [
        json!({"a": {"list": [1], "text": "é"}, "b": 1}),
        json!({"a": {"list": [1, {"c": []}], "text": "éß"}, "b": 1}),
        json!({"a": {"list": [1, {"c": [null]}], "text": "é"}}),
        json!({"z": 1, "a": {"list": [], "text": ""}}),
        json!({"a": {"text": "", "list": []}, "z": 1}),
        json!(null),
        json!([long, long]),
        json!([long, long, long.clone() + "y"]),
        json!({"+": [1], "=": null, "~": {"-": ["a"]}}),
        json!({"+": [1, 2], "=": 3, "~": {"-": ["a", "b"]}}),
        json!({"$text": "no hash"}),
    ];
    let mut expected = Vec::new();
    for pair in states.chunks(2) {
        let journal = life.journal();
        for state in pair {
            journal.append(0.0, at(0, 0, 0), ended(state.clone())).unwrap();
            expected.push(ended(state.clone()));
        }
        assert_eq!(entries(&journal.records(1).unwrap()), expected);
    }
    let kept = entries(&life.journal().records(1).unwrap());
    assert_eq!(kept, expected);
    // The order of keys is part of a value, and equality of maps does not see it.
    assert_eq!(json!(kept).to_string(), json!(expected).to_string());
}

fn long_texts_come_back_wherever_they_stand(life: &mut dyn Life) {
    let long = "𝛼\n".repeat(5000);
    let values = [
        json!(long),
        json!([long, {"deep": [{"text": long}]}]),
        json!({"$text": long}),
        json!({"$text$": {"$text": [long, "short"]}}),
        json!({"text": "z".repeat(511), "more": "z".repeat(512)}),
    ];
    let journal = life.journal();
    for value in &values {
        journal.append(0.0, at(0, 0, 0), finished(value.clone())).unwrap();
        journal.append(0.0, at(0, 0, 0), event("e", value.clone())).unwrap();
    }
    commit(&*journal).unwrap();
    drop(journal);
    let expected: Vec<Entry> =
        values.iter().flat_map(|v| [finished(v.clone()), event("e", v.clone())]).collect();
    assert_eq!(entries(&life.journal().records(1).unwrap()), expected);
}

fn numbers_come_back_to_the_last_bit(life: &mut dyn Life) {
    let mut random = fastrand::Rng::with_seed(7);
    let mut numbers: Vec<f64> = vec![0.1 + 0.2, -0.0, f64::MIN_POSITIVE, f64::MAX, f64::EPSILON, 5e-324];
    let any = std::iter::repeat_with(|| f64::from_bits(random.u64(..))).filter(|number| number.is_finite());
    numbers.extend(any.take(2000));
    let journal = life.journal();
    journal.append(0.0, at(0, 0, 0), finished(json!([numbers, u64::MAX, i64::MIN]))).unwrap();
    commit(&*journal).unwrap();
    drop(journal);
    let Entry::Finished { output, .. } = life.journal().records(1).unwrap().remove(0).entry else { panic!() };
    let back: Vec<u64> =
        output[0].as_array().unwrap().iter().map(|n| n.as_f64().unwrap().to_bits()).collect();
    assert!(back.into_iter().eq(numbers.iter().map(|number| number.to_bits())));
    assert_eq!((output[1].as_u64(), output[2].as_i64()), (Some(u64::MAX), Some(i64::MIN)));
}

fn a_rewound_step_is_done_anew_in_the_next_life(life: &mut dyn Life) {
    let step = |status: &str| event("step_finished", json!({"status": status}));
    let journal = life.journal();
    for (position, entry) in [
        (at(0, 1, 0), finished(json!("one"))),
        (at(0, 1, 0), step("completed")),
        (at(0, 2, 0), finished(json!("two"))),
        (at(0, 2, 0), step("failed")),
        (at(0, 0, 0), ended(json!({"status": "completed", "error": "step 2"}))),
        (Position::of_attempt(0), Entry::Status { status: "failed".into(), usage: Value::Null }),
    ] {
        journal.append(0.0, position, entry).unwrap();
    }
    drop(journal);
    let journal = life.journal();
    executor::rewind(&*journal, 1.0, |_| true).unwrap();
    // What follows the rewinding counts again.
    journal.append(2.0, at(0, 3, 0), finished(json!("three"))).unwrap();
    drop(journal);
    let history = History::of(life.journal().records(1).unwrap());
    assert!(history.finished(&at(0, 1, 0)).is_some());
    assert!(history.finished(&at(0, 2, 0)).is_none());
    assert!(history.finished(&at(0, 3, 0)).is_some());
    assert!(history.ended(&at(0, 0, 0)).is_none());
}

fn an_unanswered_call_is_unknown_in_the_next_life(life: &mut dyn Life) {
    let journal = life.journal();
    for (position, entry) in [
        (at(0, 1, 0), started(json!({"agent": "a", "bound": 0.5}))),
        (at(0, 1, 0), finished(json!("reply"))),
        (at(0, 1, 1), started(json!({"agent": "b", "bound": 0.25}))),
        (at(0, 1, 2), started(json!({"agent": "c"}))),
        (at(0, 1, 2), Entry::Failed { effect: Effect::Call, error: "400".into() }),
    ] {
        journal.append(0.0, position, entry).unwrap();
    }
    commit(&*journal).unwrap();
    drop(journal);
    let history = History::of(life.journal().records(1).unwrap());
    assert_eq!(history.unknown_calls(), [json!({"agent": "b", "bound": 0.25})]);
    assert!(history.cut_short(&at(0, 1, 1)).is_some() && history.cut_short(&at(0, 1, 2)).is_none());
}
