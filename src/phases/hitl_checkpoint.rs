//! A human's approval between two phases.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::config::{self, read};
use super::{directory, reports};
use crate::agents::{PlanStep, ideas, parse};
use crate::engine::state::{put_out, share};
use crate::engine::{Answer, Estimate, Outcome, Phase, PhaseStatus, Question, Run, Section, State};
use crate::error::Result;

/// How often a question is put again when the answer is none of its options.
const REPEATS: usize = 2;

/// Questions of a plan that is being carried out, or has been: not all of it is still to come.
const UNDER_WAY: [&str; 4] = ["before_step", "after_step", "on_error", "after_execution"];

/// The human checkpoint.
pub struct HitlCheckpoint {
    config: config::HitlCheckpoint,
}

impl HitlCheckpoint {
    /// A checkpoint with these fields.
    pub fn new(fields: Value) -> Result<Self> {
        Ok(Self { config: read(fields)? })
    }

    fn question(&self, run: &Run, state: &dyn State) -> Question {
        let config = &self.config;
        let plan =
            || state.read(Section::Input, "final_plan").or_else(|| state.read(Section::Shared, "plan_steps"));
        let current =
            || state.read(Section::Shared, "current_step").map_or("?".into(), |step| step.to_string());
        let mut parts = Vec::new();
        if !config.custom_message.is_empty() {
            parts.push(config.custom_message.clone());
        }
        match config.checkpoint_type.as_str() {
            "after_planning" => {
                parts.push("The plan is ready. Approve it, reject it, or change it.".into());
                if config.show_plan {
                    parts.push("\n**Plan:**".into());
                    match plan().as_ref().map(parse::plan_of) {
                        Some(Ok(steps)) => parts.extend(
                            steps
                                .iter()
                                .enumerate()
                                .map(|(i, s)| format!("  Step {}: {}", i + 1, s.sub_task)),
                        ),
                        _ => parts.push("Plan not available".into()),
                    }
                }
            }
            "before_step" => parts.push(format!("Step {} is about to begin. Go on?", current())),
            "after_step" => parts.push(format!("Step {} is done. Go on?", current())),
            _ => {}
        }
        let ideas = state.read(Section::Input, "ideas");
        if let Some(Value::Array(ideas)) = &ideas {
            parts.push("\n**Ideas:**".into());
            let title = |idea: &Value| idea["title"].as_str().unwrap_or("(without a title)").to_owned();
            parts.extend(
                ideas.iter().enumerate().map(|(i, idea)| format!("  Idea {}: {}", i + 1, title(idea))),
            );
            if let Some(selected) = state.read(Section::Input, "selected_idea") {
                parts.push(format!("  Selected so far: {}", title(&selected)));
            }
        }
        if parts.is_empty() {
            parts.push("Shall the workflow go on?".into());
        }
        let mut snapshot = json!({
            "task": state.task(), "phase_id": state.phase_id(), "checkpoint_type": config.checkpoint_type,
        });
        if config.show_plan {
            let plan = plan().unwrap_or_default();
            let done = state.read(Section::Shared, "execution_complete") == Some(json!(true));
            if !done
                && !UNDER_WAY.contains(&config.checkpoint_type.as_str())
                && let Ok(steps) = parse::plan_of(&plan)
                && let Some(estimate) = Estimate::of_plan(steps.len(), &run.spent())
            {
                snapshot["estimate"] = estimate.to_json();
            }
            snapshot["plan"] = plan;
        }
        for (key, value) in [("ideas", ideas), ("selected_idea", state.read(Section::Input, "selected_idea"))]
        {
            if let Some(value) = value {
                snapshot[key] = value;
            }
        }
        if config.show_context {
            snapshot["context"] = state.read(Section::Shared, "planning_context").unwrap_or_default();
        }
        Question {
            run_id: run.id().into(),
            step_id: state.phase_id(),
            checkpoint_type: config.checkpoint_type.clone(),
            context_snapshot: snapshot,
            message: parts.join("\n"),
            options: config.options.clone(),
            timeout_seconds: config.timeout_seconds,
        }
    }

