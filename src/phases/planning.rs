//! Planning: a plan, reviewed and updated, saved where callers and the control phase read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::config::{self, Models, read};
use super::workspace::Workspace;
use super::{chats, feedback, reports, tell_messages, tell_shortened, templates};
use crate::agents::context::{self, Seed};
use crate::agents::transcript::Transcript;
use crate::agents::{Briefing, PlanStep, PlannerCase, ReviewerCase, formats, parse, plan, restrict, roster};
use crate::engine::state::{put_out, share};
use crate::engine::{Outcome, Phase, PhaseStatus, Run, State};
use crate::error::Result;
use crate::llm::Schema;

/// The planning phase.
pub struct Planning {
    config: config::Planning,
}

impl Planning {
    /// A planning phase with these fields.
    pub fn new(fields: Value) -> Result<Self> {
        Ok(Self { config: read(fields)? })
    }

    /// Agents a plan may use: those the caller lists, else those the instructions restrict it to, else all.
    fn agents(&self) -> Vec<String> {
        let all = || roster::step_agents().into_iter().map(str::to_owned).collect::<Vec<_>>();
        self.config
            .params
            .allowed_agents
            .clone()
            .filter(|agents| !agents.is_empty())
            .or_else(|| restrict::restricted_agents(&self.config.plan_instructions))
            .unwrap_or_else(all)
    }

