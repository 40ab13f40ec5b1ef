//! What goes wrong on the way, and what comes of it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread, ThreadId};
use std::time::Duration;

use cmbagent::llm::{Finish, LlmErrorKind as Kind, Provider, Watch};
use serde_json::json;

use super::server::*;

const HALF: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"half\"}}]}\n\n";

/// The first answer is `fault`, the second a good one: the call must get through with two requests.
async fn recovers(fault: Script, sign: &str) {
    let server = Server::start(vec![fault, says("good")]).await;
    let mut provider = provider(&server);
    if sign == "stalled" {
        provider.patience.idle = Duration::from_millis(100);
    }
    let (result, log) = run(&provider, &call("gpt-4.1")).await;
    assert_eq!(result.expect(sign).text, "good", "{sign}");
    assert_eq!(server.seen().len(), 2, "{sign}");
    let retries = log.retries.lock().unwrap();
    assert_eq!(retries.len(), 1, "{sign}");
    assert!(retries[0].0.contains(sign), "expected {sign:?} in {:?}", retries[0]);
    assert_eq!(retries[0].2, 1);
}

#[tokio::test]
async fn passing_statuses_are_tried_again() {
    for status in [408, 409, 429, 500, 502, 503, 504, 529] {
        recovers(error(status, "busy now"), &format!("answered {status}: busy now")).await;
    }
}

#[tokio::test]
async fn broken_answers_are_tried_again() {
    recovers(vec![], "connection was lost").await;
    recovers(stream(""), "empty").await;
    recovers(stream(HALF), "broke off").await;
    recovers(torn(HALF), "connection was lost").await;
    recovers(stalled(HALF), "stalled").await;
    recovers(reply(200, "", "<html><title>Sign in</title></html>"), "expected JSON").await;
    recovers(reply(200, "", "{\"choices\": [{\"mess"), "expected JSON").await;
    recovers(reply(200, "", "{}"), "no").await;
    recovers(stream("data: {oops\n\n"), "expected JSON in its stream").await;
    recovers(
        stream(&format!("{HALF}{}", data(&json!({"error": {"message": "upstream died"}})))),
        "upstream died",
    )
    .await;
    recovers(stream(&format!("{HALF}event: error\ndata: {{\"oh\": 1}}\n\n")), "ended in an error").await;
}

#[tokio::test]
async fn an_overloaded_stream_is_tried_again() {
    let start = json!({"type": "message_start", "message": {"id": "m", "model": "claude", "usage": {"input_tokens": 5}}});
    let overloaded = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    let good = json!({"id": "m2", "type": "message", "model": "claude", "content": [{"type": "text", "text": "good"}],
        "stop_reason": "end_turn", "usage": {"input_tokens": 5, "output_tokens": 1}});
    let events = format!("event: message_start\n{}event: error\n{}", data(&start), data(&overloaded));
    let server = Server::start(vec![stream(&events), reply(200, "", &good.to_string())]).await;
    let (result, log) = run(&provider(&server), &call("claude-sonnet-4-5")).await;
    assert_eq!(result.unwrap().text, "good");
    assert!(log.retries.lock().unwrap()[0].0.contains("Overloaded"));
}

