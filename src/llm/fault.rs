//! What went wrong with one try, and whether another may go better.

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;
use secrecy::SecretString;
use serde_json::Value;

use super::redact::{MAX_QUOTE, address, quote};
use super::retry::retry_after;
use super::routing::Route;
use super::said::Said;
use super::traffic::Down;
use super::{LlmError, LlmErrorKind};

/// A failed try.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) kind: LlmErrorKind,
    /// What happened, redacted, without model and advice.
    pub(crate) what: String,
    /// The status of the reply, or the one an error object inside it stands for.
    pub(crate) status: Option<u16>,
    /// Whether the reply's own status line said so.
    pub(crate) in_status_line: bool,
    /// The parameter the provider complains about, when it says so apart from its words.
    pub(crate) param: Option<String>,
    pub(crate) retry: bool,
    /// "Too many requests" and "overloaded" pass slowly.
    pub(crate) crowded: bool,
    /// The wait the server asks for.
    pub(crate) wait: Option<Duration>,
}

impl Fault {
    fn new(kind: LlmErrorKind, what: impl Into<String>, retry: bool) -> Self {
        Self {
            kind,
            what: what.into(),
            status: None,
            in_status_line: false,
            param: None,
            retry,
            crowded: false,
            wait: None,
        }
    }

    /// No connection, or one that broke.
    pub(crate) fn connection(what: impl Into<String>) -> Self {
        Self::new(LlmErrorKind::Connection, what, true)
    }

    /// Silence.
    pub(crate) fn stalled(what: impl Into<String>) -> Self {
        Self::new(LlmErrorKind::Timeout, what, true)
    }

    /// The provider is left alone for a while; with `fail_fast` another one is asked at once.
    pub(crate) fn down(down: &Down, fail_fast: bool) -> Self {
        let what = format!(
            "it is left alone after {} failed tries in a row, until a single call in {:.0} s shows whether it is up \
             again",
            down.failures,
            down.rest.as_secs_f64().ceil()
        );
        Self { wait: Some(down.rest), ..Self::new(LlmErrorKind::Server, what, !fail_fast) }
    }

    /// The caller's deadline passed.
    pub(crate) fn deadline(what: impl Into<String>) -> Self {
        Self::new(LlmErrorKind::Timeout, what, false)
    }

    /// A reply nobody can read.
    pub(crate) fn bad_reply(what: impl Into<String>) -> Self {
        Self::new(LlmErrorKind::BadReply, what, true)
    }

    /// A request that cannot be sent at all.
    pub(crate) fn bad_request(what: impl Into<String>) -> Self {
        Self::new(LlmErrorKind::BadRequest, what, false)
    }

    /// A prompt the server cut.
    pub(crate) fn context(what: impl Into<String>) -> Self {
        Self::new(LlmErrorKind::ContextLength, what, false)
    }

    /// A reply whose status line is not 2xx.
    pub(crate) fn of_status(
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        key: Option<&SecretString>,
    ) -> Self {
        let value = serde_json::from_slice::<Value>(body).ok();
        let said = value.as_ref().and_then(Said::find).unwrap_or_else(|| Said::plain(body));
        let mut fault = Self::classify(status, &said, key);
        fault.in_status_line = true;
        fault.what = if fault.what.is_empty() {
            format!("it answered {status} without a word")
        } else {
            format!("it answered {status}: {}", fault.what)
        };
        if (300..400).contains(&status) {
            let to = headers.get("location").and_then(|v| v.to_str().ok()).map(address).unwrap_or_default();
            fault.what =
                format!("it answered {status}, a redirection to {to}; give that address as the base URL");
        }
        fault.wait = retry_after(headers, SystemTime::now()).or(fault.wait);
        fault
    }

    /// An error object inside a reply or a stream that began well; `None` when `value` is not one.
    pub(crate) fn of_object(value: &Value, key: Option<&SecretString>) -> Option<Self> {
        let error = value.get("error").filter(|e| !e.is_null());
        if error.is_none() && value.get("type").is_none_or(|t| t != "error") {
            return None;
        }
        let said = Said::find(value).unwrap_or_default();
        let mut fault = Self::classify(said.status(), &said, key);
        fault.what = format!("it answered with an error: {}", fault.what);
        Some(fault)
    }

    fn classify(status: u16, said: &Said, key: Option<&SecretString>) -> Self {
        use LlmErrorKind as K;
        let code = format!("{} {}", said.code, said.kind).to_lowercase();
        let words = said.message.to_lowercase();
        let (kind, retry) = match status {
            400 | 413 | 422 if is_context(&words, &code) || status == 413 => (K::ContextLength, false),
            400 if words.contains("api key not valid") || words.contains("api_key_invalid") => {
                (K::Authentication, false)
            }
            400 if code.contains("content_filter") || code.contains("content_policy") => (K::Refusal, false),
            // OpenAI answers 403 to a model that the project may not use.
            403 if code.contains("model_not_found") => (K::ModelNotFound, false),
            401 | 403 => (K::Authentication, false),
            404 => (K::ModelNotFound, false),
            402 => (K::RateLimit, false),
            408 => (K::Timeout, true),
            429 => {
                (K::RateLimit, !code.contains("insufficient_quota") && !words.contains("insufficient_quota"))
            }
            409 | 500.. => (K::Server, true),
            _ => (K::BadRequest, false),
        };
        Self {
            status: Some(status),
            param: said.param.clone(),
            crowded: matches!(status, 429 | 503 | 529),
            wait: said.wait,
            ..Self::new(kind, quote(&said.message, key, MAX_QUOTE), retry)
        }
    }

