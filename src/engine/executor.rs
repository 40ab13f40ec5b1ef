//! Runs the phases of a workflow one after the other.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use super::ledger::{Line, Total};
use super::{Kept, MemoryState, Outcome, Phase, PhaseStatus, Run, RunStatus, Section, Settings, State, Why};
use crate::error::{Error, Result};
use crate::journal::{Entry, History, Journal, Position};

/// The port to the context of a whole workflow. Python's is a live `WorkflowExecutor`.
pub trait Workflow: Send + Sync {
    /// About the workflow, for the `run_started` event.
    fn about(&self) -> Result<Value>;
    /// A phase's context made from the workflow's, when there is no previous result.
    fn first(&self, phase_id: &str) -> Result<Arc<dyn State>>;
    /// The executor is now at this phase.
    fn enter(&self, index: usize) -> Result<()>;
    /// A phase is left out.
    fn skip(&self, index: usize) -> Result<()>;
    /// Keeps a result.
    fn record(&self, outcome: &Outcome) -> Result<()>;
    /// Takes a successful result over into the workflow's context.
    fn update(&self, outcome: &Outcome) -> Result<()>;
    /// Makes again the context that a phase of an earlier life left: handed over by `last`, with the
    /// snapshot's values in it. Also returns the paths of values that could not be kept.
    fn restore(&self, state: Arc<dyn State>, snapshot: &Value) -> Result<(Arc<dyn State>, Vec<String>)>;
    /// All phases are done after `seconds`.
    fn finish(&self, seconds: f64) -> Result<()>;
    /// A life of the run ends; `lines` are the calls that no cost report says. Gives what is to be told of them.
    fn settle(&self, _run_id: &str, _lines: &[Line]) -> Result<Option<Value>> {
        Ok(None)
    }
}

/// Runs `phases` in order and returns how the run ended.
///
/// A run that was stopped, is held or waits for a human ends with that status and without an error;
/// so does one whose phase completed with an error to tell (`fail_softly`), as failed.
///
/// # Errors
/// [`Error::Validation`], [`Error::PhaseFailed`], and whatever a custom phase raised, unchanged.
pub async fn execute(run: &Run, phases: &[Arc<dyn Phase>], workflow: &dyn Workflow) -> Result<RunStatus> {
    let started = run.clock().now();
    run.mark(RunStatus::Running)?;
    if run.resumed() {
        run.announce("run_resumed", workflow.about()?)?;
    } else {
        run.tell("", "run_started", workflow.about()?).await?;
    }
    let mut told = None;
    let ended = tokio::select! {
        biased;
        ended = walk(run, phases, workflow, &mut told) => ended,
        never = run.heed() => match never {},
    };
    let seconds = run.clock().now() - started;
    let (status, error) = match &ended {
        Err(error) if error.is_over_limit() && !run.control().cancelled() => {
            (RunStatus::Stopped, Some(error.to_string()))
        }
        Ok(RunStatus::Completed) if told.is_some() => (RunStatus::Failed, told),
        Ok(status) => (*status, None),
        Err(error) if run.control().why() == Some(Why::Preempted) => {
            (RunStatus::Interrupted, Some(error.to_string()))
        }
        Err(error) if run.control().cancelled() || error.is_ending() => {
            (RunStatus::Cancelled, Some(error.to_string()))
        }
        Err(error) => (RunStatus::Failed, Some(error.to_string())),
    };
    let status = RunStatus::Running.transition(status)?;
    if matches!(ended, Ok(RunStatus::Completed | RunStatus::Stopped)) {
        workflow.finish(seconds)?;
    }
    let usage = run.spent().to_json();
    let about = json!({"status": status, "seconds": seconds, "usage": usage, "error": error});
    let settled = settle(run, workflow, status);
    let closed = close(run, status, about).await.and(settled);
    // What ended the run says more than that it could not be recorded.
    ended.and_then(|_| closed.map(|()| status))
}

/// Has what no report says reported, and tells of it once, when the run has come to its end: until then a phase
/// that goes on may still report it.
fn settle(run: &Run, workflow: &dyn Workflow, status: RunStatus) -> Result<()> {
    let told = workflow.settle(run.id(), &run.ledger().unreported())?;
    match told {
        Some(about) if status == RunStatus::Completed && !run.history().was_completed() => {
            run.announce("cost", about)
        }
        _ => Ok(()),
    }
}

