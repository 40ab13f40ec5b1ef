//! The store: one SQLite file with the records of all runs of a user.
//!
//! Write-ahead logging, and every commit reaches the disk before it counts. On a network file system,
//! where that mode does not work, the store uses a rollback journal.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, Weak};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, TransactionBehavior, params};
use serde::Serialize;
use serde_json::{Value, json};

use super::lease::{self, Owner};
use super::runs::{self, json_of, living};
use super::writer::{Live, Op, Writer, lock};
use super::{Demand, Entry, Record, SqliteJournal, place, recovery};
use crate::error::{Error, Result};

/// What each version of the schema adds to the one before.
const MIGRATIONS: [&str; 3] =
    [include_str!("schema.sql"), include_str!("schema_2.sql"), include_str!("schema_3.sql")];

/// Tells the store from other SQLite files: `cmba`.
const APPLICATION: i32 = 0x636d_6261;

/// How often one who finds the store locked tries again: for about a minute.
const PATIENCE: i32 = 6000;

/// A store, shared by all who open the same file in this process.
pub struct Store {
    pub(super) place: Arc<Place>,
    writer: Writer,
    desk: Mutex<Connection>,
    /// Whoever only looks does not wait for those who write.
    reader: Mutex<Connection>,
}

/// Where a store is; it puts errors into words.
pub(super) struct Place {
    path: PathBuf,
    network: Option<&'static str>,
}

/// What is to be known of a run that begins.
#[derive(Debug, Clone, Default)]
pub struct Claim {
    /// Its id.
    pub id: String,
    /// The run whose phase made it.
    pub parent: Option<String>,
    /// The first of its ancestors, or itself: runs of one family may share a work directory.
    pub root: String,
    /// The workflow, the task and whatever else a resume needs.
    pub about: Value,
    /// Its work directory, absolute.
    pub work_dir: String,
    /// Whether no other run may use that directory meanwhile.
    pub guards: bool,
    /// Whether it is to go on, not to begin: then it must be there.
    pub known: bool,
}

