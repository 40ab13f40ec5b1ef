//! Control: carries out the plan's steps, each with what the earlier ones found.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::config::{self, Models, read};
use super::step::{Done, Site, inherited, products};
use super::workspace::Workspace;
use super::{chats, feedback, reports, tell_messages, templates};
use crate::agents::context::{self, Seed, StepEnd};
use crate::agents::{
    Briefing, PlanStep, Product, StepCase, StepRecord, carry, formats, parse, roster, summary,
};
use crate::engine::ledger::{Line, Total};
use crate::engine::state::share;
use crate::engine::{Answer, Outcome, Phase, PhaseStatus, Question, Run, Section, State};
use crate::error::{Error, Result};
use crate::exec::products::Inventory;

const NO_PLAN: &str = "No plan found in context. Run planning phase first.";
/// Seconds a human has to say how a step went.
const STEP_ANSWER_SECONDS: u64 = 3600;

/// The control phase.
pub struct Control {
    config: config::Control,
}

/// Where the steps stand.
struct Progress {
    plan: Vec<PlanStep>,
    records: Vec<StepRecord>,
    products: Vec<Product>,
    context: Map<String, Value>,
    feedback: Vec<String>,
    results: Vec<Value>,
    messages: Vec<Value>,
    images: Vec<String>,
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