async fn close(run: &Run, status: RunStatus, about: Value) -> Result<()> {
    run.announce("run_finished", about)?;
    run.mark(status)?;
    run.journal().commit().await
}

/// Has the step, or else the phase, whose failure ended an earlier life done anew. Steps that were
/// done stay done. A phase that is not `built_in` finds its effects as they were, and decides anew.
///
/// # Errors
/// The journal cannot be read or written.
pub fn rewind(journal: &dyn Journal, at: f64, built_in: impl Fn(&str) -> bool) -> Result<()> {
    let records = journal.records(1)?;
    let status = records.iter().rev().find_map(|record| match &record.entry {
        Entry::Status { status, .. } => Some(status.clone()),
        _ => None,
    });
    if status.as_deref() != Some(RunStatus::Failed.as_str()) {
        return Ok(());
    }
    let last = records.iter().rev().find_map(|record| match &record.entry {
        Entry::Ended { kept } => Some((record.position, kept.clone())),
        _ => None,
    });
    let Some((phase, kept)) = last else { return Ok(()) };
    let softly = kept["status"] == "completed" && !kept["error"].is_null();
    if !softly && kept["status"] != "failed" {
        return Ok(());
    }
    let history = History::of(records);
    let step = history.failed_step().filter(|step| step.phase_place() == phase);
    let own = softly || built_in(kept["phase_type"].as_str().unwrap_or_default());
    let Some(to) = step.or(own.then_some(phase)) else { return Ok(()) };
    // What failed without a result acts again by itself, and what came before it stays.
    if !softly && history.failed_since(to) {
        return Ok(());
    }
    journal.append(at, Position::of_attempt(to.attempt), Entry::Rewound { to }).map(drop)
}

/// Goes through the phases; `told` gets the error of one that completed all the same.
async fn walk(
    run: &Run,
    phases: &[Arc<dyn Phase>],
    workflow: &dyn Workflow,
    told: &mut Option<String>,
) -> Result<RunStatus> {
    let mut last: Option<Outcome> = None;
    let stopped = || run.control().stop_requested() && !run.control().cancelled();
    for (index, phase) in phases.iter().enumerate() {
        if stopped() {
            return Ok(RunStatus::Stopped);
        }
        workflow.enter(index)?;
        let before = restore(run, phase.as_ref(), index, last.as_ref(), workflow)?;
        let outcome = if let Some(outcome) = before {
            outcome
        } else {
            run.gate().await?;
            // What ended a pause may have been a stop.
            if stopped() {
                return Ok(RunStatus::Stopped);
            }
            let Some(outcome) = perform(run, phase.as_ref(), index, last.as_ref(), workflow).await? else {
                continue;
            };
            outcome
        };
        match outcome.status {
            PhaseStatus::Completed => {
                workflow.update(&outcome)?;
                told.clone_from(&outcome.error);
            }
            PhaseStatus::WaitingApproval => {
                workflow.update(&outcome)?;
                return Ok(RunStatus::WaitingApproval);
            }
            PhaseStatus::Paused => {
                workflow.update(&outcome)?;
                return Ok(RunStatus::Paused);
            }
            // Whatever it makes of having been cancelled.
            _ if run.control().cancelled() => return Err(run.control().error()),
            other => {
                let error = outcome.error.unwrap_or_else(|| format!("it ended as {}", other.as_str()));
                return Err(Error::PhaseFailed {
                    phase: phase.phase_type().into(),
                    error,
                    cause: outcome.cause,
                });
            }
        }
        last = Some(outcome);
    }
    Ok(RunStatus::Completed)
}

/// The context a phase begins with.
fn begin(last: Option<&Outcome>, workflow: &dyn Workflow, phase_id: &str) -> Result<Arc<dyn State>> {
    match last {
        Some(outcome) => outcome.state.hand_over(phase_id),
        None => workflow.first(phase_id),
    }
}

