//! The one thread that writes a store: it takes what all runs of this process append, and commits it
//! together, so that concurrent runs share the wait for the disk.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::claim::{self, Claim, Owned};
use super::file::File;
use super::lease;
use super::live::Live;
use super::op::{Op, carry_out};
use super::store::parse_demand;
use crate::error::{Error, Result};

/// How long what nobody waits for may lie in memory.
const LINGER: Duration = Duration::from_millis(200);

/// How often the thread looks for demands and answers from elsewhere.
const LOOK: Duration = Duration::from_millis(250);

#[derive(Default)]
struct Queue {
    ops: Vec<Op>,
    /// Whether somebody waits for what is in the queue.
    urgent: bool,
    closing: bool,
}

/// The way to the thread, which ends with it.
pub(super) struct Writer {
    shared: Arc<(Mutex<Queue>, Condvar)>,
    thread: Option<JoinHandle<()>>,
    /// The process that has the thread.
    process: u32,
}

impl Writer {
    pub(super) fn start(connection: Connection, file: Arc<File>) -> Result<Self> {
        let shared: Arc<(Mutex<Queue>, Condvar)> = Arc::default();
        let mut desk =
            Desk { shared: shared.clone(), connection, file, runs: Vec::new(), last_demand: 0, version: 0 };
        let thread =
            std::thread::Builder::new().name("cmbagent-store".into()).spawn(move || desk.work()).map_err(
                |e| Error::Journal(format!("the thread that writes the store cannot be started: {e}")),
            )?;
        Ok(Self { shared, thread: Some(thread), process: std::process::id() })
    }

    pub(super) fn push(&self, op: Op) {
        let (queue, bell) = &*self.shared;
        let mut queue = lock(queue);
        let ring = queue.ops.is_empty() || !matches!(op, Op::Record { .. });
        queue.urgent |= matches!(op, Op::Commit { .. } | Op::Claim { .. } | Op::Release(_));
        queue.ops.push(op);
        drop(queue);
        if ring {
            bell.notify_one();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // A fork's child has no such thread, and perhaps a lock that nobody opens any more.
        if self.process != std::process::id() {
            return;
        }
        lock(&self.shared.0).closing = true;
        self.shared.1.notify_one();
        if let Some(thread) = self.thread.take() {
            // Who opens the store next finds what was let go here written down. A thread that has died
            // has told those who waited for it.
            let _ = thread.join();
        }
    }
}

/// What goes into a transaction.
enum Work {
    Claim(Box<Claim>),
    Of(Arc<Live>, Op),
}

struct Desk {
    shared: Arc<(Mutex<Queue>, Condvar)>,
    connection: Connection,
    file: Arc<File>,
    runs: Vec<Weak<Live>>,
    last_demand: i64,
    /// SQLite's count of what others have changed.
    version: i64,
}

impl Desk {
    fn work(&mut self) {
        let mut looked = Instant::now();
        let mut beaten = Instant::now();
        loop {
            let (ops, closing) = self.next(looked);
            self.write(ops);
            self.runs.retain(|run| run.strong_count() > 0);
            if closing {
                return;
            }
            if !self.runs.is_empty() && looked.elapsed() >= LOOK {
                looked = Instant::now();
                self.look_around();
                if beaten.elapsed().as_secs_f64() >= lease::HEARTBEAT_SECONDS {
                    beaten = Instant::now();
                    self.beat();
                }
            }
        }
    }

    /// What is to be written next: at once when somebody waits, else after lingering.
    fn next(&self, looked: Instant) -> (Vec<Op>, bool) {
        let (queue, bell) = &*self.shared;
        let mut queue = lock(queue);
        let mut since = (!queue.ops.is_empty()).then(Instant::now);
        loop {
            if queue.urgent || queue.closing || since.is_some_and(|since| since.elapsed() >= LINGER) {
                queue.urgent = false;
                return (std::mem::take(&mut queue.ops), queue.closing);
            }
            let look = (!self.runs.is_empty()).then(|| LOOK.saturating_sub(looked.elapsed()));
            if look.is_some_and(|look| look.is_zero()) {
                return (Vec::new(), false);
            }
            let linger = since.map(|since| LINGER.saturating_sub(since.elapsed()));
            queue = match [look, linger].into_iter().flatten().min() {
                Some(most) => bell.wait_timeout(queue, most).unwrap_or_else(PoisonError::into_inner).0,
                None => bell.wait(queue).unwrap_or_else(PoisonError::into_inner),
            };
            if since.is_none() && !queue.ops.is_empty() {
                since = Some(Instant::now());
            }
        }
    }

