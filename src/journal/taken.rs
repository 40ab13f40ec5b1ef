//! Runs taken in from another store: to be looked at, never to be resumed.

use rusqlite::{TransactionBehavior, params};
use serde::Deserialize;
use serde_json::Value;

use super::live::Live;
use super::op;
use super::store::Store;
use super::{Entry, Record, runs};
use crate::error::{Error, Result};

/// A run as another store knew it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// Its id.
    pub id: String,
    /// What was said of it at its begin.
    pub about: Value,
    /// Where its files are here.
    pub work_dir: String,
    /// How it stood, as a word.
    pub status: String,
    /// What it had spent.
    pub usage: Value,
    /// Seconds since 1970.
    pub created: f64,
    /// Seconds since 1970 of the last change of its status.
    pub updated: f64,
}

impl Store {
    /// Takes a run in with its records, wholly or not at all.
    ///
    /// # Errors
    /// [`Error::Journal`]: the store has the run already, or the records are not numbered in order.
    pub fn take_in(&self, run: &Taken, records: Vec<Record>) -> Result<()> {
        let failed = |error| self.file.error("written", &error);
        let mut desk = self.desk();
        let transaction = desk.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let known: i64 = transaction
            .query_row("SELECT count(*) FROM runs WHERE id = ?1", [&run.id], |row| row.get(0))
            .map_err(failed)?;
        if known > 0 {
            return Err(Error::Journal(format!(
                "the store {} has run {} already; `cmbagent prune --run {}` deletes that one",
                self.path().display(),
                run.id,
                run.id
            )));
        }
        let sql = "INSERT INTO runs (id, parent, root, about, work_dir, guards, status, usage, created, updated, \
                   epoch, owner, heartbeat, workflow) \
                   VALUES (?1, NULL, ?1, ?2, ?3, 0, ?4, ?5, ?6, ?7, 0, NULL, 0, ?8)";
        let Taken { id, about, work_dir, status, usage, created, updated } = run;
        let (said, spent) = (about.to_string(), usage.to_string());
        let values = params![id, said, work_dir, status, spent, created, updated, runs::workflow(about)];
        transaction.execute(sql, values).map_err(failed)?;
        let live = Live::new(transaction.last_insert_rowid(), id, 0, Value::Null);
        let mut last = 0;
        for Record { seq, at, position, entry } in records {
            if seq <= last {
                return Err(Error::Journal(format!(
                    "the records of run {id} are not in order: {seq} stands after {last}"
                )));
            }
            last = seq;
            op::record(&transaction, &live, seq, at, position, entry).map_err(failed)?;
        }
        let end = "UPDATE runs SET status = ?2, usage = ?3, updated = ?4 WHERE id = ?1";
        transaction.execute(end, params![id, status, spent, updated]).map_err(failed)?;
        transaction.commit().map_err(failed)
    }
}

impl Taken {
    /// Reads a run and its records, each from JSON.
    ///
    /// # Errors
    /// [`Error::Journal`]: something is not of that form.
    pub fn read<S: AsRef<str>>(run: &str, records: &[S]) -> Result<(Self, Vec<Record>)> {
        let wrong = |what: String, error: &serde_json::Error| {
            Error::Journal(format!("{what} cannot be read: {error}; the run was exported by something else"))
        };
        let run: Self = serde_json::from_str(run).map_err(|error| wrong("the run".into(), &error))?;
        let read = |(number, line): (usize, &S)| {
            let record: Record = serde_json::from_str(line.as_ref())
                .map_err(|error| wrong(format!("record {}", number + 1), &error))?;
            match record.entry {
                // A snapshot is stored as a change of the one before: it must be whole here.
                Entry::Ended { ref kept } if !kept.is_object() => {
                    Err(Error::Journal(format!("record {} has no snapshot of a phase", number + 1)))
                }
                _ => Ok(record),
            }
        };
        Ok((run, records.iter().enumerate().map(read).collect::<Result<_>>()?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn records() -> Vec<String> {
        let place =
            json!({"attempt": 0, "phase": 0, "phase_try": 0, "nested": 0, "step": 0, "turn": 0, "call": 0});
        let long = "x".repeat(2000);
        [
            json!({"entry": "event", "kind": "message", "data": {"content": long}}),
            json!({"entry": "ended", "kept": {"status": "completed", "text": long}}),
            json!({"entry": "ended", "kept": {"status": "completed", "text": long.clone() + "y"}}),
        ]
        .iter()
        .zip(1..)
        .map(|(entry, seq)| json!({"seq": seq, "at": 1.5, "position": place, "entry": entry}).to_string())
        .collect()
    }

    fn run() -> Value {
        json!({"id": "r", "about": {"imported": true}, "work_dir": "/w", "status": "failed", "usage": {"calls": 2},
               "created": 1.0, "updated": 2.0})
    }

    #[test]
    fn a_run_taken_in_has_its_records_and_is_taken_in_once() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.db")).unwrap();
        let (taken, given) = Taken::read(&run().to_string(), &records()).unwrap();
        store.take_in(&taken, given.clone()).unwrap();
        assert_eq!(store.records("r", 1).unwrap(), given);
        let row = store.run("r").unwrap().unwrap();
        assert_eq!((row.status.as_str(), row.updated.to_string().as_str(), row.owner), ("failed", "2", None));
        let again = store.take_in(&taken, given.clone()).unwrap_err().to_string();
        assert!(again.contains("has run r already"), "{again}");
        let mixed = store.take_in(&Taken { id: "s".into(), ..taken }, given.into_iter().rev().collect());
        assert!(mixed.unwrap_err().to_string().contains("2 stands after 3"));
        assert_eq!(store.run("s").unwrap(), None, "wholly or not at all");
    }

    #[test]
    fn what_is_no_run_is_refused_in_words() {
        let wrong = |run: &str, records: &[String]| Taken::read(run, records).unwrap_err().to_string();
        assert!(wrong("{}", &records()).starts_with("the run cannot be read: missing field"));
        let mut broken = records();
        broken[1] = "[]".into();
        assert!(wrong(&run().to_string(), &broken).starts_with("record 2 cannot be read"));
        broken[1] = records()[1].replace(r#""kept":{"#, r#""kept":[{"#).replace("}}}", "}]}}");
        assert!(wrong(&run().to_string(), &broken).starts_with("record 2 "));
    }
}