/// Takes up a phase that an earlier life has completed.
fn restore(
    run: &Run,
    phase: &dyn Phase,
    index: usize,
    last: Option<&Outcome>,
    workflow: &dyn Workflow,
) -> Result<Option<Outcome>> {
    let kind = phase.phase_type();
    let place = u32::try_from(index).unwrap_or(u32::MAX);
    let attempt = run.attempt();
    let Some(phase_try) = run.history().last_try(attempt, place) else { return Ok(None) };
    let here = run.at_phase(place, phase_try, kind);
    let Some(kept) = here.ended() else { return Ok(None) };
    let kept: Kept = serde_json::from_value(kept.clone()).map_err(unreadable)?;
    if kept.status != PhaseStatus::Completed || kept.error.is_some() {
        return Ok(None);
    }
    if kept.phase_type != kind {
        return Err(Error::Journal(format!(
            "run {} has completed a phase {:?} in place {index}, where the workflow has {kind:?} now: resume it \
             with the workflow it was begun with",
            run.id(),
            kept.phase_type
        )));
    }
    charge_earlier(run, place, phase_try + 1)?;
    let state = begin(last, workflow, &format!("phase_{index}_{kind}"))?;
    let (state, lost) = workflow.restore(state, &kept.state)?;
    here.announce("phase_restored", json!({"display_name": phase.display_name(), "lost": lost}))?;
    let outcome = kept.outcome(state);
    workflow.record(&outcome)?;
    Ok(Some(outcome))
}

/// Counts what tries of a phase before `until` have cost in earlier lives.
fn charge_earlier(run: &Run, place: u32, until: u32) -> Result<()> {
    for phase_try in 0..until {
        if let Some(kept) = run.at_phase(place, phase_try, "").ended() {
            // Its context, which may be large, is left where it is.
            let ledger = Vec::<Line>::deserialize(&kept["ledger"]).map_err(unreadable)?;
            for line in ledger {
                run.charge(line);
            }
        }
    }
    Ok(())
}

fn unreadable(error: serde_json::Error) -> Error {
    Error::Journal(format!("the record of a phase's end cannot be read: {error}"))
}

/// Performs one phase with its retries; `None` when it is skipped.
async fn perform(
    run: &Run,
    phase: &dyn Phase,
    index: usize,
    last: Option<&Outcome>,
    workflow: &dyn Workflow,
) -> Result<Option<Outcome>> {
    let kind = phase.phase_type();
    let phase_id = format!("phase_{index}_{kind}");
    let context = || begin(last, workflow, &phase_id);
    let settings = phase.settings()?;
    let place = u32::try_from(index).unwrap_or(u32::MAX);
    let mut state = context()?;
    if phase.can_skip(state.as_ref())? {
        workflow.skip(index)?;
        let here = run.at_phase(place, 0, kind);
        here.tell("", "phase_skipped", json!({"display_name": phase.display_name()})).await?;
        return Ok(None);
    }
    let messages = phase.validate_input(state.as_ref())?;
    if !messages.is_empty() {
        return Err(Error::Validation { phase: kind.into(), messages });
    }
    // Tries of earlier lives that failed and were followed by another are over.
    let first_try = run.history().last_try(run.attempt(), place).unwrap_or(0);
    let run = &run.within_phase(place, kind, settings.limits.clone());
    charge_earlier(run, place, first_try)?;
    for phase_try in first_try.. {
        let here = run.at_phase(place, phase_try, kind);
        let mark = run.ledger().mark();
        let outcome = attempt(&here, phase, state, &settings).await?;
        if run.journal().keeps() {
            let kept = Kept::of(kind, &outcome, run.ledger().since(mark))?;
            here.record(Entry::Ended { kept: kept.into_json().map_err(unreadable)? }).await?;
        }
        let hopeless = outcome.cause.as_ref().is_some_and(|cause| !cause.is_retryable());
        let failed = outcome.status == PhaseStatus::Failed;
        if !failed || hopeless || phase_try >= settings.max_retries || run.control().ending() {
            workflow.record(&outcome)?;
            return Ok(Some(outcome));
        }
        state = context()?;
    }
    Ok(None)
}

