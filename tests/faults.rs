//! Everything that can go wrong with a model's server, at every call of a whole run.
//!
//! The run is the six-call `deep_research`: planner, reviewer, planner, engineer, researcher, engineer. A fault
//! that passes leaves the results as they are; one that stays ends the run with an error of its kind.
#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "llm/server.rs"]
mod server;
#[allow(dead_code)]
#[path = "phases/stage.rs"]
mod stage;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cmbagent::Error;
use cmbagent::exec::scripted::Scripted;
use cmbagent::llm::LlmErrorKind as Kind;
use futures_util::future::join_all;
use serde_json::{Value, json};

use server::{
    Script, Server, data, dripping, endless, error, openai_events, provider, reply, says, stalled, stream,
    torn,
};
use stage::{Ended, Stage, plan, planned, script};

/// Who makes the calls.
const SPEAKERS: [&str; 6] = ["planner", "plan_reviewer", "planner", "engineer", "researcher", "engineer"];
const MODEL: &str = "gpt-4.1";
/// Tries that the servers' clients make.
const TRIES: usize = 3;
/// How long a silence is borne that is to be seen as one, and any other.
const SHORT: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(20);

fn patience(fault: &str) -> Duration {
    if fault.starts_with("silence") { SHORT } else { LONG }
}

/// Does this at every call of the run, at once.
async fn everywhere<F: Future<Output = ()>>(strike: impl Fn(usize, String) -> F) {
    join_all(answers().into_iter().enumerate().map(|(index, text)| strike(index, text))).await;
}

/// What the models say in a run, in the order of the calls.
fn answers() -> [String; 6] {
    let steps = [("engineer", "measure", "print it"), ("researcher", "interpret", "be brief")];
    let first = plan(&steps);
    let second = plan(&[steps[0], steps[1], ("engineer", "tabulate", "print it")]);
    [
        planned(&first),
        json!({"recommendations": ["add a table"]}).to_string(),
        planned(&second),
        script("measure.py", "measure()"),
        "<!-- filename: notes.md -->\n# Notes\nThe slope is 1.25.".into(),
        script("tabulate.py", "tabulate()"),
    ]
}

/// Runs the workflow against a server that answers so.
async fn research(scripts: Vec<Script>, patience: Duration) -> (Stage, Ended, Server) {
    research_in(Stage::new(), scripts, patience).await
}

async fn research_in(mut stage: Stage, scripts: Vec<Script>, patience: Duration) -> (Stage, Ended, Server) {
    let server = Server::start(scripts).await;
    stage.ends(Scripted::success("slope = 1.25\n").writing("data/one.png", "png"));
    stage.ends(Scripted::success("rows = 3\n").writing("data/table.csv", "a,b\n"));
    let mut models = provider(&server);
    models.patience.first = patience;
    models.patience.idle = patience;
    stage.provider = Some(Arc::new(models));
    let named = |names: &[&str]| {
        let fields = names.iter().map(|name| (format!("{name}_model"), json!(MODEL)));
        fields.collect::<serde_json::Map<String, Value>>()
    };
    let phases = [
        ("planning", Value::Object(named(&["planner", "plan_reviewer"]))),
        ("control", Value::Object(named(&["engineer", "researcher"]))),
    ];
    // A run that hangs is a bug that this limit shows; no good run comes near it.
    let ended =
        tokio::time::timeout(Duration::from_secs(60), stage.run(&phases)).await.expect("the run hangs");
    (stage, ended, server)
}

/// What a run came to: its findings, its files and what stands in them.
fn essence(stage: &Stage, ended: &Ended) -> String {
    let context = ended.output("final_context");
    let found = ["final_plan", "previous_steps_execution_summary", "current_status", "displayed_images"];
    let found: Vec<&Value> = found.iter().map(|name| &context[*name]).collect();
    let files: Vec<(String, Vec<String>)> = ["control", "control/codebase", "control/data", "planning"]
        .iter()
        .map(|name| ((*name).to_owned(), stage.list(name)))
        .collect();
    let written = [stage.read("planning/final_plan.json"), stage.read("control/codebase/tabulate.py")];
    json!([found, files, written]).to_string().replace(stage.root().to_str().unwrap(), "ROOT")
}

