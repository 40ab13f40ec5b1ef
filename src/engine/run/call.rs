//! Calling a model: within the limits, and of another model where this one cannot be reached.

use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Run;
use super::gate::internal;
use super::watch::CallWatch;
use crate::engine::budget::{self, Held, Kind, Refusal};
use crate::engine::ledger::{Line, Total};
use crate::engine::limits::OnLimit;
use crate::engine::{Answer, Control, Question};
use crate::error::{Error, Result};
use crate::journal::{Effect, Position};
use crate::llm::ocr::Reading;
use crate::llm::place::Place;
use crate::llm::{self, CallOptions, LlmError, LlmErrorKind, Quote, Reply, Request, Usage};

/// Questions about limits stand beside the calls of their turn, from this number on.
const QUESTIONS: u32 = 1 << 31;
/// Seconds that a human has to say whether a limit is to be raised.
const ASKED_SECONDS: u64 = 86_400;

/// What came of a call, as it is recorded.
#[derive(Serialize, Deserialize)]
pub(super) struct Called {
    said: Said,
    seconds: f64,
    /// The model that answered.
    model: String,
    /// Where the request differed from a tape's.
    differences: Vec<Value>,
    #[serde(skip)]
    held: Held,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Said {
    Answer(Reply),
    /// A document that was read.
    Pages(Reading),
    /// It failed in a place that goes on from that.
    Failure(LlmError),
}

impl Called {
    pub(super) fn read(recorded: &Value) -> Result<Self> {
        Self::deserialize(recorded).map_err(internal)
    }

    /// A document that `model` has read.
    pub(super) fn reading(
        reading: Reading,
        model: &str,
        seconds: f64,
        differences: Vec<Value>,
        held: Held,
    ) -> Self {
        Self { said: Said::Pages(reading), seconds, model: model.into(), differences, held }
    }

    /// What it cost; a failure has told that already, as far as it is known.
    pub(super) fn line(&self, agent: &str) -> Option<Line> {
        match &self.said {
            Said::Answer(reply) => Some(Line::new(agent, &self.model, reply.usage)),
            Said::Pages(reading) => {
                let usage = Usage { cost: reading.cost, ..Usage::default() };
                Some(Line::new(agent, &self.model, usage))
            }
            Said::Failure(_) => None,
        }
    }

    /// The document, how long it took to read, and where it differs from a tape's.
    pub(super) fn into_reading(self) -> Option<(Reading, f64, Vec<Value>)> {
        let Said::Pages(reading) = self.said else { return None };
        Some((reading, self.seconds, self.differences))
    }
}

/// A call as it is to be made, and what is reserved for it.
struct Offer {
    request: Request,
    options: CallOptions,
    held: Held,
}

/// What a call has tried to be let through a limit.
#[derive(Default)]
struct Plea<'a> {
    /// Held while humans are asked: one question about limits at a time.
    alone: Option<tokio::sync::MutexGuard<'a, ()>>,
    questions: u32,
}

impl Run {
    /// Calls a model.
    ///
    /// # Errors
    /// [`Error::OverLimit`] when it does not fit within a limit, [`Error::Limit`] when a phase has made all its
    /// calls, [`Error::Model`] when it failed for good, and what stops the run.
    pub async fn call(&self, agent: &str, request: Request, options: CallOptions) -> Result<Reply> {
        self.count_call()?;
        self.hold().await?;
        let about = json!({"model": &request.model, "prompt_characters": request.characters()});
        self.tell(agent, "call_started", about).await?;
        let input = serde_json::to_value(&request).map_err(internal)?;
        let place = self.next_call(agent);
        let prepare = async |position| {
            let offer = self.admit(position, agent, request, options).await?;
            let mut sent = self.sent(agent, &offer, &input);
            sent["place"] = json!(&place);
            Ok((sent, (position, place, offer)))
        };
        let act = |control, (position, place, offer)| self.converse(position, place, agent, offer, control);
        let called: Called = self.pass_prepared(Effect::Call, &input, prepare, act).await?;
        let line = called.line(agent);
        let usage = Total::of(&line).to_json();
        if let Some(line) = line {
            self.charge(line);
        }
        let Called { said, seconds, model, differences, held } = called;
        drop(held);
        self.warn_of(agent, differences).await?;
        let reply = match said {
            Said::Answer(reply) => reply,
            Said::Pages(_) => return Err(self.changed("a document was read where a call follows now")),
            Said::Failure(error) => return Err(self.model_error(agent, error)),
        };
        let about = json!({"model": model, "seconds": seconds, "usage": usage, "text": reply.text});
        self.tell(agent, "call_finished", about).await?;
        Ok(reply)
    }

