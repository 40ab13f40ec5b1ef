//! One agent's turn: a call of its model, and the bounded repairs of an answer that cannot be used.

use serde_json::json;

use super::prompts::{self, Prompt};
use crate::engine::Run;
use crate::error::Result;
use crate::exec::pictures::Picture;
use crate::llm::{CallOptions, Finish, LlmErrorKind, Message, Part, Reply, Request, Sampling, Schema, think};

/// How often a length-cut answer is continued.
const CONTINUATIONS: usize = 4;

const CONTINUE: &str = "Your answer was cut off by its length limit. Go on exactly where it stopped: begin with \
                        the very next character, repeat nothing, add no remark.";

/// An agent, ready to speak: its model and how that is reached.
#[derive(Debug, Clone, Default)]
pub struct Speaker {
    /// The agent's name.
    pub agent: String,
    /// The model's name.
    pub model: String,
    /// Sampling and effort.
    pub sampling: Sampling,
    /// Upper limit of an answer in tokens; `None` asks for all the model can give.
    pub max_output_tokens: Option<u32>,
    /// Provider, address and whether to stream, when the agent's configuration says so.
    pub route: CallOptions,
    /// Seconds a turn may take over all its calls.
    pub turn_seconds: Option<f64>,
}

impl Speaker {
    /// Begins a conversation with this prompt.
    pub fn talk<'a>(&'a self, prompt: &'a Prompt) -> Talk<'a> {
        Talk { speaker: self, system: &prompt.system, messages: vec![Self::said(prompt)], begun: None }
    }

    /// What a prompt says, its pictures included.
    fn said(prompt: &Prompt) -> Message {
        let mut message = Message::user(prompt.user.clone());
        message.parts.extend(prompt.pictures.iter().flat_map(|picture| {
            let Picture { name, media_type, base64 } = picture.clone();
            [Part::Text { text: format!("{name}:") }, Part::Image { media_type, base64 }]
        }));
        message
    }

    /// The request that says this.
    fn request(&self, system: &str, messages: &[Message], schema: Option<&Schema>) -> Request {
        Request {
            model: self.model.clone(),
            system: system.to_owned(),
            messages: messages.to_vec(),
            schema: schema.cloned(),
            sampling: self.sampling.clone(),
            max_output_tokens: self.max_output_tokens,
        }
    }

    /// Tokens by which a prompt is too long for the model.
    pub fn excess(&self, run: &Run, prompt: &Prompt) -> u64 {
        run.quote(&self.request(&prompt.system, &[Self::said(prompt)], None)).excess()
    }

    /// One answer as text.
    pub async fn text(&self, run: &Run, prompt: &Prompt) -> Result<String> {
        self.talk(prompt).answer(run, None).await
    }

    /// One structured answer: in the provider's own mode, read by `parse` (which also understands
    /// the Markdown form), with one repair turn that quotes what was wrong. Gives the value and the
    /// text it came from.
    pub async fn structured<T>(
        &self,
        run: &Run,
        prompt: &Prompt,
        schema: &Schema,
        parse: impl Fn(&str) -> std::result::Result<T, String>,
    ) -> Result<(T, String)> {
        let mut talk = self.talk(prompt);
        let text = talk.answer(run, Some(schema)).await?;
        match parse(&text) {
            Ok(value) => return Ok((value, text)),
            Err(error) => talk.object(&error),
        }
        let text = talk.answer(run, Some(schema)).await?;
        match parse(&text) {
            Ok(value) => Ok((value, text)),
            Err(error) => Err(run.answer_error(
                &self.agent,
                &self.model,
                LlmErrorKind::BadReply,
                format!(
                    "the {} ({}) gave no usable {} in two answers; the second one: {error}",
                    self.agent, self.model, schema.name
                ),
            )),
        }
    }
}

/// A conversation with one agent.
pub struct Talk<'a> {
    speaker: &'a Speaker,
    system: &'a str,
    messages: Vec<Message>,
    /// When it began, and how long humans had been waited for then.
    begun: Option<(f64, f64)>,
}