#[tokio::test]
async fn lasting_failures_are_not_tried_again() {
    for (status, kind, sign) in [
        (401, Kind::Authentication, "OPENAI_API_KEY"),
        (403, Kind::Authentication, "OPENAI_API_KEY"),
        (404, Kind::ModelNotFound, "OPENAI_BASE_URL"),
        (400, Kind::BadRequest, "no way"),
        (422, Kind::BadRequest, "no way"),
        (402, Kind::RateLimit, "credit"),
        (413, Kind::ContextLength, "Shorten"),
    ] {
        let server = Server::start(vec![error(status, "no way")]).await;
        let (result, log) = run(&provider(&server), &call("gpt-4.1")).await;
        let error = result.unwrap_err();
        assert_eq!((error.kind, error.status), (kind, Some(status)));
        for part in [sign, "no way", "gpt-4.1", "engineer"] {
            assert!(error.message.contains(part), "{}", error.message);
        }
        assert_eq!((server.seen().len(), log.retries.lock().unwrap().len()), (1, 0));
    }
    let quota =
        json!({"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}});
    let server = Server::start(vec![reply(429, "", &quota.to_string())]).await;
    let (result, _) = run(&provider(&server), &call("gpt-4.1")).await;
    assert_eq!(result.unwrap_err().kind, Kind::RateLimit);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn tries_end() {
    let server = Server::start(vec![error(503, "down")]).await;
    let (result, _) = run(&provider(&server), &call("gpt-4.1")).await;
    let error = result.unwrap_err();
    assert_eq!((error.kind, error.status, server.seen().len()), (Kind::Server, Some(503), 3));
    assert!(error.message.contains("tried 3 times"), "{}", error.message);
}

#[tokio::test]
async fn nobody_listening_is_explained() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://user:hidden@{}", listener.local_addr().unwrap());
    drop(listener);
    let (result, log) = run(&provider_at(&url, Arc::new(NoKey)), &call("qwen3:30b")).await;
    let error = result.unwrap_err();
    assert_eq!((error.kind, log.retries.lock().unwrap().len()), (Kind::Connection, 2));
    assert!(
        error.message.contains("OPENAI_BASE_URL") && error.message.contains("127.0.0.1"),
        "{}",
        error.message
    );
    assert!(!error.message.contains("hidden"), "{}", error.message);
}

#[tokio::test]
async fn servers_say_how_long_to_wait() {
    let server = Server::start(vec![reply(429, "retry-after-ms: 7\r\n", "{}"), says("good")]).await;
    let (result, log) = run(&provider(&server), &call("gpt-4.1")).await;
    assert_eq!(result.unwrap().text, "good");
    assert!((log.retries.lock().unwrap()[0].1 - 0.007).abs() < 1e-9);

    let server = Server::start(vec![reply(429, "Retry-After: 86400\r\n", "{}")]).await;
    let (result, _) = run(&provider(&server), &call("gpt-4.1")).await;
    let error = result.unwrap_err();
    assert_eq!((error.kind, server.seen().len()), (Kind::RateLimit, 1));
    assert!(error.message.contains("86400 s"), "{}", error.message);
}

#[tokio::test]
async fn one_deadline_counts_for_all_tries() {
    // The next try would come after it: no use in waiting.
    let server = Server::start(vec![reply(503, "retry-after: 200\r\n", "{}")]).await;
    let mut soon = call("gpt-4.1");
    soon.options.deadline_seconds = Some(100.0);
    let error = run(&provider(&server), &soon).await.0.unwrap_err();
    assert!(error.message.contains("deadline"), "{}", error.message);
    assert_eq!((error.kind, server.seen().len()), (Kind::Server, 1));

    // It passes while the server is silent.
    let server = Server::start(vec![stalled("")]).await;
    soon.options.deadline_seconds = Some(0.05);
    let error = run(&provider(&server), &soon).await.0.unwrap_err();
    assert_eq!(error.kind, Kind::Timeout);
    server.left().await;

    soon.options.deadline_seconds = Some(f64::NAN);
    let error = run(&provider(&server), &soon).await.0.unwrap_err();
    assert!(error.kind == Kind::BadRequest && error.message.contains("deadline_seconds"));
}

#[tokio::test]
async fn silence_before_the_first_words_is_borne_longer() {
    let role = "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\"}}]}\n\n: still there\n\n";
    let server = Server::start(vec![stalled(role), says("good")]).await;
    let mut provider = provider(&server);
    provider.patience.first = Duration::from_millis(150);
    provider.patience.idle = Duration::from_secs(600);
    let (result, log) = run(&provider, &call("gpt-4.1")).await;
    assert_eq!(result.unwrap().text, "good");
    assert!(log.retries.lock().unwrap()[0].0.contains("0.15 s"));
}

#[tokio::test]
async fn bytes_that_say_nothing_are_silence() {
    for (text, again) in
        [("", "\n"), ("", ": ping\n\n"), (HALF, ": ping\n\n"), (HALF, "event: ping\ndata:\n\n")]
    {
        let server = Server::start(vec![endless(text, again), says("good")]).await;
        let mut provider = provider(&server);
        provider.patience.first = Duration::from_millis(150);
        let (result, log) = run(&provider, &call("gpt-4.1")).await;
        assert_eq!(result.unwrap().text, "good");
        assert!(log.retries.lock().unwrap()[0].0.contains("stalled within 0.15 s"), "{text:?} {again:?}");
    }
}

#[tokio::test]
async fn an_answer_that_stopped_is_whole_even_if_the_stream_hangs() {
    let stop = json!({"choices": [{"index": 0, "delta": {"content": "done"}, "finish_reason": "stop"}]});
    let stop = data(&stop);
    for script in [stalled(&stop), torn(&stop), stream(&stop), endless(&stop, ": ping\n\n")] {
        let server = Server::start(vec![script]).await;
        let mut provider = provider(&server);
        provider.patience.after = Duration::from_millis(20);
        let reply = run(&provider, &call("gpt-4.1")).await.0.unwrap();
        assert_eq!((reply.text.as_str(), reply.finish, server.seen().len()), ("done", Finish::Stop, 1));
        assert!(reply.usage.prompt_tokens > 0 && reply.usage.completion_tokens > 0);
    }
}

#[tokio::test]
async fn bytes_may_come_one_by_one() {
    let server = Server::start(vec![dripping(&openai_events("naïve Ω≈0.3 🌌"))]).await;
    let (result, log) = run(&provider(&server), &call("gpt-4.1")).await;
    assert_eq!(result.unwrap().text, "naïve Ω≈0.3 🌌");
    assert_eq!(log.text(), "naïve Ω≈0.3 🌌");
}

#[tokio::test]
async fn a_failed_handshake_is_a_lost_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            drop(socket);
        }
    });
    let (result, log) = run(&provider_at(&url, Arc::new(OneKey)), &call("gpt-4.1")).await;
    assert_eq!((result.unwrap_err().kind, log.retries.lock().unwrap().len()), (Kind::Connection, 2));
}