/// A question that a run has asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuestionRow {
    /// Its id within the run.
    pub id: String,
    /// Seconds since 1970.
    pub asked: f64,
    /// What was asked.
    pub question: Value,
    /// What was answered.
    pub answer: Option<Value>,
    /// Whether the run has taken an answer.
    pub settled: bool,
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
        let place = Place::prepare(path, network)?;
        let mut open = lock(&OPEN);
        open.retain(|_, store| store.strong_count() > 0);
        if let Some(store) = open.get(&place.path).and_then(Weak::upgrade) {
            return Ok(store);
        }
        let mut first = place.connect().map_err(|e| place.error("opened", &e))?;
        place.migrate(&mut first)?;
        let place = Arc::new(place);
        let another = || place.connect().map(Mutex::new).map_err(|e| place.error("opened", &e));
        let (desk, reader) = (another()?, another()?);
        let writer = Writer::start(first, place.clone())?;
        let store = Arc::new(Self { place, writer, desk, reader });
        open.insert(store.place.path.clone(), Arc::downgrade(&store));
        Ok(store)
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// The network file system it is on, if it is: there it is slower, and a lost server may lose it.
    pub fn network(&self) -> Option<&'static str> {
        self.place.network
    }

    pub(super) fn writer(&self) -> &Writer {
        &self.writer
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Connection> {
        lock(&self.desk)
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        read(&lock(&self.reader)).map_err(|error| self.place.error("read", &error))
    }

    pub(super) fn write<T>(&self, write: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T> {
        write(&mut self.desk()).map_err(|error| self.place.error("written", &error))
    }

    /// Takes a run over for this process: a new one, or one that no living process runs.
    ///
    /// # Errors
    /// [`Error::Journal`]: another process runs it, another run works in its directory, or it is to go on
    /// and is not there.
    pub fn begin(self: &Arc<Self>, claim: &Claim) -> Result<SqliteJournal> {
        // What this process has let go is free.
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.writer.push(Op::Flush(sender));
        // A writer that has died says so at the first record.
        let _ = receiver.recv();
        let (no, epoch) = self.claim(claim)?;
        let records = self.records(&claim.id, 1)?;
        let next = records.last().map_or(1, |record| record.seq + 1);
        let attempt = records.iter().map(|record| record.position.attempt).max();
        let kept = records.into_iter().rev().find_map(|record| match record.entry {
            Entry::Ended { kept } => Some(kept),
            _ => None,
        });
        let live = Live::new(no, &claim.id, epoch, kept.unwrap_or_default());
        Ok(SqliteJournal::new(self.clone(), Arc::new(live), next, attempt))
    }

    fn claim(&self, claim: &Claim) -> Result<(i64, i64)> {
        let failed = |error| self.place.error("written", &error);
        let mut desk = self.desk();
        let transaction = desk.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let now = lease::now();
        let known: Option<(i64, i64, Option<String>, f64)> = transaction
            .query_row("SELECT no, epoch, owner, heartbeat FROM runs WHERE id = ?1", [&claim.id], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .optional()
            .map_err(failed)?;
        if let Some((_, _, Some(owner), heartbeat)) = &known
            && let Some(owner) = living(owner, *heartbeat)
        {
            return Err(Error::Journal(format!(
                "run {} is being run by {}: wait for it or stop it (cmbagent stop {}). Should that process be \
                 gone, the run can be resumed {} s after its last sign of life",
                claim.id,
                owner.words(),
                claim.id,
                lease::STALE_SECONDS
            )));
        }
        if claim.guards {
            let mut others = transaction
                .prepare(
                    "SELECT id, owner, heartbeat FROM runs \
                     WHERE work_dir = ?1 AND guards AND owner IS NOT NULL AND root != ?2",
                )
                .map_err(failed)?;
            let mut rows = others.query([&claim.work_dir, &claim.root]).map_err(failed)?;
            while let Some(row) = rows.next().map_err(failed)? {
                let (id, owner): (String, String) =
                    (row.get(0).map_err(failed)?, row.get(1).map_err(failed)?);
                if let Some(owner) = living(&owner, row.get(2).map_err(failed)?) {
                    return Err(Error::WorkDir(format!(
                        "the work directory {} is in use by run {id}, {}: two runs in it would mix their files. \
                         Give this one another work_dir, or wait for that one or stop it (cmbagent stop {id})",
                        claim.work_dir,
                        owner.words()
                    )));
                }
            }
        }
        let owner = json!(Owner::here()).to_string();
        let taken = if let Some((no, epoch, ..)) = known {
            let sql = "UPDATE runs SET epoch = ?2, owner = ?3, heartbeat = ?4, work_dir = ?5 WHERE no = ?1";
            transaction.execute(sql, params![no, epoch + 1, owner, now, claim.work_dir]).map_err(failed)?;
            (no, epoch + 1)
        } else if claim.known {
            return Err(unknown(&claim.id));
        } else {
            let sql = "INSERT INTO runs (id, parent, root, about, work_dir, guards, status, usage, created, \
                       updated, epoch, owner, heartbeat, workflow) \
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'pending', 'null', ?7, ?7, 1, ?8, ?7, ?9)";
            let values = params![
                claim.id,
                claim.parent,
                claim.root,
                claim.about.to_string(),
                claim.work_dir,
                claim.guards,
                now,
                owner,
                runs::workflow(&claim.about)
            ];
            transaction.execute(sql, values).map_err(failed)?;
            (transaction.last_insert_rowid(), 1)
        };
        transaction.commit().map_err(failed)?;
        Ok(taken)
    }

    /// What a resume found changed is the run's description from here on.
    pub fn describe(&self, id: &str, about: &Value) -> Result<()> {
        self.write(|desk| {
            let sql = "UPDATE runs SET about = ?2, workflow = ?3 WHERE id = ?1";
            desk.execute(sql, params![id, about.to_string(), runs::workflow(about)]).map(drop)
        })
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
                self.place.path.display()
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
                self.place.path.display()
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

    /// The questions that a run has asked, in order.
    pub fn questions(&self, id: &str) -> Result<Vec<QuestionRow>> {
        self.read(|desk| {
            let sql = "SELECT id, asked, question, answer, settled FROM questions \
                       WHERE run = (SELECT no FROM runs WHERE id = ?1) ORDER BY asked, id";
            desk.prepare_cached(sql)?
                .query_map([id], |row| {
                    Ok(QuestionRow {
                        id: row.get(0)?,
                        asked: row.get(1)?,
                        question: json_of(row, 2)?,
                        answer: row.get::<_, Option<String>>(3)?.and_then(|t| serde_json::from_str(&t).ok()),
                        settled: row.get(4)?,
                    })
                })?
                .collect()
        })
    }

    /// Answers a question; a run that is not running finds the answer when it is resumed.
    ///
    /// # Errors
    /// [`Error::Journal`]: there is no such question, or it has been settled.
    pub fn answer(&self, id: &str, question: &str, answer: &Value) -> Result<()> {
        let changed = self.write(|desk| {
            let sql = "UPDATE questions SET answer = ?3 \
                       WHERE run = (SELECT no FROM runs WHERE id = ?1) AND id = ?2 AND NOT settled";
            desk.execute(sql, params![id, question, answer.to_string()])
        })?;
        if changed == 0 {
            return Err(Error::Journal(format!(
                "run {id} has no open question {question:?}: it was answered already, or never asked"
            )));
        }
        Ok(())
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
        let failed = |error| self.place.error("written", &error);
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

fn unknown(id: &str) -> Error {
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

impl Place {
    /// Makes the directory and the file, for their owner alone.
    fn prepare(path: &Path, network: impl Fn(&Path) -> Option<&'static str>) -> Result<Self> {
        let failed = |error: std::io::Error| {
            Error::Journal(format!(
                "the store of runs at {} cannot be made: {error}. Name another place with store=… or {}, or use \
                 :memory: for runs that need not survive a crash",
                path.display(),
                place::STORE_VAR
            ))
        };
        let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !directory.exists() {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true);
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.create(directory).map_err(failed)?;
        }
        // A file that is there is left to SQLite: closing it here would drop the locks that this process
        // has on it.
        if !path.exists() {
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            match options.open(path) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
                _ => {}
            }
        }
        let path = path.canonicalize().map_err(failed)?;
        let network = path.parent().and_then(network);
        Ok(Self { path, network })
    }

    fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open(&self.path)?;
        connection.busy_handler(Some(be_patient))?;
        let mode = if self.network.is_some() { "DELETE" } else { "WAL" };
        connection.pragma_update_and_check(None, "journal_mode", mode, |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.set_prepared_statement_cache_capacity(32);
        runs::teach(&connection)?;
        Ok(connection)
    }

    fn migrate(&self, connection: &mut Connection) -> Result<()> {
        let failed = |error| self.error("opened", &error);
        let transaction =
            connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        let number = |name: &str| transaction.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
        let (application, version) =
            (number("application_id").map_err(failed)?, number("user_version").map_err(failed)?);
        let tables: i64 = transaction
            .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
            .map_err(failed)?;
        if application != APPLICATION && tables > 0 {
            return Err(Error::Journal(format!(
                "{} is a database of another program: name another file with store=… or {}",
                self.path.display(),
                place::STORE_VAR
            )));
        }
        let newest = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
        if version > newest {
            return Err(Error::Journal(format!(
                "the store {} was written by a newer cmbagent (schema {version}; this one knows {newest}): update \
                 cmbagent, or name another file with store=… or {}",
                self.path.display(),
                place::STORE_VAR
            )));
        }
        for migration in MIGRATIONS.iter().skip(usize::try_from(version).unwrap_or(0)) {
            transaction.execute_batch(migration).map_err(failed)?;
        }
        transaction.pragma_update(None, "application_id", APPLICATION).map_err(failed)?;
        transaction.pragma_update(None, "user_version", newest).map_err(failed)?;
        transaction.commit().map_err(failed)
    }

    /// An error of SQLite in words that say what to do.
    pub(super) fn error(&self, what: &str, error: &rusqlite::Error) -> Error {
        let advice = match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => "the disk is full: free some space, then resume the run",
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
                "it cannot be written to: check its permissions and its disk, or name another with store=… or \
                 CMBAGENT_STORE"
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                "it is damaged: move it away and begin a new one, or restore it from a copy; what runs have \
                 written to their work directories is not affected"
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                "another process has kept it locked for a minute: look for one that hangs"
            }
            Some(ErrorCode::SystemIoFailure) => {
                "its disk does not answer as it should: look after that, then resume the run"
            }
            _ => "that should not happen; what was committed before is safe",
        };
        Error::Journal(format!("the store {} could not be {what} ({error}): {advice}", self.path.display()))
    }
}

/// Waits a little, differently in each process, so that many of them do not knock at the same time.
fn be_patient(tries: i32) -> bool {
    std::thread::sleep(Duration::from_micros(fastrand::u64(500..20_000)));
    tries < PATIENCE
}
