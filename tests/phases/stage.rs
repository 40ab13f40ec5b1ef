//! The stage: a run over scripted ports, and short ways to say what happens on it and to see what did.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use cmbagent::Error;
use cmbagent::engine::approval::Nobody;
use cmbagent::engine::clock::{Clock, SteppingClock};
use cmbagent::engine::executor::{MemoryWorkflow, Workflow, execute};
use cmbagent::engine::{
    Answer, Approvals, Event, Listener, MemoryState, Outcome, Phase, Question, Run, RunStatus, Section, State,
};
use cmbagent::engine::{Control, Why, run::Services};
use cmbagent::error::Result;
use cmbagent::exec::scripted::{Executed, Scripted, ScriptedRunner};
use cmbagent::exec::{Check, Function};
use cmbagent::journal::{Journal, MemoryJournal};
use cmbagent::library::ScriptedDocuments;
use cmbagent::llm::{Call, Finish, LlmErrorKind, Part, Provider, Reply, ScriptedProvider, Usage};
use cmbagent::phases;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};

/// A directory in memory where the system has that: the runs here write thousands of small files.
pub(crate) fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// What the scripted check cannot compile.
pub(crate) const BROKEN: &str = "print(((";

/// Everything a run is made of, and a directory to work in.
pub(crate) struct Stage {
    pub(crate) temp: Arc<dyn AsRef<Path> + Send + Sync>,
    pub(crate) models: Arc<ScriptedProvider>,
    /// What is asked in place of the scripted models.
    pub(crate) provider: Option<Arc<dyn Provider>>,
    pub(crate) runner: Arc<ScriptedRunner>,
    pub(crate) documents: Arc<ScriptedDocuments>,
    pub(crate) humans: Option<Arc<Humans>>,
    pub(crate) heard: Arc<Heard>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) control: Control,
    pub(crate) shared: Map<String, Value>,
    pub(crate) run_id: String,
}

/// How a run ended.
pub(crate) struct Ended {
    pub(crate) status: Result<RunStatus>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) skipped: Vec<usize>,
    /// The cost ledger's number of calls.
    pub(crate) calls: usize,
    /// The ledger's number of calls of whose reply nothing is known.
    pub(crate) unknown: usize,
}

impl Ended {
    /// A value of the last phase's output.
    pub(crate) fn output(&self, key: &str) -> Value {
        let state = &self.outcomes.last().expect("a phase has ended").state;
        state.read(Section::Output, key).unwrap_or_default()
    }

    /// A value that the last phase shares with later ones.
    pub(crate) fn shares(&self, key: &str) -> Value {
        self.output("shared").get(key).cloned().unwrap_or_default()
    }

    pub(crate) fn completed(self) -> Self {
        assert_eq!(*self.status.as_ref().unwrap(), RunStatus::Completed);
        self
    }

    /// Ended without an error, but as failed: what `fail_softly` asks for.
    pub(crate) fn failed_softly(self) -> Self {
        assert_eq!(*self.status.as_ref().unwrap(), RunStatus::Failed);
        self
    }

    /// The text of the error.
    pub(crate) fn error(&self) -> String {
        self.status.as_ref().unwrap_err().to_string()
    }

    /// What kind of answer made the phase fail.
    pub(crate) fn answer_kind(&self) -> LlmErrorKind {
        let Err(Error::PhaseFailed { cause: Some(cause), .. }) = &self.status else {
            panic!("no phase failed with a cause: {:?}", self.status)
        };
        let Error::Model { error, .. } = cause.as_ref() else { panic!("{cause:?}") };
        error.kind
    }
}

impl Stage {
    pub(crate) fn new() -> Self {
        let check = |source: &str, file: &str| Check {
            error: source.contains(BROKEN).then(|| format!("{file}: '(' was never closed (line 1)")),
            doc: None,
            functions: vec![Function { signature: "fit(x)".into(), doc: Some("Fits x.".into()) }],
        };
        Self {
            temp: Arc::new(directory()),
            models: Arc::default(),
            provider: None,
            runner: Arc::new(ScriptedRunner::default().with_check(check)),
            documents: Arc::default(),
            humans: None,
            heard: Arc::default(),
            journal: Arc::new(MemoryJournal::default()),
            clock: Arc::new(SteppingClock::default()),
            control: Control::default(),
            shared: Map::new(),
            run_id: "run-1".into(),
        }
    }

    /// With humans who answer in this order.
    pub(crate) fn asking(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { humans: Some(Arc::new(Humans::new(answers))), ..Self::new() }
    }

    pub(crate) fn say(&self, agent: &str, text: &str) -> &Self {
        self.models.say(agent, text);
        self
    }

    /// An answer that the length limit cut.
    pub(crate) fn say_cut(&self, agent: &str, text: &str) -> &Self {
        self.models.reply(agent, Reply { finish: Finish::Length, ..reply(text) });
        self
    }

