//! The engine without Python: a run that is cut after every record and replayed, and the executor's rules.
#![allow(clippy::unwrap_used)]

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cmbagent::engine::approval::Nobody;
use cmbagent::engine::clock::SteppingClock;
use cmbagent::engine::executor::{MemoryWorkflow, execute};
use cmbagent::engine::{Control, run::Services};
use cmbagent::engine::{
    Event, Listener, Outcome, Phase, PhaseStatus, Run, RunStatus, Section, Settings, State, state::share,
};
use cmbagent::error::Meaning;
use cmbagent::exec::scripted::{Scripted, ScriptedRunner};
use cmbagent::journal::{Effect, Entry, Journal, MemoryJournal, Position, Record};
use cmbagent::library::ScriptedDocuments;
use cmbagent::llm::scripted::ScriptedProvider;
use cmbagent::{Error, phases};
use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Value, json};

const TASK: &str = "Measure {{x}} and say \\frac{a}{b}.";

/// Remembers the kinds of numbered events.
#[derive(Default)]
struct Witness(Mutex<Vec<String>>);

impl Listener for Witness {
    fn event(&self, event: &Event) {
        if !event.data["seq"].is_null() {
            self.0.lock().unwrap().push(event.kind.clone());
        }
    }
}

/// A journal that takes so many records and then dies.
struct Dying {
    inner: MemoryJournal,
    left: AtomicUsize,
}

impl Journal for Dying {
    fn append(&self, at: f64, position: Position, entry: Entry) -> cmbagent::Result<u64> {
        let alive = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if alive {
            return self.inner.append(at, position, entry);
        }
        Err(Error::Journal("the process is gone".into()))
    }

    fn commit(&self) -> BoxFuture<'_, cmbagent::Result<()>> {
        self.inner.commit()
    }

    fn records(&self, from: u64) -> cmbagent::Result<Vec<Record>> {
        self.inner.records(from)
    }

    fn keeps(&self) -> bool {
        true
    }
}

/// What models and scripts say in the research run, in order.
fn replies() -> Vec<(&'static str, String)> {
    let plan = json!({"sub_tasks": [
        {"sub_task": "measure", "sub_task_agent": "engineer", "bullet_points": ["print x"]},
        {"sub_task": "interpret", "sub_task_agent": "researcher", "bullet_points": ["discuss x"]},
    ]})
    .to_string();
    let code = "**Code Explanation:**\nMeasures.\n\n**Python Code:**\n```python\n# filename: m.py\nprint('x = 4.25 m')\n```\nStatus: finished";
    vec![
        ("planner", plan.clone()),
        ("plan_reviewer", json!({"recommendations": ["print units"]}).to_string()),
        ("planner", plan),
        ("engineer", code.into()),
        ("engineer", code.into()),
        ("researcher", "# Result\nx is 4.25 m.".into()),
    ]
}

fn executions() -> Vec<Scripted> {
    vec![
        Scripted::failure("Traceback (most recent call last):\nValueError: bad"),
        Scripted::success("x = 4.25 m").writing("data/m.csv", "a,b\n1,2\n"),
    ]
}

struct Finished {
    result: cmbagent::Result<RunStatus>,
    outputs: Vec<Value>,
    records: Vec<Record>,
    events: Vec<String>,
    calls: usize,
    scripts: usize,
}

