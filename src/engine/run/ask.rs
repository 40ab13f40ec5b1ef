//! Asking a human, here or elsewhere.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::Run;
use super::gate::internal;
use crate::engine::{Answer, Question, RunStatus};
use crate::error::Result;
use crate::journal::{Effect, Position};

impl Run {
    /// Asks a human, who is shown what the run has spent.
    pub async fn ask(&self, mut question: Question) -> Result<Answer> {
        self.hold().await?;
        question.run_id = self.id().to_owned();
        if let Value::Object(shown) = &mut question.context_snapshot {
            shown.entry("spent").or_insert_with(|| self.spent().to_json());
        }
        let about = json!({
            "checkpoint_type": question.checkpoint_type, "message": question.message,
            "options": question.options, "request_id": question.step_id,
        });
        self.tell("", "approval_requested", about).await?;
        let input = serde_json::to_value(&question).map_err(internal)?;
        let id = self.question_id();
        let asked = input.clone();
        let answer: Answer = self
            .pass(Effect::Ask, &input, Value::Null, |control| async move {
                self.journal().ask(&id, &asked)?;
                self.mark(RunStatus::WaitingApproval)?;
                self.journal().commit().await?;
                let waiting = self.wait();
                let answer = tokio::select! {
                    biased;
                    answer = self.approvals.ask(&question) => answer,
                    answer = self.journal().answered(&id) => serde_json::from_value(answer).map_err(internal),
                    () = control.cut() => Err(control.error()),
                };
                drop(waiting);
                let answer: Answer = answer?;
                self.journal().settle(&id, &serde_json::to_value(&answer).map_err(internal)?)?;
                self.mark(RunStatus::Running)?;
                Ok(answer)
            })
            .await?;
        let about = match &answer {
            Answer::Given { resolution, user_feedback, .. } => {
                json!({"resolution": resolution, "user_feedback": user_feedback})
            }
            Answer::TimedOut => json!({"resolution": "timeout", "user_feedback": null}),
            Answer::Failed { error } => json!({"resolution": "error", "user_feedback": error}),
        };
        self.tell("", "approval_received", about).await?;
        Ok(answer)
    }

    /// The question's id in the store: the same when a later life asks it again.
    fn question_id(&self) -> String {
        let Position { attempt, phase, phase_try, nested, step, turn, .. } = self.position;
        let call = self.ordinal.load(Ordering::Relaxed);
        format!("{attempt}.{phase}.{phase_try}.{nested}.{step}.{turn}.{call}")
    }
}
