//! Sends one request and folds what comes back, stream or whole.

use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use serde_json::Value;
use tokio::time::timeout;

use super::fault::Fault;
use super::http::chain;
use super::redact::quote;
use super::routing::Route;
use super::sse::{Event, Parser};
use super::think::LiveFilter;
use super::types::Usage;
use super::wire::Draft;

/// The longest reply that is read, in bytes; far beyond any model's.
const LARGEST: usize = 64 << 20;

/// How long silence is borne.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until the first words (or reasoning): prompts are read and models loaded in that time.
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
    let mut folder =
        Folder { draft: Draft::default(), live: LiveFilter::default(), alive: false, route, tell };
    let mut response = response;
    if stream {
        // Servers that cannot stream answer whole: the first byte tells, whatever the headers say.
        let mut head = Vec::new();
        while head.iter().all(u8::is_ascii_whitespace) {
            match chunk(&mut response, patience.first, route).await? {
                Some(bytes) => head.extend_from_slice(&bytes),
                None => return Err(Fault::connection("the answer is empty")),
            }
        }
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
    route: &'a Route,
    tell: &'a (dyn Fn(News) + Sync),
}

impl Folder<'_> {
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
            for event in events {
                self.event(&event)?;
            }
            if self.draft.ended {
                break;
            }
            let stopped = self.draft.finish.is_some();
            let limit = match (stopped, self.alive) {
                (true, _) => patience.after.min(patience.idle),
                (false, true) => patience.idle,
                (false, false) => patience.first,
            };
            match chunk(&mut response, limit, self.route).await {
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
        let undecided = self.live.finish();
        self.say(undecided);
        Ok(())
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
        let before = self.draft.usage;
        let delta = self.draft.event(self.route.wire, &value)?;
        if let Some(usage) = self.draft.usage.filter(|now| Some(*now) != before) {
            (self.tell)(News::Usage(usage, self.draft.cache_writes));
        }
        self.alive |= delta.alive;
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
        let key = self.route.key.as_ref();
        let value: Value = serde_json::from_slice(&body).map_err(|_| {
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

/// The next bytes, `None` at the end.
async fn chunk(response: &mut Response, limit: Duration, route: &Route) -> Result<Option<Vec<u8>>, Fault> {
    match timeout(limit, response.chunk()).await {
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
