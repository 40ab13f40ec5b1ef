//! Real providers: one call, with its tries, over HTTP.
//!
//! The work runs on tokio and reports through a channel. So the caller's future needs no tokio of its own (it is
//! polled on an asyncio loop), [`Watch`] is called only from that future's poll, and dropping the future or
//! cancelling the call ends the connection at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::dialect::Dialect;
use super::fault::Fault;
use super::ocr::{Paper, Reading};
use super::pricing::Prices;
use super::profile::Profile;
use super::quote::prompt_tokens;
use super::receive::{News, Patience, receive};
use super::redact::quote;
use super::retry::{RetryPolicy, seconds};
use super::routing::{Env, Route, Wire, route};
use super::spent::Spent;
use super::traffic;
use super::wire::{Ask, body, url};
use super::{
    Call, CallOptions, Keys, LlmError, LlmErrorKind, Provider, Quote, Reply, Request, Watch, anthropic,
};

/// Models over HTTP: OpenAI Chat Completions (and all that speaks it), Anthropic Messages, Gemini.
///
/// Cheap to clone; clones share what was learned about servers.
#[derive(Clone)]
pub struct HttpProvider {
    pub(super) keys: Arc<dyn Keys>,
    pub(super) env: Env,
    prices: Arc<Prices>,
    dialects: Arc<Mutex<HashMap<(String, String), Dialect>>>,
    runtime: Option<Handle>,
    /// When and how often a failed try is made again.
    pub retry: RetryPolicy,
    /// How long silence is borne.
    pub patience: Patience,
}

impl HttpProvider {
    /// A provider that asks `keys` for keys and `env` for base URLs, each only when a call needs it.
    pub fn new(keys: Arc<dyn Keys>, env: Env, prices: Arc<Prices>) -> Self {
        Self {
            keys,
            env,
            prices,
            dialects: Arc::default(),
            runtime: None,
            retry: RetryPolicy::default(),
            patience: Patience::default(),
        }
    }

    /// Does its work on `runtime`; else on the one that surrounds the first poll of a call.
    #[must_use]
    pub fn on(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The table of prices, windows and limits.
    pub fn prices(&self) -> &Arc<Prices> {
        &self.prices
    }

    /// Where the work is done.
    fn runtime(&self) -> Result<Handle, &'static str> {
        let given = self.runtime.clone().map_or_else(Handle::try_current, Ok);
        given.map_err(|_| "a model can only be called with a tokio runtime: give one to HttpProvider::on")
    }

