//! What the three wire formats share: a body to send, and a draft that grows into a [`Reply`].

use serde_json::{Map, Value};

use super::dialect::{Dialect, Limit};
use super::fault::Fault;
use super::pricing::Prices;
use super::profile::Profile;
use super::routing::{Route, Wire};
use super::types::{Finish, Message, Part, Reply, Request, Usage};
use super::{anthropic, gemini, openai, schema, think};

/// Characters a token, for the estimates of servers that report nothing.
const CHARACTERS_PER_TOKEN: usize = 4;
/// Prompts shorter than this many tokens are not checked for having been cut.
const CUT_CHECK_FROM: u64 = 2_000;

/// Everything an adapter needs to build a body.
pub(crate) struct Ask<'a> {
    pub(crate) request: &'a Request,
    pub(crate) model: &'a str,
    pub(crate) profile: Profile,
    pub(crate) dialect: Dialect,
}

impl Ask<'_> {
    /// The limit to send, unless the dialect leaves it out.
    pub(crate) fn limit(&self) -> Option<u32> {
        let most = self.dialect.most.unwrap_or(u32::MAX);
        self.profile.max_output.map(|limit| limit.min(most)).filter(|_| self.dialect.limit != Limit::Unsaid)
    }

    pub(crate) fn temperature(&self) -> Option<f64> {
        self.request.sampling.temperature.filter(|_| self.samples())
    }

    pub(crate) fn top_p(&self) -> Option<f64> {
        self.request.sampling.top_p.filter(|_| self.samples())
    }

    /// The reasoning effort the caller asked for, where the model takes one.
    pub(crate) fn effort(&self) -> Option<&str> {
        let set = self.request.sampling.reasoning_effort.as_deref().filter(|e| !e.is_empty());
        set.filter(|_| self.profile.effort && self.dialect.effort)
    }

    fn samples(&self) -> bool {
        self.profile.sampling && self.dialect.sampling
    }
}

/// The body of a request.
pub(crate) fn body(wire: Wire, ask: &Ask<'_>) -> Value {
    match wire {
        Wire::OpenAi => openai::body(ask),
        Wire::Anthropic => anthropic::body(ask),
        Wire::Gemini => gemini::body(ask),
    }
}

/// Where it is posted.
pub(crate) fn url(route: &Route, stream: bool) -> String {
    match route.wire {
        Wire::OpenAi => openai::url(&route.base_url),
        Wire::Anthropic => anthropic::url(&route.base_url),
        Wire::Gemini => gemini::url(&route.base_url, &route.model, stream),
    }
}

/// What an event of a stream brought.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Delta {
    /// Words of the answer.
    pub(crate) text: String,
    /// The model has begun to work: words, reasoning or a tool's input came.
    pub(crate) alive: bool,
}

/// An answer in the making.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) text: String,
    /// The input of a forced tool, which is the structured answer.
    pub(crate) json: String,
    pub(crate) refusal: String,
    pub(crate) finish: Option<Finish>,
    /// Nothing more will come.
    pub(crate) ended: bool,
    pub(crate) usage: Option<Usage>,
    /// Prompt tokens written to the provider's cache.
    pub(crate) cache_writes: u64,
    pub(crate) model: Option<String>,
    pub(crate) id: Option<String>,
}

impl Draft {
    /// Takes one event's data.
    pub(crate) fn event(&mut self, wire: Wire, value: &Value) -> Result<Delta, Fault> {
        match wire {
            Wire::OpenAi => openai::event(self, value),
            Wire::Anthropic => Ok(anthropic::event(self, value)),
            Wire::Gemini => gemini::event(self, value),
        }
    }

    /// Takes a reply that came in one piece.
    pub(crate) fn whole(&mut self, wire: Wire, value: &Value) -> Result<(), Fault> {
        match wire {
            Wire::OpenAi => openai::whole(self, value),
            Wire::Anthropic => anthropic::whole(self, value),
            Wire::Gemini => gemini::whole(self, value),
        }
    }

    /// Notes id and model the first time they come.
    pub(crate) fn identify(&mut self, value: &Value, id: &str, model: &str) {
        let text =
            |name: &str| value.get(name).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned);
        self.id = self.id.take().or_else(|| text(id));
        self.model = self.model.take().or_else(|| text(model));
    }

    /// The reply, or a fault when it is not whole or the server cut the prompt.
    pub(crate) fn finish(
        mut self,
        request: &Request,
        route: &Route,
        prices: &Prices,
    ) -> Result<Reply, Fault> {
        let Some(mut finish) = self.finish.take() else {
            return Err(Fault::connection("the answer broke off: the stream ended without its last part"));
        };
        if !self.refusal.trim().is_empty() {
            finish = Finish::Refusal(self.refusal.trim().to_owned());
        }
        let mut text = if self.json.is_empty() { think::strip(&self.text) } else { self.json };
        if let Some(wanted) = &request.schema {
            text = schema::drop_nulls(&text, &wanted.schema);
        }
        let ours = estimate(request.characters());
        let mut usage = match self.usage {
            Some(usage) if usage.prompt_tokens > 0 || usage.completion_tokens > 0 => usage,
            _ => estimated(request, self.text.chars().count().max(text.chars().count())),
        };
        let theirs = usage.prompt_tokens;
        if theirs > 0 && ours > CUT_CHECK_FROM && theirs < ours / 4 {
            return Err(Fault::context(format!(
                "the server read only {theirs} tokens of a prompt of about {ours}, so it cut the prompt without a word \
                 and the answer is worthless; raise the context of the model there (Ollama: num_ctx in the Modelfile \
                 or OLLAMA_CONTEXT_LENGTH; llama.cpp: --ctx-size; vLLM: --max-model-len)"
            )));
        }
        let said = self.model.unwrap_or_else(|| route.model.clone());
        let cost = |model: &str| prices.cost_with_writes(model, &usage, self.cache_writes);
        usage.cost = cost(&route.model).or_else(|| cost(&said));
        Ok(Reply { text, finish, usage, model: said, id: self.id })
    }
}

