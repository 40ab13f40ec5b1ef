//! The run handle: the one door through which phases act on the world.
//!
//! Every effect passes the same gate: cancelled? → held? → replayed? → within limits? → *started*
//! record → act → committed *finished* record → event. So journalling, replay, limits, cancellation,
//! events and cost are written once, here, and no phase knows of them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::budget::Budget;
use super::call::Called;
use super::clock::Clock;
use super::control::{Control, Why};
use super::ledger::{Ledger, Line, Total};
use super::waits::{Wait, Waits};
use super::{Answer, Approvals, Event, Limits, Listener, Question, RunStatus};
use crate::error::{Error, Result};
use crate::exec::sandbox::Confinement;
use crate::exec::{Check, ExecError, Execution, Exit, Facts, Package, Runner, Script, docstrings};
use crate::journal::{Demand, Effect, Entry, History, Journal, Position};
use crate::library::{Document, Documents, Home};
use crate::llm::place::{Calls, Place};
use crate::llm::{self, CallOptions, LlmErrorKind, Provider, Quote, Request};

/// So many events may be on their way to the journal.
const TOLD_AT_ONCE: u64 = 1000;

/// What a run is made of: its ports.
pub struct Services {
    /// Models.
    pub provider: Arc<dyn Provider>,
    /// The interpreter that runs scripts.
    pub runner: Arc<dyn Runner>,
    /// Documentation of libraries.
    pub documents: Arc<dyn Documents>,
    /// Humans.
    pub approvals: Arc<dyn Approvals>,
    /// Those who watch and steer.
    pub listener: Arc<dyn Listener>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The record.
    pub journal: Arc<dyn Journal>,
}

struct Shared {
    id: String,
    /// The first of the runs that made this one, or itself.
    root: String,
    services: Services,
    ledger: Ledger,
    facts: tokio::sync::OnceCell<Facts>,
    /// Calls so far by place, replayed ones included.
    spoken: Calls,
    /// What the whole run is steered by.
    control: Control,
    /// Whether it was told that the run is held.
    held: AtomicBool,
    waits: Arc<Waits>,
    /// What earlier lives have left.
    history: History,
    /// Events that the journal holds from earlier lives, by place: a replay tells nobody of them again.
    told: Mutex<HashMap<Position, u64>>,
    /// Whether to go on where what was cut short differs from what follows now.
    forced: bool,
    /// One question about a limit at a time.
    asking: tokio::sync::Mutex<()>,
    /// What was enforced on the latest script.
    confinement: Mutex<Confinement>,
}

/// An upper limit of model calls, and the setting it comes from.
#[derive(Debug)]
struct CallLimit {
    setting: String,
    limit: u32,
    used: AtomicU32,
}

/// A place in a run from which effects can be made. Cheap to clone.
#[derive(Clone)]
pub struct Run {
    shared: Arc<Shared>,
    position: Position,
    phase_type: Arc<str>,
    ordinal: Arc<AtomicU32>,
    nestings: Arc<AtomicU32>,
    /// Runs that this phase has made.
    children: Arc<AtomicU32>,
    approvals: Arc<dyn Approvals>,
    control: Control,
    limits: Vec<Arc<CallLimit>>,
    /// Those of the runs above, of the run and of the phase, from the outermost inwards.
    pub(super) budgets: Vec<Arc<Budget>>,
    tolerant: bool,
}

