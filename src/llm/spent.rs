//! What a call that is not whole yet has used: one that is cut has to be paid for as far as it came.

use super::Request;
use super::pricing::{ModelFacts, Prices};
use super::receive::News;
use super::types::Usage;
use super::wire::{estimate, estimated};

/// One try's count.
#[derive(Clone, Copy)]
pub(crate) struct Spent {
    facts: Option<ModelFacts>,
    ours: Usage,
    characters: usize,
    /// What the server said, and its cache writes.
    said: Option<(Usage, u64)>,
}

impl Spent {
    /// A try that has not been answered; `model` is what the server calls it.
    pub(crate) fn of(request: &Request, model: &str, prices: &Prices) -> Self {
        Self { facts: prices.facts(model), ours: estimated(request, 0), characters: 0, said: None }
    }

    /// Takes news into account. Most servers count an answer's tokens last: those of its text are
    /// estimated until then.
    pub(crate) fn add(&mut self, news: &News) -> Usage {
        match news {
            News::Text(text) => self.characters += text.chars().count(),
            News::Usage(usage, writes) => self.said = Some((*usage, *writes)),
        }
        let (mut usage, writes) = self.said.unwrap_or((self.ours, 0));
        usage.completion_tokens = usage.completion_tokens.max(estimate(self.characters));
        usage.cost = self.facts.and_then(|facts| facts.cost(&usage, writes));
        usage
    }
}