/// One process's life: replays `records`, goes on, and dies after `life` records more.
fn live(work_dir: &Path, records: Vec<Record>, life: usize) -> Finished {
    let done = |effect: Effect| {
        records
            .iter()
            .filter(|r| matches!(&r.entry, Entry::Finished { effect: e, .. } if *e == effect))
            .count()
    };
    let provider = ScriptedProvider::new();
    for (agent, text) in replies().into_iter().skip(done(Effect::Call)) {
        provider.say(agent, &text);
    }
    let runner = ScriptedRunner::new(executions().into_iter().skip(done(Effect::Execute)));
    let (provider, runner, witness) = (Arc::new(provider), Arc::new(runner), Arc::new(Witness::default()));
    let journal = Arc::new(Dying { inner: MemoryJournal::replaying(records), left: AtomicUsize::new(life) });
    let services = Services {
        provider: provider.clone(),
        runner: runner.clone(),
        documents: Arc::new(ScriptedDocuments::default()),
        approvals: Arc::new(Nobody),
        listener: witness.clone(),
        clock: Arc::new(SteppingClock::default()),
        journal: journal.clone(),
    };
    let run = Run::new("run-1", services, Control::default()).unwrap();
    let phases: Vec<Arc<dyn Phase>> = [("planning", json!({})), ("control", json!({}))]
        .into_iter()
        .map(|(kind, config)| Arc::from(phases::build(kind, config).unwrap()))
        .collect();
    let workflow = MemoryWorkflow::new(TASK, work_dir.to_str().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let result = runtime.block_on(execute(&run, &phases, &workflow));
    let outputs = workflow.results().iter().map(outcome_json).collect();
    let events = witness.0.lock().unwrap().clone();
    Finished {
        result,
        outputs,
        records: journal.records(1).unwrap(),
        events,
        calls: provider.calls().len(),
        scripts: runner.executed().len(),
    }
}

fn outcome_json(outcome: &Outcome) -> Value {
    let read = |key: &str| outcome.state.read(Section::Output, key);
    json!({
        "status": outcome.status, "chat": outcome.chat_history, "final_plan": read("final_plan"),
        "planning_context": read("planning_context"), "final_context": read("final_context"),
        "summaries": read("step_summaries"), "files": read("output_files"),
    })
}

/// All files with their contents, but for those that hold durations or drafts.
fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut queue = vec![root.to_path_buf()];
    while let Some(directory) = queue.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                queue.push(path);
                continue;
            }
            let name = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            let timed = name.contains("/time/");
            found.insert(name, if timed { Vec::new() } else { std::fs::read(&path).unwrap() });
        }
    }
    found
}

#[test]
fn a_run_cut_after_every_record_and_replayed_ends_the_same_and_repeats_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let work_dir = temp.path().join("work");
    let whole = live(&work_dir, Vec::new(), usize::MAX);
    assert_eq!(whole.result.clone().unwrap(), RunStatus::Completed);
    assert_eq!((whole.calls, whole.scripts), (6, 2));
    let expected = files(&work_dir);
    assert!(expected.contains_key("control/data/m.csv"), "{:?}", expected.keys());

    for cut in 0..whole.records.len() {
        std::fs::remove_dir_all(&work_dir).unwrap();
        let first = live(&work_dir, Vec::new(), cut);
        assert!(first.result.is_err(), "cut after {cut}");
        assert_eq!(
            shape(&first.records),
            shape(&whole.records[..cut]),
            "the life before the cut is the same"
        );
        let second = live(&work_dir, first.records.clone(), usize::MAX);
        assert_eq!(second.result.unwrap(), RunStatus::Completed, "cut after {cut}");

        let finished = |effect: Effect| {
            let of = |r: &&Record| matches!(&r.entry, Entry::Finished { effect: e, .. } if *e == effect);
            whole.records[..cut].iter().filter(of).count()
        };
        assert_eq!(second.calls, 6 - finished(Effect::Call), "no finished call is repeated: cut after {cut}");
        assert_eq!(second.scripts, 2 - finished(Effect::Execute), "nor a script: cut after {cut}");
        for (again, once) in second.outputs.iter().zip(&whole.outputs) {
            for (key, value) in once.as_object().unwrap() {
                assert_eq!(&again[key], value, "{key}: cut after {cut}");
            }
        }
        // What only a later life tells.
        let own =
            |kind: &String| ["run_resumed", "phase_restored", "effect_repeated"].contains(&kind.as_str());
        let mut told: Vec<String> = first.events.iter().chain(&second.events).cloned().collect();
        told.retain(|kind| !own(kind));
        // A life that finds the run finished says so again.
        if first.events.last().is_some_and(|kind| kind == "run_finished") {
            told.pop();
        }
        assert_eq!(told, whole.events, "every event is told once: cut after {cut}");
        let left = files(&work_dir);
        assert_eq!(left.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "cut after {cut}");
        for (name, contents) in &expected {
            assert!(left[name] == *contents, "{name} differs: cut after {cut}");
        }
    }
}

