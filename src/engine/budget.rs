//! What a run or a phase may still take: reserved before a call, and settled after it.
//!
//! A call passes the budgets of its phase, its run and the runs above it, all at once: what it may take at
//! most is reserved in each before it is sent, so that calls at the same time do not exceed a limit together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;

use super::clock::Clock;
use super::ledger::Line;
use super::limits::{Limits, OnLimit, Unpriced};
use super::waits::Waits;
use crate::llm::Quote;
use crate::llm::quote::LEAST_OUTPUT;

/// One budget; those of a run and of its phases are of the same kind.
pub(super) struct Budget {
    /// Whose it is, for messages.
    scope: String,
    limits: Limits,
    sum: Mutex<Sum>,
    clock: Arc<dyn Clock>,
    waits: Arc<Waits>,
    /// When it began: the clock, less the seconds of earlier lives.
    begun: f64,
    waited: f64,
}

/// What was taken, what is reserved, and what may be, as raised since.
#[derive(Debug, Default)]
struct Sum {
    taken: Amount,
    reserved: Amount,
    raised: Raised,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Amount {
    calls: u64,
    tokens: u64,
    cost: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Raised {
    calls: u64,
    tokens: u64,
    cost: f64,
    seconds: f64,
}

/// The settings that a call may run into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Cost,
    Tokens,
    Calls,
    Seconds,
    Unpriced,
}

impl Kind {
    pub(super) fn setting(self) -> &'static str {
        match self {
            Self::Cost | Self::Unpriced => "max_cost",
            Self::Tokens => "max_tokens",
            Self::Calls => "max_llm_calls",
            Self::Seconds => "max_wall_seconds",
        }
    }
}

/// Why a call is not made.
pub(super) struct Refusal {
    pub(super) kind: Kind,
    pub(super) budget: Arc<Budget>,
    pub(super) message: String,
}

/// What was reserved for a call; it is given back when this is dropped.
#[derive(Default)]
pub(super) struct Held {
    budgets: Vec<Arc<Budget>>,
    amount: Amount,
    /// The longest answer to ask for, when a limit says so.
    pub(super) output: Option<u32>,
    /// Whether that is shorter than what the call would have asked for.
    pub(super) lowered: bool,
}

impl Held {
    /// Tokens of prompt and answer at most.
    pub(super) fn tokens(&self) -> u64 {
        self.amount.tokens
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for budget in &self.budgets {
            let mut sum = budget.sum();
            sum.reserved.calls -= self.amount.calls;
            sum.reserved.tokens -= self.amount.tokens;
            sum.reserved.cost -= self.amount.cost;
            if sum.reserved.calls == 0 {
                // What rounding has left.
                sum.reserved.cost = 0.0;
            }
        }
    }
}

impl Budget {
    /// A budget of `scope`, such as `the run`, of which `seconds` were used in earlier lives.
    pub(super) fn new(
        scope: &str,
        limits: Limits,
        clock: Arc<dyn Clock>,
        waits: Arc<Waits>,
        seconds: f64,
    ) -> Self {
        let begun = clock.now() - seconds;
        let waited = waits.seconds(clock.as_ref());
        Self { scope: scope.into(), limits, sum: Mutex::default(), clock, waits, begun, waited }
    }

    fn sum(&self) -> MutexGuard<'_, Sum> {
        self.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn scope(&self) -> &str {
        &self.scope
    }

    pub(super) fn on_limit(&self) -> &OnLimit {
        &self.limits.on_limit
    }

    /// Counts a call that was made, now or in an earlier life.
    pub(super) fn charge(&self, line: &Line) {
        let mut sum = self.sum();
        sum.taken.calls += 1;
        sum.taken.tokens += line.usage.prompt_tokens + line.usage.completion_tokens;
        sum.taken.cost += line.usage.cost.unwrap_or(0.0);
    }

    /// Raises a limit by what it was set to, or to `to`; gives what it is now, when that is more than before.
    // A limit in tokens or calls that a human names is a small whole number.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    pub(super) fn raise(&self, kind: Kind, to: Option<f64>) -> Option<f64> {
        let mut sum = self.sum();
        let Limits { max_cost, max_tokens, max_llm_calls, max_wall_seconds, .. } = self.limits;
        let number = |set: Option<u64>| set.unwrap_or_default() as f64;
        let (set, raised) = match kind {
            Kind::Cost | Kind::Unpriced => (max_cost.unwrap_or_default(), sum.raised.cost),
            Kind::Tokens => (number(max_tokens), sum.raised.tokens as f64),
            Kind::Calls => (number(max_llm_calls), sum.raised.calls as f64),
            Kind::Seconds => (max_wall_seconds.unwrap_or_default(), sum.raised.seconds),
        };
        let more = to.map_or(raised + set, |to| to - set);
        if more <= raised {
            return None;
        }
        match kind {
            Kind::Cost | Kind::Unpriced => sum.raised.cost = more,
            Kind::Tokens => sum.raised.tokens = more as u64,
            Kind::Calls => sum.raised.calls = more as u64,
            Kind::Seconds => sum.raised.seconds = more,
        }
        Some(set + more)
    }

    /// Takes up a raise of an earlier life, as its event said.
    pub(super) fn recall(&self, event: &Value) {
        let kinds = [Kind::Cost, Kind::Tokens, Kind::Calls, Kind::Seconds];
        let kind = kinds.into_iter().find(|kind| event["setting"] == kind.setting());
        if let (Some(kind), true) = (kind, event["scope"] == self.scope.as_str()) {
            self.raise(kind, event["limit"].as_f64());
        }
    }

    /// Seconds that are left, when they are limited.
    pub(super) fn seconds_left(&self) -> Option<f64> {
        let limit = self.limits.max_wall_seconds? + self.sum().raised.seconds;
        let waited = self.waits.seconds(self.clock.as_ref()) - self.waited;
        Some(limit - (self.clock.now() - self.begun - waited))
    }

    /// Words for a limit of seconds that has passed.
    pub(super) fn late(&self) -> String {
        let limit = self.limits.max_wall_seconds.unwrap_or_default() + self.sum().raised.seconds;
        format!("{} took longer than max_wall_seconds={limit}. {RESUME}", self.scope)
    }
}