    /// What is recorded of a call before it is sent: should its outcome never be known, its bounds count.
    fn sent(&self, agent: &str, offer: &Offer, input: &Value) -> Value {
        let Offer { request, options, held } = offer;
        let bound = |request: &Request| {
            let quote = self.quote(request);
            quote.cost(quote.max_output?)
        };
        let others =
            options.fallbacks.iter().map(|model| Request { model: model.clone(), ..request.clone() });
        let bound = others.filter_map(|other| bound(&other)).chain(bound(request)).reduce(f64::max);
        let mut sent = json!({"agent": agent, "model": &request.model, "bound": bound, "request": input});
        if held.tokens() > 0 {
            sent["tokens"] = json!(held.tokens());
        }
        sent
    }

    /// Makes the call; while its model cannot be reached, the fallbacks in turn.
    async fn converse(
        &self,
        position: Position,
        place: Place,
        agent: &str,
        offer: Offer,
        control: Control,
    ) -> Result<Called> {
        let Offer { request, mut options, mut held } = offer;
        let mut others = std::mem::take(&mut options.fallbacks).into_iter();
        options.fail_fast = others.len() > 0;
        let cancel = control.token.clone();
        let mut call = llm::Call { request, options, agent: agent.into(), place, cancel };
        loop {
            let started = self.clock().now();
            let (answered, differences) = {
                let watch = CallWatch::new(self, agent, &call.request.model);
                let answered = self.provider().call(&call, &watch).await;
                (answered.inspect(|_| watch.replied()), watch.differences())
            };
            let seconds = self.clock().now() - started;
            let error = match answered {
                Ok(reply) => {
                    let (said, model) = (Said::Answer(reply), call.request.model);
                    return Ok(Called { said, seconds, model, differences, held });
                }
                Err(error) => error,
            };
            let next = others.next().filter(|_| error.kind.is_elsewhere_better());
            let Some(next) = next else {
                if self.is_tolerant() && error.kind != LlmErrorKind::Cancelled {
                    let (said, model) = (Said::Failure(error), call.request.model);
                    return Ok(Called { said, seconds, model, differences, held });
                }
                self.warn_of(agent, differences).await?;
                return Err(self.model_error(agent, error));
            };
            self.warn_of(agent, differences).await?;
            let about = json!({"model": &call.request.model, "next": &next, "reason": error.message});
            self.announce_by(agent, "model_fallback", about)?;
            drop(held);
            let request = Request { model: next, ..call.request };
            let options = CallOptions { fail_fast: others.len() > 0, ..call.options.elsewhere() };
            let offer = self.admit(position, agent, request, options).await?;
            let place = self.next_call(agent);
            call = llm::Call { request: offer.request, options: offer.options, place, ..call };
            held = offer.held;
        }
    }

    /// Reserves what a call may take, with a shorter answer or another model where a limit wants it.
    async fn admit(
        &self,
        position: Position,
        agent: &str,
        mut request: Request,
        mut options: CallOptions,
    ) -> Result<Offer> {
        let mut plea = Plea::default();
        loop {
            let quote = self.quote(&request);
            if let Some(window) = quote.hopeless() {
                let message = format!(
                    "the prompt of the {agent} has about {} tokens, and {} reads {window}; it was not sent. Choose \
                     a model with a larger window, or shorten the task and the instructions",
                    quote.likely_tokens, request.model
                );
                return Err(self.answer_error(agent, &request.model, LlmErrorKind::ContextLength, message));
            }
            let refusal = match budget::reserve(&self.budgets, &quote, agent, &request.model) {
                Ok(held) => {
                    if let Some(output) = held.output {
                        if held.lowered {
                            let about = json!({
                                "model": &request.model, "max_output_tokens": output, "wanted": quote.output(),
                            });
                            self.announce_by(agent, "answer_limited", about)?;
                        }
                        request.max_output_tokens = Some(output);
                    }
                    return Ok(Offer { request, options, held });
                }
                Err(refusal) => refusal,
            };
            if let OnLimit::Cheaper(model) = refusal.budget.on_limit()
                && matches!(refusal.kind, Kind::Cost | Kind::Unpriced)
                && *model != request.model
            {
                let about = json!({"model": &request.model, "next": model, "reason": refusal.message});
                self.announce_by(agent, "model_replaced", about)?;
                request.model.clone_from(model);
                options = CallOptions { fallbacks: Vec::new(), ..options.elsewhere() };
                continue;
            }
            self.over(position, refusal, &mut plea).await?;
        }
    }

