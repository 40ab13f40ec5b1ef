//! A provider that says what a test tells it to.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::{
    Call, CallOptions, Finish, LlmError, LlmErrorKind, Prices, Provider, Quote, Reply, Request, Usage, Watch,
};

/// What happens to a call.
#[derive(Debug, Clone)]
enum Line {
    Reply(Box<Reply>),
    Error(LlmError),
    Hang,
}

#[derive(Debug, Default)]
struct Script {
    lines: HashMap<String, VecDeque<Line>>,
    calls: Vec<Call>,
    vision: HashMap<String, bool>,
    unreachable: Vec<String>,
}

/// Answers by agent, each agent from its own queue, and remembers every call.
///
/// For tests of everything above [`Provider`]: no network, no clock.
#[derive(Debug, Default)]
pub struct ScriptedProvider {
    script: Mutex<Script>,
    prices: Option<Prices>,
}

impl ScriptedProvider {
    /// A provider with nothing to say yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A provider that knows what its models cost.
    pub fn priced(prices: Prices) -> Self {
        Self { prices: Some(prices), ..Self::default() }
    }

    /// Queues a complete answer of `agent`, with one token for each four characters.
    pub fn say(&self, agent: &str, text: &str) -> &Self {
        self.reply(agent, reply(text))
    }

    /// Queues any answer of `agent`.
    pub fn reply(&self, agent: &str, reply: Reply) -> &Self {
        self.queue(agent, Line::Reply(Box::new(reply)))
    }

    /// Queues a failure of a call of `agent`.
    pub fn fail(&self, agent: &str, kind: LlmErrorKind, message: &str) -> &Self {
        let error = LlmError { kind, message: message.into(), status: None, model: "scripted".into() };
        self.queue(agent, Line::Error(error))
    }

    /// Queues a call of `agent` that ends only when it is cancelled or dropped.
    pub fn hang(&self, agent: &str) -> &Self {
        self.queue(agent, Line::Hang)
    }

    /// `model` takes pictures, or is known not to.
    pub fn sees(&self, model: &str, vision: bool) -> &Self {
        self.lock().vision.insert(model.to_owned(), vision);
        self
    }

    /// There is no key for `model`.
    pub fn cannot_reach(&self, model: &str) -> &Self {
        self.lock().unreachable.push(model.to_owned());
        self
    }

    /// Every call so far, oldest first.
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// The agents of the calls so far, in order.
    pub fn agents(&self) -> Vec<String> {
        self.lock().calls.iter().map(|call| call.agent.clone()).collect()
    }

    /// How many queued lines nobody has asked for.
    pub fn left(&self) -> usize {
        self.lock().lines.values().map(VecDeque::len).sum()
    }

    fn queue(&self, agent: &str, line: Line) -> &Self {
        self.lock().lines.entry(agent.to_owned()).or_default().push_back(line);
        self
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Script> {
        // A panic of another test's assertion leaves the script as good as it was.
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Provider for ScriptedProvider {
    fn window(&self, model: &str) -> Option<u32> {
        self.prices.as_ref()?.window(model)
    }

    fn quote(&self, request: &Request) -> Quote {
        Quote::of(request, self.prices.as_ref())
    }

    fn vision(&self, model: &str) -> Option<bool> {
        self.lock().vision.get(model).copied()
    }

    fn reaches(&self, model: &str, _: &CallOptions) -> bool {
        !self.lock().unreachable.iter().any(|name| name == model)
    }

    fn call<'a>(&'a self, call: &'a Call, watch: &'a dyn Watch) -> BoxFuture<'a, Result<Reply, LlmError>> {
        async move {
            let cancelled = || LlmError {
                kind: LlmErrorKind::Cancelled,
                message: format!("the call of {} was cancelled", call.agent),
                status: None,
                model: call.request.model.clone(),
            };
            if call.cancel.is_cancelled() {
                return Err(cancelled());
            }
            let line = {
                let mut script = self.lock();
                script.calls.push(call.clone());
                script.lines.get_mut(&call.agent).and_then(VecDeque::pop_front)
            };
            match line {
                Some(Line::Reply(reply)) => {
                    watch.text(&reply.text);
                    Ok(*reply)
                }
                Some(Line::Error(error)) => Err(error),
                Some(Line::Hang) => {
                    call.cancel.cancelled().await;
                    Err(cancelled())
                }
                None => Err(LlmError {
                    kind: LlmErrorKind::BadReply,
                    message: format!("the script has no (further) line for agent {}", call.agent),
                    status: None,
                    model: call.request.model.clone(),
                }),
            }
        }
        .boxed()
    }
}

/// A complete answer with estimated tokens and no cost.
fn reply(text: &str) -> Reply {
    let tokens = u64::try_from(text.chars().count().div_ceil(4)).unwrap_or(u64::MAX);
    Reply {
        text: text.into(),
        finish: Finish::Stop,
        usage: Usage { prompt_tokens: 1, completion_tokens: tokens, ..Usage::default() },
        model: "scripted".into(),
        id: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::llm::{Message, Sampling};
    use tokio_util::sync::CancellationToken;

    struct Deaf;
    impl Watch for Deaf {
        fn text(&self, _: &str) {}
        fn retry(&self, _: &str, _: f64, _: u32) {}
    }

    fn call(agent: &str) -> Call {
        Call {
            request: Request {
                model: "m".into(),
                system: String::new(),
                messages: vec![Message::user("hi")],
                schema: None,
                sampling: Sampling::default(),
                max_output_tokens: None,
            },
            options: CallOptions::default(),
            agent: agent.into(),
            place: crate::llm::Place::default(),
            cancel: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn agents_speak_their_own_lines_in_order() {
        let provider = ScriptedProvider::new();
        provider.say("planner", "a").say("engineer", "b").fail("planner", LlmErrorKind::Server, "down");
        assert_eq!(provider.left(), 3);
        let ask = |agent: &'static str| {
            let provider = &provider;
            async move { provider.call(&call(agent), &Deaf).await }
        };
        assert_eq!(ask("engineer").await.unwrap().text, "b");
        assert_eq!(ask("planner").await.unwrap().text, "a");
        assert_eq!(ask("planner").await.unwrap_err().kind, LlmErrorKind::Server);
        assert!(ask("planner").await.unwrap_err().message.contains("planner"));
        assert_eq!(provider.agents(), ["engineer", "planner", "planner", "planner"]);
        assert_eq!(provider.left(), 0);
    }

    #[tokio::test]
    async fn hanging_calls_end_when_cancelled() {
        let provider = ScriptedProvider::new();
        provider.hang("engineer");
        let waiting = call("engineer");
        let (result, ()) = tokio::join!(provider.call(&waiting, &Deaf), async { waiting.cancel.cancel() });
        assert_eq!(result.unwrap_err().kind, LlmErrorKind::Cancelled);
    }
}
