//! What the models of a run have cost, one line a call.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::llm::Usage;

/// One call's line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The agent that spoke.
    pub agent: String,
    /// The model as we asked for it.
    pub model: String,
    /// What it used; of a call without a known outcome the upper bounds: all its tokens count as the prompt's.
    pub usage: Usage,
    /// Whether the reply is known: a call that a crash or a cancellation cut may have been paid for.
    pub known: bool,
    /// Whether a cost report says it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reported: bool,
    /// Its place in the ledger.
    #[serde(skip)]
    number: usize,
}

impl Line {
    /// A call that was answered.
    pub fn new(agent: &str, model: &str, usage: Usage) -> Self {
        Self { agent: agent.into(), model: model.into(), usage, known: true, reported: false, number: 0 }
    }

    /// A call whose reply is not known, from what was recorded when it was sent.
    pub fn unknown(sent: &Value) -> Self {
        let text = |key: &str| sent[key].as_str().unwrap_or_default().to_owned();
        let prompt_tokens = sent["tokens"].as_u64().unwrap_or_default();
        let usage = Usage { prompt_tokens, cost: sent["bound"].as_f64(), ..Usage::default() };
        Self { known: false, ..Self::new(&text("agent"), &text("model"), usage) }
    }
}

/// All lines of a run, in the order of the calls.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<Vec<Line>>);

impl Ledger {
    /// Adds a call.
    pub fn add(&self, line: Line) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = all.len();
        all.push(Line { number, ..line });
    }

    /// Notes that a report says these lines, which are this ledger's.
    pub fn enter_as_reported(&self, lines: &[Line]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines {
            all[line.number].reported = true;
        }
    }

    /// The lines that no report says.
    pub fn unreported(&self) -> Vec<Line> {
        self.since(0).into_iter().filter(|line| !line.reported).collect()
    }

    /// How many lines there are: a mark for [`Ledger::since`].
    pub fn mark(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// The lines from a mark on.
    pub fn since(&self, mark: usize) -> Vec<Line> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[mark..].to_vec()
    }
}

/// The sum of some lines. An unpriced call adds nothing to the cost and is named.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Total {
    /// Calls.
    pub calls: usize,
    /// Tokens; `cost` is the sum of the priced calls, `None` when none was priced.
    pub usage: Usage,
    /// Models whose calls have no price.
    pub unpriced_models: BTreeSet<String>,
    /// Calls that were sent and whose reply is not known; they are not among `calls`.
    pub unknown_calls: usize,
    /// What those may have cost at most, in dollars.
    pub unknown_cost: f64,
}

impl Total {
    /// Adds lines up.
    pub fn of<'a>(lines: impl IntoIterator<Item = &'a Line>) -> Self {
        let mut total = Self::default();
        for line in lines {
            if !line.known {
                total.unknown_calls += 1;
                total.unknown_cost += line.usage.cost.unwrap_or(0.0);
                continue;
            }
            total.calls += 1;
            total.usage.prompt_tokens += line.usage.prompt_tokens;
            total.usage.completion_tokens += line.usage.completion_tokens;
            total.usage.cached_tokens += line.usage.cached_tokens;
            total.usage.reasoning_tokens += line.usage.reasoning_tokens;
            match line.usage.cost {
                Some(cost) => *total.usage.cost.get_or_insert(0.0) += cost,
                None => drop(total.unpriced_models.insert(line.model.clone())),
            }
        }
        total
    }

    /// As the `usage` field of events.
    pub fn to_json(&self) -> Value {
        let mut usage = json!({
            "calls": self.calls,
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "cached_tokens": self.usage.cached_tokens,
            "reasoning_tokens": self.usage.reasoning_tokens,
            "cost": self.usage.cost,
            "unpriced_models": self.unpriced_models,
        });
        if self.unknown_calls > 0 {
            usage["unknown_calls"] = json!(self.unknown_calls);
            usage["unknown_cost"] = json!(self.unknown_cost);
        }
        usage
    }
}

/// The rows of a cost report: one a pair of agent and model in order of appearance, then `Total`.
///
/// Columns are those existing readers of `cost_report_*.json` know. The total row's `Model` is
/// `null` (the original wrote the invalid token `NaN`), and so is the cost of an unpriced model;
/// the total's cost leaves such models out and its row names them under `Unpriced Models`.
pub fn report(lines: &[Line]) -> Vec<Value> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for line in lines.iter().filter(|line| line.known) {
        if !pairs.contains(&(&line.agent, &line.model)) {
            pairs.push((&line.agent, &line.model));
        }
    }
    let row = |agent: &str, model: Option<&str>, total: &Total| {
        json!({
            "Agent": agent.replace('_', " "),
            "Cost ($)": total.usage.cost,
            "Prompt Tokens": total.usage.prompt_tokens,
            "Completion Tokens": total.usage.completion_tokens,
            "Total Tokens": total.usage.prompt_tokens + total.usage.completion_tokens,
            "Model": model,
        })
    };
    let mut rows: Vec<Value> = pairs
        .iter()
        .map(|(agent, model)| {
            let own = lines.iter().filter(|l| l.known && l.agent == *agent && l.model == *model);
            row(agent, Some(model), &Total::of(own))
        })
        .collect();
    let total = Total::of(lines);
    let mut last = row("Total", None, &total);
    if !total.unpriced_models.is_empty() {
        last["Unpriced Models"] = json!(total.unpriced_models);
    }
    if total.unknown_calls > 0 {
        last["Unknown Calls"] = json!(total.unknown_calls);
        last["Unknown Cost ($)"] = json!(total.unknown_cost);
    }
    rows.push(last);
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Line, Total, report};
    use crate::llm::Usage;

    fn line(agent: &str, model: &str, prompt: u64, cost: Option<f64>) -> Line {
        let usage = Usage { prompt_tokens: prompt, completion_tokens: 1, cost, ..Usage::default() };
        Line::new(agent, model, usage)
    }

    #[test]
    fn a_report_adds_up_to_what_was_billed() {
        let lines = [
            line("plan_reviewer", "o3-mini", 10, Some(0.5)),
            line("planner", "gpt-4.1", 20, Some(0.25)),
            line("planner", "gpt-4.1", 30, Some(0.25)),
            line("engineer", "local", 40, None),
        ];
        let rows = report(&lines);
        assert_eq!(rows.len(), 4);
        assert_eq!(rows[0]["Agent"], "plan reviewer");
        assert_eq!(rows[1]["Prompt Tokens"], 50);
        assert!(rows[2]["Cost ($)"].is_null());
        assert_eq!(rows[3]["Agent"], "Total");
        assert_eq!(rows[3]["Cost ($)"], 1.0);
        assert_eq!(rows[3]["Total Tokens"], 104);
        assert!(rows[3]["Model"].is_null());
        assert_eq!(rows[3]["Unpriced Models"], json!(["local"]));
        let total = Total::of(&lines);
        assert_eq!((total.calls, total.unpriced_models.len()), (4, 1));
    }
}