/// Records without what differs between two lives: the times of files.
fn shape(records: &[Record]) -> Vec<(u64, Position, &str)> {
    let name = |entry: &Entry| match entry {
        Entry::Started { .. } => "started",
        Entry::Finished { .. } => "finished",
        Entry::Event { .. } => "event",
        Entry::Failed { .. } => "failed",
        Entry::Ended { .. } => "ended",
        Entry::Status { .. } => "status",
        Entry::Rewound { .. } => "rewound",
    };
    records.iter().map(|r| (r.seq, r.position, name(&r.entry))).collect()
}

/// A phase made of a closure.
struct Act<F>(&'static str, Settings, F);

impl<F> Phase for Act<F>
where
    F: Fn(&Run, usize) -> BoxFuture<'static, cmbagent::Result<PhaseStatus>> + Send + Sync,
{
    fn phase_type(&self) -> &str {
        self.0
    }

    fn display_name(&self) -> String {
        self.0.into()
    }

    fn settings(&self) -> cmbagent::Result<Settings> {
        Ok(self.1.clone())
    }

    fn can_skip(&self, _: &dyn State) -> cmbagent::Result<bool> {
        Ok(self.0 == "skipped")
    }

    fn validate_input(&self, _: &dyn State) -> cmbagent::Result<Vec<String>> {
        Ok(if self.0 == "invalid" { vec!["It's \"wrong\"".into(), "no".into()] } else { Vec::new() })
    }

    fn execute<'a>(
        &'a self,
        run: &'a Run,
        state: Arc<dyn State>,
    ) -> BoxFuture<'a, cmbagent::Result<Outcome>> {
        Box::pin(async move {
            let seen = state.read(Section::Input, "n").and_then(|n| n.as_u64()).unwrap_or(0);
            state.write(Section::Output, "n", json!(seen + 1))?;
            share(state.as_ref(), [(self.0, json!(state.phase_id()))])?;
            let status = (self.2)(run, usize::try_from(run.phase_try()).unwrap()).await?;
            let error = (status == PhaseStatus::Failed).then(|| "no luck".to_owned());
            Ok(Outcome { error, ..Outcome::new(status, state) })
        })
    }
}

fn ending(kind: &'static str, status: PhaseStatus) -> Arc<dyn Phase> {
    Arc::new(Act(kind, Settings::default(), move |_: &Run, _| async move { Ok(status) }.boxed()))
}

fn bare(control: Control) -> Run {
    let services = Services {
        provider: Arc::new(ScriptedProvider::new()),
        runner: Arc::new(ScriptedRunner::default()),
        documents: Arc::new(ScriptedDocuments::default()),
        approvals: Arc::new(Nobody),
        listener: Arc::new(Witness::default()),
        clock: Arc::new(SteppingClock::default()),
        journal: Arc::new(MemoryJournal::default()),
    };
    Run::new("run-2", services, control).unwrap()
}

async fn through(phases: &[Arc<dyn Phase>]) -> (cmbagent::Result<RunStatus>, MemoryWorkflow) {
    let workflow = MemoryWorkflow::new("t", "w");
    let result = execute(&bare(Control::default()), phases, &workflow).await;
    (result, workflow)
}

#[tokio::test]
async fn a_skipped_phase_leaves_a_hole_and_data_flow_around_it() {
    use PhaseStatus::Completed;
    let phases = [ending("a", Completed), ending("skipped", Completed), ending("b", Completed)];
    let (result, workflow) = through(&phases).await;
    assert_eq!(result.unwrap(), RunStatus::Completed);
    let ids: Vec<String> = workflow.results().iter().map(|o| o.state.phase_id()).collect();
    assert_eq!(ids, ["phase_0_a", "phase_2_b"]);
    assert_eq!(workflow.skipped(), [1]);
    let last = workflow.results().pop().unwrap().state;
    assert_eq!(last.read(Section::Output, "n"), Some(json!(2)), "b saw what a put out");
    assert_eq!(last.read(Section::Shared, "a"), Some(json!("phase_0_a")));
}