    /// All tries of one call.
    async fn drive(
        &self,
        call: &Call,
        route: Route,
        notes: &UnboundedSender<Note>,
    ) -> Result<Reply, LlmError> {
        let request = &call.request;
        let local =
            |kind, message: String| LlmError { kind, message, status: None, model: request.model.clone() };
        let deadline = match call.options.deadline_seconds {
            None => None,
            Some(limit) => {
                Some(seconds(limit).and_then(|d| Instant::now().checked_add(d)).ok_or_else(|| {
                    let message = format!(
                        "deadline_seconds of {} must be a number of seconds, not {limit}",
                        call.agent
                    );
                    local(LlmErrorKind::BadRequest, message)
                })?)
            }
        };
        let client = client(&route.base_url).map_err(|m| local(LlmErrorKind::Connection, m))?;
        let profile = Profile::of(route.wire, request, &route.model, &self.prices);
        let lane = traffic::lane(&route.base_url, route.wire.name());
        let tokens = prompt_tokens(request);
        let mut dialect = self.dialect(&route, &profile);
        let learned_before = dialect;

        let mut tries = 0;
        let mut last = String::new();
        loop {
            tries += 1;
            let mut spoken = dialect;
            spoken.stream &= call.options.stream.unwrap_or(true);
            let sent = body(route.wire, &Ask { request, model: &route.model, profile, dialect: spoken });
            let attempt = async {
                let pass =
                    lane.enter(tokens).await.map_err(|down| Fault::down(&down, call.options.fail_fast))?;
                let attempt = self.attempt(&client, call, &route, spoken, &sent, notes).await;
                pass.end(attempt.as_ref().map(|r| r.usage.completion_tokens).map_err(|fault| fault.kind));
                attempt
            };
            let result = match deadline {
                None => attempt.await,
                Some(at) => timeout_at(at, attempt).await.unwrap_or_else(|_| {
                    let before =
                        if last.is_empty() { String::new() } else { format!("; before that: {last}") };
                    Err(Fault::deadline(format!("it was not done by its deadline{before}")))
                }),
            };
            let fault = match result {
                Ok(reply) => {
                    if dialect != learned_before {
                        self.remember(&route, dialect);
                    }
                    return Ok(reply);
                }
                Err(fault) => fault,
            };

            let reason = quote(&fault.what, route.key.as_ref(), 300);
            if fault.kind == LlmErrorKind::BadRequest
                && let Some((next, without)) =
                    dialect.step_down(route.wire, &sent, &fault.what, fault.param.as_deref())
            {
                // A question asked otherwise is no failed try.
                tries -= 1;
                dialect = next;
                let _ = notes.send(Note::Retry(format!("{reason}; asking for {without}"), 0.0, tries));
                continue;
            }
            let wait =
                fault.wait.unwrap_or_else(|| self.retry.backoff(tries, fault.crowded, fastrand::f64()));
            let too_late = deadline.is_some_and(|at| Instant::now() + wait >= at);
            if !fault.retry || tries >= self.retry.max_tries {
                return Err(fault.into_error(&route, &call.agent, tries));
            }
            if too_late || wait > self.retry.longest_asked {
                let mut fault = fault;
                let limit = if too_late {
                    "its deadline would pass first"
                } else {
                    "that is too long to sit through"
                };
                fault.what =
                    format!("{}; the next try was due in {:.0} s, {limit}", fault.what, wait.as_secs_f64());
                return Err(fault.into_error(&route, &call.agent, tries));
            }
            let _ = notes.send(Note::Retry(reason.clone(), wait.as_secs_f64(), tries));
            last = reason;
            sleep(wait).await;
        }
    }

    /// One try.
    async fn attempt(
        &self,
        client: &reqwest::Client,
        call: &Call,
        route: &Route,
        dialect: Dialect,
        sent: &Value,
        notes: &UnboundedSender<Note>,
    ) -> Result<Reply, Fault> {
        let request = client.post(url(route, dialect.stream)).headers(headers(route)?).body(sent.to_string());
        let tell = |news: News| {
            let _ = notes.send(Note::News(news));
        };
        let draft = receive(request, route, dialect.stream, &self.patience, &tell).await?;
        draft.finish(&call.request, route, &self.prices)
    }

    fn dialect(&self, route: &Route, profile: &Profile) -> Dialect {
        let known = self.dialects.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (route.base_url.clone(), route.model.clone());
        known.get(&place).copied().unwrap_or_else(|| Dialect::first(profile, route.custom))
    }

    fn remember(&self, route: &Route, dialect: Dialect) {
        let mut known = self.dialects.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert((route.base_url.clone(), route.model.clone()), dialect);
    }
}

/// What the work reports to the caller's future.
enum Note {
    News(News),
    Retry(String, f64, u32),
    Done(Result<Reply, LlmError>),
}

impl Provider for HttpProvider {
    fn window(&self, model: &str) -> Option<u32> {
        self.prices.window(model)
    }

    fn quote(&self, request: &Request) -> Quote {
        Quote::of(request, Some(&self.prices))
    }

    fn vision(&self, model: &str) -> Option<bool> {
        self.prices.vision(model)
    }

    fn reaches(&self, model: &str, options: &CallOptions) -> bool {
        route(model, options, &*self.env, &*self.keys).is_ok()
    }

