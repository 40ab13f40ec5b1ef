//! Taking a run over: no two processes run the same one, no two runs use the same work directory.

use std::sync::{Arc, mpsc};

use rusqlite::{OptionalExtension, Transaction, params};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::lease::{self, Owner};
use super::live::Live;
use super::op::{Op, Waiter};
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

/// The epoch of who runs a run first.
const FIRST: i64 = 1;

/// What a claim came to: the run's number and the epoch of this ownership.
pub(super) type Owned = (i64, i64);

impl Store {
    /// Takes a run over for this process: a new one, or one that no living process runs. Those that are
    /// taken over at the same time wait for the disk together.
    ///
    /// # Errors
    /// [`Error::Journal`]: another process runs it, another run works in its directory, or it is to go on
    /// and is not there.
    pub async fn take(self: &Arc<Self>, claim: Claim) -> Result<SqliteJournal> {
        let (sender, receiver) = oneshot::channel();
        let id = claim.id.clone();
        self.writer().push(Op::Claim { claim: Box::new(claim), waiter: Waiter::Task(sender) });
        let store = self.clone();
        // In a task of its own: a run that was taken over is let go also when nobody waits any more.
        let taking = tokio::spawn(async move {
            let owned = receiver.await.unwrap_or_else(|_| Err(closed()))?;
            // What was never there has nothing to be read.
            if owned.1 == FIRST {
                return store.journal(&id, owned);
            }
            tokio::task::spawn_blocking(move || store.journal(&id, owned))
                .await
                .unwrap_or_else(|_| Err(closed()))
        });
        taking.await.unwrap_or_else(|_| Err(closed()))
    }

    /// The same for a thread that may wait.
    ///
    /// # Errors
    /// As for [`Store::take`].
    pub fn begin(self: &Arc<Self>, claim: &Claim) -> Result<SqliteJournal> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.writer().push(Op::Claim { claim: Box::new(claim.clone()), waiter: Waiter::Thread(sender) });
        self.journal(&claim.id, receiver.recv().unwrap_or_else(|_| Err(closed()))?)
    }

    /// The journal of a run that was taken over.
    fn journal(self: &Arc<Self>, id: &str, (no, epoch): Owned) -> Result<SqliteJournal> {
        let records = if epoch == FIRST { Vec::new() } else { self.records(id, 1)? };
        let next = records.last().map_or(1, |record| record.seq + 1);
        let attempt = records.iter().map(|record| record.position.attempt).max();
        let kept = records.into_iter().rev().find_map(|record| match record.entry {
            Entry::Ended { kept } => Some(kept),
            _ => None,
        });
        let live = Live::new(no, id, epoch, kept.unwrap_or_default());
        Ok(SqliteJournal::new(self.clone(), Arc::new(live), next, attempt))
    }
}

fn closed() -> Error {
    Error::Journal("the store was closed".into())
}

/// Takes a run over within a transaction, or says who has it.
pub(super) fn take(transaction: &Transaction<'_>, claim: &Claim) -> rusqlite::Result<Result<Owned>> {
    let now = lease::now();
    let known: Option<(i64, i64, Option<String>, f64)> = transaction
        .prepare_cached("SELECT no, epoch, owner, heartbeat FROM runs WHERE id = ?1")?
        .query_row([&claim.id], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))
        .optional()?;
    if let Some((_, _, Some(owner), heartbeat)) = &known
        && let Some(owner) = living(owner, *heartbeat)
    {
        return Ok(Err(Error::Journal(format!(
            "run {} is being run by {}: wait for it or stop it (cmbagent stop {}). Should that process be \
             gone, the run can be resumed {} s after its last sign of life",
            claim.id,
            owner.words(),
            claim.id,
            lease::STALE_SECONDS
        ))));
    }
    if claim.guards {
        let mut others = transaction.prepare_cached(
            "SELECT id, owner, heartbeat FROM runs \
             WHERE work_dir = ?1 AND guards AND owner IS NOT NULL AND root != ?2",
        )?;
        let mut rows = others.query([&claim.work_dir, &claim.root])?;
        while let Some(row) = rows.next()? {
            let (id, owner): (String, String) = (row.get(0)?, row.get(1)?);
            if let Some(owner) = living(&owner, row.get(2)?) {
                return Ok(Err(Error::WorkDir(format!(
                    "the work directory {} is in use by run {id}, {}: two runs in it would mix their files. \
                     Give this one another work_dir, or wait for that one or stop it (cmbagent stop {id})",
                    claim.work_dir,
                    owner.words()
                ))));
            }
        }
    }
    let owner = json!(Owner::here()).to_string();
    let taken = if let Some((no, epoch, ..)) = known {
        let sql = "UPDATE runs SET epoch = ?2, owner = ?3, heartbeat = ?4, work_dir = ?5 WHERE no = ?1";
        transaction.prepare_cached(sql)?.execute(params![no, epoch + 1, owner, now, claim.work_dir])?;
        (no, epoch + 1)
    } else if claim.known {
        return Ok(Err(unknown(&claim.id)));
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
        transaction.prepare_cached(sql)?.execute(values)?;
        (transaction.last_insert_rowid(), 1)
    };
    Ok(Ok(taken))
}

/// The owner, when it may still be running.
pub(super) fn living(owner: &str, heartbeat: f64) -> Option<Owner> {
    serde_json::from_str::<Owner>(owner).ok().filter(|owner| owner.alive(heartbeat))
}