#[tokio::test]
async fn failures_and_invalid_input_end_the_run_with_the_words_callers_match() {
    let (result, workflow) = through(&[ending("x", PhaseStatus::Failed)]).await;
    assert_eq!(result.unwrap_err().to_string(), "Phase x failed: no luck");
    assert_eq!(workflow.results().len(), 1, "a failed result is kept");
    let (result, workflow) = through(&[ending("invalid", PhaseStatus::Completed)]).await;
    let text = result.unwrap_err().to_string();
    assert_eq!(text, "Phase invalid validation failed: ['It\\'s \"wrong\"', 'no']");
    assert!(workflow.results().is_empty());
}

#[tokio::test]
async fn a_phase_that_waits_or_pauses_ends_the_run_there() {
    for (status, ended) in
        [(PhaseStatus::WaitingApproval, RunStatus::WaitingApproval), (PhaseStatus::Paused, RunStatus::Paused)]
    {
        let (result, workflow) = through(&[ending("a", status), ending("b", PhaseStatus::Completed)]).await;
        assert_eq!(result.unwrap(), ended);
        assert_eq!(workflow.results().len(), 1);
    }
}

#[tokio::test]
async fn max_retries_gives_a_failed_phase_a_fresh_context() {
    let second = |_: &Run, phase_try: usize| {
        let status = if phase_try == 0 { PhaseStatus::Failed } else { PhaseStatus::Completed };
        async move { Ok(status) }.boxed()
    };
    let settings = Settings { max_retries: 1, ..Settings::default() };
    let (result, workflow) = through(&[Arc::new(Act("a", settings, second))]).await;
    assert_eq!(result.unwrap(), RunStatus::Completed);
    assert_eq!(workflow.results().len(), 1, "only the try that counts is a result");
    assert_eq!(workflow.results()[0].state.read(Section::Output, "n"), Some(json!(1)));
}

#[tokio::test]
async fn an_error_of_the_host_comes_back_as_the_same_object() {
    let thrown: Arc<dyn Any + Send + Sync> = Arc::new(7_u8);
    let object = thrown.clone();
    let fail = move |_: &Run, _: usize| {
        let object = object.clone();
        async move { Err(Error::Foreign { text: "theirs".into(), object, meaning: Meaning::Failure }) }
            .boxed()
    };
    let (result, _) = through(&[Arc::new(Act("a", Settings::default(), fail))]).await;
    match result.unwrap_err() {
        Error::Foreign { object, .. } => assert!(Arc::ptr_eq(&object, &thrown)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_phase_that_takes_too_long_fails_and_names_the_setting() {
    let forever = |_: &Run, _: usize| std::future::pending().boxed();
    let settings = Settings { timeout_seconds: Some(0.01), ..Settings::default() };
    let (result, _) = through(&[Arc::new(Act("slow", settings, forever))]).await;
    let text = result.unwrap_err().to_string();
    assert!(text.starts_with("Phase slow failed: ") && text.contains("timeout_seconds=0.01"), "{text}");
}

#[tokio::test]
async fn an_exit_of_the_host_is_not_tried_again() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = tries.clone();
    let leave = move |_: &Run, _: usize| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err(Error::Foreign { text: "exit".into(), object: Arc::new(()), meaning: Meaning::Exit }) }
            .boxed()
    };
    let settings = Settings { max_retries: 3, ..Settings::default() };
    let (result, workflow) = through(&[Arc::new(Act("a", settings, leave))]).await;
    assert!(matches!(result, Err(Error::Foreign { meaning: Meaning::Exit, .. })));
    assert_eq!(tries.load(Ordering::SeqCst), 1);
    assert!(workflow.results().is_empty());
}
