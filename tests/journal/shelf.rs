//! A directory with a store in it, and short ways to say what is recorded.

use std::path::PathBuf;
use std::sync::Arc;

use cmbagent::journal::Claim;
use cmbagent::journal::{Effect, Entry, Journal, Position, Record, SqliteJournal, Store};
use rusqlite::Connection;
use serde_json::{Value, json};

/// A store that is opened anew for every [`Shelf::open`], as after a crash.
pub(crate) struct Shelf {
    pub(crate) temp: tempfile::TempDir,
}

impl Shelf {
    pub(crate) fn new() -> Self {
        // In memory where the system has that: nobody pulls the plug here.
        let temp = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self { temp: temp.unwrap() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.temp.path().join("place").join("store.db")
    }

    pub(crate) fn open(&self) -> Arc<Store> {
        Store::open(&self.path()).unwrap()
    }

    /// Someone else's connection to the file.
    pub(crate) fn sql(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    /// What opening the store says that is refused.
    pub(crate) fn refusal(&self) -> String {
        Store::open(&self.path()).err().expect("it is refused").to_string()
    }

    /// Runs `id` that this process takes over.
    pub(crate) fn begin(&self, id: &str) -> SqliteJournal {
        self.open().begin(&claim(id)).unwrap()
    }
}

pub(crate) fn claim(id: &str) -> Claim {
    Claim {
        id: id.into(),
        root: id.into(),
        about: json!({"task": id}),
        work_dir: "/w".into(),
        ..Claim::default()
    }
}

pub(crate) fn at(phase: u32, step: u32, call: u32) -> Position {
    Position { phase, step, call, ..Position::default() }
}

pub(crate) fn event(kind: &str, data: Value) -> Entry {
    Entry::Event { kind: kind.into(), data, once: false }
}

pub(crate) fn started(about: Value) -> Entry {
    Entry::Started { effect: Effect::Call, input: "hash".into(), about }
}

pub(crate) fn finished(output: Value) -> Entry {
    Entry::Finished { effect: Effect::Call, output }
}

pub(crate) fn ended(kept: Value) -> Entry {
    Entry::Ended { kept }
}

/// Waits until everything appended is safe.
pub(crate) fn commit(journal: &dyn Journal) -> cmbagent::Result<()> {
    wait(journal.commit())
}

pub(crate) fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub(crate) fn entries(records: &[Record]) -> Vec<Entry> {
    records.iter().map(|record| record.entry.clone()).collect()
}