impl Run {
    /// A run over `services`; what their journal already holds is replayed.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn new(id: impl Into<String>, services: Services, control: Control) -> Result<Self> {
        Self::resuming(id, None, services, control, false)
    }

    /// The same for a run that a phase of the run `above` made; `forced` goes on where what was cut short
    /// differs from what follows now.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub fn resuming(
        id: impl Into<String>,
        above: Option<&Self>,
        services: Services,
        control: Control,
        forced: bool,
    ) -> Result<Self> {
        let id = id.into();
        let approvals = services.approvals.clone();
        let history = History::of(services.journal.records(1)?);
        let run = Self {
            shared: Arc::new(Shared {
                root: above.map_or_else(|| id.clone(), |above| above.root_id().to_owned()),
                id,
                services,
                ledger: Ledger::default(),
                facts: tokio::sync::OnceCell::new(),
                spoken: Calls::default(),
                control: control.clone(),
                held: AtomicBool::default(),
                waits: Arc::default(),
                told: Mutex::new(history.told().clone()),
                history,
                forced,
                asking: tokio::sync::Mutex::default(),
                confinement: Mutex::default(),
            }),
            position: Position::of_attempt(0),
            phase_type: "".into(),
            ordinal: Arc::default(),
            nestings: Arc::default(),
            children: Arc::default(),
            approvals,
            control,
            limits: Vec::new(),
            budgets: above.map(|above| above.budgets.clone()).unwrap_or_default(),
            tolerant: false,
        };
        for (_, call) in run.history().unknown_calls() {
            run.charge(Line::unknown(call));
        }
        for (agent, output) in run.history().abandoned_calls() {
            if let Some(line) = Called::read(output)?.line(agent) {
                run.charge(line);
            }
        }
        Ok(run)
    }

    /// The same run within `limits`; what earlier lives took counts.
    #[must_use]
    pub fn within(&self, limits: Limits) -> Self {
        if limits.is_none() {
            return self.clone();
        }
        let seconds = self.history().seconds(self.position.attempt, None);
        let own = self.budget("the run", limits, seconds);
        // What came before the limits were known.
        self.ledger().since(0).iter().for_each(|line| own.charge(line));
        self.with_budget(own)
    }

    /// The place of a phase within `limits`, for all its tries.
    #[must_use]
    pub fn within_phase(&self, index: u32, phase_type: &str, limits: Limits) -> Self {
        if limits.is_none() {
            return self.clone();
        }
        let attempt = self.position.attempt;
        let seconds = self.history().seconds(attempt, Some(index));
        let own = self.budget(&format!("phase {phase_type}"), limits, seconds);
        let here = self.history().unknown_calls().iter();
        here.filter(|(at, _)| (at.attempt, at.phase) == (attempt, index))
            .for_each(|(_, call)| own.charge(&Line::unknown(call)));
        self.with_budget(own)
    }

    /// A budget as earlier lives have left it.
    fn budget(&self, scope: &str, limits: Limits, seconds: f64) -> Budget {
        let (clock, waits) = (self.shared.services.clock.clone(), self.shared.waits.clone());
        let budget = Budget::new(scope, limits, clock, waits, seconds);
        self.history().raised().iter().for_each(|raised| budget.recall(raised));
        budget
    }

    fn with_budget(&self, budget: Budget) -> Self {
        let mut run = self.clone();
        run.budgets.push(Arc::new(budget));
        run
    }

    /// Enters a call's line and counts it against the limits.
    pub fn charge(&self, line: Line) {
        self.budgets.iter().for_each(|budget| budget.charge(&line));
        self.shared.ledger.add(line);
    }

    pub(super) fn one_question(&self) -> &tokio::sync::Mutex<()> {
        &self.shared.asking
    }

    /// What a call will take at most.
    pub fn quote(&self, request: &Request) -> Quote {
        self.shared.services.provider.quote(request)
    }

    /// The run's id.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// The id of the first of the runs that made this one, or its own.
    pub fn root_id(&self) -> &str {
        &self.shared.root
    }

    /// The id of this execution: the run's, with a number when it is not the first.
    pub fn execution_id(&self) -> String {
        match self.position.attempt {
            0 => self.shared.id.clone(),
            attempt => format!("{}.{}", self.shared.id, attempt + 1),
        }
    }

    /// The id of the next run that this phase makes: a later life that makes it again gives it the same.
    pub fn child_id(&self) -> String {
        let number = self.children.fetch_add(1, Ordering::Relaxed);
        let Position { attempt, phase, phase_try, .. } = self.position;
        let name = format!("{} {attempt} {phase} {phase_try} {number}", self.id());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&blake3::hash(name.as_bytes()).as_bytes()[..16]);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }

    /// Heeds what people elsewhere demand of the run, for as long as it is polled.
    pub async fn heed(&self) -> Infallible {
        loop {
            match self.journal().demand().await {
                Demand::Stop => self.shared.control.stop(),
                Demand::Cancel => self.shared.control.cancel(Why::Requested),
                Demand::Pause => self.shared.control.pause(),
                Demand::Resume => self.shared.control.resume(),
            }
        }
    }

    /// What steers this run.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// What the run has cost so far.
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// Whether there is anyone to ask.
    pub fn has_approvals(&self) -> bool {
        self.approvals.present()
    }

    fn at(&self, change: impl FnOnce(&mut Position)) -> Self {
        let mut position = self.position;
        change(&mut position);
        Self { position, ordinal: Arc::default(), ..self.clone() }
    }

    /// The place of an execution of the whole workflow.
    pub fn at_attempt(&self, attempt: u32) -> Self {
        self.at(|p| *p = Position::of_attempt(attempt))
    }

    /// The place of a phase's try.
    pub fn at_phase(&self, index: u32, phase_try: u32, phase_type: &str) -> Self {
        let run = self.at(|p| *p = Position::of_phase(p.attempt, index, phase_try));
        Self { phase_type: phase_type.into(), nestings: Arc::default(), children: Arc::default(), ..run }
    }

    /// The place of a built-in phase that a custom phase executes itself, and may end by itself.
    pub fn nested(&self, phase_type: &str) -> Self {
        let number = self.nestings.fetch_add(1, Ordering::Relaxed) + 1;
        let run = self.at(|p| (p.nested, p.step, p.turn) = (number, 0, 0));
        Self { phase_type: phase_type.into(), control: self.control.part(), ..run }
    }

    /// The same place, asking through other approvals.
    pub fn asking(&self, approvals: Arc<dyn Approvals>) -> Self {
        Self { approvals, ..self.clone() }
    }

    /// The place of a step within this phase.
    pub fn at_step(&self, step: usize) -> Self {
        self.at(|p| (p.step, p.turn) = (u32::try_from(step).unwrap_or(u32::MAX), 0))
    }

    /// The place of a turn within this step.
    pub fn at_turn(&self, turn: usize) -> Self {
        self.at(|p| p.turn = u32::try_from(turn).unwrap_or(u32::MAX))
    }

    /// The same place with at most `limit` model calls from here on; `setting` is named when they are used up.
    pub fn with_call_limit(&self, setting: &str, limit: u32) -> Self {
        let mut run = self.clone();
        run.limits.push(Arc::new(CallLimit { setting: setting.into(), limit, used: AtomicU32::new(0) }));
        run
    }

    /// The clock, for durations that only people read; see [`Run::now`] for times that enter results.
    pub fn clock(&self) -> &dyn Clock {
        self.shared.services.clock.as_ref()
    }

    /// Seconds spent waiting for humans so far, a wait in progress included.
    pub fn seconds_waiting(&self) -> f64 {
        self.shared.waits.seconds(self.clock())
    }

    fn wait(&self) -> Wait<'_> {
        self.shared.waits.begin(self.clock())
    }

    /// The turn in words fit for a file name: the same in a replay, and no other turn's.
    pub fn label(&self) -> String {
        format!("step_{}_turn_{}{}", self.position.step, self.position.turn, self.again())
    }

    /// What tells this place from its twin in an earlier try of the same step, phase or run; mostly empty.
    pub fn again(&self) -> String {
        let Position { attempt, phase_try, nested, .. } = self.position;
        let again = [("again", nested), ("retry", phase_try), ("rerun", attempt)];
        let again = again.iter().filter(|(_, number)| *number > 0);
        again.map(|(word, number)| format!("_{word}_{number}")).collect::<Vec<_>>().concat()
    }

    /// Which execution of the same executor this is, from 0.
    pub fn attempt(&self) -> u32 {
        self.position.attempt
    }

    /// Which try of the phase this is, from 0.
    pub fn phase_try(&self) -> u32 {
        self.position.phase_try
    }

    /// The phase's index, from 0.
    pub fn phase_index(&self) -> u32 {
        if self.position.phase == Position::NO_PHASE { 0 } else { self.position.phase }
    }

    /// What earlier lives of this run have left.
    pub fn history(&self) -> &History {
        &self.shared.history
    }

    /// Whether an earlier life told that it began this execution.
    pub fn resumed(&self) -> bool {
        self.history().told().contains_key(&Position::of_attempt(self.position.attempt))
    }

    /// How an earlier life ended this try of the phase.
    pub fn ended(&self) -> Option<&Value> {
        self.history().ended(&self.position)
    }

    /// The journal.
    pub fn journal(&self) -> &dyn Journal {
        self.shared.services.journal.as_ref()
    }

    /// Records something at this place and waits until it is safe.
    pub async fn record(&self, entry: Entry) -> Result<()> {
        let journal = self.journal();
        journal.append(self.clock().now(), self.position, entry)?;
        journal.commit().await
    }

    /// Records the run's status.
    pub fn mark(&self, status: RunStatus) -> Result<()> {
        let entry = Entry::Status { status: status.as_str().into(), usage: self.spent().to_json() };
        self.journal().append(self.clock().now(), self.position, entry).map(drop)
    }

    /// Seconds since 1970, as this run saw them: a replay sees the same.
    pub async fn now(&self) -> Result<f64> {
        let clock = self.shared.services.clock.clone();
        self.observe_here("clock", || Ok(clock.now())).await
    }

    /// The local form of a time for file names.
    pub fn stamp(&self, at: f64) -> String {
        self.shared.services.clock.stamp(at)
    }

    /// The longest prompt a model takes in tokens, when known.
    pub fn window(&self, model: &str) -> Option<u32> {
        self.shared.services.provider.window(model)
    }

    /// Whether a model takes pictures, when known.
    pub fn vision(&self, model: &str) -> Option<bool> {
        self.shared.services.provider.vision(model)
    }

    /// Whether there is a key, or a server that needs none, for a model.
    pub fn reaches(&self, model: &str, options: &CallOptions) -> bool {
        self.shared.services.provider.reaches(model, options)
    }

    /// Looks at something outside the run, away from the caller's loop; a replay gets what was seen
    /// then.
    pub async fn observe<T, F>(&self, what: &str, look: F) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        F: FnOnce() -> Result<T> + Send + 'static,
    {
        let away = |_| async move {
            let looked = tokio::task::spawn_blocking(look).await;
            looked.map_err(|e| Error::Journal(format!("a look outside the run broke off: {e}")))?
        };
        self.pass(Effect::Observe, &json!(what), Value::Null, away).await
    }

    /// The same for a look that belongs to the caller's thread and is quick.
    pub async fn observe_here<T>(&self, what: &str, look: impl FnOnce() -> Result<T>) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
    {
        self.pass(Effect::Observe, &json!(what), Value::Null, |_| async move { look() }).await
    }

    /// The machine as scripts see it; looked at once a run.
    pub async fn facts(&self) -> Result<Facts> {
        let look = || async {
            let origin = Self {
                position: Position::of_attempt(self.position.attempt),
                ordinal: Arc::default(),
                ..self.clone()
            };
            let runner = self.shared.services.runner.clone();
            let facts = |_| async move { runner.facts().await.map_err(|error| self.script_error(error)) };
            origin.pass(Effect::Observe, &json!("facts"), Value::Null, facts).await
        };
        self.shared.facts.get_or_try_init(look).await.cloned()
    }

    /// Compiles a script without running it.
    pub async fn check(&self, source: &str, filename: &str) -> Result<Check> {
        let runner = self.shared.services.runner.clone();
        let input = json!([source, filename]);
        let check =
            |_| async move { runner.check(source, filename).await.map_err(|error| self.script_error(error)) };
        self.pass(Effect::Observe, &input, Value::Null, check).await
    }

    /// Installed documentation of the library functions that a traceback in `output` names.
    pub async fn docstrings(&self, output: &str, directory: &Path) -> Result<String> {
        let runner = self.shared.services.runner.clone();
        self.pass(Effect::Observe, &json!(["docstrings", output]), Value::Null, |control| async move {
            Ok(docstrings::of_traceback(runner.as_ref(), output, directory, &control.token).await?)
        })
        .await
    }

    /// The documentation of a library: from its site, that of `version` if it is there; else what
    /// the installed package says of itself, read by a script of ours in `directory`.
    pub async fn documentation(
        &self,
        home: &'static Home,
        version: Option<&str>,
        directory: &Path,
    ) -> Result<Document> {
        let Services { documents, runner, clock, .. } = &self.shared.services;
        let input = json!(["documentation", home.library, version]);
        self.pass(Effect::Observe, &input, Value::Null, |control| async move {
            let fetched = tokio::select! {
                biased;
                () = control.cut() => return Err(control.error()),
                fetched = documents.fetch(home, version, clock.now()) => fetched,
            };
            let problem = match fetched {
                Ok(document) => return Ok(document),
                Err(problem) => problem,
            };
            let text = match version {
                Some(_) => {
                    docstrings::of_module(runner.as_ref(), home.library, directory, &control.token).await
                }
                None => Ok(String::new()),
            };
            let text = text.map_err(|error| self.script_error(error))?;
            let source = match version {
                Some(version) if !text.is_empty() => format!("docstrings of the installed version {version}"),
                _ => problem.clone(),
            };
            Ok(Document { source, text, problem: Some(problem) })
        })
        .await
    }

    /// The same place, where a failed call of a model is a result to go on from: it is recorded, so
    /// that a replay fails alike and does not call again.
    pub fn tolerant(&self) -> Self {
        Self { tolerant: true, ..self.clone() }
    }

    /// Whether a failed call is a result here.
    pub(super) fn is_tolerant(&self) -> bool {
        self.tolerant
    }

    /// Counts a call, and fails where it is one too many.
    pub(super) fn count_call(&self) -> Result<()> {
        for limit in &self.limits {
            if limit.used.fetch_add(1, Ordering::Relaxed) >= limit.limit {
                return Err(Error::Limit(format!(
                    "{} model calls were made and the work is not done: the limit is the setting {}={} of the \
                     phase {}. Raise it, or ask for less in one step.",
                    limit.limit, limit.setting, limit.limit, self.phase_type
                )));
            }
        }
        Ok(())
    }

    /// The same place, for an effect beside those of the turn: its number is `call`.
    pub(super) fn beside(&self, call: u32) -> Self {
        Self { ordinal: Arc::new(AtomicU32::new(call)), ..self.at(|p| p.call = call) }
    }

    pub(super) fn provider(&self) -> &dyn Provider {
        self.shared.services.provider.as_ref()
    }

    /// The place of this agent's next call here.
    pub(super) fn next_call(&self, agent: &str) -> Place {
        self.shared.spoken.next(Place { agent: agent.into(), ..self.place() })
    }

    fn place(&self) -> Place {
        let Position { attempt, phase, phase_try, nested, step, .. } = self.position;
        let phase_type = self.phase_type.to_string();
        Place { attempt, phase, phase_type, phase_try, nested, step, ..Place::default() }
    }

    /// The models of a run that is made at this place and would ask `own`.
    pub fn provider_within(&self, own: Arc<dyn Provider>) -> Arc<dyn Provider> {
        let place = Place { nested: self.nestings.fetch_add(1, Ordering::Relaxed) + 1, ..self.place() };
        self.shared.services.provider.within(&place, own)
    }

    pub(super) async fn warn_of(&self, agent: &str, differences: Vec<Value>) -> Result<()> {
        for difference in differences {
            self.tell(agent, "warning", difference).await?;
        }
        Ok(())
    }

    pub(super) fn model_error(&self, agent: &str, error: llm::LlmError) -> Error {
        if error.kind == LlmErrorKind::Cancelled {
            return self.control.error();
        }
        Error::Model {
            error,
            agent: agent.into(),
            phase: self.phase_type.to_string(),
            step: self.position.step,
        }
    }

    fn script_error(&self, error: ExecError) -> Error {
        match error {
            ExecError::Cancelled => self.control.error(),
            other => other.into(),
        }
    }

    /// An error of a model's answer that no call made, such as one that stayed empty.
    pub fn answer_error(&self, agent: &str, model: &str, kind: LlmErrorKind, message: String) -> Error {
        self.model_error(agent, llm::LlmError { kind, message, status: None, model: model.into() })
    }

    /// Runs a script; its output is told as it comes.
    pub async fn execute(&self, agent: &str, script: &Script, about: Value) -> Result<Execution> {
        self.hold().await?;
        let mut started = about;
        started["limit_seconds"] = json!(script.timeout_seconds);
        started["log_path"] = json!(script.log_path);
        self.tell(agent, "script_started", started).await?;
        let input = json!([script, started_hash(&script.path)?]);
        let act = |control: Control| async move {
            let output = |text: &str| self.whisper(agent, "script_output", json!({"text": text}));
            let execution = self.shared.services.runner.run(script, &output, &control.token).await;
            self.ran(&control, execution)
        };
        let execution: Execution = self.pass(Effect::Execute, &input, Value::Null, act).await?;
        self.tell_confinement(agent, &execution.confinement).await?;
        Ok(execution)
    }

    /// Installs a package for the scripts of this run.
    pub async fn install(&self, package: &Package) -> Result<Execution> {
        let runner = self.shared.services.runner.clone();
        let act = |control: Control| async move {
            let execution = runner.install(package, &control.token).await;
            self.ran(&control, execution)
        };
        self.pass(Effect::Execute, &json!(["install", package]), Value::Null, act).await
    }

    fn ran(&self, control: &Control, execution: Result<Execution, ExecError>) -> Result<Execution> {
        let execution = execution.map_err(|error| self.script_error(error))?;
        // A signal to the whole job reaches the script as well as the process that runs it.
        let cut = matches!(execution.exit, Exit::Signal(_)) && control.cancelled();
        if cut || execution.exit == Exit::Cancelled { Err(control.error()) } else { Ok(execution) }
    }

    /// What was enforced on the latest script; blank before the first.
    pub fn confinement(&self) -> Confinement {
        self.shared.confinement.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells what holds for scripts, when it is not what held before.
    async fn tell_confinement(&self, agent: &str, now: &Confinement) -> Result<()> {
        {
            let mut before = self.shared.confinement.lock().unwrap_or_else(PoisonError::into_inner);
            if *before == *now {
                return Ok(());
            }
            before.clone_from(now);
        }
        self.tell(agent, "sandbox", json!(now)).await?;
        for message in &now.warnings {
            self.tell(agent, "warning", json!({"message": message})).await?;
        }
        Ok(())
    }

    /// What the run has spent so far.
    pub fn spent(&self) -> Total {
        Total::of(&self.ledger().since(0))
    }

    /// Asks a human, who is shown what the run has spent.
    pub async fn ask(&self, mut question: Question) -> Result<Answer> {
        self.hold().await?;
        question.run_id = self.id().to_owned();
        if let Value::Object(shown) = &mut question.context_snapshot {
            shown.entry("spent").or_insert_with(|| self.spent().to_json());
        }
        let about = json!({
            "checkpoint_type": question.checkpoint_type, "message": question.message,
            "options": question.options, "request_id": question.step_id,
        });
        self.tell("", "approval_requested", about).await?;
        let input = serde_json::to_value(&question).map_err(internal)?;
        let id = self.question_id();
        let asked = input.clone();
        let answer: Answer = self
            .pass(Effect::Ask, &input, Value::Null, |control| async move {
                self.journal().ask(&id, &asked)?;
                self.mark(RunStatus::WaitingApproval)?;
                self.journal().commit().await?;
                let waiting = self.wait();
                let answer = tokio::select! {
                    biased;
                    answer = self.approvals.ask(&question) => answer,
                    answer = self.journal().answered(&id) => serde_json::from_value(answer).map_err(internal),
                    () = control.cut() => Err(control.error()),
                };
                drop(waiting);
                let answer: Answer = answer?;
                self.journal().settle(&id, &serde_json::to_value(&answer).map_err(internal)?)?;
                self.mark(RunStatus::Running)?;
                Ok(answer)
            })
            .await?;
        let about = match &answer {
            Answer::Given { resolution, user_feedback, .. } => {
                json!({"resolution": resolution, "user_feedback": user_feedback})
            }
            Answer::TimedOut => json!({"resolution": "timeout", "user_feedback": null}),
            Answer::Failed { error } => json!({"resolution": "error", "user_feedback": error}),
        };
        self.tell("", "approval_received", about).await?;
        Ok(answer)
    }

    /// The question's id in the store: the same when a later life asks it again.
    fn question_id(&self) -> String {
        let Position { attempt, phase, phase_try, nested, step, turn, .. } = self.position;
        let call = self.ordinal.load(Ordering::Relaxed);
        format!("{attempt}.{phase}.{phase_try}.{nested}.{step}.{turn}.{call}")
    }

    /// Holds while the run is paused, and fails when it was cancelled.
    pub async fn gate(&self) -> Result<()> {
        let (control, listener) = (&self.control, &self.shared.services.listener);
        if control.cancelled() {
            return Err(control.error());
        }
        {
            let _waiting = self.wait();
            listener.pause();
        }
        self.hold().await?;
        if !listener.should_continue() {
            self.shared.control.cancel(Why::Callback);
        }
        if control.cancelled() { Err(control.error()) } else { Ok(()) }
    }

    /// Waits until the run is not paused; the caller's loop goes on. Effects wait here before they
    /// tell that they start.
    pub(super) async fn hold(&self) -> Result<()> {
        while self.control.paused() {
            let _waiting = self.wait();
            if !self.shared.held.swap(true, Ordering::Relaxed) {
                self.mark(RunStatus::Paused)?;
                self.announce("run_paused", json!({}))?;
            }
            self.control.released().await;
        }
        if !self.control.cancelled() && self.shared.held.swap(false, Ordering::Relaxed) {
            self.mark(RunStatus::Running)?;
            self.announce("run_continued", json!({}))?;
        }
        Ok(())
    }

    pub(super) async fn pass<T, F>(
        &self,
        effect: Effect,
        input: &Value,
        about: Value,
        act: impl FnOnce(Control) -> F,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T>>,
    {
        let prepare = |position| async move {
            if effect == Effect::Execute {
                self.in_time(position).await?;
            }
            Ok((about, ()))
        };
        self.pass_prepared(effect, input, prepare, |control, ()| act(control)).await
    }

    /// The gate. `prepare` looks at the limits, unless the effect is replayed, and says what is to be
    /// recorded about it and what `act` needs.
    pub(super) async fn pass_prepared<T, P, F>(
        &self,
        effect: Effect,
        input: &Value,
        prepare: impl AsyncFnOnce(Position) -> Result<(Value, P)>,
        act: impl FnOnce(Control, P) -> F,
    ) -> Result<T>
    where
        T: Serialize + DeserializeOwned,
        F: Future<Output = Result<T>>,
    {
        let position = Position { call: self.ordinal.fetch_add(1, Ordering::Relaxed), ..self.position };
        if effect != Effect::Observe {
            self.gate().await?;
        }
        if let Some((recorded, output)) = self.history().finished(&position) {
            if *recorded != effect {
                return Err(self.changed(&format!(
                    "the journal holds a {recorded:?} at {position:?} where a {effect:?} follows now"
                )));
            }
            return serde_json::from_value(output.clone()).map_err(internal);
        }
        let hash = hash(input);
        let before = self.history().cut_short(&position).map(|(_, before)| *before == hash);
        let (about, prepared) = prepare(position).await?;
        if let Some(same) = before {
            self.repeat(effect, same)?;
        }
        let journal = self.journal();
        let clock = self.clock();
        journal.append(clock.now(), position, Entry::Started { effect, input: hash, about })?;
        // After a crash it must be known what may have been paid for, or may still have left files.
        if effect != Effect::Observe {
            journal.commit().await?;
        }
        let act = act(self.control.clone(), prepared);
        let acted = if effect == Effect::Call || effect == Effect::Execute {
            self.before_late(act).await
        } else {
            act.await
        };
        let output = match acted {
            Ok(output) => output,
            Err(error) => {
                if !error.is_ending() {
                    let failed = Entry::Failed { effect, error: error.to_string() };
                    journal.append(clock.now(), position, failed)?;
                }
                return Err(error);
            }
        };
        let recorded = serde_json::to_value(&output).map_err(internal)?;
        journal.append(clock.now(), position, Entry::Finished { effect, output: recorded })?;
        journal.commit().await?;
        Ok(output)
    }

    /// An effect that was cut short acts again: listeners are told, and a difference needs force.
    fn repeat(&self, effect: Effect, same: bool) -> Result<()> {
        if !same && !self.shared.forced {
            return Err(self.changed(&format!(
                "the {effect:?} that was cut short in phase {} at step {}, turn {} differs from the one that \
                 follows now",
                self.phase_type, self.position.step, self.position.turn
            )));
        }
        self.announce("effect_repeated", json!({"effect": effect, "changed": !same}))
    }

    fn changed(&self, what: &str) -> Error {
        Error::Journal(format!(
            "run {} cannot go on as it was: {what}. The task, a setting, a template or the package has changed \
             since it was recorded. Resume it with force=True to go on all the same, or begin a new run",
            self.id()
        ))
    }

    /// Records an event and tells the listener, unless an earlier life has.
    pub async fn tell(&self, agent: &str, kind: &str, data: Value) -> Result<()> {
        if self.was_told() {
            return Ok(());
        }
        // Who tells much and does little may not fill the memory with what waits to be written.
        if self.publish(agent, kind, data, false)?.is_multiple_of(TOLD_AT_ONCE) {
            self.journal().commit().await?;
        }
        Ok(())
    }

    fn was_told(&self) -> bool {
        let mut told = self.shared.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(left) = told.get_mut(&self.position).filter(|left| **left > 0) else { return false };
        *left -= 1;
        true
    }

    /// Records an event of this life alone and tells the listener: a replay does not come by it again.
    pub fn announce(&self, kind: &str, data: Value) -> Result<()> {
        self.announce_by("", kind, data)
    }

    /// The same of an agent.
    pub fn announce_by(&self, agent: &str, kind: &str, data: Value) -> Result<()> {
        self.publish(agent, kind, data, true).map(drop)
    }

    fn publish(&self, agent: &str, kind: &str, mut data: Value, once: bool) -> Result<u64> {
        let shared = &self.shared;
        if let (false, Value::Object(fields)) = (agent.is_empty(), &mut data) {
            fields.insert("agent".into(), agent.into());
        }
        let at = shared.services.clock.now();
        let entry = Entry::Event { kind: kind.into(), data: data.clone(), once };
        let seq = shared.services.journal.append(at, self.position, entry)?;
        shared.services.listener.event(&self.event(agent, kind, data, Some(seq), at));
        Ok(seq)
    }

    /// Tells the listener of something ephemeral.
    pub fn whisper(&self, agent: &str, kind: &str, data: Value) {
        let at = self.shared.services.clock.now();
        self.shared.services.listener.event(&self.event(agent, kind, data, None, at));
    }

    fn event(&self, agent: &str, kind: &str, data: Value, seq: Option<u64>, at: f64) -> Event {
        let common = json!({
            "run_id": self.id(), "seq": seq, "at": at, "phase": &*self.phase_type,
            "phase_index": self.phase_index(), "step": self.position.step, "agent": agent,
        });
        let mut fields = match common {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        if let Value::Object(more) = data {
            fields.extend(more);
        }
        Event { kind: kind.into(), data: fields }
    }
}

pub(super) fn internal(error: serde_json::Error) -> Error {
    Error::Journal(format!("a record cannot be written or read as JSON: {error}"))
}

fn hash(input: &Value) -> String {
    blake3::hash(input.to_string().as_bytes()).to_hex().to_string()
}

fn started_hash(path: &Path) -> Result<String> {
    let code = std::fs::read(path).map_err(|e| {
        Error::MissingFile(format!("the script {} was to be run but cannot be read: {e}", path.display()))
    })?;
    Ok(blake3::hash(&code).to_hex().to_string())
}
