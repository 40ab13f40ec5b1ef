//! A server that answers as told, one script for each request, and what the tests share.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cmbagent::llm::retry::RetryPolicy;
use cmbagent::llm::routing::Env;
use cmbagent::llm::{
    Call, CallOptions, HttpProvider, Keys, LlmError, Message, Patience, Place, Prices, Provider, Reply,
    Request, Sampling, Watch,
};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) const KEY: &str = "test-key-000111222";

/// What happens on the connection of a request, in order; then it is closed.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Send(Vec<u8>),
    /// Bytes one by one, each in a write of its own.
    Drip(Vec<u8>),
    /// Nothing until the client goes.
    Hang,
    /// The same bytes over and over until the client goes.
    Repeat(Vec<u8>),
}

pub(crate) type Script = Vec<Step>;

/// A reply in one piece.
pub(crate) fn reply(status: u16, headers: &str, body: &str) -> Script {
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    vec![Step::Send(head.into_bytes())]
}

pub(crate) fn error(status: u16, message: &str) -> Script {
    reply(status, "", &json!({"error": {"message": message}}).to_string())
}

const STREAM_HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

/// A stream that ends when its text does.
pub(crate) fn stream(text: &str) -> Script {
    vec![Step::Send(format!("{STREAM_HEAD}{text}").into_bytes())]
}

/// A stream that begins and then falls silent.
pub(crate) fn stalled(text: &str) -> Script {
    let mut script = stream(text);
    script.push(Step::Hang);
    script
}

/// A stream that begins so and then repeats something for ever.
pub(crate) fn endless(text: &str, again: &str) -> Script {
    let mut script = stream(text);
    script.push(Step::Repeat(again.into()));
    script
}

/// A stream whose bytes come one by one.
pub(crate) fn dripping(text: &str) -> Script {
    vec![Step::Send(STREAM_HEAD.into()), Step::Drip(text.into())]
}

/// A chunked stream that is closed before its last chunk.
pub(crate) fn torn(text: &str) -> Script {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    vec![Step::Send(format!("{head}{:x}\r\n{text}\r\n", text.len()).into_bytes())]
}

/// One event of a stream.
pub(crate) fn data(value: &Value) -> String {
    format!("data: {value}\n\n")
}

/// An OpenAI stream that says `text` and stops.
pub(crate) fn says(text: &str) -> Script {
    stream(&openai_events(text))
}

pub(crate) fn openai_events(text: &str) -> String {
    let delta = json!({"id": "c1", "model": "served", "choices": [{"index": 0, "delta": {"content": text}}]});
    let stop = json!({"id": "c1", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]});
    let usage = json!({"id": "c1", "choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 3}});
    format!("{}{}{}data: [DONE]\n\n", data(&delta), data(&stop), data(&usage))
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Value,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// The server.
pub(crate) struct Server {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    arrived: Arc<Notify>,
    left: Arc<Notify>,
}

impl Server {
    /// Answers the n-th request with the n-th script, later ones with the last.
    pub(crate) async fn start(scripts: Vec<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { url, seen: Arc::default(), arrived: Arc::default(), left: Arc::default() };
        let (seen, arrived, left) = (server.seen.clone(), server.arrived.clone(), server.left.clone());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let (seen, arrived, left) = (seen.clone(), arrived.clone(), left.clone());
                let scripts = scripts.clone();
                tokio::spawn(async move {
                    let mut socket = socket;
                    let Some(request) = read(&mut socket).await else { return };
                    let number = {
                        let mut seen = seen.lock().unwrap();
                        seen.push(request);
                        seen.len() - 1
                    };
                    arrived.notify_one();
                    play(&mut socket, scripts.get(number).or(scripts.last()).unwrap(), &left).await;
                });
            }
        });
        server
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn bodies(&self) -> Vec<Value> {
        self.seen().into_iter().map(|s| s.body).collect()
    }

    /// Waits for a request.
    pub(crate) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Waits until a client went away from a hanging answer.
    pub(crate) async fn left(&self) {
        tokio::time::timeout(Duration::from_secs(20), self.left.notified()).await.expect("the client stayed");
    }
}

