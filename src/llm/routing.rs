//! From a model's name to a provider, an address and a key.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use super::{CallOptions, Keys, LlmError, LlmErrorKind};

/// How environment variables are read; injected, so that nothing is read at import and tests are alone.
pub type Env = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The process's own environment.
pub fn process_env() -> Env {
    Arc::new(|name| std::env::var(name).ok())
}

/// The wire formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wire {
    /// OpenAI Chat Completions, and everything that speaks it.
    OpenAi,
    /// Anthropic Messages.
    Anthropic,
    /// Gemini generateContent.
    Gemini,
}

impl Wire {
    /// The name its key is stored under.
    pub fn key_name(self) -> &'static str {
        match self {
            Self::OpenAi => "OPENAI",
            Self::Anthropic => "ANTHROPIC",
            Self::Gemini => "GEMINI",
        }
    }

    /// The format as a word.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
        }
    }

    /// The variable its key usually comes from.
    pub fn key_var(self) -> &'static str {
        match self {
            Self::OpenAi => "OPENAI_API_KEY",
            Self::Anthropic => "ANTHROPIC_API_KEY",
            Self::Gemini => "GEMINI_API_KEY",
        }
    }

    /// The variable that replaces its base URL.
    pub fn base_var(self) -> &'static str {
        match self {
            Self::OpenAi => "OPENAI_BASE_URL",
            Self::Anthropic => "ANTHROPIC_BASE_URL",
            Self::Gemini => "GEMINI_BASE_URL",
        }
    }

    fn home(self) -> &'static str {
        match self {
            Self::OpenAi => "https://api.openai.com/v1",
            Self::Anthropic => "https://api.anthropic.com",
            Self::Gemini => "https://generativelanguage.googleapis.com",
        }
    }

    fn of_api_type(name: &str) -> Option<Self> {
        match name.trim().to_lowercase().as_str() {
            "openai" => Some(Self::OpenAi),
            "anthropic" => Some(Self::Anthropic),
            "google" | "gemini" => Some(Self::Gemini),
            _ => None,
        }
    }

    /// The original package's substring rules; unknown names speak OpenAI's format.
    pub fn of_model(model: &str) -> Self {
        let model = model.to_lowercase();
        if model.contains("o3") {
            Self::OpenAi
        } else if model.contains("gemini") {
            Self::Gemini
        } else if model.contains("claude") {
            Self::Anthropic
        } else {
            Self::OpenAi
        }
    }
}

/// Where a call goes.
#[derive(Debug, Clone)]
pub struct Route {
    /// The format to speak.
    pub wire: Wire,
    /// The model's name as it is sent.
    pub model: String,
    /// The base URL, without a slash at its end.
    pub base_url: String,
    /// Whether the base URL is the user's and not the provider's own.
    pub custom: bool,
    /// The key, when there is one.
    pub key: Option<SecretString>,
}

/// Finds the route of a call for `model`.
///
/// `api_type` decides the format, else the name. A `provider/model` name goes as it is to the server that
/// `OPENAI_BASE_URL` (or the call's own base URL) names, since gateways call their models so; without one, a
/// known prefix names the provider and is taken off. Keys are asked for the chosen provider only, and none is
/// needed with a base URL.
///
/// Fails with [`LlmErrorKind::MissingKey`], or [`LlmErrorKind::BadRequest`] for an unknown `api_type`, an empty
/// model name or a base URL without scheme.
pub fn route(
    model: &str,
    options: &CallOptions,
    env: &dyn Fn(&str) -> Option<String>,
    keys: &dyn Keys,
) -> Result<Route, LlmError> {
    let model = model.trim();
    let bad = |message: String| LlmError {
        kind: LlmErrorKind::BadRequest,
        message,
        status: None,
        model: model.to_owned(),
    };
    if model.is_empty() {
        return Err(bad("expected the name of a model, such as gpt-4.1; the name is empty".into()));
    }
    let set = |name: &str| env(name).map(|url| url.trim().to_owned()).filter(|url| !url.is_empty());
    let own = options.base_url.as_deref().map(str::trim).filter(|url| !url.is_empty()).map(str::to_owned);

    let (wire, name) = match options.api_type.as_deref().filter(|name| !name.trim().is_empty()) {
        Some(api_type) => {
            let wire = Wire::of_api_type(api_type).ok_or_else(|| {
                bad(format!(
                    "api_type of model {model} must be openai, anthropic, google or gemini, not {api_type:?}; \
                     for any other server that speaks OpenAI's format use openai and a base_url"
                ))
            })?;
            (wire, if own.is_some() { model } else { without_prefix(model, Some(wire)) })
        }
        None if model.contains('/') && (own.is_some() || set("OPENAI_BASE_URL").is_some()) => {
            (Wire::OpenAi, model)
        }
        None => {
            let prefix = model.split_once('/').and_then(|(prefix, _)| Wire::of_api_type(prefix));
            let name = without_prefix(model, prefix);
            (prefix.unwrap_or_else(|| Wire::of_model(name)), name)
        }
    };

    let base = own.or_else(|| set(wire.base_var()));
    let custom = base.is_some();
    let base_url = base.unwrap_or_else(|| wire.home().into()).trim_end_matches('/').to_owned();
    if !base_url.starts_with("http://") && !base_url.starts_with("https://") {
        return Err(bad(format!(
            "the base URL of model {model} must begin with http:// or https://, such as http://localhost:11434/v1; \
             see {} or base_url",
            wire.base_var()
        )));
    }
    let filled = |key: &SecretString| !key.expose_secret().trim().is_empty();
    let key = options.api_key.clone().filter(filled).or_else(|| keys.get(wire.key_name()).filter(filled));
    if key.is_none() && !custom {
        return Err(LlmError {
            kind: LlmErrorKind::MissingKey,
            message: format!(
                "model {model} needs a key: set {} (or pass api_keys={{\"{}\": …}}); \
                 for a local server or a gateway set {} instead",
                wire.key_var(),
                wire.key_name(),
                wire.base_var()
            ),
            status: None,
            model: model.to_owned(),
        });
    }
    Ok(Route { wire, model: name.to_owned(), base_url, custom, key })
}