    fn steps(&self, state: &dyn State) -> Result<Vec<PlanStep>> {
        let plan = self.plan(state).ok_or_else(|| Error::Configuration(NO_PLAN.into()))?;
        let plan = match plan {
            // The original hands over the formatted text; the file beside it is exact.
            Value::String(text) => {
                let file = super::workspace::resolve(&state.work_dir())?.join("planning/final_plan.json");
                match std::fs::read_to_string(&file) {
                    Ok(saved) => parse::plan(&saved),
                    Err(_) => parse::plan(&text),
                }
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
            instructions,
            hardware_constraints: text("hardware_constraints"),
            facts,
            feedback: progress.feedback.clone(),
        }
    }

    /// What is known before the first step: the planning context, or what a restart restored.
    fn begin(&self, state: &dyn State, space: &Workspace, plan: Vec<PlanStep>, start: usize) -> Progress {
        let restored = self.config.params.restored_context.clone();
        let planned = || {
            state
                .read(Section::Input, "planning_context")
                .or_else(|| state.read(Section::Shared, "planning_context"))
        };
        let seed = Seed {
            task: state.task(),
            max_plan_steps: plan.len(),
            max_n_attempts: self.config.max_n_attempts,
            engineer_instructions: self.config.engineer_instructions.clone(),
            researcher_instructions: self.config.researcher_instructions.clone(),
            researcher_filename: self.config.params.researcher_filename.clone().unwrap_or_default(),
            ..Seed::default()
        };
        let mut context = context::initial(&seed);
        if let Some(Value::Object(known)) = restored.or_else(planned) {
            context.extend(known);
        }
        context.insert("work_dir".into(), json!(space.root));
        context.insert("max_n_attempts".into(), json!(self.config.max_n_attempts));
        context.insert("number_of_steps_in_plan".into(), json!(plan.len()));
        // The plan that is executed, also when a human has edited it since it was made.
        let told = context.get("final_plan").and_then(Value::as_str).and_then(|text| parse::plan(text).ok());
        if told.as_ref() != Some(&plan) {
            context.insert("final_plan".into(), json!(formats::plan(&plan)));
        }
        let records = earlier(&context, space, &plan, start);
        let images = context.get("displayed_images").and_then(Value::as_array);
        let images = images.map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        Progress {
            records,
            context,
            plan,
            products: Vec::new(),
            feedback: feedback(state),
            results: Vec::new(),
            messages: Vec::new(),
            images: images.unwrap_or_default(),
        }
    }

    async fn carry_out(&self, run: &Run, state: &Arc<dyn State>) -> Result<Outcome> {
        let config = &self.config;
        let begun = run.clock().now();
        let mark = run.ledger().mark();
        let task = state.task();
        let plan = self.steps(state.as_ref())?;
        let numbers = self.numbers(plan.len())?;
        let start = numbers.first().copied().unwrap_or(1);
        let keep = config.params.keep_existing || start > 1;
        let space = Workspace::open(run, &state.work_dir(), "control", keep).await?;
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
            ],
            max_n_attempts: config.max_n_attempts,
        };
        for directory in ["codebase", "data", "chats", "time", "cost"] {
            space.directory(directory)?;
        }
        let facts = run.facts().await?;
        let mut progress = self.begin(state.as_ref(), &space, plan, start);
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
                let ended = self.step(run, &site, case, &task, &mut progress).await?;
                match self.ask(run, state.as_ref(), &progress, number, ended.as_deref()).await? {
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
        let before = here.observe("files before the step", || site.space.inventory()).await?;
        let done = site.perform(&here, case, task, "step").await?;
        let files = here.observe("files of the step", || site.space.new_files(&before)).await?;
        site.space.record(files.iter().cloned())?;
        let seconds = run.clock().now() - begun;
        let lines = run.ledger().since(mark);
        self.enter(&here, site.space, progress, &done, &lines, seconds).await?;
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

    /// Enters a step's end into the context and writes its files.
    async fn enter(
        &self,
        run: &Run,
        space: &Workspace,
        progress: &mut Progress,
        done: &Done,
        lines: &[Line],
        seconds: f64,
    ) -> Result<()> {
        let number = done.record.number;
        if done.failure.is_none() {
            progress.products = products(run, space, &progress.products, &done.record).await?;
            progress.records.retain(|record| record.number != number);
            progress.records.push(done.record.clone());
        }
        let images = run.observe("images", || space.images()).await?;
        let known: Vec<String> =
            progress.images.iter().filter(|image| PathBuf::from(image).exists()).cloned().collect();
        let images: Vec<String> =
            images.into_iter().map(|path: PathBuf| path.to_string_lossy().into_owned()).collect();
        progress.images =
            known.into_iter().filter(|image| !images.contains(image)).chain(images.clone()).collect();
        let listing = progress
            .records
            .iter()
            .flat_map(|record| &record.scripts)
            .map(|script| carry::outline(&script.file, &script.outline, true))
            .collect::<Vec<_>>()
            .join("\n\n");
        let end = StepEnd {
            completed: done.failure.is_none(),
            n_attempts: done.failed_tries,
            images: progress.images.clone(),
            codebase: listing,
        };
        context::step_ends(&mut progress.context, &progress.records, &end);
        let messages = done.transcript.messages().to_vec();
        let agent = &done.record.agent;
        let mut written = Vec::new();
        let chat = space.root.join(format!("chats/chat_history_step_{number}.json"));
        reports::json(&chat, &messages, 2)?;
        written.push(chat);
        let chat = space.root.join(format!("chats/chat_output_{agent}_step_{number}.json"));
        chats::write(run, &chat, &messages, lines).await?;
        written.push(chat);
        for (index, nested) in done.nested.iter().enumerate() {
            let name = format!("chats/nested_chat_output_{agent}_step_{number}_attempt_{}.json", index + 1);
            let chat = space.root.join(name);
            chats::write(run, &chat, nested, lines).await?;
            written.push(chat);
        }
        if !self.config.params.files.is_plain() {
            let times = [("initialization_time_control", 0.0), ("execution_time_control", seconds)];
            let stem = format!("timing_report_step_{number}");
            written.push(reports::times(run, &space.root.join("time"), &stem, &times).await?);
            let stem = format!("cost_report_step_{number}");
            let costs = reports::costs(run, &space.root.join("cost"), &stem, lines).await?;
            context::cost(&mut progress.context, json!(costs.rows), &costs.path.display().to_string());
            written.push(costs.path);
            let pickle = space.work_dir.join(format!("context/context_step_{number}.pkl"));
            reports::pickle(&pickle, &progress.context)?;
            written.push(pickle);
        }
        space.record(written)?;
        progress.results.push(json!({
            "step": number,
            "context": progress.context,
            "execution_time": seconds,
            "initialization_time": 0.0,
            "summary": summary::block(&done.record),
            "chat_history": messages,
            "status": if done.failure.is_some() { "failed" } else { "completed" },
        }));
        progress.messages.extend(messages);
        Ok(())
    }

    /// Asks a human how a step went, where the configuration wants that.
    async fn ask(
        &self,
        run: &Run,
        state: &dyn State,
        progress: &Progress,
        number: usize,
        failure: Option<&str>,
    ) -> Result<Verdict> {
        let wanted = self.config.hitl_enabled || (self.config.hitl_after_each_step && failure.is_none());
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
        let spent = Total::of(&run.ledger().since(0)).to_json();
        let question = Question {
            run_id: String::new(),
            step_id: format!("{}_step_{number}", state.phase_id()),
            checkpoint_type: kind.into(),
            context_snapshot: json!({
                "task": state.task(), "step": number, "number_of_steps": of, "sub_task": sub_task,
                "summary": summary, "error": failure, "spent": spent,
            }),
            message,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            timeout_seconds: STEP_ANSWER_SECONDS,
        };
        let here = run.nested("control").at_step(number);
        super::hitl_checkpoint::answer(&here, question).await.map(|answer| match answer {
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
        let files = run.observe("files of the phase", || space.new_files(&Inventory::default())).await?;
        let summaries: Vec<String> = progress.records.iter().map(summary::block).collect();
        let status = if failure.is_some() { "failed" } else { "completed" };
        let output = json!({
            "step_results": progress.results, "final_context": progress.context, "step_summaries": summaries,
            "output_files": files, "status": status, "error": failure,
        });
        if let Value::Object(output) = output {
            for (key, value) in output {
                state.write(Section::Output, &key, value)?;
            }
        }
        let mut shared = json!({"execution_complete": failure.is_none(), "final_context": progress.context});
        if self.config.params.preloaded_plan.is_some() {
            // No planning phase has told the workflow of it.
            shared["plan_steps"] = json!(progress.plan);
        }
        if let Value::Object(shared) = shared {
            share(state.as_ref(), shared)?;
        }
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

/// What a human wants after a step.
enum Verdict {
    Continue,
    Skip,
    Redo(Option<String>),
    Stop(String),
}

/// Records of the steps before `start`: from the restored summary, and where that lacks one (the
/// original forgets earlier steps when it restarts) from the step's chat file.
fn earlier(
    context: &Map<String, Value>,
    space: &Workspace,
    plan: &[PlanStep],
    start: usize,
) -> Vec<StepRecord> {
    let text = context.get("previous_steps_execution_summary").and_then(Value::as_str).unwrap_or_default();
    let mut records = summary::parse(text, plan);
    records.retain(|record| record.number < start);
    for number in 1..start {
        if records.iter().any(|record| record.number == number) {
            continue;
        }
        let chat = space.root.join(format!("chats/chat_history_step_{number}.json"));
        let Some(messages) =
            std::fs::read(chat).ok().and_then(|b| serde_json::from_slice::<Vec<Value>>(&b).ok())
        else {
            continue;
        };
        let wanted = ["engineer_nest", "researcher_response_formatter", "idea_maker_nest", "idea_hater_nest"];
        let last =
            messages.iter().rev().find(|m| m["name"].as_str().is_some_and(|name| wanted.contains(&name)));
        if let Some(content) = last.and_then(|m| m["content"].as_str()) {
            records.extend(summary::parse(&format!("### Step {number}\n{}", content.trim()), plan));
        }
    }
    records.sort_by_key(|record| record.number);
    records
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
        Box::pin(async move { self.carry_out(run, &state).await })
    }
}
