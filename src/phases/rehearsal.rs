//! A rehearsal of a run: all prompts are made, no model is asked and no script is run.
//!
//! The phases are the real ones. Models answer with placeholders of the right form, scripts succeed at once;
//! what comes of it is the list of calls with what each may cost.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::{BoxFuture, ready};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::exec::sandbox::Confinement;
use crate::exec::{Check, ExecError, Execution, Exit, Facts, Package, Runner, Script};
use crate::journal::{Effect, Entry, Record};
use crate::llm::{Call, Finish, LlmError, Part, Prices, Provider, Quote, Reply, Request, Usage, Watch};

/// Tokens of a usual answer, by agent.
const USUAL: [(&str, u32); 4] =
    [("planner", 500), ("plan_reviewer", 300), ("engineer", 1_500), ("researcher", 1_500)];
const USUAL_OF_OTHERS: u32 = 1_000;
/// Tokens that a finished step adds to the prompts of later ones, on the long side.
const CARRIED: u64 = 5_000;
/// Ideas where the prompt names no number.
const IDEAS: usize = 3;

/// Models that answer with placeholders.
pub struct Rehearsal {
    prices: Arc<Prices>,
    /// Steps of the plan.
    steps: usize,
}

impl Rehearsal {
    /// Models of this table of prices; plans have so many steps.
    pub fn new(prices: Arc<Prices>, steps: usize) -> Self {
        Self { prices, steps: steps.max(1) }
    }

    fn answer(&self, call: &Call) -> String {
        let request = &call.request;
        let prompt = last_text(request);
        match request.schema.as_ref().map(|schema| (schema.name.as_str(), &schema.schema)) {
            Some(("plan", schema)) => self.plan(schema).to_string(),
            Some(("review", _)) => {
                json!({"recommendations": ["(the reviewer's recommendation)"]}).to_string()
            }
            Some(("ideas", _)) => ideas(&prompt).to_string(),
            Some(("critique", _)) => json!({"critiques": [{
                "title": "Idea 1", "relevance": "(…)", "feasibility": "(…)", "weaknesses": "(…)",
                "improvements": "(…)", "discard": false,
            }]})
            .to_string(),
            _ if call.agent == "engineer" => {
                "**Code Explanation:**\n(what the engineer says)\n\n**Python Code:**\n\
                 ```python\nprint('(what the script prints)')\n```\nStatus: finished"
                    .into()
            }
            _ => format!("# Notes\n(what the {} writes)", call.agent),
        }
    }

    /// Engineers' steps, and a report at the end, as far as those agents may be used.
    fn plan(&self, schema: &Value) -> Value {
        let allowed = &schema["properties"]["sub_tasks"]["items"]["properties"]["sub_task_agent"]["enum"];
        let allowed: Vec<&str> = allowed.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let prefer = |wanted: &str| {
            allowed
                .iter()
                .find(|agent| **agent == wanted)
                .or(allowed.first())
                .copied()
                .unwrap_or("engineer")
                .to_owned()
        };
        let steps: Vec<Value> = (1..=self.steps)
            .map(|n| {
                let last = n == self.steps && n > 1;
                json!({
                    "sub_task": format!("(step {n} of the plan)"),
                    "sub_task_agent": prefer(if last { "researcher" } else { "engineer" }),
                    "bullet_points": ["(what the plan says of it)"],
                })
            })
            .collect();
        json!({"sub_tasks": steps})
    }
}

fn last_text(request: &Request) -> String {
    let parts = request.messages.last().map(|message| message.parts.as_slice()).unwrap_or_default();
    let texts = parts.iter().filter_map(|part| match part {
        Part::Text { text } => Some(text.as_str()),
        Part::Image { .. } => None,
    });
    texts.collect()
}

fn ideas(prompt: &str) -> Value {
    let asked = prompt.rsplit("Answer with ").next().and_then(|rest| rest.split(' ').next()?.parse().ok());
    let count = if prompt.contains("Select the best idea: answer") { 1 } else { asked.unwrap_or(IDEAS) };
    let idea = |n: usize| {
        json!({
            "title": format!("Idea {n}"), "description": "(…)", "data_needed": "(…)", "method": "(…)",
            "expected_result": "(…)", "risk": "(…)",
        })
    };
    json!({"ideas": (1..=count.max(1)).map(idea).collect::<Vec<_>>()})
}