async fn read(socket: &mut TcpStream) -> Option<Seen> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        match socket.read(&mut buffer).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let target = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
    let headers: Vec<(String, String)> = lines
        .map(|l| l.split_once(':').map(|(n, v)| (n.to_lowercase(), v.trim().to_owned())).unwrap())
        .collect();
    let length: usize =
        headers.iter().find(|(n, _)| n == "content-length").map_or(0, |(_, v)| v.parse().unwrap());
    let mut body = bytes[end + 4..].to_vec();
    while body.len() < length {
        let n = socket.read(&mut buffer).await.unwrap();
        body.extend_from_slice(&buffer[..n]);
    }
    Some(Seen { target, headers, body: serde_json::from_slice(&body).unwrap_or_default() })
}

async fn play(socket: &mut TcpStream, script: &[Step], left: &Notify) {
    for step in script {
        match step {
            Step::Send(bytes) => {
                // A client that has gone is what some tests are about.
                let _ = socket.write_all(bytes).await;
            }
            Step::Drip(bytes) => {
                socket.set_nodelay(true).unwrap();
                for byte in bytes {
                    let _ = socket.write_all(&[*byte]).await;
                    tokio::task::yield_now().await;
                }
            }
            Step::Repeat(bytes) => {
                while socket.write_all(bytes).await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Step::Hang => {
                let mut buffer = [0; 64];
                while matches!(socket.read(&mut buffer).await, Ok(n) if n > 0) {}
                left.notify_one();
            }
        }
    }
    let _ = socket.shutdown().await;
}

/// The same key for every provider.
pub(crate) struct OneKey;
impl Keys for OneKey {
    fn get(&self, _: &str) -> Option<SecretString> {
        Some(SecretString::from(KEY.to_owned()))
    }
}

/// No key at all.
pub(crate) struct NoKey;
impl Keys for NoKey {
    fn get(&self, _: &str) -> Option<SecretString> {
        None
    }
}

/// Remembers what it was told.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) texts: Mutex<Vec<String>>,
    pub(crate) retries: Mutex<Vec<(String, f64, u32)>>,
}
impl Log {
    pub(crate) fn text(&self) -> String {
        self.texts.lock().unwrap().concat()
    }
}
impl Watch for Log {
    fn text(&self, delta: &str) {
        self.texts.lock().unwrap().push(delta.to_owned());
    }
    fn retry(&self, reason: &str, wait_seconds: f64, tries: u32) {
        self.retries.lock().unwrap().push((reason.to_owned(), wait_seconds, tries));
    }
}

/// A provider for `server` that waits next to nothing between tries.
pub(crate) fn provider(server: &Server) -> HttpProvider {
    provider_at(&server.url, Arc::new(OneKey))
}

pub(crate) fn provider_at(url: &str, keys: Arc<dyn Keys>) -> HttpProvider {
    let url = url.to_owned();
    let env: Env = Arc::new(move |name| match name {
        "OPENAI_BASE_URL" => Some(format!("{url}/v1")),
        "ANTHROPIC_BASE_URL" | "GEMINI_BASE_URL" | "MISTRAL_BASE_URL" => Some(url.clone()),
        _ => None,
    });
    let mut provider = HttpProvider::new(keys, env, Arc::new(Prices::builtin()));
    let quick = Duration::from_millis(1);
    provider.retry = RetryPolicy { max_tries: 3, base: quick, crowded_base: quick, ..RetryPolicy::default() };
    provider.patience = Patience {
        first: Duration::from_secs(20),
        idle: Duration::from_secs(20),
        after: Duration::from_millis(300),
    };
    provider
}

pub(crate) fn call(model: &str) -> Call {
    Call {
        request: Request {
            model: model.into(),
            system: "You are the engineer agent.".into(),
            messages: vec![Message::user("Plot the secret spectrum.")],
            schema: None,
            sampling: Sampling { temperature: Some(0.5), top_p: Some(0.25), reasoning_effort: None },
            max_output_tokens: None,
        },
        options: CallOptions::default(),
        agent: "engineer".into(),
        place: Place::default(),
        cancel: CancellationToken::new(),
    }
}

/// Makes a call and returns its outcome with what was watched.
pub(crate) async fn run(provider: &HttpProvider, call: &Call) -> (Result<Reply, LlmError>, Log) {
    let log = Log::default();
    let result = provider.call(call, &log).await;
    (result, log)
}