    /// The error the caller sees after `tries` tries.
    pub(crate) fn into_error(self, route: &Route, agent: &str, tries: u32) -> LlmError {
        let key = route.key.as_ref();
        let (var, base) = (route.wire.key_var(), route.wire.base_var());
        let advice = match self.kind {
            LlmErrorKind::Authentication => {
                format!("Check the key: {var}, or {} in api_keys.", route.wire.key_name())
            }
            LlmErrorKind::ModelNotFound if route.custom => {
                format!("Check the model's name and the base URL ({base}; it often ends in /v1).")
            }
            LlmErrorKind::ModelNotFound => "Check the model's name and that your account may use it.".into(),
            LlmErrorKind::RateLimit if !self.retry => "Check the plan and the credit of the account.".into(),
            LlmErrorKind::RateLimit => "Wait, or use another model or fewer runs at once.".into(),
            LlmErrorKind::Connection if !route.custom => {
                "Check the network connection and the proxy (HTTPS_PROXY).".into()
            }
            LlmErrorKind::Connection => {
                format!("Check that the server runs and that {base} and the proxy are right.")
            }
            LlmErrorKind::Timeout => "Try again, or allow more time.".into(),
            LlmErrorKind::ContextLength => "Shorten the task or use a model with a longer context.".into(),
            _ => String::new(),
        };
        let times = if tries > 1 { format!(" (tried {tries} times)") } else { String::new() };
        let what = self.what.trim_end_matches('.');
        let message = format!(
            "the call of {agent} to model {} at {} failed{times}: {what}. {advice}",
            route.model,
            address(&route.base_url)
        );
        LlmError {
            kind: self.kind,
            message: super::redact::redact(message.trim_end(), key),
            status: self.status.filter(|_| self.in_status_line),
            model: route.model.clone(),
        }
    }
}

/// Whether a provider says that the prompt is too long. One that names the answer's limit means that instead.
fn is_context(words: &str, code: &str) -> bool {
    if code.contains("context_length_exceeded") || code.contains("exceed_context_size") {
        return true;
    }
    let limit = words.contains("max_tokens") || words.contains("max_completion_tokens");
    if limit && (words.contains("too large") || words.contains("maximum allowed number of output tokens")) {
        return false;
    }
    [
        "context length",
        "context window",
        "context size",
        "maximum context",
        "prompt is too long",
        "input is too long",
        "input token count",
        "exceeds the maximum number of tokens",
        "too many tokens",
    ]
    .iter()
    .any(|sign| words.contains(sign))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn of(status: u16, body: &Value) -> Fault {
        Fault::of_status(status, &HeaderMap::new(), body.to_string().as_bytes(), None)
    }

    #[test]
    fn statuses_decide_kind_and_retry() {
        use LlmErrorKind as K;
        let body = json!({"error": {"message": "m"}});
        for (status, kind, retry) in [
            (400, K::BadRequest, false),
            (401, K::Authentication, false),
            (403, K::Authentication, false),
            (404, K::ModelNotFound, false),
            (408, K::Timeout, true),
            (409, K::Server, true),
            (413, K::ContextLength, false),
            (422, K::BadRequest, false),
            (429, K::RateLimit, true),
            (500, K::Server, true),
            (503, K::Server, true),
            (529, K::Server, true),
        ] {
            let fault = of(status, &body);
            assert_eq!((fault.kind, fault.retry, fault.status), (kind, retry, Some(status)));
        }
        let quota =
            of(429, &json!({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}));
        assert!(!quota.retry);
    }

    #[test]
    fn long_prompts_are_told_from_long_answers() {
        for words in [
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
            "prompt is too long: 210000 tokens > 200000 maximum",
            "The input token count (1100000) exceeds the maximum number of tokens allowed (1048576).",
        ] {
            assert_eq!(
                of(400, &json!({"error": {"message": words}})).kind,
                LlmErrorKind::ContextLength,
                "{words}"
            );
        }
        for words in [
            "max_tokens is too large: 100000. This model supports at most 16384 completion tokens",
            "max_tokens: 64000 > 8192, which is the maximum allowed number of output tokens for claude-x",
        ] {
            assert_eq!(
                of(400, &json!({"error": {"message": words}})).kind,
                LlmErrorKind::BadRequest,
                "{words}"
            );
        }
    }

    #[test]
    fn error_objects_inside_a_reply_stand_for_a_status() {
        for (object, status) in [
            (json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}), 529),
            (json!({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "message": "m"}}), 429),
            (json!({"error": {"type": "invalid_request_error", "message": "m", "code": null}}), 400),
            (json!({"error": "went away"}), 500),
            (json!({"error": {"message": "m", "code": "502"}}), 502),
        ] {
            assert_eq!(Fault::of_object(&object, None).unwrap().status, Some(status), "{object}");
        }
        assert!(Fault::of_object(&json!({"error": null, "choices": []}), None).is_none());
    }

    #[test]
    fn words_come_from_every_shape_of_body_but_never_the_prompt() {
        let report = json!({"detail": [{"loc": ["body", "response_format"], "msg": "unknown", "input": "the prompt"}]});
        let fault = of(422, &report);
        assert!(fault.what.contains("body.response_format: unknown") && !fault.what.contains("prompt"));
        assert!(of(400, &json!([{"error": {"message": "in a list"}}])).what.contains("in a list"));
        let page = Fault::of_status(502, &HeaderMap::new(), b"<html><title>Bad Gateway</title>", None);
        assert!(page.what.ends_with("502: Bad Gateway"));
        let delay = json!({"error": {"message": "m", "details": [{"a": 1}, {"retryDelay": "34.5s"}]}});
        assert_eq!(of(429, &delay).wait, Some(Duration::from_millis(34_500)));
    }
}
