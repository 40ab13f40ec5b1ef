//! Sends one request and folds what comes back, stream or whole.

use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use tokio::time::{Instant, timeout, timeout_at};

use super::fault::Fault;
use super::http::chain;
use super::pricing::Prices;
use super::redact::quote;
use super::routing::Route;
use super::sse::{Event, Parser};
use super::think::LiveFilter;
use super::types::Usage;
use super::wire::Draft;
use super::{Call, LlmError, Reply};

/// The longest reply that is read, in bytes; far beyond any model's.
const LARGEST: usize = 64 << 20;

/// How long silence is borne.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until the first words (or reasoning): prompts are read and models loaded in that time. Also between two
    /// pieces of an answer while the server keeps the connection alive without saying anything.
    pub first: Duration,
    /// Between two pieces of an answer that has begun.
    pub idle: Duration,
    /// After the model has stopped, for the count of tokens that some servers send last.
    pub after: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(600),
            idle: Duration::from_secs(120),
            after: Duration::from_secs(5),
        }
    }
}

/// What is known of an answer before it is whole.
pub(crate) enum News {
    /// More of its text.
    Text(String),
    /// The server's count of tokens, and how many of the prompt went into its cache.
    Usage(Usage, u64),
}

/// Makes one try and returns the draft of the answer; `tell` is told of it as it arrives.
pub(crate) async fn receive(
    request: RequestBuilder,
    route: &Route,
    stream: bool,
    patience: &Patience,
    tell: &(dyn Fn(News) + Sync),
) -> Result<Draft, Fault> {
    let response = match timeout(patience.first, request.send()).await {
        Err(_) => return Err(Fault::stalled(silence("it did not begin to answer", patience.first))),
        Ok(Err(error)) => return Err(broken(error, route)),
        Ok(Ok(response)) => response,
    };
    let status = response.status();
    if !status.is_success() {
        let headers = response.headers().clone();
        // The status alone decides when the body cannot be read.
        let body = match timeout(patience.idle, rest(response, Vec::new(), route)).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        return Err(Fault::of_status(status.as_u16(), &headers, &body, route.key.as_ref()));
    }
    let mut folder = Folder::new(route, tell);
    let mut response = response;
    if stream {
        // Servers that cannot stream answer whole: the first byte tells, whatever the headers say.
        // Blanks that keep the connection alive while the model works are left out.
        let since = Instant::now();
        let head = loop {
            match chunk(&mut response, patience.first, since, route).await? {
                Some(bytes) if bytes.trim_ascii().is_empty() => {}
                Some(bytes) => break bytes,
                None => return Err(Fault::connection("the answer is empty")),
            }
        };
        if !matches!(head.trim_ascii_start().first(), Some(b'{' | b'[' | b'<')) {
            folder.stream(response, &head, patience).await?;
            return Ok(folder.draft);
        }
        folder.whole(response, head, patience).await?;
    } else {
        folder.whole(response, Vec::new(), patience).await?;
    }
    Ok(folder.draft)
}

struct Folder<'a> {
    draft: Draft,
    live: LiveFilter,
    alive: bool,
    /// When the model last said or thought anything.
    stirred: Instant,
    route: &'a Route,
    tell: &'a (dyn Fn(News) + Sync),
}

impl<'a> Folder<'a> {
    fn new(route: &'a Route, tell: &'a (dyn Fn(News) + Sync)) -> Self {
        let (draft, live) = (Draft::default(), LiveFilter::default());
        Self { draft, live, alive: false, stirred: Instant::now(), route, tell }
    }

    async fn stream(
        &mut self,
        mut response: Response,
        head: &[u8],
        patience: &Patience,
    ) -> Result<(), Fault> {
        let mut parser = Parser::new();
        let mut events = parser.feed(head);
        let mut read = head.len();
        loop {
            if self.take(&events)? {
                break;
            }
            let stopped = self.draft.finish.is_some();
            let now = Instant::now();
            // Not a byte is one kind of silence; bytes that say nothing (pings, comments) are another.
            let (limit, since) = match (stopped, self.alive) {
                (true, _) => (patience.after.min(patience.idle), self.stirred),
                (false, true) if self.stirred + patience.first > now + patience.idle => (patience.idle, now),
                (false, _) => (patience.first, self.stirred),
            };
            match chunk(&mut response, limit, since, self.route).await {
                Ok(Some(bytes)) => {
                    read += bytes.len();
                    if read > LARGEST {
                        return Err(Fault::bad_reply("the answer is larger than 64 MB"));
                    }
                    events = parser.feed(&bytes);
                }
                Ok(None) => {
                    if let Some(event) = parser.finish() {
                        self.event(&event)?;
                    }
                    break;
                }
                // The model has stopped, so the answer is whole; only the count of tokens is missing.
                Err(_) if stopped => break,
                Err(fault) => return Err(fault),
            }
        }
        self.close();
        Ok(())
    }

    /// Takes events up to the one that ends the answer, whatever came with it; whether it has ended.
    fn take(&mut self, events: &[Event]) -> Result<bool, Fault> {
        for event in events {
            if self.draft.ended {
                break;
            }
            self.event(event)?;
        }
        Ok(self.draft.ended)
    }

    /// Says what was held back in case it was the beginning of a thought.
    fn close(&mut self) {
        let undecided = self.live.finish();
        self.say(undecided);
    }

