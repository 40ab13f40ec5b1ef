//! What is known of a model before it is asked: from its name and the table of prices.

use super::pricing::Prices;
use super::quote::{UNKNOWN_MAX_OUTPUT, fitting, prompt_tokens};
use super::routing::Wire;
use super::types::Request;

/// How a model wants to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Profile {
    /// It reasons: no temperature, `max_completion_tokens`, and an effort.
    pub(crate) reasoning: bool,
    /// One of the o-models, which get a medium effort unless told otherwise.
    pub(crate) o_series: bool,
    /// It takes temperature and top_p.
    pub(crate) sampling: bool,
    /// It may be told how hard to reason.
    pub(crate) effort: bool,
    /// The longest answer to ask for.
    pub(crate) max_output: Option<u32>,
}

impl Profile {
    pub(crate) fn of(wire: Wire, request: &Request, model: &str, prices: &Prices) -> Self {
        let facts = prices.facts(model).unwrap_or_default();
        let name = model.rsplit('/').next().unwrap_or(model).to_lowercase();
        let o_series = wire == Wire::OpenAi && is_o_series(&name);
        let generation = gpt_generation(&name).filter(|_| wire == Wire::OpenAi);
        let reasoning = o_series || generation.is_some_and(|n| n >= 5);
        let known = facts.max_output.map(|most| fitting(most, facts.window, prompt_tokens(request)));
        // Anthropic wants a limit for every answer, also for models of which the table knows nothing.
        let relative = || prices.relative(model).and_then(|r| r.max_output).unwrap_or(UNKNOWN_MAX_OUTPUT);
        let fallback = (wire == Wire::Anthropic).then(relative);
        Self {
            reasoning,
            o_series,
            sampling: !reasoning && facts.sampling != Some(false),
            effort: reasoning || generation.is_none(),
            max_output: request.max_output_tokens.or(known).or(fallback),
        }
    }
}

/// `o1`, `o3-mini`, `o4-mini-2025-04-16`, …
fn is_o_series(name: &str) -> bool {
    let Some(rest) = name.strip_prefix('o') else { return false };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    digits > 0 && matches!(rest.as_bytes().get(digits), None | Some(b'-'))
}

/// 4 of `gpt-4.1`, 5 of `gpt-5-mini`; `None` of `gpt-oss-120b`.
fn gpt_generation(name: &str) -> Option<u32> {
    let rest = name.strip_prefix("chatgpt-").or_else(|| name.strip_prefix("gpt-"))?;
    let end = rest.bytes().take_while(u8::is_ascii_digit).count();
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::types::{Message, Sampling};

    fn request(characters: usize) -> Request {
        Request {
            model: String::new(),
            system: String::new(),
            messages: vec![Message::user("x".repeat(characters))],
            schema: None,
            sampling: Sampling::default(),
            max_output_tokens: None,
        }
    }

    fn of(wire: Wire, model: &str) -> Profile {
        Profile::of(wire, &request(10), model, &Prices::builtin())
    }

    #[test]
    fn reasoning_models_are_known_by_name() {
        for model in
            ["o1", "o3-mini-2025-01-31", "o4-mini", "gpt-5", "gpt-5.6-sol", "openai/gpt-5-mini", "gpt-6-luna"]
        {
            let profile = of(Wire::OpenAi, model);
            assert!(profile.reasoning && !profile.sampling && profile.effort, "{model}");
        }
        for model in ["gpt-4.1", "gpt-4o", "gpt-3.5-turbo", "chatgpt-4o-latest"] {
            let profile = of(Wire::OpenAi, model);
            assert!(!profile.reasoning && profile.sampling && !profile.effort, "{model}");
        }
        for model in ["gpt-oss-120b", "qwen3:30b", "olmo", "o-model", "o1x"] {
            let profile = of(Wire::OpenAi, model);
            assert!(!profile.reasoning && profile.sampling && profile.effort, "{model}");
        }
        assert!(of(Wire::OpenAi, "o3-mini").o_series && !of(Wire::OpenAi, "gpt-5").o_series);
        assert!(!of(Wire::Anthropic, "claude-opus-5").sampling);
    }

    #[test]
    fn the_longest_answer_comes_from_the_table_and_fits() {
        assert_eq!(of(Wire::OpenAi, "gpt-4.1").max_output, Some(32_768));
        assert_eq!(of(Wire::OpenAi, "qwen3:30b").max_output, None);
        assert_eq!(of(Wire::Anthropic, "claude-unheard-of").max_output, Some(8_192));
        assert_eq!(of(Wire::Anthropic, "claude-fable-5-9").max_output, Some(128_000));
        let prices = Prices::builtin();
        let limit = |characters| Profile::of(Wire::OpenAi, &request(characters), "gpt-4", &prices).max_output;
        assert_eq!(limit(300), Some(4_096));
        assert_eq!(limit(3 * 6_192), Some(2_000));
        assert_eq!(limit(3 * 8_000), Some(1_024));
        let mut explicit = request(30_000);
        explicit.max_output_tokens = Some(5_000);
        assert_eq!(Profile::of(Wire::OpenAi, &explicit, "gpt-4", &prices).max_output, Some(5_000));
    }
}
