//! What a call will take, before it is made: its prompt in tokens, its longest answer and their price.

use super::pricing::{ModelFacts, Prices};
use super::types::{Part, Request, Usage};

/// Tokens of a picture, on the long side.
const IMAGE: u64 = 1_500;
/// The longest answer to count with when nothing is known of the model.
pub const UNKNOWN_MAX_OUTPUT: u32 = 8_192;
/// An answer shorter than this is not worth asking for.
pub const LEAST_OUTPUT: u32 = 1_000;

/// What is known of a call before it is made.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quote {
    /// Tokens of the prompt, on the long side.
    pub prompt_tokens: u64,
    /// Tokens of the prompt as English text takes them.
    pub likely_tokens: u64,
    /// The longest answer in tokens, as the call asks for it or else the model gives it.
    pub max_output: Option<u32>,
    facts: Option<ModelFacts>,
}

impl Quote {
    /// A call to a model of the table `prices`; without one, nothing is known but the prompt.
    pub fn of(request: &Request, prices: Option<&Prices>) -> Self {
        let facts = prices.and_then(|prices| prices.facts(&request.model));
        let (prompt_tokens, characters, images) = measure(request);
        let most = facts.and_then(|f| f.max_output.map(|most| fitting(most, f.window, prompt_tokens)));
        let max_output = request.max_output_tokens.or(most);
        Self { prompt_tokens, likely_tokens: characters / 4 + images * IMAGE / 2, max_output, facts }
    }

    /// The reading of a document: it takes no tokens, and what its pages cost is known once it is read.
    pub fn of_reading() -> Self {
        Self { max_output: Some(1), ..Self::default() }.free()
    }

    /// The same with a prompt that is so many tokens longer.
    #[must_use]
    pub fn longer(self, tokens: u64) -> Self {
        Self { prompt_tokens: self.prompt_tokens + tokens, ..self }
    }

    /// The same of a call that costs nothing, and is asked as it would be without limits.
    #[must_use]
    pub fn free(self) -> Self {
        let facts = ModelFacts { input: Some(0.0), output: Some(0.0), ..self.facts.unwrap_or_default() };
        Self { max_output: Some(self.output()), facts: Some(ModelFacts { long_from: None, ..facts }), ..self }
    }

    /// The longest answer to count with.
    pub fn output(&self) -> u32 {
        self.max_output.unwrap_or(UNKNOWN_MAX_OUTPUT)
    }

    /// Dollars at most for an answer of so many tokens: the prompt is new to the provider's cache.
    pub fn cost(&self, output: u32) -> Option<f64> {
        self.price(self.prompt_tokens, output)
    }

    /// Dollars that are likely for an answer of so many tokens.
    pub fn likely_cost(&self, output: u32) -> Option<f64> {
        self.price(self.likely_tokens, output)
    }

    fn price(&self, prompt_tokens: u64, output: u32) -> Option<f64> {
        let usage = Usage { prompt_tokens, completion_tokens: output.into(), ..Usage::default() };
        self.facts?.cost(&usage, prompt_tokens)
    }

    /// The longest answer that so many dollars pay for.
    // Positive, and capped by the conversion.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn affordable(&self, dollars: f64) -> Option<u32> {
        let prompt = self.cost(0)?;
        let token = (self.cost(1_000_000)? - prompt) / 1e6;
        let left = dollars - prompt;
        Some(match (left < 0.0, token > 0.0) {
            (true, _) => 0,
            (false, false) => u32::MAX,
            (false, true) => (left / token) as u32,
        })
    }

    /// Tokens by which the prompt is too long for the model's window, with room for an answer.
    pub fn excess(&self) -> u64 {
        let Some(window) = self.facts.and_then(|facts| facts.window) else { return 0 };
        let room = u64::from(window - (window / 8).min(4_096));
        self.prompt_tokens.saturating_sub(room)
    }

    /// The window of the model, when the prompt does not fit it even as English text does.
    pub fn hopeless(&self) -> Option<u32> {
        let window = self.facts.and_then(|facts| facts.window)?;
        (self.likely_tokens >= window.into()).then_some(window)
    }
}