    fn event(&mut self, event: &Event) -> Result<(), Fault> {
        let data = event.data.trim();
        if data.is_empty() {
            return Ok(());
        }
        if data == "[DONE]" {
            self.draft.ended = true;
            // A few servers never say why the model stopped; [DONE] says that it did.
            self.draft.finish.get_or_insert(super::Finish::Stop);
            return Ok(());
        }
        let key = self.route.key.as_ref();
        let value: Value = serde_json::from_str(data).map_err(|_| {
            Fault::bad_reply(format!("expected JSON in its stream, came {:?}", quote(data, key, 120)))
        })?;
        if let Some(fault) = Fault::of_object(&value, key) {
            return Err(fault);
        }
        if event.name == "error" {
            return Err(Fault::bad_reply(format!("its stream ended in an error: {}", quote(data, key, 300))));
        }
        let (stopped, before) = (self.draft.finish.is_some(), self.draft.usage);
        let delta = self.draft.event(self.route.wire, &value)?;
        if let Some(usage) = self.draft.usage.filter(|now| Some(*now) != before) {
            (self.tell)(News::Usage(usage, self.draft.cache_writes));
        }
        self.alive |= delta.alive;
        if delta.alive || self.draft.finish.is_some() != stopped {
            self.stirred = Instant::now();
        }
        if !delta.text.is_empty() {
            let shown = self.live.push(&delta.text);
            self.say(shown);
        }
        Ok(())
    }

    async fn whole(&mut self, response: Response, head: Vec<u8>, patience: &Patience) -> Result<(), Fault> {
        let kind = response
            .headers()
            .get("content-type")
            .and_then(|v| v.to_str().ok())
            .unwrap_or("no type")
            .to_owned();
        let body = timeout(patience.first, rest(response, head, self.route))
            .await
            .map_err(|_| Fault::stalled(silence("it did not finish its answer", patience.first)))??;
        self.body(&body, &kind)
    }

    fn body(&mut self, body: &[u8], kind: &str) -> Result<(), Fault> {
        let key = self.route.key.as_ref();
        let value: Value = serde_json::from_slice(body).map_err(|_| {
            let start = quote(&String::from_utf8_lossy(&body[..body.len().min(400)]), key, 120);
            Fault::bad_reply(format!("expected JSON, came {kind}: {start:?}"))
        })?;
        if let Some(fault) = Fault::of_object(&value, key) {
            return Err(fault);
        }
        self.draft.whole(self.route.wire, &value)?;
        self.say(super::think::strip(&self.draft.text));
        Ok(())
    }

    fn say(&self, text: String) {
        if !text.is_empty() {
            (self.tell)(News::Text(text));
        }
    }
}

/// What becomes of an answer that comes in these pieces: the way from bytes to a reply, without a server.
///
/// `words` is told of its text as it arrives. Fails as a call does that is not tried again.
pub fn fold<'a>(
    call: &Call,
    route: &Route,
    stream: bool,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    words: &(dyn Fn(String) + Sync),
) -> Result<Reply, LlmError> {
    let tell = |news: News| {
        if let News::Text(text) = news {
            words(text);
        }
    };
    let mut folder = Folder::new(route, &tell);
    let read = || {
        if !stream {
            let body: Vec<u8> = pieces.into_iter().flatten().copied().collect();
            return folder.body(&body, "bytes");
        }
        let mut parser = Parser::new();
        for piece in pieces {
            if folder.take(&parser.feed(piece))? {
                break;
            }
        }
        if !folder.draft.ended
            && let Some(event) = parser.finish()
        {
            folder.event(&event)?;
        }
        folder.close();
        Ok(())
    };
    let reply = read().and_then(|()| folder.draft.finish(&call.request, route, &Prices::builtin()));
    reply.map_err(|fault| fault.into_error(route, &call.agent, 1))
}

/// The next bytes, `None` at the end; they may take `limit` from `since` on.
async fn chunk(
    response: &mut Response,
    limit: Duration,
    since: Instant,
    route: &Route,
) -> Result<Option<Vec<u8>>, Fault> {
    match timeout_at(since + limit, response.chunk()).await {
        Err(_) => Err(Fault::stalled(silence("its answer stalled", limit))),
        Ok(Err(error)) => Err(broken(error, route)),
        Ok(Ok(bytes)) => Ok(bytes.map(|b| b.to_vec())),
    }
}

async fn rest(mut response: Response, mut body: Vec<u8>, route: &Route) -> Result<Vec<u8>, Fault> {
    while let Some(bytes) = response.chunk().await.map_err(|e| broken(e, route))? {
        body.extend_from_slice(&bytes);
        if body.len() > LARGEST {
            return Err(Fault::bad_reply("the answer is larger than 64 MB"));
        }
    }
    Ok(body)
}

fn silence(what: &str, limit: Duration) -> String {
    format!("{what} within {} s", limit.as_secs_f64())
}

fn broken(error: reqwest::Error, route: &Route) -> Fault {
    let (connect, builder) = (error.is_connect(), error.is_builder());
    let words = quote(&chain(&error.without_url()), route.key.as_ref(), 500);
    if builder {
        return Fault::bad_request(format!("the request cannot be sent: {words}"));
    }
    let what = if connect { "no connection" } else { "the connection was lost" };
    // The HTTP library's names of its own layers tell the user nothing.
    let words =
        words.trim_start_matches("error sending request: ").trim_start_matches("client error (Connect): ");
    Fault::connection(format!("{what}: {words}"))
}