impl Provider for Rehearsal {
    fn call<'a>(&'a self, call: &'a Call, _: &'a dyn Watch) -> BoxFuture<'a, Result<Reply, LlmError>> {
        Box::pin(ready(Ok(Reply {
            text: self.answer(call),
            finish: Finish::Stop,
            usage: Usage::default(),
            model: call.request.model.clone(),
            id: None,
        })))
    }

    fn window(&self, model: &str) -> Option<u32> {
        self.prices.window(model)
    }

    fn quote(&self, request: &Request) -> Quote {
        Quote::of(request, Some(&self.prices))
    }
}

/// A runner that looks at the machine as the real one does, and runs nothing.
pub struct Unrun<R>(pub R);

impl<R: Runner> Runner for Unrun<R> {
    fn check<'a>(&'a self, source: &'a str, filename: &'a str) -> BoxFuture<'a, Result<Check, ExecError>> {
        self.0.check(source, filename)
    }

    fn facts(&self) -> BoxFuture<'_, Result<Facts, ExecError>> {
        self.0.facts()
    }

    fn run<'a>(
        &'a self,
        _: &'a Script,
        _: &'a (dyn Fn(&str) + Send + Sync),
        _: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Execution, ExecError>> {
        Box::pin(ready(Ok(done("(what the script prints)\n"))))
    }

    fn install<'a>(
        &'a self,
        _: &'a Package,
        _: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Execution, ExecError>> {
        Box::pin(ready(Ok(done(""))))
    }
}

fn done(output: &str) -> Execution {
    let confinement = Confinement::default();
    Execution {
        exit: Exit::Code(0),
        output: output.into(),
        truncated: false,
        seconds: 0.0,
        peak_rss: None,
        confinement,
    }
}

/// The calls of a rehearsal, in order, each with its prompt and what it may take.
///
/// `tries` is how often an engineer tries a step at most; only the high end counts more than one.
pub fn calls(records: &[Record], prices: &Prices, tries: u64) -> Result<Vec<Value>> {
    let mut done = BTreeSet::new();
    let mut rows = Vec::new();
    for Record { position, entry, .. } in records {
        let Entry::Started { effect: Effect::Call, about, .. } = entry else { continue };
        let request: Request =
            serde_json::from_value(about["request"].clone()).map_err(super::config::unusable)?;
        let agent = about["agent"].as_str().unwrap_or_default();
        let quote = Quote::of(&request, Some(prices));
        let usual =
            USUAL.iter().find(|(name, _)| *name == agent).map_or(USUAL_OF_OTHERS, |(_, tokens)| *tokens);
        let carried = CARRIED * done.len() as u64;
        let tries = if agent == "engineer" { tries } else { 1 };
        let most = quote.longer(carried);
        // Tries are few.
        #[allow(clippy::cast_precision_loss)]
        let high = most.cost(most.output()).map(|cost| cost * tries as f64);
        rows.push(json!({
            "agent": agent, "model": request.model, "phase_index": position.phase, "step": position.step,
            "system": request.system, "prompt": last_text(&request), "prompt_tokens": quote.likely_tokens,
            "max_output_tokens": quote.output(), "tries": tries,
            "cost_low": quote.likely_cost(usual.min(quote.output())), "cost_high": high,
        }));
        if position.step > 0 {
            done.insert((position.phase, position.step));
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rehearsed_plan_uses_the_agents_that_may_be_used() {
        let rehearsal = Rehearsal::new(Arc::new(Prices::builtin()), 2);
        let agents = |allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(|&agent| agent.to_owned()).collect();
            let plan = rehearsal.plan(&crate::agents::plan::plan_schema(&allowed));
            let steps = plan["sub_tasks"].as_array().cloned().unwrap_or_default();
            steps
                .iter()
                .map(|step| step["sub_task_agent"].as_str().unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(agents(&["engineer", "researcher"]), ["engineer", "researcher"]);
        assert_eq!(agents(&["researcher"]), ["researcher", "researcher"]);
    }

    #[test]
    fn as_many_ideas_as_the_prompt_asks_for_and_one_when_it_selects() {
        let count = |prompt: &str| ideas(prompt)["ideas"].as_array().map(Vec::len);
        assert_eq!(count("…\nAnswer with 5 ideas."), Some(5));
        assert_eq!(count("Select the best idea: answer with it alone."), Some(1));
        assert_eq!(count("Make some."), Some(IDEAS));
    }
}
