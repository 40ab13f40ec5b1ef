//! What a server does not understand, learned from its complaints.
//!
//! The formats have many servers, and each leaves something out. A 400 or 422 that names a parameter we sent
//! steps one dialect down and asks again; what worked is remembered per address and model.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::profile::Profile;
use super::routing::Wire;
use crate::pattern::pattern;

/// How the shape of a structured answer is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// With the schema: OpenAI `json_schema`, Anthropic `output_config.format`, Gemini `responseSchema`.
    Schema,
    /// With less: OpenAI `json_object` and Gemini's MIME type, the schema in words; Anthropic a forced tool.
    Loose,
    /// Not at all: the prompt's own (Markdown) form.
    Plain,
}

/// How the answer's limit is called (OpenAI; the others have one name).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    /// `max_completion_tokens`.
    Completion,
    /// `max_tokens`.
    Tokens,
    /// Left out.
    Unsaid,
}

/// The dialect of one server and model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) shape: Shape,
    pub(crate) limit: Limit,
    /// The other name of the limit was refused too.
    limit_turned: bool,
    /// The longest answer the server said it gives.
    pub(crate) most: Option<u32>,
    pub(crate) sampling: bool,
    pub(crate) effort: bool,
    pub(crate) stream_options: bool,
    pub(crate) stream: bool,
}

impl Dialect {
    /// Where to begin. Servers other than OpenAI's own know `max_tokens` more often than its successor.
    pub(crate) fn first(profile: &Profile, custom: bool) -> Self {
        Self {
            shape: Shape::Schema,
            limit: if custom && !profile.reasoning { Limit::Tokens } else { Limit::Completion },
            limit_turned: false,
            most: None,
            sampling: true,
            effort: true,
            stream_options: true,
            stream: true,
        }
    }

    /// The next dialect down, and what it gives up, when the complaint (`words`, `param`) names something
    /// that `sent` holds; else `None`.
    pub(crate) fn step_down(
        &self,
        wire: Wire,
        sent: &Value,
        words: &str,
        param: Option<&str>,
    ) -> Option<(Self, &'static str)> {
        let has = |pointers: &[&str]| pointers.iter().any(|p| sent.pointer(p).is_some());
        let words = param.map_or_else(|| words.to_lowercase(), |p| format!("{p} {words}").to_lowercase());
        let says = |signs: &[&str]| signs.iter().any(|s| words.contains(s));
        let mut next = *self;

        let limit = ["/max_tokens", "/max_completion_tokens", "/generationConfig/maxOutputTokens"];
        if has(&limit)
            && says(&["max_tokens", "max_completion_tokens", "maxoutputtokens", "max_output_tokens"])
        {
            let now = limit.iter().find_map(|p| sent.pointer(p)).and_then(Value::as_u64).unwrap_or(0);
            if let Some(most) = smaller_limit(&words, now).filter(|most| self.most != Some(*most)) {
                next.most = Some(most);
                return Some((next, "a shorter answer"));
            }
            // Anthropic cannot do without.
            if wire == Wire::Anthropic || self.limit == Limit::Unsaid {
                return None;
            }
            next.limit = match self.limit {
                Limit::Completion if wire == Wire::OpenAi && !self.limit_turned => Limit::Tokens,
                Limit::Tokens if !self.limit_turned => Limit::Completion,
                _ => Limit::Unsaid,
            };
            next.limit_turned = true;
            return Some((next, "another name for the answer's limit"));
        }
        if has(&["/temperature", "/top_p", "/generationConfig/temperature", "/generationConfig/topP"])
            && says(&["temperature", "top_p", "topp", "sampling param"])
        {
            next.sampling = false;
            return Some((next, "no temperature and top_p"));
        }
        if has(&["/reasoning_effort", "/output_config/effort", "/generationConfig/thinkingConfig"])
            && says(&["reasoning_effort", "reasoning effort", "effort", "thinking"])
        {
            next.effort = false;
            return Some((next, "no reasoning effort"));
        }
        let shape = [
            "/response_format",
            "/output_config/format",
            "/tool_choice",
            "/generationConfig/responseSchema",
            "/generationConfig/responseMimeType",
        ];
        let signs = [
            "response_format",
            "response format",
            "json_schema",
            "json_object",
            "json mode",
            "schema",
            "output_config",
            "output_format",
            "output format",
            "structured",
            "tool",
            "responsemimetype",
            "response_mime_type",
            "response mime type",
            "grammar",
            "guided",
        ];
        if has(&shape) && says(&signs) {
            next.shape = if self.shape == Shape::Schema { Shape::Loose } else { Shape::Plain };
            let what = if next.shape == Shape::Loose { "a looser form of JSON" } else { "no schema" };
            return Some((next, what));
        }
        if has(&["/stream_options"]) && says(&["stream_options", "include_usage", "stream options"]) {
            next.stream_options = false;
            return Some((next, "no stream_options"));
        }
        // Gemini asks for a stream in its URL.
        if self.stream
            && (has(&["/stream"]) || wire == Wire::Gemini)
            && words.replace("upstream", "").contains("stream")
        {
            next.stream = false;
            return Some((next, "no stream"));
        }
        None
    }
}

