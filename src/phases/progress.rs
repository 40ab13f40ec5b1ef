//! Where the steps of a plan stand, and the files that each of them leaves.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::{self, Files};
use super::products::products;
use super::step::Done;
use super::workspace::Workspace;
use super::{chats, feedback, idea, reports};
use crate::agents::context::{self, Seed, StepEnd};
use crate::agents::{PlanStep, Product, StepRecord, carry, formats, parse, summary};
use crate::engine::ledger::Line;
use crate::engine::{Run, Section, State};
use crate::error::Result;
use crate::exec::confine;

/// A chat of more bytes than this is not one of ours.
const MOST_CHAT: u64 = 256 << 20;

/// Where the steps stand.
pub(super) struct Progress {
    pub(super) plan: Vec<PlanStep>,
    pub(super) records: Vec<StepRecord>,
    pub(super) products: Vec<Product>,
    pub(super) context: Map<String, Value>,
    pub(super) feedback: Vec<String>,
    pub(super) idea: String,
    pub(super) results: Vec<Value>,
    pub(super) messages: Vec<Value>,
    images: Vec<String>,
}

impl Progress {
    /// What is known before the first step: the planning context, or what a restart restored.
    pub(super) async fn begin(
        run: &Run,
        config: &config::Control,
        state: &dyn State,
        space: &Workspace,
        plan: Vec<PlanStep>,
        start: usize,
    ) -> Result<Self> {
        let restored = config.params.restored_context.clone();
        let planned = || {
            state
                .read(Section::Input, "planning_context")
                .or_else(|| state.read(Section::Shared, "planning_context"))
        };
        let seed = Seed {
            task: state.task(),
            max_plan_steps: plan.len(),
            max_n_attempts: config.max_n_attempts,
            engineer_instructions: config.engineer_instructions.clone(),
            researcher_instructions: config.researcher_instructions.clone(),
            researcher_filename: config.params.researcher_filename.clone().unwrap_or_default(),
            evaluate_plots: config.evaluate_plots,
            max_n_plot_evals: config.max_n_plot_evals,
            ..Seed::default()
        };
        let mut context = context::initial(&seed);
        if let Some(Value::Object(known)) = restored.or_else(planned) {
            context.extend(known);
        }
        context.insert("work_dir".into(), json!(space.root));
        context.insert("max_n_attempts".into(), json!(config.max_n_attempts));
        context.insert("evaluate_plots".into(), json!(config.evaluate_plots));
        context.insert("max_n_plot_evals".into(), json!(config.max_n_plot_evals));
        context.insert("number_of_steps_in_plan".into(), json!(plan.len()));
        // The plan that is executed, also when a human has edited it since it was made.
        let told = context.get("final_plan").and_then(Value::as_str).and_then(|text| parse::plan(text).ok());
        if told.as_ref() != Some(&plan) {
            context.insert("final_plan".into(), json!(formats::plan(&plan)));
        }
        let records = earlier(run, &context, space, &plan, start).await?;
        let images = context.get("displayed_images").and_then(Value::as_array);
        let images = images.map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        Ok(Self {
            records,
            context,
            plan,
            products: Vec::new(),
            feedback: feedback(state),
            idea: idea(state),
            results: Vec::new(),
            messages: Vec::new(),
            images: images.unwrap_or_default(),
        })
    }