#[tokio::test]
async fn redirections_are_not_followed() {
    let server = Server::start(vec![reply(307, "location: http://elsewhere.example/v1\r\n", "")]).await;
    let error = run(&provider(&server), &call("gpt-4.1")).await.0.unwrap_err();
    assert!(error.message.contains("http://elsewhere.example/v1"), "{}", error.message);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn keys_and_prompts_stay_out_of_errors_and_retries() {
    let echo = format!("Incorrect API key provided: {KEY}. Also sk-other12345 and Bearer abcdefghijk");
    for (status, model) in
        [(401, "gpt-4.1"), (500, "gpt-4.1"), (401, "claude-sonnet-4-5"), (400, "gemini-2.5-pro")]
    {
        let server = Server::start(vec![error(status, &echo)]).await;
        let (result, log) = run(&provider(&server), &call(model)).await;
        let error = result.unwrap_err();
        let told = format!("{error} {error:?} {:?}", log.retries.lock().unwrap());
        for secret in [KEY, "other12345", "abcdefghijk", "secret spectrum"] {
            assert!(!told.contains(secret), "{told}");
        }
        assert!(told.contains("Incorrect API key"), "{told}");
    }
}

#[tokio::test]
async fn a_missing_key_is_no_request() {
    let keys: Arc<dyn cmbagent::llm::Keys> = Arc::new(NoKey);
    let provider = cmbagent::llm::HttpProvider::new(
        keys,
        Arc::new(|_| None),
        Arc::new(cmbagent::llm::Prices::builtin()),
    );
    let error = run(&provider, &call("claude-sonnet-5")).await.0.unwrap_err();
    assert_eq!(error.kind, Kind::MissingKey);
    assert!(error.message.contains("ANTHROPIC_API_KEY"));
}

#[tokio::test]
async fn cancelling_and_dropping_end_the_connection() {
    let server = Server::start(vec![stalled(HALF)]).await;
    let mut provider = provider(&server);
    provider.patience.idle = Duration::from_secs(600);
    let stopped = call("gpt-4.1");
    let log = Log::default();
    let (result, ()) = tokio::join!(provider.call(&stopped, &log), async {
        server.arrived().await;
        stopped.cancel.cancel();
    });
    assert_eq!(result.unwrap_err().kind, Kind::Cancelled);
    server.left().await;
    assert_eq!(run(&provider, &stopped).await.0.unwrap_err().kind, Kind::Cancelled);
    assert_eq!(server.seen().len(), 1);

    let dropped = call("gpt-4.1");
    tokio::select! {
        _ = provider.call(&dropped, &log) => panic!("the server never answers"),
        () = server.arrived() => {}
    }
    server.left().await;
}

/// Notes the thread it is called on.
struct OnThread(std::sync::Mutex<Vec<ThreadId>>);
impl Watch for OnThread {
    fn text(&self, _: &str) {
        self.0.lock().unwrap().push(thread::current().id());
    }
    fn retry(&self, _: &str, _: f64, _: u32) {
        self.0.lock().unwrap().push(thread::current().id());
    }
}

struct Unpark(Thread);
impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls on this thread, without tokio around it, as an asyncio loop would.
fn poll_here<T>(future: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn the_future_needs_no_tokio_and_watches_on_its_own_thread() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let server = runtime.block_on(Server::start(vec![error(500, "once"), says("good")]));
    let provider = provider(&server);
    let watch = OnThread(std::sync::Mutex::default());
    let request = call("gpt-4.1");
    let homeless = poll_here(provider.call(&request, &watch)).unwrap_err();
    assert!(homeless.message.contains("HttpProvider::on"));

    let provider = provider.on(runtime.handle().clone());
    assert_eq!(poll_here(provider.call(&request, &watch)).unwrap().text, "good");
    assert_eq!(*watch.0.lock().unwrap(), [thread::current().id(); 2]);
}