    fn write(&mut self, ops: Vec<Op>) {
        if ops.is_empty() {
            return;
        }
        let mut runs: Vec<Arc<Live>> = Vec::new();
        let mut waiters = Vec::new();
        let mut claimers = Vec::new();
        let mut work = Vec::new();
        for op in ops {
            match op {
                Op::Commit { run, waiter } => waiters.push((run, waiter)),
                Op::Claim { claim, waiter } => {
                    work.push(Work::Claim(claim));
                    claimers.push(waiter);
                }
                Op::Adopt(run) => {
                    self.runs.push(Arc::downgrade(&run));
                    // What was said to it before it was here is news.
                    self.version = -1;
                }
                Op::Record { ref run, .. }
                | Op::Ask { ref run, .. }
                | Op::Settle { ref run, .. }
                | Op::Release(ref run) => {
                    if !runs.iter().any(|known| Arc::ptr_eq(known, run)) {
                        runs.push(run.clone());
                    }
                    work.push(Work::Of(run.clone(), op));
                }
            }
        }
        runs.retain(|run| run.check().is_ok());
        if !runs.is_empty() || !claimers.is_empty() {
            let answers = self.commit(&runs, work).unwrap_or_else(|error| {
                let error = self.file.error("written", &error);
                for run in &runs {
                    run.give_up(&error);
                }
                claimers.iter().map(|_| Err(error.clone())).collect()
            });
            for (claimer, answer) in claimers.into_iter().zip(answers) {
                claimer.tell(answer);
            }
        }
        for (run, waiter) in waiters {
            waiter.tell(run.check());
        }
    }

    /// Commits it all; the answers are those to claims, in their order.
    fn commit(&mut self, runs: &[Arc<Live>], work: Vec<Work>) -> rusqlite::Result<Vec<Result<Owned>>> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut lost: HashSet<i64> = HashSet::new();
        {
            let mut epochs = transaction.prepare_cached("SELECT epoch FROM runs WHERE no = ?1")?;
            for run in runs {
                let epoch: Option<i64> = epochs.query_row([run.no], |row| row.get(0)).optional()?;
                if epoch != Some(run.epoch) {
                    lost.insert(run.no);
                    run.give_up(&Error::Journal(format!(
                        "run {} was {} by another process: this one records nothing more and ends",
                        run.id,
                        if epoch.is_some() { "taken over" } else { "deleted" }
                    )));
                }
            }
        }
        let mut answers = Vec::new();
        for piece in work {
            match piece {
                Work::Claim(claim) => answers.push(claim::take(&transaction, &claim)?),
                Work::Of(run, _) if lost.contains(&run.no) || run.check().is_err() => {}
                Work::Of(run, op) => carry_out(&transaction, &run, op)?,
            }
        }
        transaction.commit()?;
        Ok(answers)
    }

    /// Passes on what people elsewhere want and say.
    fn look_around(&mut self) {
        let runs: Vec<Arc<Live>> = self.runs.iter().filter_map(Weak::upgrade).collect();
        // A store that cannot be read now may be readable at the next look; if not, writing tells.
        let _ = self.read_news(&runs);
    }

    fn read_news(&mut self, runs: &[Arc<Live>]) -> rusqlite::Result<()> {
        let version: i64 = self.connection.query_row("PRAGMA data_version", [], |row| row.get(0))?;
        if version == self.version {
            return Ok(());
        }
        let find = |no: i64| runs.iter().find(|run| run.no == no);
        let mut demands = self
            .connection
            .prepare_cached("SELECT no, run, demand, epoch FROM demands WHERE no > ?1 ORDER BY no")?;
        let mut rows = demands.query([self.last_demand])?;
        let mut last = self.last_demand;
        while let Some(row) = rows.next()? {
            last = row.get(0)?;
            let word: String = row.get(2)?;
            let epoch: i64 = row.get(3)?;
            // What was demanded of an earlier owner is not demanded of this one.
            let run = find(row.get(1)?).filter(|run| run.epoch == epoch);
            if let (Some(run), Some(demand)) = (run, parse_demand(&word)) {
                lock(&run.demands).push(demand);
                run.news.notify_waiters();
            }
        }
        drop(rows);
        drop(demands);
        let mut answers = self.connection.prepare_cached(
            "SELECT run, id, answer FROM questions WHERE answer IS NOT NULL AND NOT settled",
        )?;
        let mut rows = answers.query([])?;
        while let Some(row) = rows.next()? {
            let answer: String = row.get(2)?;
            if let (Some(run), Ok(answer)) = (find(row.get(0)?), serde_json::from_str(&answer)) {
                lock(&run.answers).insert(row.get(1)?, answer);
                run.news.notify_waiters();
            }
        }
        drop(rows);
        drop(answers);
        (self.last_demand, self.version) = (last, version);
        Ok(())
    }

    fn beat(&mut self) {
        let runs: Vec<Arc<Live>> = self.runs.iter().filter_map(Weak::upgrade).collect();
        let mut beat = || -> rusqlite::Result<()> {
            let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for run in &runs {
                let changed = transaction
                    .prepare_cached("UPDATE runs SET heartbeat = ?1 WHERE no = ?2 AND epoch = ?3")?
                    .execute(params![lease::now(), run.no, run.epoch])?;
                if changed == 0 {
                    run.give_up(&Error::Journal(format!(
                        "run {} was taken over by another process: this one records nothing more and ends",
                        run.id
                    )));
                }
            }
            transaction.commit()
        };
        // One missed sign of life is made up for by the next; a store that stays unwritable ends the
        // run at its next record.
        let _ = beat();
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