/// The longest answer that fits behind the prompt: servers refuse a limit that does not.
pub(crate) fn fitting(most: u32, window: Option<u32>, prompt_tokens: u64) -> u32 {
    const LEAST: u32 = 1_024;
    let Some(window) = window else { return most };
    let prompt = u32::try_from(prompt_tokens).unwrap_or(u32::MAX);
    most.min(window.saturating_sub(prompt).max(LEAST.min(most)))
}

/// Tokens of a prompt, on the long side.
pub(crate) fn prompt_tokens(request: &Request) -> u64 {
    measure(request).0
}

/// Tokens on the long side, characters, and images.
fn measure(request: &Request) -> (u64, u64, u64) {
    let mut sixths = weigh(&request.system);
    let (mut characters, mut images) = (request.system.len() as u64, 0);
    for part in request.messages.iter().flat_map(|message| &message.parts) {
        match part {
            Part::Text { text } => {
                sixths += weigh(text);
                characters += text.len() as u64;
            }
            Part::Image { .. } => images += 1,
        }
    }
    if let Some(schema) = &request.schema {
        let text = schema.schema.to_string();
        sixths += weigh(&text);
        characters += text.len() as u64;
    }
    (sixths / 6 + images * IMAGE, characters, images)
}

/// Sixths of a token: letters and spaces come three to a token, digits and signs two, all else one at most.
fn weigh(text: &str) -> u64 {
    let weight = |byte: u8| match byte {
        b' ' | b'a'..=b'z' | b'A'..=b'Z' => 2,
        0x00..=0x7f => 3,
        // The bytes after a character's first.
        0x80..=0xbf => 0,
        0xc0.. => 6,
    };
    // Sums of short pieces are added in small numbers, which processors do many at once.
    text.as_bytes().chunks(4_096).map(|piece| u64::from(piece.iter().map(|b| weight(*b)).sum::<u32>())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{Message, Sampling};

    fn request(model: &str, text: &str) -> Request {
        Request {
            model: model.into(),
            system: String::new(),
            messages: vec![Message::user(text)],
            schema: None,
            sampling: Sampling::default(),
            max_output_tokens: None,
        }
    }

    fn quote(model: &str, text: &str) -> Quote {
        Quote::of(&request(model, text), Some(&Prices::builtin()))
    }

    #[test]
    fn prompts_are_measured_on_the_long_side() {
        assert_eq!(quote("gpt-4.1", &"abc".repeat(1_000)).prompt_tokens, 1_000);
        assert_eq!(quote("gpt-4.1", &"67".repeat(1_000)).prompt_tokens, 1_000);
        assert_eq!(quote("gpt-4.1", &"宇".repeat(1_000)).prompt_tokens, 1_000);
    }

    #[test]
    fn dollars_and_answers_convert_both_ways() {
        let quote = quote("gpt-4.1", &"abc".repeat(1_000));
        let output = quote.affordable(0.05).expect("a price");
        assert!(quote.cost(output).is_some_and(|cost| cost <= 0.05));
        assert!(quote.cost(output + 2).is_some_and(|cost| cost > 0.05));
        assert_eq!(quote.affordable(0.0), Some(0));
        assert_eq!(Quote::default().affordable(1.0), None);
    }

    #[test]
    fn a_prompt_is_too_long_before_it_is_hopeless() {
        let near = quote("gpt-4", &"abc".repeat(7_500));
        assert!(near.excess() > 0 && near.hopeless().is_none());
        assert_eq!(quote("gpt-4", &"abc".repeat(12_000)).hopeless(), Some(8_192));
        assert_eq!(quote("unheard-of", &"abc".repeat(90_000)).excess(), 0);
    }
}
