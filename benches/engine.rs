//! The engine's own cost a phase, chains of native no-op phases over `MemoryState` and `MemoryJournal`, and what
//! limits add to a call.
//!
//! Prints one JSON object a line; `make bench` runs it after the benchmark of the package.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::time::Instant;

use cmbagent::engine::approval::Nobody;
use cmbagent::engine::clock::SystemClock;
use cmbagent::engine::event::Unwatched;
use cmbagent::engine::executor::{MemoryWorkflow, execute};
use cmbagent::engine::{Control, Limits, run::Services};
use cmbagent::engine::{Outcome, Phase, PhaseStatus, Run, State};
use cmbagent::exec::scripted::ScriptedRunner;
use cmbagent::journal::MemoryJournal;
use cmbagent::library::ScriptedDocuments;
use cmbagent::llm::scripted::ScriptedProvider;
use cmbagent::llm::{CallOptions, Finish, Message, Prices, Reply, Request, Sampling, Usage};
use futures_util::future::BoxFuture;
use serde_json::json;

const PHASES: usize = 1000;
const ROUNDS: usize = 21;
const MODEL: &str = "gpt-4.1";

struct Nothing;

impl Phase for Nothing {
    fn phase_type(&self) -> &'static str {
        "nothing"
    }

    fn display_name(&self) -> String {
        "Nothing".into()
    }

    fn can_skip(&self, _: &dyn State) -> cmbagent::Result<bool> {
        Ok(false)
    }

    fn validate_input(&self, _: &dyn State) -> cmbagent::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn execute<'a>(&'a self, _: &'a Run, state: Arc<dyn State>) -> BoxFuture<'a, cmbagent::Result<Outcome>> {
        Box::pin(async move { Ok(Outcome::new(PhaseStatus::Completed, state)) })
    }
}

/// Calls a round; their prompts are as long as an engineer's.
const CALLS: usize = 200;
const PROMPT: usize = 8_000;

/// Seconds of a run's calls, within limits or without.
fn calls(runtime: &tokio::runtime::Runtime, limits: &Limits) -> f64 {
    let provider = Arc::new(ScriptedProvider::priced(Prices::builtin()));
    let usage = Usage { cost: Some(1e-6), ..Usage::default() };
    for _ in 0..CALLS {
        let (text, model) = ("a".into(), MODEL.into());
        provider.reply("engineer", Reply { text, finish: Finish::Stop, usage, model, id: None });
    }
    let services = Services {
        provider,
        runner: Arc::new(ScriptedRunner::default()),
        documents: Arc::new(ScriptedDocuments::default()),
        approvals: Arc::new(Nobody),
        listener: Arc::new(Unwatched),
        clock: Arc::new(SystemClock),
        journal: Arc::new(MemoryJournal::default()),
    };
    let run = Run::new("calls", services, Control::default()).unwrap();
    let run = run.within(limits.clone()).within_phase(0, "control", limits.clone());
    let request = Request {
        model: MODEL.into(),
        system: String::new(),
        messages: vec![Message::user("word ".repeat(PROMPT / 5))],
        schema: None,
        sampling: Sampling::default(),
        max_output_tokens: None,
    };
    let begun = Instant::now();
    runtime.block_on(async {
        for _ in 0..CALLS {
            run.call("engineer", request.clone(), CallOptions::default()).await.unwrap();
        }
    });
    begun.elapsed().as_secs_f64()
}

/// What limits of a run and a phase add to a call.
fn limits(runtime: &tokio::runtime::Runtime) {
    let set = json!({"max_cost": 1e6, "max_tokens": 1_000_000_000, "max_llm_calls": 1_000_000, "max_wall_seconds": 1e6});
    let set = Limits::of(&set).unwrap();
    // Turn by turn, so that both see the same machine; the best rounds are those it did not disturb.
    let (mut with, mut without) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        without = without.min(calls(runtime, &Limits::default()));
        with = with.min(calls(runtime, &set));
    }
    #[allow(clippy::cast_precision_loss)]
    let micros = |seconds: f64| seconds * 1e6 / CALLS as f64;
    println!(
        "{}",
        json!({
            "name": "limits_per_call", "value": micros(with - without), "unit": "us", "calls": CALLS, "rounds": ROUNDS,
            "prompt_characters": PROMPT, "call_without": micros(without), "bar": 20.0,
        })
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let phases: Vec<Arc<dyn Phase>> = (0..PHASES).map(|_| Arc::new(Nothing) as Arc<dyn Phase>).collect();
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            let services = Services {
                provider: Arc::new(ScriptedProvider::new()),
                runner: Arc::new(ScriptedRunner::default()),
                documents: Arc::new(ScriptedDocuments::default()),
                approvals: Arc::new(Nobody),
                listener: Arc::new(Unwatched),
                clock: Arc::new(SystemClock),
                journal: Arc::new(MemoryJournal::default()),
            };
            let run = Run::new(format!("run-{round}"), services, Control::default())
                .expect("a fresh journal is read");
            let workflow = MemoryWorkflow::new("task", "work");
            let begun = Instant::now();
            runtime.block_on(execute(&run, &phases, &workflow)).unwrap();
            begun.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    #[allow(clippy::cast_precision_loss)]
    let micros = seconds[ROUNDS / 2] * 1e6 / PHASES as f64;
    println!(
        "{}",
        json!({"name": "native_phase", "value": micros, "unit": "us", "phases": PHASES, "rounds": ROUNDS, "bar": 10.0})
    );
    limits(&runtime);
}