    async fn decide(&self, run: &Run, state: &Arc<dyn State>) -> Result<Outcome> {
        let by_default = self.config.default_on_timeout == "approve";
        let mut end = End { state: state.clone(), output: Map::new(), shared: Map::new() };
        if !self.config.require_approval {
            end.output.insert("skipped".into(), json!(true));
            return end.close("auto_approved", None, None);
        }
        if !run.has_approvals() {
            let message = "there is no approval manager to ask: this checkpoint approves itself. Pass \
                           approval_manager= to have a human asked.";
            run.tell("", "warning", json!({"message": message})).await?;
            end.output.insert("no_hitl_manager".into(), json!(true));
            return end.close("auto_approved", None, None);
        }
        match answer(run, self.question(run, state.as_ref())).await? {
            Answer::Given { resolution, user_feedback, modifications } => {
                end.feed_back(user_feedback.as_deref());
                end.output.insert("resolution".into(), json!(resolution));
                match resolution.as_str() {
                    "reject" => {
                        let outcome = end.close("rejected", user_feedback, modifications)?;
                        Ok(Outcome {
                            status: PhaseStatus::Failed,
                            error: Some("Rejected by user".into()),
                            ..outcome
                        })
                    }
                    "modify" => {
                        end.change(run, modifications.as_ref()).await?;
                        end.close("modified", user_feedback, modifications)
                    }
                    _ if modifications.as_ref().is_some_and(|m| plan_in(m).or(idea_in(m)).is_some()) => {
                        // Approved as edited: what was edited is what follows.
                        end.shared.insert("hitl_approved".into(), json!(true));
                        end.change(run, modifications.as_ref()).await?;
                        end.close("modified", user_feedback, modifications)
                    }
                    _ => {
                        end.shared.insert("hitl_approved".into(), json!(true));
                        end.close("approved", user_feedback, modifications)
                    }
                }
            }
            Answer::TimedOut if by_default => end.close("timeout_auto_approved", None, None),
            Answer::TimedOut => {
                let outcome = end.close("timeout", None, None)?;
                let error = Some("Approval timeout - defaulted to reject".into());
                Ok(Outcome { status: PhaseStatus::Failed, error, ..outcome })
            }
            Answer::Failed { error } if by_default => {
                end.output.insert("error".into(), json!(error));
                end.close("error_auto_approved", None, None)
            }
            Answer::Failed { error } => {
                let outcome = end.close("error", None, None)?;
                let error = Some(format!("Approval error: {error}"));
                Ok(Outcome { status: PhaseStatus::Failed, error, ..outcome })
            }
        }
    }
}

/// Asks until the answer is one of the options: that word, or its past form. Any other word never
/// approves; after [`REPEATS`] of them the answer counts as failed.
pub async fn answer(run: &Run, question: Question) -> Result<Answer> {
    let mut said = String::new();
    for _ in 0..=REPEATS {
        let answer = run.ask(question.clone()).await?;
        let Answer::Given { resolution, user_feedback, modifications } = answer else { return Ok(answer) };
        if let Some(option) = option(&resolution, &question.options) {
            match usable(modifications, &question) {
                Ok(modifications) => {
                    return Ok(Answer::Given { resolution: option, user_feedback, modifications });
                }
                Err(error) => said = error,
            }
        } else {
            said = format!(
                "the answer {resolution:?} is none of the options {}",
                crate::error::python_list(&question.options)
            );
        }
        run.tell("", "warning", json!({"message": format!("{said}; the question stays open")})).await?;
    }
    Ok(Answer::Failed { error: said })
}

/// What a human changed, with the idea it selects spelt out; the error says what cannot be used.
fn usable(changes: Option<Value>, question: &Question) -> std::result::Result<Option<Value>, String> {
    let Some(mut changes) = changes else { return Ok(None) };
    if let Some(error) = plan_in(&changes).and_then(|plan| parse::plan_of(plan).err()) {
        return Err(format!("the changed plan cannot be used: {error}"));
    }
    // Where no ideas were put before the human, the words are a phase's own.
    if let (Some(choice), Some(ideas)) = (idea_in(&changes), question.context_snapshot["ideas"].as_array()) {
        changes["selected_idea"] = ideas::selected(choice, ideas)?;
    }
    Ok(Some(changes))
}

fn idea_in(changes: &Value) -> Option<&Value> {
    changes.get("selected_idea").filter(|idea| !idea.is_null())
}

/// The option a word stands for: `approve`, `approved`, `Approve`, ….
fn option(word: &str, options: &[String]) -> Option<String> {
    let word = word.trim().to_lowercase();
    let past = |option: &str| match option.strip_suffix('y') {
        Some(stem) => vec![format!("{stem}ied")],
        None if option.ends_with('e') => vec![format!("{option}d")],
        None => {
            vec![format!("{option}ed"), format!("{option}{}ed", option.chars().last().unwrap_or_default())]
        }
    };
    options
        .iter()
        .find(|option| {
            let option = option.to_lowercase();
            word == option || past(&option).contains(&word)
        })
        .map(|option| option.to_lowercase())
}

