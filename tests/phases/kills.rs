//! A process that is killed at every write of its journal in turn, and the one that goes on after it.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cmbagent::error::Result;
use cmbagent::journal::Claim;
use cmbagent::journal::{Demand, Effect, Entry, Journal, Position, Record, SqliteJournal, Store};
use futures_util::future::BoxFuture;
use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};

use super::replay::{STEPS, essence, events, perform, stage};
use super::stage::{Ended, Stage, directory};

const PLACE: &str = "KILLS_TEST_PLACE";
const WRITES: &str = "KILLS_TEST_WRITES";

/// A journal whose process is killed when so many writes have been begun.
struct Killed {
    inner: SqliteJournal,
    left: AtomicUsize,
}

impl Killed {
    fn write(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 0 {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
    }
}

impl Journal for Killed {
    fn append(&self, at: f64, position: Position, entry: Entry) -> Result<u64> {
        self.write();
        self.inner.append(at, position, entry)
    }
    fn commit(&self) -> BoxFuture<'_, Result<()>> {
        self.write();
        self.inner.commit()
    }
    fn records(&self, from: u64) -> Result<Vec<Record>> {
        self.inner.records(from)
    }
    fn keeps(&self) -> bool {
        true
    }
    fn ask(&self, id: &str, question: &Value) -> Result<()> {
        self.inner.ask(id, question)
    }
    fn answered<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Value> {
        self.inner.answered(id)
    }
    fn settle(&self, id: &str, answer: &Value) -> Result<()> {
        self.inner.settle(id, answer)
    }
    fn demand(&self) -> BoxFuture<'_, Demand> {
        self.inner.demand()
    }
}

/// Lives once in `place`, going on from what is there, and is killed at the write after `writes` others.
async fn live(place: &Path, writes: usize) -> (Stage, Ended, usize) {
    let store = Store::open(&place.join("store.db")).unwrap();
    let claim = Claim { id: "run-1".into(), root: "run-1".into(), about: json!({}), ..Claim::default() };
    let inner = store.begin(&claim).unwrap();
    let mut stage = stage(&STEPS, &inner.records(1).unwrap());
    stage.temp = Arc::new(place.to_path_buf());
    let journal = Arc::new(Killed { inner, left: AtomicUsize::new(writes) });
    stage.journal = journal.clone();
    let ended = perform(&STEPS, &stage).await;
    let written = writes - journal.left.load(Ordering::SeqCst);
    (stage, ended, written)
}

#[tokio::test]
#[ignore = "the process that the test here kills"]
async fn victim() {
    let place = PathBuf::from(std::env::var_os(PLACE).unwrap());
    let writes = std::env::var(WRITES).unwrap().parse().unwrap();
    live(&place, writes).await;
}

/// What another process, killed after so many writes, leaves in `place`.
fn leave(place: &Path, writes: usize) {
    let ended = Command::new(std::env::current_exe().unwrap())
        .args(["kills::victim", "--exact", "--ignored"])
        .env(PLACE, place)
        .env(WRITES, writes.to_string())
        .output()
        .unwrap();
    assert_eq!(ended.status.signal(), Some(9), "{}", String::from_utf8_lossy(&ended.stdout));
}

// Two tests, for two cores.
#[tokio::test]
async fn a_process_killed_at_any_even_write_of_its_journal_loses_nothing() {
    kill_at_every_second_write_from(0).await;
}

#[tokio::test]
async fn a_process_killed_at_any_odd_write_of_its_journal_loses_nothing() {
    kill_at_every_second_write_from(1).await;
}

async fn kill_at_every_second_write_from(first: usize) {
    let whole = directory();
    let (stage, ended, writes) = live(whole.path(), usize::MAX).await;
    let expected = essence(&stage, &ended.completed());
    let told = events(&stage.journal.records(1).unwrap());
    assert!(writes > 100, "{writes}");

    for kill in (first..writes).step_by(2) {
        let place = directory();
        leave(place.path(), kill);
        let left = Store::open(&place.path().join("store.db")).unwrap().records("run-1", 1).unwrap();
        let sent = calls(&left, |entry| matches!(entry, Entry::Started { effect: Effect::Call, .. }));
        let replied = calls(&left, |entry| matches!(entry, Entry::Finished { effect: Effect::Call, .. }));
        assert!(sent - replied <= 1, "at most one was in flight: killed at {kill}");

        let (stage, ended, _) = live(place.path(), usize::MAX).await;
        let unknown = ended.unknown;
        let found = essence(&stage, &ended.completed());
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(found[key], *value, "{key}: killed at {kill}");
        }
        assert_eq!(stage.models.calls().len(), (STEPS.answers)().len() - replied, "killed at {kill}");
        assert_eq!(unknown, sent - replied, "what may have been paid for is known: killed at {kill}");
        assert_eq!((stage.models.left(), stage.runner.left()), (0, 0), "killed at {kill}");
        assert_eq!(events(&stage.journal.records(1).unwrap()), told, "killed at {kill}");
    }
}

fn calls(records: &[Record], of: impl Fn(&Entry) -> bool) -> usize {
    records.iter().filter(|record| of(&record.entry)).count()
}