/// One try of a phase, within its time. An error becomes a failed outcome, unless it belongs to
/// the caller: an exception of a custom phase on its last try, or a cancellation.
async fn attempt(
    run: &Run,
    phase: &dyn Phase,
    state: Arc<dyn State>,
    settings: &Settings,
) -> Result<Outcome> {
    let started = run.clock().now();
    let mark = run.ledger().mark();
    let about = json!({"display_name": phase.display_name(), "config": phase.config()});
    run.tell("", "phase_started", about).await?;
    let work = phase.execute(run, state.clone());
    let ended = match settings.timeout_seconds {
        None => work.await,
        Some(limit) => within(run, limit, work).await,
    };
    phase.settle().await;
    let (status, error) = match &ended {
        Ok(outcome) => (outcome.status.as_str(), outcome.error.clone()),
        // Whoever asked for the end knows why.
        Err(error) if error.is_stop() => (RunStatus::Cancelled.as_str(), None),
        Err(error) if error.is_over_limit() => (RunStatus::Stopped.as_str(), Some(error.to_string())),
        Err(error) => (PhaseStatus::Failed.as_str(), Some(error.to_string())),
    };
    let usage = Total::of(&run.ledger().since(mark)).to_json();
    let seconds = run.clock().now() - started;
    let about = json!({"status": status, "error": error, "seconds": seconds, "usage": usage});
    run.tell("", "phase_finished", about).await?;
    match ended {
        Err(error)
            if matches!(error, Error::Foreign { .. })
                && (run.phase_try() >= settings.max_retries || !error.is_retryable()) =>
        {
            Err(error)
        }
        // A run that cannot be recorded, or does not fit its record, is not helped by another try.
        Err(error) if error.ends_run() => Err(error),
        Err(error) => {
            Ok(Outcome { cause: Some(Arc::new(error.clone())), ..Outcome::failed(state, error.to_string()) })
        }
        Ok(outcome) => Ok(outcome),
    }
}

/// Limits a phase's own time; the time a human takes, or holds the run, does not count.
async fn within(run: &Run, limit: f64, work: BoxFuture<'_, Result<Outcome>>) -> Result<Outcome> {
    let begun = run.clock().now();
    let waited = run.seconds_waiting();
    let mut work = work;
    loop {
        let used = (run.clock().now() - begun) - (run.seconds_waiting() - waited);
        let left = Duration::try_from_secs_f64(limit - used).unwrap_or_default();
        if left.is_zero() {
            return Err(Error::Timeout(format!(
                "the phase took longer than its timeout_seconds={limit}; raise that setting or drop it"
            )));
        }
        if let Ok(ended) = tokio::time::timeout(left, &mut work).await {
            return ended;
        }
    }
}

/// A workflow's context in memory, for Rust callers and tests.
#[derive(Default)]
pub struct MemoryWorkflow {
    task: String,
    work_dir: String,
    kept: Mutex<Vec<Outcome>>,
    skipped: Mutex<Vec<usize>>,
}

impl MemoryWorkflow {
    /// A workflow about `task` in `work_dir`.
    pub fn new(task: &str, work_dir: &str) -> Self {
        Self { task: task.into(), work_dir: work_dir.into(), ..Self::default() }
    }

    /// The results so far.
    pub fn results(&self) -> Vec<Outcome> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The indexes of the phases that were left out.
    pub fn skipped(&self) -> Vec<usize> {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Workflow for MemoryWorkflow {
    fn about(&self) -> Result<Value> {
        Ok(json!({"task": self.task, "work_dir": self.work_dir}))
    }

    fn first(&self, phase_id: &str) -> Result<Arc<dyn State>> {
        Ok(Arc::new(MemoryState::new(&self.task, &self.work_dir, phase_id)))
    }

    fn enter(&self, _: usize) -> Result<()> {
        Ok(())
    }

    fn skip(&self, index: usize) -> Result<()> {
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner).push(index);
        Ok(())
    }

    fn record(&self, outcome: &Outcome) -> Result<()> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(outcome.clone());
        Ok(())
    }

    fn update(&self, _: &Outcome) -> Result<()> {
        Ok(())
    }

    fn restore(&self, state: Arc<dyn State>, snapshot: &Value) -> Result<(Arc<dyn State>, Vec<String>)> {
        for (section, name) in [(Section::Shared, "shared"), (Section::Output, "output")] {
            for (key, value) in snapshot[name].as_object().into_iter().flatten() {
                state.write(section, key, value.clone())?;
            }
        }
        Ok((state, Vec::new()))
    }

    fn finish(&self, _: f64) -> Result<()> {
        Ok(())
    }
}