    /// Lets the reading of a document through the limits.
    pub(super) async fn admit_reading(&self, position: Position, agent: &str, model: &str) -> Result<Held> {
        let mut plea = Plea::default();
        loop {
            match budget::reserve(&self.budgets, &Quote::of_reading(), agent, model) {
                Ok(held) => return Ok(held),
                Err(refusal) => self.over(position, refusal, &mut plea).await?,
            }
        }
    }

    /// Deals with a limit that is reached: returns when a human has raised it.
    async fn over<'a>(&'a self, position: Position, refusal: Refusal, plea: &mut Plea<'a>) -> Result<()> {
        let Refusal { kind, budget, message } = refusal;
        let asks = *budget.on_limit() == OnLimit::Ask && kind != Kind::Unpriced && self.has_approvals();
        if asks && plea.alone.is_none() {
            // Another call may have asked meanwhile.
            plea.alone = Some(self.one_question().lock().await);
            return Ok(());
        }
        let setting = kind.setting();
        let raised = if asks {
            plea.questions += 1;
            // A turn has few calls, and a call few questions.
            let beside = self.beside(QUESTIONS | (position.call << 8) | plea.questions);
            ask_for_more(&beside, setting, &message).await?
        } else {
            None
        };
        let Some(limit) = raised.and_then(|to| budget.raise(kind, to)) else {
            let about = json!({"setting": setting, "scope": budget.scope(), "message": &message});
            self.announce("limit_reached", about)?;
            return Err(Error::OverLimit(message));
        };
        self.announce("limit_raised", json!({"setting": setting, "scope": budget.scope(), "limit": limit}))
    }

    /// Checks that there is time left for an effect that is no call.
    pub(super) async fn in_time(&self, position: Position) -> Result<()> {
        let mut plea = Plea::default();
        while let Err(refusal) = budget::in_time(&self.budgets) {
            self.over(position, refusal, &mut plea).await?;
        }
        Ok(())
    }

    /// Does an effect within the time that is left; a limit that asks lets it go on to its end.
    pub(super) async fn before_late<T>(&self, act: impl Future<Output = Result<T>>) -> Result<T> {
        let mut act = std::pin::pin!(act);
        loop {
            let limited = self.budgets.iter().filter(|budget| *budget.on_limit() != OnLimit::Ask);
            let left = limited.filter_map(|budget| Some((budget.seconds_left()?, budget)));
            let Some((left, budget)) = left.min_by(|one, other| one.0.total_cmp(&other.0)) else {
                return act.await;
            };
            if left <= 0.0 {
                let message = budget.late();
                let setting = Kind::Seconds.setting();
                let about = json!({"setting": setting, "scope": budget.scope(), "message": &message});
                self.announce("limit_reached", about)?;
                return Err(Error::OverLimit(message));
            }
            // Years are as good as no limit.
            let left = Duration::try_from_secs_f64(left.min(1e9)).unwrap_or_default();
            if let Ok(ended) = tokio::time::timeout(left, &mut act).await {
                return ended;
            }
        }
    }
}

/// Asks a human whether a limit is to be raised: `Some` with what to, when that was said.
async fn ask_for_more(run: &Run, setting: &str, message: &str) -> Result<Option<Option<f64>>> {
    let question = Question {
        run_id: run.id().into(),
        step_id: format!("limit_{setting}"),
        checkpoint_type: "limit".into(),
        context_snapshot: json!({"setting": setting}),
        message: format!(
            "{message}. Raise {setting}? A number as feedback is the new limit; without one the limit is raised by \
             what it was."
        ),
        options: vec!["raise".into(), "abort".into()],
        timeout_seconds: ASKED_SECONDS,
    };
    // Boxed, since asking passes the same gate.
    match Box::pin(run.ask(question)).await? {
        Answer::Given { resolution, user_feedback, .. } if resolution == "raise" => {
            Ok(Some(user_feedback.and_then(|text| number(&text))))
        }
        _ => Ok(None),
    }
}

/// The number in a text such as `$5` or `5 dollars`.
fn number(text: &str) -> Option<f64> {
    let words = text.split_whitespace().map(|word| word.trim_matches(['$', ',', '.']));
    words.filter_map(|word| word.parse::<f64>().ok()).find(|number| number.is_finite() && *number >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn a_human_says_a_number_in_words() {
        assert_eq!(number("$5."), Some(5.0));
        assert_eq!(number("up to 2.5 dollars"), Some(2.5));
        assert_eq!(number("go on"), None);
        assert_eq!(number("-3"), None);
    }
}