/// The limit a server names when ours, `now`, is beyond it.
fn smaller_limit(words: &str, now: u64) -> Option<u32> {
    static NAMED: LazyLock<Regex> = LazyLock::new(|| {
        pattern(
            r"(?:at most|> |less than or equal to|<= ?|up to|maximum (?:value )?(?:is|of)|between 1 and) ?([0-9][0-9,_]*)",
        )
    });
    NAMED
        .captures_iter(words)
        .filter_map(|found| found[1].replace([',', '_'], "").parse::<u32>().ok())
        .find(|most| *most >= 256 && u64::from(*most) < now)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn first() -> Dialect {
        let profile =
            Profile { reasoning: true, o_series: false, sampling: true, effort: true, max_output: None };
        Dialect::first(&profile, false)
    }

    fn step(dialect: &Dialect, sent: &Value, words: &str) -> Option<Dialect> {
        dialect.step_down(Wire::OpenAi, sent, words, None).map(|(next, _)| next)
    }

    #[test]
    fn complaints_about_things_not_sent_change_nothing() {
        let sent = json!({"model": "m", "messages": []});
        for words in
            ["temperature", "response_format", "max_tokens", "stream is not supported", "no such thing"]
        {
            assert_eq!(step(&first(), &sent, words), None, "{words}");
        }
    }

    #[test]
    fn schemas_step_down_to_nothing() {
        let sent = json!({"response_format": {}});
        let words = "response_format.type must be one of 'text'";
        let one = step(&first(), &sent, words).unwrap();
        let two = step(&one, &sent, words).unwrap();
        assert_eq!((one.shape, two.shape), (Shape::Loose, Shape::Plain));
        assert_eq!(step(&two, &json!({}), words), None);
    }

    #[test]
    fn the_limit_changes_its_name_once_and_then_goes() {
        let words = "Unsupported parameter: 'max_completion_tokens'";
        let one = step(&first(), &json!({"max_completion_tokens": 9_000}), words).unwrap();
        assert_eq!(one.limit, Limit::Tokens);
        let two = step(&one, &json!({"max_tokens": 9_000}), "'max_tokens' is not supported").unwrap();
        assert_eq!(two.limit, Limit::Unsaid);
        assert_eq!(step(&two, &json!({}), words), None);
    }

    #[test]
    fn a_named_limit_is_taken() {
        for words in [
            "max_tokens is too large: 64000. This model supports at most 16384 completion tokens, whereas you provided 64000.",
            "max_tokens: 64000 > 8192, which is the maximum allowed number of output tokens",
        ] {
            let next =
                first().step_down(Wire::Anthropic, &json!({"max_tokens": 64_000}), words, None).unwrap().0;
            assert!(matches!(next.most, Some(16_384 | 8_192)), "{words}");
        }
        let same =
            first().step_down(Wire::Anthropic, &json!({"max_tokens": 64_000}), "max_tokens is odd", None);
        assert!(same.is_none());
    }

    #[test]
    fn single_parameters_are_dropped_one_at_a_time() {
        let sent =
            json!({"temperature": 0.1, "reasoning_effort": "medium", "stream": true, "stream_options": {}});
        assert!(!step(&first(), &sent, "Unsupported value: 'temperature'").unwrap().sampling);
        assert!(!step(&first(), &sent, "unknown field reasoning_effort").unwrap().effort);
        let one = step(&first(), &sent, "stream_options: extra fields not permitted").unwrap();
        assert!(!one.stream_options && one.stream);
        assert!(!step(&first(), &sent, "Streaming is not supported").unwrap().stream);
        assert_eq!(step(&first(), &sent, "the upstream server refused"), None);
        let (by_param, _) =
            first().step_down(Wire::OpenAi, &sent, "Unknown parameter", Some("temperature")).unwrap();
        assert!(!by_param.sampling);
    }
}
