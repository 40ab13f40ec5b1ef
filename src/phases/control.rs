//! Control: carries out the plan's steps, each with what the earlier ones found.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::config::{self, Models, read};
use super::products::inherited;
use super::progress::Progress;
use super::review::{Verdict, after_step};
use super::step::Site;
use super::workspace::Workspace;
use super::{reports, tell_messages, templates};
use crate::agents::{Briefing, PlanStep, StepCase, context, formats, parse, roster, summary};
use crate::engine::ledger::Total;
use crate::engine::state::{put_out, share};
use crate::engine::{Outcome, Phase, PhaseStatus, Run, Section, State};
use crate::error::{Error, Result};
use crate::exec::confine;
use crate::exec::products::Inventory;

const NO_PLAN: &str = "No plan found in context. Run planning phase first.";

/// A plan of more bytes than this is not one of ours.
const MOST_PLAN: u64 = 16 << 20;

/// The control phase.
pub struct Control {
    config: config::Control,
}

impl Control {
    /// A control phase with these fields.
    pub fn new(fields: Value) -> Result<Self> {
        Ok(Self { config: read(fields)? })
    }

    /// The plan, from wherever it may lie; `Some` of an empty list when a place holds one without steps.
    fn plan(&self, state: &dyn State) -> Option<Value> {
        let input = |key| state.read(Section::Input, key);
        let shared = |key| state.read(Section::Shared, key);
        let nested = || input("planning_context")?.get("final_plan").cloned();
        self.config
            .params
            .preloaded_plan
            .clone()
            .filter(|plan| !plan.is_null())
            .or_else(|| input("final_plan"))
            .or_else(|| shared("plan_steps"))
            .or_else(|| shared("final_plan"))
            .or_else(nested)
    }

    async fn steps(&self, run: &Run, state: &dyn State) -> Result<Vec<PlanStep>> {
        let plan = self.plan(state).ok_or_else(|| Error::Configuration(NO_PLAN.into()))?;
        let plan = match plan {
            // The original hands over the formatted text; the file beside it is exact.
            Value::String(text) => {
                let file = super::directory::resolve(&state.work_dir())?.join("planning/final_plan.json");
                let look = move || {
                    Ok(confine::read(&file, MOST_PLAN).ok().and_then(|bytes| String::from_utf8(bytes).ok()))
                };
                let saved: Option<String> = run.observe("the plan's file", look).await?;
                parse::plan(saved.as_deref().unwrap_or(&text))
            }
            plan => parse::plan_of(&plan),
        };
        let steps = plan.map_err(|error| {
            Error::Configuration(format!(
                "the plan cannot be read: {error}. Expected a list of steps with sub_task, sub_task_agent and \
                 bullet_points, or a mapping with that list under sub_tasks."
            ))
        })?;
        for step in &steps {
            roster::find(&step.sub_task_agent).map_err(Error::Configuration)?;
        }
        Ok(steps)
    }

    /// The numbers of the steps to run.
    fn numbers(&self, of: usize) -> Result<Vec<usize>> {
        let wrong = |what: String| {
            Err(Error::Configuration(format!("{what}, and the plan has {of} steps, numbered from 1 to {of}")))
        };
        if self.config.execute_all_steps {
            let start = self.config.params.start_step.unwrap_or(1).max(1);
            return if start > of {
                wrong(format!("restart_at_step is {start}"))
            } else {
                Ok((start..=of).collect())
            };
        }
        match self.config.step_number {
            Some(number) if (1..=of).contains(&number) => Ok(vec![number]),
            Some(number) => wrong(format!("step_number is {number}")),
            None => wrong("execute_all_steps is False and step_number is None".into()),
        }
    }

    fn briefing(&self, progress: &Progress, task: &str, facts: crate::exec::Facts, agent: &str) -> Briefing {
        let text =
            |key: &str| progress.context.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let own = match agent {
            "engineer" => &self.config.engineer_instructions,
            "researcher" => &self.config.researcher_instructions,
            _ => "",
        };
        let instructions = if own.trim().is_empty() {
            text(&format!("{agent}_append_instructions"))
        } else {
            own.to_owned()
        };
        Briefing {
            task: task.into(),
            idea: progress.idea.clone(),
            instructions,
            hardware_constraints: text("hardware_constraints"),
            facts,
            feedback: progress.feedback.clone(),
        }
    }

