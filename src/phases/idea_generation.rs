//! Research ideas: made, criticised, improved, and one of them selected.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::config::{self, Models, read};
use super::workspace::Workspace;
use super::{chats, feedback, reports, tell_messages, templates};
use crate::agents::ideas::{Critique, Idea};
use crate::agents::transcript::Transcript;
use crate::agents::{Briefing, IdeaCase, StepCase, carry, formats, parse, plan};
use crate::engine::state::{put_out, share};
use crate::engine::{Outcome, Phase, PhaseStatus, Run, State};
use crate::error::Result;
use crate::llm::Schema;

/// The phase that makes ideas.
pub struct IdeaGeneration {
    config: config::IdeaGeneration,
}

impl IdeaGeneration {
    /// An idea phase with these fields.
    pub fn new(fields: Value) -> Result<Self> {
        Ok(Self { config: read(fields)? })
    }

    async fn generate(&self, run: &Run, state: &Arc<dyn State>) -> Result<Outcome> {
        let config = &self.config;
        let begun = run.clock().now();
        let mark = run.ledger().mark();
        let task = state.task();
        let space = Workspace::open(run, &state.work_dir(), "ideas", config.params.keep_existing).await?;
        let templates = templates(run, &config.params).await?;
        let models = Models { overrides: &config.model_overrides, params: &config.params };
        let maker = models.speaker("idea_maker", &config.idea_maker_model);
        let hater = models.speaker("idea_hater", &config.idea_hater_model);
        let calls = run.with_call_limit("max_rounds", config.max_rounds);
        let step = StepCase {
            briefing: Briefing {
                task: task.clone(),
                feedback: feedback(state.as_ref()),
                ..Briefing::default()
            },
            carry_budget: Some(carry::budget(run.window(&maker.model))),
            ..StepCase::default()
        };
        let mut case = IdeaCase { step, n_ideas: Some(config.n_ideas), ..IdeaCase::default() };
        let wanted = Schema { name: "ideas".into(), schema: plan::ideas_schema() };
        let critique = Schema { name: "critique".into(), schema: plan::critique_schema() };
        let mut transcript = Transcript::new("ideas");
        transcript.task(&task);
        let mut reviews: Vec<Vec<Critique>> = Vec::new();
        let mut turn = 0;
        let mut next = || {
            turn += 1;
            calls.at_turn(turn)
        };

        let prompt = templates.idea_maker(&case).map_err(super::template)?;
        (case.ideas, _) = maker.structured(&next(), &prompt, &wanted, parse::ideas).await?;
        transcript.idea_maker(&case.ideas);
        for _ in 0..config.n_reviews {
            let prompt = templates.idea_hater(&case).map_err(super::template)?;
            (case.critique, _) = hater.structured(&next(), &prompt, &critique, parse::critique).await?;
            transcript.idea_hater(&case.critique);
            reviews.push(case.critique.clone());
            let prompt = templates.idea_maker(&case).map_err(super::template)?;
            (case.ideas, _) = maker.structured(&next(), &prompt, &wanted, parse::ideas).await?;
            transcript.idea_maker(&case.ideas);
        }
        let ideas = case.ideas.clone();
        let selected = if let [only] = ideas.as_slice() {
            only.clone()
        } else {
            case.select = true;
            let prompt = templates.idea_maker(&case).map_err(super::template)?;
            let one = |text: &str| match parse::ideas(text)?.as_slice() {
                [idea] => Ok(idea.clone()),
                many => Err(format!("expected the one selected idea, got {}", many.len())),
            };
            let (idea, _): (Idea, _) = maker.structured(&next(), &prompt, &wanted, one).await?;
            transcript.idea_maker(std::slice::from_ref(&idea));
            idea
        };

        let stamp = run.stamp(run.now().await?);
        let file = reports::fresh(run, &space.root, "ideas", &stamp).await?;
        reports::json(&file, &ideas, 2)?;
        let lines = run.ledger().since(mark);
        let chat = space.root.join("chats/chat_output_ideas.json");
        chats::write(run, &chat, transcript.messages(), &lines).await?;
        let costs = reports::costs(run, &space.directory("cost")?, "cost_report", &lines).await?;
        space.record([file.clone(), chat, costs.path])?;

        let text = formats::ideas(std::slice::from_ref(&selected));
        let context = json!({
            "main_task": task, "ideas": ideas, "selected_idea": selected, "ideas_text": formats::ideas(&ideas),
            "selected_idea_text": text, "cost_dataframe": costs.rows,
        });
        let output = [
            ("ideas", json!(ideas)),
            ("reviews", json!(reviews)),
            ("selected_idea", json!(selected)),
            ("idea_context", context.clone()),
            ("final_context", context),
        ];
        put_out(state.as_ref(), output)?;
        share(state.as_ref(), [("ideas", json!(ideas)), ("selected_idea", json!(selected))])?;
        tell_messages(run, transcript.messages()).await?;
        run.tell("idea_maker", "file_written", json!({"path": file, "what": "data"})).await?;
        let ended = run.clock().now();
        Ok(Outcome {
            chat_history: transcript.into_messages(),
            timing: vec![("start".into(), begun), ("end".into(), ended), ("total".into(), ended - begun)],
            ..Outcome::new(PhaseStatus::Completed, state.clone())
        })
    }
}

impl Phase for IdeaGeneration {
    fn phase_type(&self) -> &'static str {
        "idea_generation"
    }

    fn display_name(&self) -> String {
        "Generate Ideas".into()
    }

    fn can_skip(&self, _: &dyn State) -> Result<bool> {
        Ok(false)
    }

    fn validate_input(&self, state: &dyn State) -> Result<Vec<String>> {
        Ok(super::require_task_and_work_dir(state, "idea generation"))
    }

    fn execute<'a>(&'a self, run: &'a Run, state: Arc<dyn State>) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move { self.generate(run, &state).await })
    }
}