const RESUME: &str = "Resume the run with a higher limit to go on";

/// Says why an effect that is no call may not begin: only time is limited there.
pub(super) fn in_time(budgets: &[Arc<Budget>]) -> Result<(), Refusal> {
    for budget in budgets {
        if budget.seconds_left().is_some_and(|left| left <= 0.0) {
            return Err(Refusal { kind: Kind::Seconds, budget: budget.clone(), message: budget.late() });
        }
    }
    Ok(())
}

/// Reserves in all budgets what a call may take at most, with the longest answer that fits; or says why not.
pub(super) fn reserve(
    budgets: &[Arc<Budget>],
    quote: &Quote,
    agent: &str,
    model: &str,
) -> Result<Held, Refusal> {
    if budgets.is_empty() {
        return Ok(Held::default());
    }
    in_time(budgets)?;
    // Always locked from the outermost inwards, and all before any is changed.
    let mut sums: Vec<MutexGuard<'_, Sum>> = budgets.iter().map(|budget| budget.sum()).collect();
    let (wanted, mut output, mut counted) = (quote.output(), quote.output(), false);
    for (budget, sum) in budgets.iter().zip(&sums) {
        let limits = &budget.limits;
        let refuse = |kind: Kind, message: String| {
            Err(Refusal { kind, budget: budget.clone(), message: format!("{message}. {RESUME}") })
        };
        if let Some(limit) = limits.max_llm_calls.map(|limit| limit + sum.raised.calls)
            && sum.taken.calls + sum.reserved.calls >= limit
        {
            let message = format!("{} has made its max_llm_calls={limit} calls of models", budget.scope);
            return refuse(Kind::Calls, message);
        }
        let least = LEAST_OUTPUT.min(wanted);
        if let Some(limit) = limits.max_tokens.map(|limit| limit + sum.raised.tokens) {
            counted = true;
            let used = sum.taken.tokens + sum.reserved.tokens;
            let left = limit.saturating_sub(used).saturating_sub(quote.prompt_tokens);
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            if left < least {
                return refuse(
                    Kind::Tokens,
                    format!(
                        "{} has taken {used} tokens of max_tokens={limit}, and the next call of the {agent} \
                         ({model}) needs about {} with an answer of {least}",
                        budget.scope,
                        quote.prompt_tokens + u64::from(least)
                    ),
                );
            }
            output = output.min(left);
        }
        if let Some(limit) = limits.max_cost.map(|limit| limit + sum.raised.cost) {
            let used = sum.taken.cost + sum.reserved.cost;
            match quote.affordable(limit - used) {
                Some(left) if left < least => {
                    return refuse(
                        Kind::Cost,
                        format!(
                            "{} has spent ${used:.4} of max_cost={limit}, and the next call of the {agent} ({model}) \
                             may cost ${:.4} with an answer of only {least} tokens",
                            budget.scope,
                            quote.cost(least).unwrap_or_default()
                        ),
                    );
                }
                Some(left) => {
                    counted = true;
                    output = output.min(left);
                }
                None if limits.unpriced == Unpriced::CountTokens => {}
                None => {
                    return refuse(
                        Kind::Unpriced,
                        format!(
                            "{} has a limit of dollars, max_cost={limit}, and the price of {model} (asked by the \
                             {agent}) is not known: give it in the file that CMBAGENT_PRICES names, or set \
                             unpriced=\"count-tokens\" to count its tokens alone",
                            budget.scope
                        ),
                    );
                }
            }
        }
    }
    let amount = Amount {
        calls: 1,
        tokens: quote.prompt_tokens + u64::from(output),
        cost: quote.cost(output).unwrap_or(0.0),
    };
    for sum in &mut sums {
        sum.reserved.calls += amount.calls;
        sum.reserved.tokens += amount.tokens;
        sum.reserved.cost += amount.cost;
    }
    drop(sums);
    let lowered = output < wanted;
    // What is reserved holds only when the model is told of it; its own longest answer it is told anyway.
    let told = (lowered || (counted && quote.max_output.is_none())).then_some(output);
    Ok(Held { budgets: budgets.to_vec(), amount, output: told, lowered })
}