    async fn carry_out(&self, run: &Run, state: &Arc<dyn State>) -> Result<Outcome> {
        let config = &self.config;
        let begun = run.clock().now();
        let mark = run.ledger().mark();
        let task = state.task();
        let plan = self.steps(run, state.as_ref()).await?;
        let numbers = self.numbers(plan.len())?;
        let start = numbers.first().copied().unwrap_or(1);
        let keep = config.params.keep_existing || start > 1;
        let space = Workspace::open(run, &state.work_dir(), "control", keep).await?;
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
                ("idea_maker", &config.idea_maker_model),
                ("idea_hater", &config.idea_hater_model),
                ("camb_context", &config.camb_context_model),
                ("classy_context", &config.camb_context_model),
                ("plot_judge", config.params.vlm_model.as_ref().unwrap_or(&config.plot_judge_model)),
            ],
            plot_evals: config.evaluate_plots.then_some(config.max_n_plot_evals),
            max_n_attempts: config.max_n_attempts,
            asks: config.hitl_enabled && run.has_approvals(),
        };
        for directory in ["codebase", "data", "chats", "time", "cost"] {
            space.directory(directory)?;
        }
        let facts = run.facts().await?;
        let mut progress = Progress::begin(run, config, state.as_ref(), &space, plan, start).await?;
        let known = |number: &usize| progress.records.iter().any(|record| record.number == *number);
        let unknown: Vec<String> = (1..start).filter(|n| !known(n)).map(|n| n.to_string()).collect();
        if config.execute_all_steps && !unknown.is_empty() {
            let message = format!(
                "what these steps found is not known, neither from the context nor from their chats: {}",
                unknown.join(", ")
            );
            run.tell("", "warning", json!({"message": message})).await?;
        }
        if keep {
            progress.products = inherited(run, &space, &progress.records).await?;
        }
        let initialised = run.clock().now();
        let mut failure = None;
        for number in numbers {
            let mut redo = None;
            loop {
                let agent = progress.plan[number - 1].sub_task_agent.clone();
                let case = StepCase {
                    briefing: self.briefing(&progress, &task, facts.clone(), &agent),
                    plan: progress.plan.clone(),
                    step: number,
                    records: progress.records.clone(),
                    products: progress.products.clone(),
                    notes_file: config.params.researcher_filename.clone(),
                    taken_notes: progress.records.iter().filter_map(|r| r.notes_file.clone()).collect(),
                    redo: redo.take(),
                    ..StepCase::default()
                };
                let ended = Box::pin(self.step(run, &site, case, &task, &mut progress)).await?;
                match after_step(config, run, state.as_ref(), &progress, number, ended.as_deref()).await? {
                    Verdict::Continue => {
                        failure = ended;
                        break;
                    }
                    Verdict::Skip => break,
                    Verdict::Redo(words) => {
                        progress.records.retain(|record| record.number != number);
                        progress.results.pop();
                        progress.feedback.extend(words.clone());
                        redo = Some(words.unwrap_or_else(|| "Do this step again, better.".into()));
                    }
                    Verdict::Stop(why) => {
                        failure = Some(why);
                        break;
                    }
                }
            }
            if failure.is_some() {
                break;
            }
        }
        self.finish(run, state, &space, progress, failure, Clocks { begun, initialised, mark }).await
    }

    /// Does one step, writes its files and enters it into `progress`; gives why it failed, if it did.
    async fn step(
        &self,
        run: &Run,
        site: &Site<'_>,
        case: StepCase,
        task: &str,
        progress: &mut Progress,
    ) -> Result<Option<String>> {
        let number = case.step;
        let of = case.plan.len();
        let here = run.at_step(number).with_call_limit("max_rounds", self.config.max_rounds);
        let here = if case.redo.is_some() { here.nested("control").at_step(number) } else { here };
        let begun = run.clock().now();
        let mark = run.ledger().mark();
        let planned = case.plan[number - 1].clone();
        let about = json!({
            "number": number, "total": of, "sub_task": planned.sub_task, "step_agent": planned.sub_task_agent,
            "instructions": formats::instructions(&planned.bullet_points),
        });
        here.tell("", "step_started", about).await?;
        context::step_begins(&mut progress.context, &progress.plan, number);
        let before = site.space.look(&here, "files before the step", Workspace::inventory).await?;
        let done = Box::pin(site.perform(&here, case, task, "step")).await?;
        let files =
            site.space.look(&here, "files of the step", move |space| space.new_files(&before)).await?;
        site.space.record(files.iter().cloned())?;
        let seconds = run.clock().now() - begun;
        let lines = run.ledger().since(mark);
        progress.enter(&here, site.space, self.config.params.files, &done, &lines, seconds).await?;
        tell_messages(&here, done.transcript.messages()).await?;
        let about = json!({
            "number": number, "total": of, "sub_task": planned.sub_task, "step_agent": planned.sub_task_agent,
            "status": if done.failure.is_some() { "failed" } else { "completed" },
            "seconds": seconds, "summary": summary::block(&done.record), "error": done.failure,
            "files": files, "usage": Total::of(&lines).to_json(),
        });
        here.tell("", "step_finished", about).await?;
        let attempts = done.failed_tries;
        Ok(done.failure.map(|reason| format!("Step {number} failed after {attempts} attempts: {reason}")))
    }

    async fn finish(
        &self,
        run: &Run,
        state: &Arc<dyn State>,
        space: &Workspace,
        mut progress: Progress,
        failure: Option<String>,
        clocks: Clocks,
    ) -> Result<Outcome> {
        let ended = run.clock().now();
        if self.config.params.files.is_plain() {
            let lines = run.ledger().since(clocks.mark);
            let times = [
                ("initialization_time_control", clocks.initialised - clocks.begun),
                ("execution_time_control", ended - clocks.initialised),
            ];
            let timing =
                reports::times(run, &space.root.join("time"), "timing_report_control", &times).await?;
            let costs = reports::costs(run, &space.root.join("cost"), "cost_report_control", &lines).await?;
            context::cost(&mut progress.context, json!(costs.rows), &costs.path.display().to_string());
            space.record([timing, costs.path])?;
        }
        space.remove_empty(&["codebase", "logs", "attempts"]);
        let files =
            space.look(run, "files of the phase", |space| space.new_files(&Inventory::default())).await?;
        let summaries: Vec<String> = progress.records.iter().map(summary::block).collect();
        let status = if failure.is_some() { "failed" } else { "completed" };
        let output = [
            ("step_results", json!(progress.results)),
            ("final_context", json!(progress.context)),
            ("step_summaries", json!(summaries)),
            ("output_files", json!(files)),
            ("status", json!(status)),
            ("error", json!(failure)),
        ];
        put_out(state.as_ref(), output)?;
        let mut shared = vec![
            ("execution_complete", json!(failure.is_none())),
            ("final_context", json!(progress.context)),
        ];
        if self.config.params.preloaded_plan.is_some() {
            // No planning phase has told the workflow of it.
            shared.push(("plan_steps", json!(progress.plan)));
        }
        share(state.as_ref(), shared)?;
        let failed = failure.is_some() && !self.config.params.fail_softly;
        Ok(Outcome {
            status: if failed { PhaseStatus::Failed } else { PhaseStatus::Completed },
            error: failure,
            chat_history: progress.messages,
            timing: vec![
                ("start".into(), clocks.begun),
                ("end".into(), ended),
                ("initialization".into(), clocks.initialised - clocks.begun),
                ("execution".into(), ended - clocks.initialised),
                ("total".into(), ended - clocks.begun),
            ],
            ..Outcome::new(PhaseStatus::Completed, state.clone())
        })
    }
}