    fn read_pdf<'a>(
        &'a self,
        paper: &'a Paper,
        _: &'a dyn Watch,
    ) -> BoxFuture<'a, Result<Reading, LlmError>> {
        let (path, model) = (&paper.path, &paper.request.model);
        let fail = |message: String| LlmError {
            kind: LlmErrorKind::Connection,
            message,
            status: None,
            model: model.clone(),
        };
        async move {
            let runtime = self.runtime().map_err(|message| fail(message.to_owned()))?;
            // Asked on the caller's thread, as for a call.
            let work = self.clone().ocr(self.ocr_service(model)?, path.clone(), model.clone());
            AbortOnDropHandle::new(runtime.spawn(work))
                .await
                .map_err(|_| fail(format!("the reading of {} ended without a result", path.display())))?
        }
        .boxed()
    }

    fn call<'a>(&'a self, call: &'a Call, watch: &'a dyn Watch) -> BoxFuture<'a, Result<Reply, LlmError>> {
        let fail = |kind, message: String| LlmError {
            kind,
            message,
            status: None,
            model: call.request.model.clone(),
        };
        async move {
            let cancelled =
                || fail(LlmErrorKind::Cancelled, format!("the call of {} was cancelled", call.agent));
            if call.cancel.is_cancelled() {
                return Err(cancelled());
            }
            let runtime =
                self.runtime().map_err(|message| fail(LlmErrorKind::Connection, message.to_owned()))?;
            // Asked on the caller's thread: its key holder need not be fit for any other.
            let route = route(&call.request.model, &call.options, &*self.env, &*self.keys)?;
            let unanswered = Spent::of(&call.request, &route.model, &self.prices);
            let mut spent = unanswered;
            let (notes, mut inbox) = unbounded_channel();
            let (this, that) = (self.clone(), call.clone());
            // Ends with the caller's future.
            let _work = AbortOnDropHandle::new(runtime.spawn(async move {
                let result = this.drive(&that, route, &notes).await;
                let _ = notes.send(Note::Done(result));
            }));
            let stop = call.cancel.cancelled().fuse();
            futures_util::pin_mut!(stop);
            loop {
                let note = futures_util::select_biased! {
                    () = stop => return Err(cancelled()),
                    note = inbox.recv().fuse() => note,
                };
                match note {
                    Some(Note::News(news)) => {
                        if let News::Text(text) = &news {
                            watch.text(text);
                        }
                        watch.spent(&spent.add(&news));
                    }
                    Some(Note::Retry(reason, wait, tries)) => {
                        spent = unanswered;
                        watch.retry(&reason, wait, tries);
                    }
                    Some(Note::Done(result)) => return result,
                    None => {
                        let message = format!(
                            "the call of {} ended without a result: the runtime shut down",
                            call.agent
                        );
                        return Err(fail(LlmErrorKind::Connection, message));
                    }
                }
            }
        }
        .boxed()
    }
}

/// The process's client: connections are shared by all providers.
///
/// Certificates are those of the system. Where there are none, servers spoken to without TLS (Ollama on this
/// machine) still answer.
pub(crate) fn client(url: &str) -> Result<reqwest::Client, String> {
    static CLIENT: OnceLock<Result<reqwest::Client, String>> = OnceLock::new();
    static PLAIN: OnceLock<Result<reqwest::Client, String>> = OnceLock::new();
    // A redirected POST becomes a GET, and keys in other headers than Authorization would follow it.
    let builder = || builder().redirect(reqwest::redirect::Policy::none());
    let explain = |e: reqwest::Error| format!("cannot set up HTTP: {}", chain(&e));
    let client = CLIENT.get_or_init(|| builder().build().map_err(explain));
    match client {
        Err(_) if url.starts_with("http://") => {
            PLAIN.get_or_init(|| builder().tls_certs_only([]).build().map_err(explain)).clone()
        }
        client => client.clone(),
    }
}

/// What all clients have in common.
pub(super) fn builder() -> reqwest::ClientBuilder {
    // Another library of the process may have chosen its own provider already: that one serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("cmbagent/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(20))
        .tcp_keepalive(Duration::from_secs(30))
}

fn headers(route: &Route) -> Result<HeaderMap, Fault> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if route.wire == Wire::Anthropic {
        headers.insert("anthropic-version", HeaderValue::from_static(anthropic::VERSION));
    }
    if let Some(key) = &route.key {
        let key = key.expose_secret().trim();
        let (name, value) = match route.wire {
            Wire::OpenAi => (AUTHORIZATION, format!("Bearer {key}")),
            Wire::Anthropic => (HeaderName::from_static("x-api-key"), key.to_owned()),
            Wire::Gemini => (HeaderName::from_static("x-goog-api-key"), key.to_owned()),
        };
        let mut value = HeaderValue::from_str(&value).map_err(|_| {
            Fault::bad_request(format!(
                "the key {} holds characters that no key has (a line break or a control character)",
                route.wire.key_name()
            ))
        })?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// An error with its causes: reqwest's own text hides the one that matters.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = inner.source();
    }
    text
}