impl Talk<'_> {
    /// Says that the last answer cannot be used, and why.
    pub fn object(&mut self, fault: &str) {
        self.messages.push(Message::user(prompts::repair(&[fault.to_owned()])));
    }

    async fn call(&mut self, run: &Run, schema: Option<&Schema>) -> Result<Reply> {
        let route = CallOptions { deadline_seconds: self.seconds_left(run), ..self.speaker.route.clone() };
        let request = self.fitting(run, schema).await?;
        run.call(&self.speaker.agent, request, route).await
    }

    /// Seconds the next call may take.
    fn seconds_left(&mut self, run: &Run) -> Option<f64> {
        // What is over is cut at once: a call that is replayed takes no time, and is never refused.
        const LEAST: f64 = 0.001;
        let of_call = self.speaker.route.deadline_seconds;
        let Some(limit) = self.speaker.turn_seconds else { return of_call };
        let (now, waited) = (run.clock().now(), run.seconds_waiting());
        let (begun, before) = *self.begun.get_or_insert((now, waited));
        let left = (limit - (now - begun - (waited - before))).max(LEAST);
        Some(of_call.map_or(left, |of_call| of_call.min(left)))
    }

    /// The next request. A conversation that has outgrown the model's window loses its oldest answers; an
    /// answer that is being continued loses its beginning.
    async fn fitting(&mut self, run: &Run, schema: Option<&Schema>) -> Result<Request> {
        let Speaker { agent, model, .. } = self.speaker;
        let mut request = self.speaker.request(self.system, &self.messages, schema);
        let mut lost = 0;
        loop {
            let excess = run.quote(&request).excess();
            if excess == 0 || request.messages.len() < 3 {
                break;
            }
            if request.messages.len() > 3 {
                request.messages.drain(1..3);
                lost += 2;
                continue;
            }
            let Some(Part::Text { text }) = request.messages[1].parts.first_mut() else { break };
            let characters = text.chars().count();
            let less = usize::try_from(excess).unwrap_or(usize::MAX).saturating_mul(3).min(characters);
            if less == 0 {
                break;
            }
            *text = text.chars().skip(less).collect();
            lost += 1;
        }
        if lost > 0 {
            let about = json!({"model": model, "shortened": ["earlier answers of the same turn"]});
            run.tell(agent, "prompt_shortened", about).await?;
        }
        Ok(request)
    }

    /// The agent's next answer, whole: one that was cut is continued, an empty one asked for again
    /// once, a refusal is an error.
    pub async fn answer(&mut self, run: &Run, schema: Option<&Schema>) -> Result<String> {
        let Speaker { agent, model, .. } = self.speaker;
        let fail = |kind, message| Err(run.answer_error(agent, model, kind, message));
        let (mut text, mut cut, mut empty) = (String::new(), 0, 0);
        loop {
            // A schema would have the model begin anew instead of going on.
            let reply = self.call(run, schema.filter(|_| cut == 0)).await?;
            if let Finish::Refusal(words) = &reply.finish {
                let message = format!(
                    "{model} declined to answer: {words}. Rephrase the task or choose another model for the {agent}."
                );
                return fail(LlmErrorKind::Refusal, message);
            }
            let said = think::strip(&reply.text);
            let silent = said.trim().is_empty();
            match reply.finish {
                Finish::Length if silent || cut == CONTINUATIONS => {
                    let message = format!(
                        "{model} hit its output limit {} times and the answer of the {agent} is still incomplete; \
                         ask for less in one step, or choose a model with a larger output limit.",
                        cut + 1
                    );
                    return fail(LlmErrorKind::Incomplete, message);
                }
                Finish::Length => {
                    cut += 1;
                    text.push_str(&said);
                    self.messages.push(Message::assistant(said));
                    self.messages.push(Message::user(CONTINUE));
                }
                _ if silent && cut == 0 && empty == 0 => {
                    empty += 1;
                    self.messages.push(Message::assistant("(no answer)"));
                    self.messages.push(Message::user("Your answer was empty. Give it now, in full."));
                }
                _ if silent && cut == 0 => {
                    let message = format!(
                        "{model} answered the {agent} with nothing, also when asked again; check that the model and \
                         its server work, or choose another model."
                    );
                    return fail(LlmErrorKind::Incomplete, message);
                }
                _ => {
                    text.push_str(&said);
                    self.messages.push(Message::assistant(said));
                    return Ok(text);
                }
            }
        }
    }
}