/// What a call with an answer of so many characters has used, where the server does not say.
pub(crate) fn estimated(request: &Request, characters: usize) -> Usage {
    Usage {
        prompt_tokens: estimate(request.characters()),
        completion_tokens: estimate(characters),
        ..Usage::default()
    }
}

pub(crate) fn estimate(characters: usize) -> u64 {
    u64::try_from(characters.div_ceil(CHARACTERS_PER_TOKEN)).unwrap_or(u64::MAX)
}

/// The text of a turn's text parts, or `None` when it has pictures.
pub(crate) fn text_only(message: &Message) -> Option<String> {
    let texts: Option<Vec<&str>> = message
        .parts
        .iter()
        .map(|part| match part {
            Part::Text { text } => Some(text.as_str()),
            Part::Image { .. } => None,
        })
        .collect();
    texts.map(|t| t.join("\n\n"))
}

/// A count, which some servers write as a float or as null.
pub(crate) fn count(value: &Value, pointer: &str) -> Option<u64> {
    let number = value.pointer(pointer)?;
    // Counts are small and whole; the cast saturates on nonsense.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    number.as_u64().or_else(|| number.as_f64().map(|n| n as u64))
}

/// Puts `value` under `key` when there is one.
pub(crate) fn put(map: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        map.insert(key.into(), value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::types::Sampling;
    use serde_json::json;

    /// `value` with every part of it, one after the other, replaced by something odd.
    fn spoiled(value: &Value) -> Vec<Value> {
        let odd = [json!(null), json!(-1.5), json!("x"), json!([]), json!([[1]]), json!({}), json!(true)];
        let mut all = odd.to_vec();
        let mut parts: Vec<(String, Value)> = Vec::new();
        match value {
            Value::Object(map) => parts.extend(map.iter().map(|(k, v)| (format!("/{k}"), v.clone()))),
            Value::Array(items) => {
                parts.extend(items.iter().enumerate().map(|(n, v)| (format!("/{n}"), v.clone())));
            }
            _ => {}
        }
        for (pointer, part) in parts {
            for replacement in spoiled(&part) {
                let mut copy = value.clone();
                if let Some(place) = copy.pointer_mut(&pointer) {
                    *place = replacement;
                }
                all.push(copy);
            }
        }
        all
    }

    #[test]
    fn no_reply_however_odd_makes_it_panic() {
        let request = Request {
            model: "m".into(),
            system: String::new(),
            messages: vec![Message::user("hi")],
            schema: None,
            sampling: Sampling::default(),
            max_output_tokens: None,
        };
        let prices = Prices::builtin();
        let cases = [
            (
                Wire::OpenAi,
                json!({"id": "i", "choices": [{"index": 0, "finish_reason": "stop", "delta": {"content": [{"type": "text",
                    "text": "a"}], "reasoning": "r", "refusal": null}}], "usage": {"prompt_tokens": 3,
                    "prompt_tokens_details": {"cached_tokens": 1}}}),
            ),
            (
                Wire::Anthropic,
                json!({"type": "message_delta", "delta": {"stop_reason": "refusal", "stop_details": {"category": "c"}},
                    "usage": {"input_tokens": 3, "cache_read_input_tokens": 2, "output_tokens_details": {"thinking_tokens": 1}},
                    "content": [{"type": "tool_use", "input": {"a": 1}}], "stop_reason": "end_turn"}),
            ),
            (
                Wire::Anthropic,
                json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "a"}}),
            ),
            (
                Wire::Gemini,
                json!({"candidates": [{"content": {"parts": [{"text": "a", "thought": false}]}, "finishReason": "STOP"}],
                    "promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}}),
            ),
        ];
        for (wire, value) in cases {
            let base_url = "http://x".to_owned();
            let route = Route { wire, model: "m".into(), base_url, custom: true, key: None };
            for odd in spoiled(&value) {
                let mut draft = Draft::default();
                if draft.event(wire, &odd).is_ok()
                    && draft.event(wire, &value).is_ok()
                    && draft.finish.is_some()
                {
                    let reply = draft.finish(&request, &route, &prices);
                    assert!(reply.is_ok_and(|r| r.usage.prompt_tokens > 0), "{odd}");
                }
                let mut draft = Draft::default();
                if draft.whole(wire, &odd).is_ok() {
                    assert!(draft.finish(&request, &route, &prices).is_ok(), "{odd}");
                }
                assert!(Fault::of_object(&odd, None).is_none(), "{odd}");
            }
        }
    }
}