    async fn plan(&self, run: &Run, state: &Arc<dyn State>) -> Result<Outcome> {
        let config = &self.config;
        let begun = run.clock().now();
        let mark = run.ledger().mark();
        let task = state.task();
        let space = Workspace::open(run, &state.work_dir(), "planning", config.params.keep_existing).await?;
        let templates = templates(run, &config.params).await?;
        let models = Models { overrides: &config.model_overrides, params: &config.params };
        let planner = models.speaker("planner", &config.planner_model);
        let reviewer = models.speaker("plan_reviewer", &config.plan_reviewer_model);
        let calls = run.with_call_limit("max_rounds", config.max_rounds);

        let agents = self.agents();
        for agent in &agents {
            roster::find(agent).map_err(crate::Error::Configuration)?;
        }
        let idea = super::idea(state.as_ref());
        let briefing = Briefing {
            task: task.clone(),
            idea: idea.clone(),
            instructions: config.plan_instructions.clone(),
            hardware_constraints: config.hardware_constraints.clone(),
            facts: run.facts().await?,
            feedback: feedback(state.as_ref()),
        };
        let schema = Schema { name: "plan".into(), schema: plan::plan_schema(&agents) };
        let max_plan_steps = config.max_plan_steps;
        // An empty plan is asked about once; given again, it is the planner's last word.
        let empty = AtomicBool::new(false);
        let read_plan = |text: &str| {
            let steps = parse::plan(text)?;
            if steps.is_empty() && empty.swap(true, Ordering::Relaxed) {
                return Ok(steps);
            }
            let faults = plan::check(&steps, max_plan_steps, &agents);
            if faults.is_empty() { Ok(steps) } else { Err(faults.join("\n")) }
        };

        let mut transcript = Transcript::new("planning");
        transcript.task(&task);
        transcript.plan_setter(&agents);
        let mut case = PlannerCase {
            briefing: briefing.clone(),
            max_plan_steps,
            agents: agents.clone(),
            ..PlannerCase::default()
        };
        let initialised = run.clock().now();
        let mut plans: Vec<Vec<PlanStep>> = Vec::new();
        let mut reviews: Vec<Vec<String>> = Vec::new();
        loop {
            let prompt = templates.planner(&case).map_err(super::template)?;
            let turn = calls.at_turn(2 * plans.len() + 1);
            let (steps, answer) = planner.structured(&turn, &prompt, &schema, read_plan).await?;
            if steps.is_empty() {
                let error = "Planning produced 0 steps. The planner sees nothing to do: say in the task what is \
                             wanted, or choose another planner_model.";
                return Ok(Outcome::failed(state.clone(), error));
            }
            transcript.planner(&answer, &steps, config.n_plan_reviews - reviews.len());
            plans.push(steps.clone());
            if reviews.len() >= config.n_plan_reviews {
                break;
            }
            let review = ReviewerCase {
                briefing: briefing.clone(),
                max_plan_steps,
                agents: agents.clone(),
                plan: steps.clone(),
                earlier: reviews.clone(),
            };
            let prompt = templates.plan_reviewer(&review).map_err(super::template)?;
            tell_shortened(run, "plan_reviewer", &prompt).await?;
            let schema = Schema { name: "review".into(), schema: plan::review_schema() };
            let turn = calls.at_turn(2 * plans.len());
            let (recommendations, answer) =
                reviewer.structured(&turn, &prompt, &schema, parse::review).await?;
            transcript.plan_reviewer(&answer, &recommendations, config.n_plan_reviews - reviews.len() - 1);
            reviews.push(recommendations.clone());
            (case.plan, case.recommendations) = (Some(steps), recommendations);
        }
        let steps = plans.last().cloned().unwrap_or_default();
        let ended = run.clock().now();

        let path = space.root.join("final_plan.json");
        reports::json(&path, &json!({"sub_tasks": steps}), 4)?;
        let lines = run.ledger().since(mark);
        let chat = space.root.join("chats/chat_output_planning.json");
        chats::write(run, &chat, transcript.messages(), &lines).await?;
        let times = reports::times(
            run,
            &space.directory("time")?,
            "timing_report_planning",
            &[
                ("initialization_time_planning", initialised - begun),
                ("execution_time_planning", ended - initialised),
            ],
        )
        .await?;
        let costs = reports::costs(run, &space.directory("cost")?, "cost_report", &lines).await?;

        let mut planned = context::initial(&Seed {
            task: task.clone(),
            max_plan_steps,
            n_plan_reviews: config.n_plan_reviews,
            max_n_attempts: config.max_n_attempts,
            plan_instructions: config.plan_instructions.clone(),
            engineer_instructions: config.engineer_instructions.clone(),
            researcher_instructions: config.researcher_instructions.clone(),
            hardware_constraints: config.hardware_constraints.clone(),
            researcher_filename: config.params.researcher_filename.clone().unwrap_or_default(),
            work_dir: space.root.display().to_string(),
            ..Seed::default()
        });
        if !idea.trim().is_empty() {
            planned.insert("improved_main_task".into(), json!(format!("{task}\n\n{idea}")));
        }
        context::planned(&mut planned, &plans, &reviews);
        planned.insert("needed_agents".into(), json!(agents));
        context::cost(&mut planned, json!(costs.rows), &costs.path.display().to_string());
        let mut written = vec![path.clone(), chat, times, costs.path];
        if !config.params.files.is_plain() {
            let pickle = space.work_dir.join("context/context_step_0.pkl");
            reports::pickle(&pickle, &planned)?;
            written.push(pickle);
        }
        space.record(written)?;

        let output = [
            ("final_plan", json!(steps)),
            ("number_of_steps_in_plan", json!(steps.len())),
            ("plan_file_path", json!(path)),
            ("planning_context", json!(planned)),
        ];
        put_out(state.as_ref(), output)?;
        let shared = [
            ("plan_steps", json!(steps)),
            ("current_step", json!(0)),
            ("number_of_steps_in_plan", json!(steps.len())),
            ("planning_context", json!(planned)),
        ];
        share(state.as_ref(), shared)?;
        tell_messages(run, transcript.messages()).await?;
        let text = formats::plan(&steps);
        let about = json!({"steps": steps, "plan_text": text, "seconds": ended - begun, "path": path});
        run.tell("", "plan_ready", about).await?;
        run.tell("", "file_written", json!({"path": path, "what": "plan"})).await?;
        Ok(Outcome {
            chat_history: transcript.into_messages(),
            timing: vec![("start".into(), begun), ("end".into(), ended), ("total".into(), ended - begun)],
            ..Outcome::new(PhaseStatus::Completed, state.clone())
        })
    }
}

impl Phase for Planning {
    fn phase_type(&self) -> &'static str {
        "planning"
    }

    fn display_name(&self) -> String {
        "Planning".into()
    }

    fn can_skip(&self, _: &dyn State) -> Result<bool> {
        Ok(false)
    }

    fn validate_input(&self, state: &dyn State) -> Result<Vec<String>> {
        Ok(super::require_task_and_work_dir(state, "planning"))
    }

    fn execute<'a>(&'a self, run: &'a Run, state: Arc<dyn State>) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move { self.plan(run, &state).await })
    }
}
