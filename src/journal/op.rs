//! What is to be written to a store, and how each piece is.

use std::sync::{Arc, mpsc};

use rusqlite::{Transaction, params};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::claim::{Claim, Owned};
use super::live::Live;
use super::writer::lock;
use super::{Entry, Position, delta, lease, texts};
use crate::error::Result;

/// Someone who waits for a commit.
pub(super) enum Waiter<T = ()> {
    Task(oneshot::Sender<Result<T>>),
    Thread(mpsc::SyncSender<Result<T>>),
}

impl<T> Waiter<T> {
    pub(super) fn tell(self, result: Result<T>) {
        // Who no longer waits need not be told.
        match self {
            Self::Task(sender) => drop(sender.send(result)),
            Self::Thread(sender) => drop(sender.send(result)),
        }
    }
}

/// A piece of work for the thread.
pub(super) enum Op {
    Record { run: Arc<Live>, seq: u64, at: f64, position: Position, entry: Entry },
    Ask { run: Arc<Live>, id: String, question: Value },
    Settle { run: Arc<Live>, id: String, answer: Value },
    Commit { run: Arc<Live>, waiter: Waiter },
    Claim { claim: Box<Claim>, waiter: Waiter<Owned> },
    Adopt(Arc<Live>),
    Release(Arc<Live>),
}

pub(super) fn carry_out(transaction: &Transaction<'_>, run: &Live, op: Op) -> rusqlite::Result<()> {
    match op {
        Op::Record { seq, at, position, entry, .. } => record(transaction, run, seq, at, position, entry),
        Op::Ask { id, question, .. } => transaction
            .prepare_cached(
                "INSERT INTO questions (run, id, asked, question) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT DO UPDATE SET question = excluded.question, settled = 0",
            )?
            .execute(params![run.no, id, lease::now(), question.to_string()])
            .map(drop),
        Op::Settle { id, answer, .. } => transaction
            .prepare_cached("UPDATE questions SET answer = ?3, settled = 1 WHERE run = ?1 AND id = ?2")?
            .execute(params![run.no, id, answer.to_string()])
            .map(drop),
        Op::Release(run) => transaction
            .prepare_cached("UPDATE runs SET owner = NULL WHERE no = ?1 AND epoch = ?2")?
            .execute(params![run.no, run.epoch])
            .map(drop),
        Op::Commit { .. } | Op::Claim { .. } | Op::Adopt(_) => Ok(()),
    }
}

pub(super) fn record(
    transaction: &Transaction<'_>,
    run: &Live,
    seq: u64,
    at: f64,
    position: Position,
    entry: Entry,
) -> rusqlite::Result<()> {
    if let Entry::Status { status, usage } = &entry {
        transaction
            .prepare_cached("UPDATE runs SET status = ?2, usage = ?3, updated = ?4 WHERE no = ?1")?
            .execute(params![run.no, status, usage.to_string(), at])?;
    }
    let kind = kind(&entry);
    let entry = match entry {
        Entry::Ended { kept } => {
            let mut before = lock(&run.kept);
            let change = delta::diff(&before, &kept);
            *before = kept;
            Entry::Ended { kept: change }
        }
        other => other,
    };
    let entry = serde_json::to_value(entry).unwrap_or_default();
    let mut failed = Ok(());
    let entry = texts::split(entry, &mut |hash, text| {
        let insert = || {
            transaction
                .prepare_cached("INSERT OR IGNORE INTO texts (run, hash, body) VALUES (?1, ?2, ?3)")?
                .execute(params![run.no, hash, text])
        };
        if let Err(error) = insert() {
            failed = Err(error);
        }
    });
    failed?;
    let Position { attempt, phase, phase_try, nested, step, turn, call } = position;
    let body = json!([[attempt, phase, phase_try, nested, step, turn, call], entry]).to_string();
    let seq = i64::try_from(seq).unwrap_or(i64::MAX);
    let seal = seal(run.no, seq, at, kind, &body);
    transaction
        .prepare_cached(
            "INSERT INTO events (run, seq, at, kind, body, seal) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![run.no, seq, at, kind, body, seal])
        .map(drop)
}

/// What tells a record from a damaged one.
pub(super) fn seal(run: i64, seq: i64, at: f64, kind: &str, body: &str) -> i64 {
    let mut hasher = blake3::Hasher::new();
    for number in [run.to_le_bytes(), seq.to_le_bytes(), at.to_le_bytes()] {
        hasher.update(&number);
    }
    hasher.update(kind.as_bytes()).update(b" ").update(body.as_bytes());
    let mut seal = [0; 8];
    hasher.finalize_xof().fill(&mut seal);
    i64::from_le_bytes(seal)
}

fn kind(entry: &Entry) -> &'static str {
    match entry {
        Entry::Started { .. } => "started",
        Entry::Finished { .. } => "finished",
        Entry::Failed { .. } => "failed",
        Entry::Event { .. } => "event",
        Entry::Ended { .. } => "ended",
        Entry::Status { .. } => "status",
        Entry::Rewound { .. } => "rewound",
    }
}