/// The healthy run, on this stage.
async fn healthy(stage: Stage) -> String {
    let scripts = answers().iter().map(|text| says(text)).collect();
    let (stage, ended, server) = research_in(stage, scripts, LONG).await;
    let ended = ended.completed();
    assert_eq!((ended.calls, server.seen().len()), (6, 6));
    essence(&stage, &ended)
}

/// The stream of an answer, up to its middle.
fn half(text: &str) -> String {
    let whole = openai_events(text);
    let at = whole.find("finish_reason").unwrap();
    whole[..whole[..at].rfind("data: ").unwrap()].to_owned()
}

/// A fault, what it is made of for the answer it spoils, and the error it ends in when it stays.
type Fault = (&'static str, fn(&str) -> Script, Kind);

fn html(_: &str) -> Script {
    reply(200, "", "<html><title>Sign in</title></html>")
}

/// An answer in one piece whose message is this.
fn message(message: &Value) -> Script {
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    reply(200, "", &json!({"id": "c", "model": "m", "choices": [choice]}).to_string())
}

const FAULTS: [Fault; 22] = [
    ("429", |_| error(429, "slow down"), Kind::RateLimit),
    ("429 with a wait", |_| reply(429, "retry-after-ms: 1\r\n", "{}"), Kind::RateLimit),
    ("500", |_| error(500, "oh no"), Kind::Server),
    ("503 of a proxy", |_| reply(503, "", "<html>busy</html>"), Kind::Server),
    ("529", |_| error(529, "Overloaded"), Kind::Server),
    ("silence", |_| vec![server::Step::Hang], Kind::Timeout),
    ("silence in the middle", |text| stalled(&half(text)), Kind::Timeout),
    ("silence but for blanks", |_| endless("", "\n"), Kind::Timeout),
    ("silence but for pings", |_| endless("", ": ping\n\n"), Kind::Timeout),
    ("silence but for pings in the middle", |text| endless(&half(text), ": ping\n\n"), Kind::Timeout),
    ("a drop at once", |_| vec![], Kind::Connection),
    ("a drop in the middle", |text| torn(&half(text)), Kind::Connection),
    ("a stream that ends early", |text| stream(&half(text)), Kind::Connection),
    ("a cut line", |text| stream(&half(text)[..half(text).len() - 9]), Kind::BadReply),
    ("an empty body", |_| stream(""), Kind::Connection),
    ("a page", html, Kind::BadReply),
    ("garbage", |_| reply(200, "", "\u{1}\u{fffd}\u{0}garbage"), Kind::Connection),
    ("half a JSON", |_| reply(200, "", "{\"choices\": [{\"mess"), Kind::BadReply),
    (
        "an error in the stream",
        |text| stream(&format!("{}{}", half(text), data(&json!({"error": {"message": "died"}})))),
        Kind::Server,
    ),
    ("a list for an object", |_| reply(200, "", "[]"), Kind::BadReply),
    ("null", |_| stream("data: null\n\ndata: 3\n\n"), Kind::Connection),
    ("an object for a list", |_| reply(200, "", r#"{"choices": {"0": {"message": "x"}}}"#), Kind::BadReply),
];

type Odd = (&'static str, fn(&str) -> Script);

/// What is odd and still an answer: the run goes on without asking again.
const ODD: [Odd; 4] = [
    ("a slow trickle", |text| dripping(&openai_events(text))),
    ("a wrong content type", |text| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n";
        vec![server::Step::Send(format!("{head}{}", openai_events(text)).into_bytes())]
    }),
    ("an answer in one piece", |text| message(&json!({"role": "assistant", "content": text}))),
    ("text in parts", |text| message(&json!({"content": [{"type": "text", "text": text}]}))),
];

/// The run's answers with `fault` before or in place of the one at `index`.
fn spoiled(index: usize, faults: Vec<Script>, instead: bool) -> Vec<Script> {
    let mut scripts: Vec<Script> = answers().iter().map(|text| says(text)).collect();
    scripts.splice(index..index + usize::from(instead), faults);
    scripts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_that_passes_leaves_no_trace_wherever_it_strikes() {
    let expected = &healthy(Stage::new()).await;
    for (name, fault, _) in FAULTS {
        everywhere(|index, text| async move {
            // A storm: the last try gets through.
            let storm = vec![fault(&text); TRIES - 1];
            let (stage, ended, server) = research(spoiled(index, storm, false), patience(name)).await;
            let place = format!("{name} at call {}", index + 1);
            assert!(ended.status.is_ok(), "{place}: {}", ended.error());
            assert_eq!(&essence(&stage, &ended.completed()), expected, "{place}");
            assert_eq!(server.seen().len(), 6 + TRIES - 1, "{place}");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_that_stays_ends_the_run_with_an_error_of_its_kind() {
    let expected = &healthy(Stage::new()).await;
    for (name, fault, kind) in FAULTS {
        everywhere(|index, text| async move {
            let scripts = spoiled(index, vec![fault(&text); TRIES], true);
            let (stage, ended, server) = research(scripts, patience(name)).await;
            let place = format!("{name} at call {}", index + 1);
            let Err(Error::PhaseFailed { cause: Some(cause), .. }) = &ended.status else { panic!("{place}") };
            let Error::Model { error, agent, .. } = cause.as_ref() else { panic!("{place}: {cause:?}") };
            assert_eq!(error.kind, kind, "{place}: {error}");
            assert_eq!(agent, SPEAKERS[index], "{place}");
            assert!(error.message.contains(&format!("tried {TRIES} times")), "{place}: {error}");
            assert_eq!(server.seen().len(), index + TRIES, "{place}");
            assert_eq!(stage.heard.of("run_finished")[0]["status"], "failed", "{place}");
            assert_eq!(stage.executed().len(), index.saturating_sub(3).min(1), "{place}: no script too many");
            // Nothing of it lasts: the next run, in the same directory, is as good as the first.
            let again = Stage { temp: stage.temp.clone(), ..Stage::new() };
            assert_eq!(&healthy(again).await, expected, "after {place}");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_answers_are_answers() {
    let expected = &healthy(Stage::new()).await;
    for (name, odd) in ODD {
        everywhere(|index, text| async move {
            let (stage, ended, server) = research(spoiled(index, vec![odd(&text)], true), LONG).await;
            let place = format!("{name} at call {}", index + 1);
            assert!(ended.status.is_ok(), "{place}: {}", ended.error());
            assert_eq!(&essence(&stage, &ended.completed()), expected, "{place}");
            assert_eq!(server.seen().len(), 6, "{place}");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_of_the_wrong_type_is_objected_to_and_never_taken() {
    let expected = &healthy(Stage::new()).await;
    // Valid on the wire; the content is of another type than the agent was asked for.
    for wrong in ["7", "null", "[]", "{}", r#"{"sub_tasks": {}}"#, r#"{"recommendations": 3}"#, "{", ""] {
        everywhere(|index, _| async move {
            // Engineer and researcher answer in Markdown, where only nothing at all has no meaning.
            let wrong = if index < 3 { wrong } else { "" };
            let (stage, ended, server) = research(spoiled(index, vec![says(wrong)], false), LONG).await;
            let place = format!("{wrong:?} at call {}", index + 1);
            assert!(ended.status.is_ok(), "{place}: {}", ended.error());
            assert_eq!(&essence(&stage, &ended.completed()), expected, "{place}");
            assert_eq!(server.seen().len(), 7, "{place}");
        })
        .await;
    }
}
