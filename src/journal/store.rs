//! The store: one SQLite file with the records of all runs of a user.
//!
//! Write-ahead logging, and every commit reaches the disk before it counts. On a network file system,
//! where that mode does not work, the store uses a rollback journal.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Weak};

use rusqlite::{Connection, TransactionBehavior, params};
use serde_json::Value;

use super::file::{File, MIGRATIONS};
use super::writer::{Writer, lock};
use super::{Demand, Record, lease, place, recovery};
use crate::error::{Error, Result};

/// A store, shared by all who open the same file in this process.
pub struct Store {
    pub(super) file: Arc<File>,
    writer: Writer,
    desk: Mutex<Connection>,
    /// Whoever only looks does not wait for those who write.
    reader: Mutex<Connection>,
}

static OPEN: LazyLock<Mutex<HashMap<PathBuf, Weak<Store>>>> = LazyLock::new(Mutex::default);

impl Store {
    /// Opens the store at `path` and makes it when there is none; its directory too.
    ///
    /// # Errors
    /// [`Error::Journal`]: it cannot be made or read, is no store, or was written by a newer version.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        Self::open_on(path, place::network)
    }

    /// The same, with another way to tell which network file system a directory is on.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn open_on(path: &Path, network: impl Fn(&Path) -> Option<&'static str>) -> Result<Arc<Self>> {
        let file = File::prepare(path, network)?;
        let mut open = lock(&OPEN);
        open.retain(|_, store| store.strong_count() > 0);
        if let Some(store) = open.get(&file.path).and_then(Weak::upgrade) {
            return Ok(store);
        }
        let mut first = file.connect().map_err(|e| file.error("opened", &e))?;
        file.migrate(&mut first)?;
        let file = Arc::new(file);
        let another = || file.connect().map(Mutex::new).map_err(|e| file.error("opened", &e));
        let (desk, reader) = (another()?, another()?);
        let writer = Writer::start(first, file.clone())?;
        let store = Arc::new(Self { file, writer, desk, reader });
        open.insert(store.file.path.clone(), Arc::downgrade(&store));
        Ok(store)
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// The network file system it is on, if it is: there it is slower, and a lost server may lose it.
    pub fn network(&self) -> Option<&'static str> {
        self.file.network
    }

    /// The version of its tables.
    pub fn schema(&self) -> usize {
        MIGRATIONS.len()
    }

    pub(super) fn writer(&self) -> &Writer {
        &self.writer
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Connection> {
        lock(&self.desk)
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        read(&lock(&self.reader)).map_err(|error| self.file.error("read", &error))
    }

    pub(super) fn write<T>(&self, write: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        write(&mut self.desk()).map_err(|error| self.file.error("written", &error))
    }

    /// The records of a run from number `from` on, in order.
    ///
    /// # Errors
    /// [`Error::Journal`]: the file cannot be read, or what is in it is not what was recorded.
    pub fn records(&self, id: &str, from: u64) -> Result<Vec<Record>> {
        let (rows, texts) = self.read(|desk| recovery::rows(desk, id, from))?;
        recovery::records(rows, &texts, from).map_err(|what| {
            Error::Journal(format!(
                "the store {} is damaged at run {id}: {what}. Other runs are not affected; delete this one with \
                 `cmbagent prune --run {id}` or restore the file from a copy",
                self.file.path.display()
            ))
        })
    }

    /// The events among the records of a run from number `from` on, at most `most` of them, in order.
    ///
    /// # Errors
    /// [`Error::Journal`]: the store cannot be read, or is damaged at this run.
    pub fn events(&self, id: &str, from: u64, most: usize) -> Result<Vec<Record>> {
        self.read(|desk| recovery::events(desk, id, from, most))?.map_err(|what| {
            Error::Journal(format!(
                "the store {} is damaged at run {id}: {what}. Other runs are not affected",
                self.file.path.display()
            ))
        })
    }

    /// Demands something of a run that a living process runs, here or elsewhere.
    ///
    /// # Errors
    /// [`Error::Journal`]: there is no such run, or nobody runs it.
    pub fn demand(&self, id: &str, demand: Demand) -> Result<()> {
        let row = self.run(id)?.ok_or_else(|| unknown(id))?;
        if row.owner.is_none() {
            return Err(Error::Journal(format!(
                "run {id} is {}: no process runs it, so there is nothing to {}",
                row.status,
                word(demand)
            )));
        }
        self.write(|desk| {
            let sql = "INSERT INTO demands (run, epoch, demand, at) SELECT no, epoch, ?2, ?3 FROM runs WHERE id = ?1";
            desk.execute(sql, params![id, word(demand), lease::now()]).map(drop)
        })
    }

    /// Deletes a run with all its records.
    ///
    /// # Errors
    /// [`Error::Journal`]: a living process runs it, or there is no such run.
    pub fn delete(&self, id: &str) -> Result<()> {
        let row = self.run(id)?.ok_or_else(|| unknown(id))?;
        if let Some(owner) = row.owner {
            return Err(Error::Journal(format!(
                "run {id} is being run by {}: stop it before deleting it",
                owner.words()
            )));
        }
        let failed = |error| self.file.error("written", &error);
        let mut desk = self.desk();
        let transaction = desk.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        for table in ["events", "texts", "demands", "questions"] {
            let sql = format!("DELETE FROM {table} WHERE run = (SELECT no FROM runs WHERE id = ?1)");
            transaction.execute(&sql, [id]).map_err(failed)?;
        }
        transaction.execute("DELETE FROM runs WHERE id = ?1", [id]).map_err(failed)?;
        transaction.commit().map_err(failed)
    }

    /// Gives the disk back what deleted runs took.
    pub fn shrink(&self) -> Result<()> {
        self.write(|desk| desk.execute_batch("VACUUM; PRAGMA wal_checkpoint(TRUNCATE);"))
    }
}

pub(super) fn unknown(id: &str) -> Error {
    Error::Journal(format!("the store has no run {id}; `cmbagent runs` lists those it has"))
}

pub(super) fn parse_demand(word: &str) -> Option<Demand> {
    serde_json::from_value(Value::String(word.into())).ok()
}

fn word(demand: Demand) -> &'static str {
    match demand {
        Demand::Stop => "stop",
        Demand::Cancel => "cancel",
        Demand::Pause => "pause",
        Demand::Resume => "resume",
    }
}
