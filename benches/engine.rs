//! The engine's own cost a phase: chains of native no-op phases over `MemoryState` and `MemoryJournal`.
//!
//! Prints one JSON object a line; `make bench` runs it after the benchmark of the package.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::time::Instant;

use cmbagent::engine::approval::Nobody;
use cmbagent::engine::clock::SystemClock;
use cmbagent::engine::event::Unwatched;
use cmbagent::engine::executor::{MemoryWorkflow, execute};
use cmbagent::engine::{Control, run::Services};
use cmbagent::engine::{Outcome, Phase, PhaseStatus, Run, State};
use cmbagent::exec::scripted::ScriptedRunner;
use cmbagent::journal::MemoryJournal;
use cmbagent::llm::scripted::ScriptedProvider;
use futures_util::future::BoxFuture;
use serde_json::json;

const PHASES: usize = 1000;
const ROUNDS: usize = 21;

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

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let phases: Vec<Arc<dyn Phase>> = (0..PHASES).map(|_| Arc::new(Nothing) as Arc<dyn Phase>).collect();
    let mut seconds: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            let services = Services {
                provider: Arc::new(ScriptedProvider::new()),
                runner: Arc::new(ScriptedRunner::default()),
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
}
