//! Taking a run over: no two processes run the same one, no two runs use the same work directory.

use std::sync::Arc;

use rusqlite::{OptionalExtension, TransactionBehavior, params};
use serde_json::{Value, json};

use super::lease::{self, Owner};
use super::live::Live;
use super::op::Op;
use super::store::{Store, unknown};
use super::{Entry, SqliteJournal, runs};
use crate::error::{Error, Result};

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

impl Store {
    /// Takes a run over for this process: a new one, or one that no living process runs.
    ///
    /// # Errors
    /// [`Error::Journal`]: another process runs it, another run works in its directory, or it is to go on
    /// and is not there.
    pub fn begin(self: &Arc<Self>, claim: &Claim) -> Result<SqliteJournal> {
        // What this process has let go is free.
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.writer().push(Op::Flush(sender));
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
        let failed = |error| self.file.error("written", &error);
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
}

/// The owner, when it may still be running.
pub(super) fn living(owner: &str, heartbeat: f64) -> Option<Owner> {
    serde_json::from_str::<Owner>(owner).ok().filter(|owner| owner.alive(heartbeat))
}
