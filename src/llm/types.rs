//! What is said to a model and what comes back, free of any wire format.

use serde::{Deserialize, Serialize};

/// One call of a model: everything that decides the answer, and no secret.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The model's name as the user wrote it; unknown names pass through.
    pub model: String,
    /// The system prompt. Unchanging text comes first, so that provider caches work.
    pub system: String,
    /// The conversation, oldest first; the first and the last are the user's.
    pub messages: Vec<Message>,
    /// The shape of a structured answer, when one is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<Schema>,
    /// Sampling and effort.
    #[serde(default)]
    pub sampling: Sampling,
    /// Upper limit of the answer in tokens; `None` asks for all the model can give.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u32>,
}

impl Request {
    /// Characters of everything that is sent as text.
    pub fn characters(&self) -> usize {
        let parts = self.messages.iter().flat_map(|m| &m.parts);
        let text = parts.map(|p| match p {
            Part::Text { text } => text.chars().count(),
            Part::Image { .. } => 0,
        });
        self.system.chars().count() + text.sum::<usize>()
    }
}

/// Sampling parameters; those a model does not take are left out by its adapter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sampling {
    /// Temperature, 0 to 2.
    pub temperature: Option<f64>,
    /// Nucleus sampling, 0 to 1.
    pub top_p: Option<f64>,
    /// `low`, `medium`, `high`, … for reasoning models.
    pub reasoning_effort: Option<String>,
}

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The user's side: us.
    User,
    /// The model.
    Assistant,
}

/// One turn of the conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub parts: Vec<Part>,
}

impl Message {
    /// A turn of ours made of text alone.
    pub fn user(text: impl Into<String>) -> Self {
        Self { role: Role::User, parts: vec![Part::Text { text: text.into() }] }
    }

    /// A turn of the model made of text alone.
    pub fn assistant(text: impl Into<String>) -> Self {
        Self { role: Role::Assistant, parts: vec![Part::Text { text: text.into() }] }
    }
}

/// A piece of a turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Part {
    /// Plain text.
    Text {
        /// The text.
        text: String,
    },
    /// A picture.
    Image {
        /// Its MIME type, such as `image/png`.
        media_type: String,
        /// Its bytes in Base64.
        base64: String,
    },
}

/// The shape of a structured answer, in plain JSON Schema (objects, arrays, strings, numbers,
/// booleans, enums); each adapter turns it into its provider's dialect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Schema {
    /// A short identifier, such as `plan`.
    pub name: String,
    /// The JSON Schema of the answer; its root is an object.
    pub schema: serde_json::Value,
}

/// A model's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The text, without reasoning parts. With a schema: the JSON text (or whatever came instead).
    pub text: String,
    /// Why the model stopped.
    pub finish: Finish,
    /// What it cost.
    pub usage: Usage,
    /// The model as the provider names it, else as we did.
    pub model: String,
    /// The provider's id of the answer, for its support desk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// Why a model stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "reason", content = "detail")]
pub enum Finish {
    /// It had said all.
    Stop,
    /// Its output limit cut it: the text is incomplete.
    Length,
    /// It or a filter declined; the provider's words.
    Refusal(String),
}

/// Tokens and dollars of one answer, or of many added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Tokens of the prompt, cached ones included.
    pub prompt_tokens: u64,
    /// Tokens of the answer, reasoning included.
    pub completion_tokens: u64,
    /// Those of the prompt that came from the provider's cache.
    pub cached_tokens: u64,
    /// Those of the answer that were spent on reasoning.
    pub reasoning_tokens: u64,
    /// Dollars by the price table; `None` when the model is not in it.
    pub cost: Option<f64>,
}