/// `model` without the prefix that says what `wire` already says.
fn without_prefix(model: &str, wire: Option<Wire>) -> &str {
    match model.split_once('/') {
        Some(("models", name)) if wire.is_none_or(|w| w == Wire::Gemini) => name,
        Some((prefix, name)) if wire.is_some() && Wire::of_api_type(prefix) == wire => name,
        _ => model,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Mutex;

    /// Keys that remember which were asked for.
    #[derive(Default)]
    struct Asked(Mutex<Vec<String>>);
    impl Keys for Asked {
        fn get(&self, name: &str) -> Option<SecretString> {
            self.0.lock().unwrap().push(name.into());
            (name != "GEMINI").then(|| SecretString::from(format!("key-{name}")))
        }
    }

    fn no_env(_: &str) -> Option<String> {
        None
    }

    fn plain(model: &str) -> Result<Route, LlmError> {
        route(model, &CallOptions::default(), &no_env, &Asked::default())
    }

    #[test]
    fn names_decide_by_substring() {
        for (model, wire, sent) in [
            ("gpt-4.1-2025-04-14", Wire::OpenAi, "gpt-4.1-2025-04-14"),
            ("o3-mini", Wire::OpenAi, "o3-mini"),
            ("claude-3-7-sonnet", Wire::Anthropic, "claude-3-7-sonnet"),
            ("anthropic/claude-sonnet-5", Wire::Anthropic, "claude-sonnet-5"),
            ("openai/gpt-5", Wire::OpenAi, "gpt-5"),
            ("qwen3:30b", Wire::OpenAi, "qwen3:30b"),
            ("meta-llama/Llama-3", Wire::OpenAi, "meta-llama/Llama-3"),
        ] {
            let route = plain(model).unwrap();
            assert_eq!((route.wire, route.model.as_str(), route.custom), (wire, sent, false), "{model}");
        }
    }

    #[test]
    fn only_the_named_key_is_asked_for_and_its_absence_explained() {
        let keys = Asked::default();
        let error = route("gemini-2.5-pro", &CallOptions::default(), &no_env, &keys).unwrap_err();
        assert_eq!(*keys.0.lock().unwrap(), ["GEMINI"]);
        assert_eq!(error.kind, LlmErrorKind::MissingKey);
        assert!(error.message.contains("GEMINI_API_KEY") && error.message.contains("GEMINI_BASE_URL"));
    }

    #[test]
    fn a_base_url_needs_no_key_and_takes_gateway_names() {
        let env = |name: &str| (name == "OPENAI_BASE_URL").then(|| " http://localhost:11434/v1/ ".to_owned());
        let none = |model: &str| route(model, &CallOptions::default(), &env, &Asked::default());
        let gateway = none("anthropic/claude-sonnet-5").unwrap();
        assert_eq!((gateway.wire, gateway.model.as_str()), (Wire::OpenAi, "anthropic/claude-sonnet-5"));
        assert_eq!((gateway.base_url.as_str(), gateway.custom), ("http://localhost:11434/v1", true));
        assert_eq!(none("claude-sonnet-5").unwrap().wire, Wire::Anthropic);

        let env = |name: &str| (name == "GEMINI_BASE_URL").then(|| "http://localhost:1".to_owned());
        let local = route("models/gemini-x", &CallOptions::default(), &env, &Asked::default()).unwrap();
        assert!(local.key.is_none() && local.custom);
        assert_eq!(local.model, "gemini-x");
    }

    #[test]
    fn options_win() {
        let options = CallOptions {
            api_type: Some("Anthropic".into()),
            base_url: Some("http://proxy/".into()),
            api_key: Some(SecretString::from("mine".to_owned())),
            ..CallOptions::default()
        };
        let keys = Asked::default();
        let route = route("gpt-like", &options, &no_env, &keys).unwrap();
        assert_eq!((route.wire, route.base_url.as_str()), (Wire::Anthropic, "http://proxy"));
        assert_eq!(route.key.unwrap().expose_secret(), "mine");
        assert!(keys.0.lock().unwrap().is_empty());
    }

    #[test]
    fn mistakes_are_explained() {
        let options = CallOptions { api_type: Some("azure".into()), ..CallOptions::default() };
        let error = route("gpt-4.1", &options, &no_env, &Asked::default()).unwrap_err();
        assert!(error.message.contains("azure") && error.message.contains("base_url"));
        let options = CallOptions { base_url: Some("localhost:1234".into()), ..CallOptions::default() };
        let error = route("gpt-4.1", &options, &no_env, &Asked::default()).unwrap_err();
        assert!(error.message.contains("http://"));
        assert_eq!(plain("  ").unwrap_err().kind, LlmErrorKind::BadRequest);
    }
}
