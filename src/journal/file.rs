//! The file of a store: made for its owner alone, opened, brought to the newest schema.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use super::{place, runs};
use crate::error::{Error, Result};

/// What each version of the schema adds to the one before.
pub(super) const MIGRATIONS: [&str; 3] =
    [include_str!("schema.sql"), include_str!("schema_2.sql"), include_str!("schema_3.sql")];

/// Tells the store from other SQLite files: `cmba`.
const APPLICATION: i32 = 0x636d_6261;

/// How often one who finds the store locked tries again: for about a minute.
const PATIENCE: i32 = 6000;

/// Where a store is; it puts errors into words.
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) network: Option<&'static str>,
}

impl File {
    /// Makes the directory and the file, for their owner alone.
    pub(super) fn prepare(path: &Path, network: impl Fn(&Path) -> Option<&'static str>) -> Result<Self> {
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

    pub(super) fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = Connection::open(&self.path)?;
        connection.busy_handler(Some(be_patient))?;
        let mode = if self.network.is_some() { "DELETE" } else { "WAL" };
        connection.pragma_update_and_check(None, "journal_mode", mode, |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.set_prepared_statement_cache_capacity(32);
        runs::teach(&connection)?;
        Ok(connection)
    }

    pub(super) fn migrate(&self, connection: &mut Connection) -> Result<()> {
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