struct Clocks {
    begun: f64,
    initialised: f64,
    mark: usize,
}

impl Phase for Control {
    fn phase_type(&self) -> &'static str {
        "control"
    }

    fn display_name(&self) -> String {
        "Execution".into()
    }

    fn can_skip(&self, _: &dyn State) -> Result<bool> {
        Ok(false)
    }

    fn validate_input(&self, state: &dyn State) -> Result<Vec<String>> {
        let mut messages = Vec::new();
        if state.task().is_empty() {
            messages.push("Task is required for control phase".to_owned());
        }
        if self.config.execute_all_steps {
            let empty = |plan: &Value| match plan {
                Value::Array(steps) => steps.is_empty(),
                Value::Object(map) => {
                    map.get("sub_tasks").and_then(Value::as_array).is_some_and(Vec::is_empty)
                }
                Value::String(text) => text.trim().is_empty(),
                _ => false,
            };
            match self.plan(state) {
                None => messages.push("Plan is required for control phase (run planning first)".to_owned()),
                Some(plan) if empty(&plan) => {
                    messages.push(
                        "Plan is empty (0 steps). Run planning again or give a plan with steps.".to_owned(),
                    );
                }
                Some(_) => {}
            }
        }
        Ok(messages)
    }

    fn execute<'a>(&'a self, run: &'a Run, state: Arc<dyn State>) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move { Box::pin(self.carry_out(run, &state)).await })
    }
}