    /// The engineer answers with this script, and the script ends like this.
    pub(crate) fn engineer(&self, file: &str, code: &str, ends: Scripted) -> &Self {
        self.say("engineer", &script(file, code)).ends(ends)
    }

    /// A script ends like this.
    pub(crate) fn ends(&self, ends: Scripted) -> &Self {
        self.runner.push(ends);
        self
    }

    pub(crate) fn root(&self) -> PathBuf {
        (*self.temp).as_ref().canonicalize().unwrap().join("work")
    }

    /// Puts a file of the user's below the work directory.
    pub(crate) fn put(&self, path: &str, text: &str) -> PathBuf {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub(crate) fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.read(path)).unwrap()
    }

    /// The names in a directory below the work directory.
    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        list(&self.root().join(path))
    }

    pub(crate) fn new_run(&self) -> Run {
        self.run_with(self.provider.clone().unwrap_or_else(|| self.models.clone()))
    }

    /// A run with models of another kind.
    pub(crate) fn run_with(&self, provider: Arc<dyn Provider>) -> Run {
        let approvals: Arc<dyn Approvals> = match &self.humans {
            Some(humans) => humans.clone(),
            None => Arc::new(Nobody),
        };
        let services = Services {
            provider,
            runner: self.runner.clone(),
            documents: self.documents.clone(),
            approvals,
            listener: self.heard.clone(),
            clock: self.clock.clone(),
            journal: self.journal.clone(),
        };
        Run::new(self.run_id.clone(), services, self.control.clone()).unwrap()
    }

    /// Runs these phases, `(type, configuration)` each.
    pub(crate) async fn run(&self, phases: &[(&str, Value)]) -> Ended {
        let built = phases.iter().map(|(kind, config)| phases::build(kind, config.clone()).unwrap().into());
        self.run_built(&built.collect::<Vec<_>>()).await
    }

    pub(crate) async fn run_built(&self, phases: &[Arc<dyn Phase>]) -> Ended {
        self.run_at(&self.new_run(), phases).await
    }

    pub(crate) async fn run_at(&self, run: &Run, phases: &[Arc<dyn Phase>]) -> Ended {
        let workflow = Seeded {
            inner: MemoryWorkflow::new(TASK, &self.root().to_string_lossy()),
            shared: self.shared.clone(),
        };
        let status = execute(run, phases, &workflow).await;
        let (outcomes, skipped) = (workflow.inner.results(), workflow.inner.skipped());
        let lines = run.ledger().since(0);
        let calls = lines.iter().filter(|line| line.known).count();
        Ended { status, outcomes, skipped, calls, unknown: lines.len() - calls }
    }

    /// Runs a control phase over this plan.
    pub(crate) async fn control(&self, plan: &Value, config: Value) -> Ended {
        let mut config = config;
        config["params"]["preloaded_plan"] = plan.clone();
        self.run(&[("control", config)]).await
    }

    pub(crate) fn calls(&self, agent: &str) -> Vec<Call> {
        self.models.calls().into_iter().filter(|call| call.agent == agent).collect()
    }

    /// The prompts an agent got, with the conversation so far.
    pub(crate) fn prompts(&self, agent: &str) -> Vec<String> {
        self.calls(agent).iter().map(prompt).collect()
    }

    pub(crate) fn executed(&self) -> Vec<Executed> {
        self.runner.executed()
    }

    /// File names of the executed scripts, relative to `below`.
    pub(crate) fn scripts(&self, below: &str) -> Vec<String> {
        let root = self.root().join(below);
        let name = |e: Executed| e.script.path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        self.executed().into_iter().map(name).collect()
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        let text = |data: Map<String, Value>| data["message"].as_str().unwrap().to_owned();
        self.heard.of("warning").into_iter().map(text).collect()
    }
}

pub(crate) const TASK: &str = r"Fit {{x}} with \frac{a}{b} to the data.";

