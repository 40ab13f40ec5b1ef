//! The run handle: the one door through which phases act on the world.
//!
//! Every effect passes the same gate: cancelled? → held? → replayed? → within limits? → *started*
//! record → act → committed *finished* record → event. So journalling, replay, limits, cancellation,
//! events and cost are written once, here, and no phase knows of them.

mod ask;
mod call;
mod documents;
mod execute;
mod gate;
mod models;
mod observe;
mod places;
mod spend;
mod tell;
mod watch;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::budget::Budget;
use super::clock::Clock;
use super::control::{Control, Why};
use super::ledger::{Ledger, Line};
use super::waits::{Wait, Waits};
use super::{Approvals, Listener, RunStatus};
use crate::error::Result;
use crate::exec::sandbox::Confinement;
use crate::exec::{Facts, Runner};
use crate::journal::{Demand, Entry, History, Journal, Position};
use crate::library::Documents;
use crate::llm::Provider;
use crate::llm::place::Calls;
use call::Called;
use spend::CallLimit;

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
    budgets: Vec<Arc<Budget>>,
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

    /// The run's id.
    pub fn id(&self) -> &str {
        &self.shared.id
    }

    /// The id of the first of the runs that made this one, or its own.
    pub fn root_id(&self) -> &str {
        &self.shared.root
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
}
