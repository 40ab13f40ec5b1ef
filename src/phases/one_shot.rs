//! One-shot: one agent does the task, without a plan.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::config::{self, Models, read};
use super::directory::clear;
use super::step::Site;
use super::workspace::Workspace;
use super::{chats, feedback, idea, reports, tell_messages, templates};
use crate::agents::context::{self, Seed, StepEnd};
use crate::agents::{Briefing, PlanStep, StepCase, carry, roster};
use crate::engine::ledger::Total;
use crate::engine::state::{put_out, share};
use crate::engine::{Outcome, Phase, PhaseStatus, Run, State};
use crate::error::{Error, Result};

/// The one-shot phase.
pub struct OneShot {
    config: config::OneShot,
}

impl OneShot {
    /// A one-shot phase with these fields.
    pub fn new(fields: Value) -> Result<Self> {
        let mut config: config::OneShot = read(fields)?;
        config.params.default_llm_model.get_or_insert_with(|| config.default_llm_model.clone());
        config.params.default_formatter_model.get_or_insert_with(|| config.default_formatter_model.clone());
        Ok(Self { config })
    }

    async fn perform(&self, run: &Run, state: &Arc<dyn State>) -> Result<Outcome> {
        let config = &self.config;
        let begun = run.clock().now();
        let mark = run.ledger().mark();
        let task = state.task();
        let agent = roster::find(&config.agent).map_err(Error::Configuration)?;
        if !agent.can_step {
            return Err(Error::Configuration(format!(
                "agent={}: that agent does no tasks; use one of: {}",
                agent.name,
                roster::step_agents().join(", ")
            )));
        }
        if config.clear_work_dir {
            let work_dir = state.work_dir();
            run.observe("the work directory is emptied", move || clear(&work_dir)).await?;
        }
        let space = Workspace::open(run, &state.work_dir(), "", config.params.keep_existing).await?;
        config.params.sandbox(&space.work_dir).check(&space.root)?;
        let templates = templates(run, &config.params).await?;
        let site = Site {
            space: &space,
            templates: &templates,
            params: &config.params,
            models: Models { overrides: &config.model_overrides, params: &config.params },
            fields: [
                ("engineer", &config.engineer_model),
                ("researcher", &config.researcher_model),
                ("idea_maker", ""),
                ("idea_hater", ""),
                ("camb_context", &config.camb_context_model),
                ("classy_context", &config.camb_context_model),
                ("plot_judge", config.params.vlm_model.as_ref().unwrap_or(&config.plot_judge_model)),
            ],
            plot_evals: config.evaluate_plots.then_some(config.max_n_plot_evals),
            max_n_attempts: config.max_n_attempts,
            asks: false,
        };
        let mut context = context::initial(&Seed {
            task: task.clone(),
            max_plan_steps: 1,
            max_n_attempts: config.max_n_attempts,
            researcher_filename: config.researcher_filename.clone(),
            work_dir: space.root.display().to_string(),
            evaluate_plots: config.evaluate_plots,
            max_n_plot_evals: config.max_n_plot_evals,
            ..Seed::default()
        });
        context::one_shot(&mut context, agent.name);
        let step = PlanStep {
            sub_task: "solve the main task.".into(),
            sub_task_agent: agent.name.into(),
            bullet_points: Vec::new(),
        };
        let case = StepCase {
            briefing: Briefing {
                task: task.clone(),
                idea: idea(state.as_ref()),
                facts: run.facts().await?,
                feedback: feedback(state.as_ref()),
                ..Briefing::default()
            },
            plan: vec![step.clone()],
            step: 1,
            notes_file: Some(config.researcher_filename.clone()),
            ..StepCase::default()
        };
        let here = run.at_step(1).with_call_limit("max_rounds", config.max_rounds);
        let about = json!({
            "number": 1, "total": 1, "sub_task": step.sub_task, "step_agent": agent.name, "instructions": "",
        });
        here.tell("", "step_started", about).await?;
        let before = space.look(&here, "files before the step", Workspace::inventory).await?;
        let initialised = run.clock().now();
        let done = Box::pin(site.perform(&here, case, &task, "one_shot")).await?;
        let seconds = run.clock().now() - initialised;
        let files: Vec<PathBuf> =
            space.look(&here, "files of the step", move |space| space.new_files(&before)).await?;
        let images: Vec<PathBuf> = space.look(&here, "images", Workspace::images).await?;

        let lines = run.ledger().since(mark);
        let messages = done.transcript.messages().to_vec();
        let mut written = files.clone();
        let chat = space.root.join("chats/chat_output_step_1.json");
        chats::write(run, &chat, &messages, &lines).await?;
        written.push(chat);
        written.extend(chats::nested(run, &space, &done, &lines).await?);
        let times = [("initialization_time", initialised - begun), ("execution_time", seconds)];
        written.push(reports::times(run, &space.root.join("time"), "timing_report", &times).await?);
        let costs = reports::costs(run, &space.root.join("cost"), "cost_report", &lines).await?;
        context::cost(&mut context, json!(costs.rows), &costs.path.display().to_string());
        written.push(costs.path);
        space.record(written)?;
        space.remove_empty(&["codebase", "data", "logs", "attempts"]);

        let end = StepEnd {
            completed: done.failure.is_none(),
            n_attempts: done.failed_tries,
            images: images.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
            codebase: carry::outlines(&done.record.scripts),
            plot_rounds: done.judged.rounds,
            judgement: done.judged.last.clone(),
        };
        let records = if done.failure.is_none() { vec![done.record.clone()] } else { Vec::new() };
        context::step_ends(&mut context, &records, &end);

        let failure = done
            .failure
            .as_ref()
            .map(|reason| format!("Step 1 failed after {} attempts: {reason}", done.failed_tries));
        let status = if failure.is_some() { "failed" } else { "completed" };
        let output = [
            ("result", json!(context)),
            ("chat_history", json!(messages)),
            ("output_files", json!(files)),
            ("status", json!(status)),
            ("error", json!(failure)),
            ("execution_time", json!(seconds)),
            ("initialization_time", json!(initialised - begun)),
        ];
        put_out(state.as_ref(), output)?;
        share(state.as_ref(), [("execution_complete", json!(failure.is_none()))])?;
        tell_messages(&here, &messages).await?;
        let about = json!({
            "number": 1, "total": 1, "sub_task": step.sub_task, "step_agent": agent.name, "status": status,
            "seconds": seconds, "summary": crate::agents::summary::content(&done.record), "error": failure,
            "files": files, "usage": Total::of(&lines).to_json(),
        });
        here.tell("", "step_finished", about).await?;
        let failed = failure.is_some() && !config.params.fail_softly;
        Ok(Outcome {
            status: if failed { PhaseStatus::Failed } else { PhaseStatus::Completed },
            error: failure,
            chat_history: messages,
            timing: vec![
                ("initialization".into(), initialised - begun),
                ("execution".into(), seconds),
                ("total".into(), run.clock().now() - begun),
            ],
            ..Outcome::new(PhaseStatus::Completed, state.clone())
        })
    }
}

impl Phase for OneShot {
    fn phase_type(&self) -> &'static str {
        "one_shot"
    }

    fn display_name(&self) -> String {
        format!("Execute ({})", self.config.agent)
    }

    fn can_skip(&self, _: &dyn State) -> Result<bool> {
        Ok(false)
    }

    fn validate_input(&self, state: &dyn State) -> Result<Vec<String>> {
        Ok(super::require_task_and_work_dir(state, "one-shot"))
    }

    fn execute<'a>(&'a self, run: &'a Run, state: Arc<dyn State>) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move { self.perform(run, &state).await })
    }
}