pub(crate) fn list(path: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(path) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub(crate) fn reply(text: &str) -> Reply {
    Reply {
        text: text.into(),
        finish: Finish::Stop,
        usage: Usage { prompt_tokens: 1, completion_tokens: 1, ..Usage::default() },
        model: "scripted".into(),
        id: None,
    }
}

/// An engineer's answer.
pub(crate) fn script(file: &str, code: &str) -> String {
    script_with(file, code, "finished")
}

pub(crate) fn script_with(file: &str, code: &str, status: &str) -> String {
    format!("It computes.\n\n```python\n# filename: {file}\n{code}\n```\n\nStatus: {status}")
}

/// A plan of `(agent, sub-task, bullet)`.
pub(crate) fn plan(steps: &[(&str, &str, &str)]) -> Value {
    let step = |(agent, task, bullet): &(&str, &str, &str)| json!({"bullet_points": [bullet], "sub_task": task, "sub_task_agent": agent});
    steps.iter().map(step).collect()
}

/// A planner's answer with this plan.
pub(crate) fn planned(plan: &Value) -> String {
    json!({"sub_tasks": plan}).to_string()
}

pub(crate) fn prompt(call: &Call) -> String {
    let mut text = call.request.system.clone();
    for message in &call.request.messages {
        for part in &message.parts {
            if let Part::Text { text: said } = part {
                text.push('\n');
                text.push_str(said);
            }
        }
    }
    text
}

pub(crate) fn given(word: &str) -> Answer {
    Answer::Given { resolution: word.into(), user_feedback: None, modifications: None }
}

pub(crate) fn given_with(word: &str, feedback: &str, modifications: Value) -> Answer {
    let modifications = Some(modifications).filter(|m| !m.is_null());
    Answer::Given { resolution: word.into(), user_feedback: Some(feedback.into()), modifications }
}

/// Humans who answer from a queue.
#[derive(Default)]
pub(crate) struct Humans {
    pub(crate) answers: Mutex<VecDeque<Answer>>,
    pub(crate) asked: Mutex<Vec<Question>>,
    /// Seconds each answer takes.
    pub(crate) takes: f64,
}

impl Humans {
    pub(crate) fn new(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self { answers: Mutex::new(answers.into_iter().collect()), ..Self::default() }
    }

    pub(crate) fn asked(&self) -> Vec<Question> {
        self.asked.lock().unwrap().clone()
    }
}

impl Approvals for Humans {
    fn present(&self) -> bool {
        true
    }

    fn ask<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Answer>> {
        Box::pin(async move {
            self.asked.lock().unwrap().push(question.clone());
            if self.takes > 0.0 {
                tokio::time::sleep(std::time::Duration::from_secs_f64(self.takes)).await;
            }
            let answer = self.answers.lock().unwrap().pop_front();
            Ok(answer.expect("an answer is queued for every question"))
        })
    }
}

type Reaction = Box<dyn Fn(&Event) + Send + Sync>;

/// A listener that remembers, and may react.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) events: Mutex<Vec<Event>>,
    pub(crate) reaction: Option<Reaction>,
    /// Events after which the run is told not to go on.
    pub(crate) until: Option<usize>,
    /// What is cancelled while the callbacks hold the run.
    pub(crate) cancels_when_held: Option<Control>,
}

impl Heard {
    pub(crate) fn of(&self, kind: &str) -> Vec<Map<String, Value>> {
        let events = self.events.lock().unwrap();
        events.iter().filter(|event| event.kind == kind).map(|event| event.data.clone()).collect()
    }

    pub(crate) fn numbered(&self) -> Vec<(u64, String)> {
        let events = self.events.lock().unwrap();
        events.iter().filter_map(|event| Some((event.data["seq"].as_u64()?, event.kind.clone()))).collect()
    }
}

impl Listener for Heard {
    fn event(&self, event: &Event) {
        self.events.lock().unwrap().push(event.clone());
        if let Some(react) = &self.reaction {
            react(event);
        }
    }

    fn should_continue(&self) -> bool {
        self.until.is_none_or(|limit| self.events.lock().unwrap().len() < limit)
    }

    fn pause(&self) {
        if let Some(control) = &self.cancels_when_held {
            control.cancel(Why::Requested);
        }
    }
}

/// A workflow whose first context shares something already.
struct Seeded {
    inner: MemoryWorkflow,
    shared: Map<String, Value>,
}

impl Workflow for Seeded {
    fn about(&self) -> Result<Value> {
        self.inner.about()
    }

    fn first(&self, phase_id: &str) -> Result<Arc<dyn State>> {
        let root = self.inner.about().unwrap();
        let work_dir = root["work_dir"].as_str().unwrap();
        let state = MemoryState::new(TASK, work_dir, phase_id);
        for (key, value) in &self.shared {
            state.write(Section::Shared, key, value.clone())?;
        }
        Ok(Arc::new(state))
    }

    fn enter(&self, index: usize) -> Result<()> {
        self.inner.enter(index)
    }

    fn skip(&self, index: usize) -> Result<()> {
        self.inner.skip(index)
    }

    fn record(&self, outcome: &Outcome) -> Result<()> {
        self.inner.record(outcome)
    }

    fn update(&self, outcome: &Outcome) -> Result<()> {
        self.inner.update(outcome)
    }

    fn restore(&self, state: Arc<dyn State>, snapshot: &Value) -> Result<(Arc<dyn State>, Vec<String>)> {
        self.inner.restore(state, snapshot)
    }

    fn finish(&self, seconds: f64) -> Result<()> {
        self.inner.finish(seconds)
    }
}
