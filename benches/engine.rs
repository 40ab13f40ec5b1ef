//! The engine's own cost a phase, chains of native no-op phases over `MemoryState`, in memory and durable; and what
//! limits add to a call.
//!
//! Prints one JSON object a line; `make bench` runs it after the benchmark of the package.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cmbagent::engine::approval::Nobody;
use cmbagent::engine::clock::SystemClock;
use cmbagent::engine::event::Unwatched;
use cmbagent::engine::executor::{MemoryWorkflow, execute};
use cmbagent::engine::{Control, Limits, run::Services};
use cmbagent::engine::{Outcome, Phase, PhaseStatus, Run, State};
use cmbagent::exec::scripted::ScriptedRunner;
use cmbagent::journal::Claim;
use cmbagent::journal::{Journal, MemoryJournal, Store};
use cmbagent::library::ScriptedDocuments;
use cmbagent::llm::scripted::ScriptedProvider;
use cmbagent::llm::{CallOptions, Finish, Message, Prices, Reply, Request, Sampling, Usage};
use futures_util::future::BoxFuture;
use serde_json::json;

const PHASES: usize = 1000;
const ROUNDS: usize = 21;
const MODEL: &str = "gpt-4.1";
const DURABLE_PHASES: usize = 200;
const DURABLE_ROUNDS: usize = 11;

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

/// Microseconds a call of a run, within limits or without.
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
    micros(begun, CALLS)
}

/// What limits of a run and a phase add to a call.
fn limits() {
    let runtime = &tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let set = json!({"max_cost": 1e6, "max_tokens": 1_000_000_000, "max_llm_calls": 1_000_000, "max_wall_seconds": 1e6});
    let set = Limits::of(&set).unwrap();
    // Turn by turn, so that both see the same machine; the best rounds are those it did not disturb.
    let (mut with, mut without) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..ROUNDS {
        without = without.min(calls(runtime, &Limits::default()));
        with = with.min(calls(runtime, &set));
    }
    println!(
        "{}",
        json!({
            "name": "limits_per_call", "value": with - without, "unit": "us", "calls": CALLS, "rounds": ROUNDS,
            "prompt_characters": PROMPT, "call_without": without, "bar": 20.0,
        })
    );
}

/// Microseconds a phase of a chain of so many that is recorded in `journal`.
fn chain(id: String, journal: Arc<dyn Journal>, number: usize) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let phases: Vec<Arc<dyn Phase>> = (0..number).map(|_| Arc::new(Nothing) as Arc<dyn Phase>).collect();
    let services = Services {
        provider: Arc::new(ScriptedProvider::new()),
        runner: Arc::new(ScriptedRunner::default()),
        documents: Arc::new(ScriptedDocuments::default()),
        approvals: Arc::new(Nobody),
        listener: Arc::new(Unwatched),
        clock: Arc::new(SystemClock),
        journal,
    };
    let run = Run::new(id, services, Control::default()).expect("a fresh journal is read");
    let workflow = MemoryWorkflow::new("task", "work");
    let begun = Instant::now();
    runtime.block_on(execute(&run, &phases, &workflow)).unwrap();
    micros(begun, number)
}

#[allow(clippy::cast_precision_loss)]
fn micros(begun: Instant, number: usize) -> f64 {
    begun.elapsed().as_secs_f64() * 1e6 / number as f64
}

/// Microseconds of a page written to a file and brought to the disk, as a commit needs it.
fn bare(directory: &Path, number: usize) -> f64 {
    let mut file = File::create(directory.join("bare")).unwrap();
    let page = [7; 4096];
    let begun = Instant::now();
    for _ in 0..number {
        file.write_all(&page).unwrap();
        file.sync_data().unwrap();
    }
    micros(begun, number)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let memory = |round| chain(format!("run-{round}"), Arc::<MemoryJournal>::default(), PHASES);
    let value = median((0..ROUNDS).map(memory).collect());
    println!(
        "{}",
        json!({"name": "native_phase", "value": value, "unit": "us", "phases": PHASES, "rounds": ROUNDS, "bar": 10.0})
    );
    // On the disk that the build is on: in memory there is nothing to wait for.
    let place = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = Store::open(&place.path().join("store.db")).unwrap();
    let pairs: Vec<(f64, f64)> = (0..DURABLE_ROUNDS)
        .map(|round| {
            let id = format!("run-{round}");
            let claim = Claim { id: id.clone(), root: id.clone(), about: json!({}), ..Claim::default() };
            let journal = Arc::new(store.begin(&claim).unwrap());
            (chain(id, journal, DURABLE_PHASES), bare(place.path(), DURABLE_PHASES))
        })
        .collect();
    let value = median(pairs.iter().map(|(durable, bare)| durable - bare).collect());
    let sync = median(pairs.iter().map(|(_, bare)| *bare).collect());
    println!(
        "{}",
        json!({
            "name": "native_durable_phase_beyond_fdatasync", "value": value, "unit": "us", "bar": 150.0,
            "peer": "write and fdatasync of a page", "peer_value": sync, "phases": DURABLE_PHASES,
            "rounds": DURABLE_ROUNDS,
        })
    );
    limits();
}