    /// Enters a step's end into the context and writes its files.
    pub(super) async fn enter(
        &mut self,
        run: &Run,
        space: &Workspace,
        files: Files,
        done: &Done,
        lines: &[Line],
        seconds: f64,
    ) -> Result<()> {
        let number = done.record.number;
        if done.failure.is_none() {
            self.products = products(run, space, &self.products, &done.record).await?;
            self.records.retain(|record| record.number != number);
            self.records.push(done.record.clone());
        }
        let known = self.images.clone();
        self.images = space.look(run, "images", move |space| images(space, known)).await?;
        let end = StepEnd {
            completed: done.failure.is_none(),
            n_attempts: done.failed_tries,
            images: self.images.clone(),
            codebase: carry::outlines(self.records.iter().flat_map(|record| &record.scripts)),
            plot_rounds: done.judged.rounds,
            judgement: done.judged.last.clone(),
        };
        context::step_ends(&mut self.context, &self.records, &end);
        let messages = done.transcript.messages().to_vec();
        let agent = &done.record.agent;
        let mut written = Vec::new();
        let chat = space.root.join(format!("chats/chat_history_step_{number}.json"));
        reports::json(&chat, &messages, 2)?;
        written.push(chat);
        let chat = space.root.join(format!("chats/chat_output_{agent}_step_{number}.json"));
        chats::write(run, &chat, &messages, lines).await?;
        written.push(chat);
        written.extend(chats::nested(run, space, done, lines).await?);
        if !files.is_plain() {
            let times = [("initialization_time_control", 0.0), ("execution_time_control", seconds)];
            let stem = format!("timing_report_step_{number}");
            written.push(reports::times(run, &space.root.join("time"), &stem, &times).await?);
            let stem = format!("cost_report_step_{number}");
            let costs = reports::costs(run, &space.root.join("cost"), &stem, lines).await?;
            context::cost(&mut self.context, json!(costs.rows), &costs.path.display().to_string());
            written.push(costs.path);
            // Only a step that is done can be gone on from.
            if done.failure.is_none() {
                let pickle = space.work_dir.join(format!("context/context_step_{number}.pkl"));
                reports::pickle(&pickle, &self.context)?;
                written.push(pickle);
            }
        }
        space.record(written)?;
        self.results.push(json!({
            "step": number,
            "context": self.context,
            "execution_time": seconds,
            "initialization_time": 0.0,
            "summary": summary::block(&done.record),
            "chat_history": messages,
            "status": if done.failure.is_some() { "failed" } else { "completed" },
        }));
        self.messages.extend(messages);
        Ok(())
    }
}

/// The images known before that are still there, then those that this run made.
fn images(space: &Workspace, mut known: Vec<String>) -> Result<Vec<String>> {
    let own: Vec<String> =
        space.images()?.into_iter().map(|path| path.to_string_lossy().into_owned()).collect();
    known.retain(|image| Path::new(image).exists() && !own.contains(image));
    known.extend(own);
    Ok(known)
}

/// Records of the steps before `start`: from the restored summary, and where that lacks one (the
/// original forgets earlier steps when it restarts) from the step's chat file.
async fn earlier(
    run: &Run,
    context: &Map<String, Value>,
    space: &Workspace,
    plan: &[PlanStep],
    start: usize,
) -> Result<Vec<StepRecord>> {
    let text = context.get("previous_steps_execution_summary").and_then(Value::as_str).unwrap_or_default();
    let mut records = summary::parse(text, plan);
    records.retain(|record| record.number < start);
    for number in 1..start {
        if records.iter().any(|record| record.number == number) {
            continue;
        }
        let content = space.look(run, "an earlier step's chat", move |space| Ok(last_word(space, number)));
        if let Some(content) = content.await? {
            records.extend(summary::parse(&format!("### Step {number}\n{}", content.trim()), plan));
        }
    }
    records.sort_by_key(|record| record.number);
    Ok(records)
}

/// What the agents of an earlier step came to, from its chat file, when there is one that can be read.
fn last_word(space: &Workspace, step: usize) -> Option<String> {
    let chat = space.root.join(format!("chats/chat_history_step_{step}.json"));
    let messages: Vec<Value> = serde_json::from_slice(&confine::read(&chat, MOST_CHAT).ok()?).ok()?;
    let wanted = [
        "engineer_nest",
        "researcher_response_formatter",
        "idea_maker_nest",
        "idea_hater_nest",
        "camb_response_formatter",
        "classy_response_formatter",
    ];
    let by = |message: &&Value| message["name"].as_str().is_some_and(|name| wanted.contains(&name));
    messages.iter().rev().find(by)?["content"].as_str().map(str::to_owned)
}