fn plan_in(modifications: &Value) -> Option<&Value> {
    match modifications {
        Value::Array(steps) if !steps.is_empty() => Some(modifications),
        Value::Object(map) => {
            map.get("plan").or_else(|| map.get("final_plan")).filter(|plan| !plan.is_null())
        }
        _ => None,
    }
}

/// The output of a checkpoint in the making.
struct End {
    state: Arc<dyn State>,
    output: Map<String, Value>,
    shared: Map<String, Value>,
}

impl End {
    fn feed_back(&mut self, words: Option<&str>) {
        self.shared.insert("hitl_feedback".into(), json!(words));
        let Some(words) = words.filter(|words| !words.trim().is_empty()) else { return };
        let mut all = super::feedback(self.state.as_ref());
        all.push(words.to_owned());
        self.shared.insert("all_hitl_feedback".into(), json!(all));
    }

    /// Takes a changed plan over: what follows executes it as it was edited.
    async fn change(&mut self, run: &Run, changes: Option<&Value>) -> Result<()> {
        self.shared.insert("user_modifications".into(), json!(changes));
        let Some(changes) = changes else { return Ok(()) };
        if let Some(idea) = idea_in(changes) {
            self.output.insert("selected_idea".into(), idea.clone());
            self.shared.insert("selected_idea".into(), idea.clone());
        }
        let Some(Ok(steps)) = plan_in(changes).map(parse::plan_of) else { return Ok(()) };
        let steps: Vec<PlanStep> = steps;
        self.shared.insert("plan_modified_by_human".into(), json!(true));
        self.output.insert("final_plan".into(), json!(steps));
        self.shared.insert("plan_steps".into(), json!(steps));
        self.shared.insert("number_of_steps_in_plan".into(), json!(steps.len()));
        let file = directory::resolve(&self.state.work_dir())?.join("planning/final_plan.json");
        let known = file.clone();
        if run.observe("whether there is a plan's file", move || Ok(known.exists())).await? {
            reports::json(&file, &json!({"sub_tasks": steps}), 4)?;
            run.tell("", "file_written", json!({"path": file, "what": "plan"})).await?;
        }
        Ok(())
    }

    fn close(self, status: &str, feedback: Option<String>, modifications: Option<Value>) -> Result<Outcome> {
        let mut output = self.output;
        output.insert("approval_status".into(), json!(status));
        output.insert("user_feedback".into(), json!(feedback));
        output.insert("modifications".into(), json!(modifications));
        put_out(self.state.as_ref(), output)?;
        if !self.shared.is_empty() {
            share(self.state.as_ref(), self.shared)?;
        }
        Ok(Outcome::new(PhaseStatus::Completed, self.state))
    }
}

impl Phase for HitlCheckpoint {
    fn phase_type(&self) -> &'static str {
        "hitl_checkpoint"
    }

    fn display_name(&self) -> String {
        match self.config.checkpoint_type.as_str() {
            "after_planning" => "Review Plan",
            "before_step" => "Approve Step",
            "after_step" => "Review Step Result",
            "after_execution" => "Review Results",
            _ => "Checkpoint",
        }
        .into()
    }

    fn can_skip(&self, _: &dyn State) -> Result<bool> {
        Ok(!self.config.require_approval)
    }

    fn validate_input(&self, _: &dyn State) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn execute<'a>(&'a self, run: &'a Run, state: Arc<dyn State>) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move { self.decide(run, &state).await })
    }
}

#[cfg(test)]
mod tests {
    use super::option;

    #[test]
    fn only_the_options_and_their_past_forms_are_answers() {
        let options = ["approve", "reject", "modify", "skip", "retry"].map(str::to_owned);
        for (word, meant) in [
            ("approve", Some("approve")),
            ("Approved ", Some("approve")),
            ("rejected", Some("reject")),
            ("modified", Some("modify")),
            ("skipped", Some("skip")),
            ("retried", Some("retry")),
            ("yes", None),
            ("", None),
            ("approves", None),
        ] {
            assert_eq!(option(word, &options).as_deref(), meant, "{word}");
        }
    }
}
