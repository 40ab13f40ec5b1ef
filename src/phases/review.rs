//! The question after a step: go on, do it again, leave it out, or stop.

use serde_json::json;

use super::config;
use super::hitl_checkpoint::answer;
use super::progress::Progress;
use crate::engine::{Answer, Question, Run, State};
use crate::error::Result;

/// Seconds a human has to say how a step went.
const STEP_ANSWER_SECONDS: u64 = 3600;

/// What a human wants after a step.
pub(super) enum Verdict {
    /// Go on with the next step.
    Continue,
    /// Go on without what this step found.
    Skip,
    /// Do the step again, with these words.
    Redo(Option<String>),
    /// End the phase as failed, for this reason.
    Stop(String),
}

/// Asks a human how a step went, where the configuration wants that.
pub(super) async fn after_step(
    config: &config::Control,
    run: &Run,
    state: &dyn State,
    progress: &Progress,
    number: usize,
    failure: Option<&str>,
) -> Result<Verdict> {
    let wanted = config.hitl_enabled || (config.hitl_after_each_step && failure.is_none());
    if !wanted || !run.has_approvals() {
        return Ok(Verdict::Continue);
    }
    let (kind, options): (&str, &[&str]) = match failure {
        None => ("after_step", &["continue", "redo", "skip", "abort"]),
        Some(_) => ("on_error", &["retry", "skip", "abort"]),
    };
    let of = progress.plan.len();
    let sub_task = &progress.plan[number - 1].sub_task;
    let message = match failure {
        None => format!("Step {number} of {of} is done: {sub_task}\nGo on, do it again, or stop here?"),
        Some(reason) => format!("{reason}\nTry step {number} of {of} again, leave it out, or stop here?"),
    };
    let summary = progress.results.last().map(|result| result["summary"].clone());
    let question = Question {
        run_id: String::new(),
        step_id: format!("{}_step_{number}", state.phase_id()),
        checkpoint_type: kind.into(),
        context_snapshot: json!({
            "task": state.task(), "step": number, "number_of_steps": of, "sub_task": sub_task,
            "summary": summary, "error": failure,
        }),
        message,
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        timeout_seconds: STEP_ANSWER_SECONDS,
    };
    let here = run.nested("control").at_step(number);
    answer(&here, question).await.map(|answer| match answer {
        Answer::Given { resolution, user_feedback, .. } => match resolution.as_str() {
            "redo" | "retry" => Verdict::Redo(user_feedback),
            "skip" => Verdict::Skip,
            "abort" => {
                let words = user_feedback.map(|words| format!(": {words}")).unwrap_or_default();
                Verdict::Stop(format!("Aborted by user after step {number}{words}"))
            }
            _ => Verdict::Continue,
        },
        Answer::TimedOut => Verdict::Stop(format!(
            "Nobody answered within {STEP_ANSWER_SECONDS} s how to go on after step {number}"
        )),
        Answer::Failed { error } => Verdict::Stop(format!("Approval error after step {number}: {error}")),
    })
}
