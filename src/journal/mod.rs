//! The record of a run: what was started, what came of it, what was told about it.
//!
//! A run is replayed from its journal: every effect has a [`Position`], and an effect whose result
//! is recorded is not repeated. The journal knows records, never phases.

mod claim;
pub mod delta;
mod file;
pub mod history;
pub mod lease;
mod live;
pub mod memory;
mod op;
pub mod place;
mod questions;
mod recovery;
pub mod runs;
pub mod sqlite;
pub mod store;
mod taken;
mod texts;
pub mod workflows;
mod writer;

use std::path::PathBuf;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;

pub use claim::Claim;
pub use history::History;
pub use memory::MemoryJournal;
pub use questions::QuestionRow;
pub use sqlite::SqliteJournal;
pub use store::Store;
pub use taken::Taken;

/// Where in a run an effect stands. The same run, replayed, gives every effect the same position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Which execution of the same executor, from 0.
    pub attempt: u32,
    /// The phase's index, from 0; [`Position::NO_PHASE`] for what belongs to the run as a whole.
    pub phase: u32,
    /// Which try of the phase, from 0.
    pub phase_try: u32,
    /// Which nested execution within the phase, from 1; 0 is the phase itself.
    pub nested: u32,
    /// The step, from 1; 0 outside steps.
    pub step: u32,
    /// The turn within the step, from 1; 0 outside turns.
    pub turn: u32,
    /// The effect within the turn, from 0.
    pub call: u32,
}

impl Position {
    /// The index that stands for no phase.
    pub const NO_PHASE: u32 = u32::MAX;

    /// The place of what belongs to an execution as a whole.
    pub fn of_attempt(attempt: u32) -> Self {
        Self { attempt, phase: Self::NO_PHASE, ..Self::default() }
    }

    /// The place of a phase's try.
    pub fn of_phase(attempt: u32, phase: u32, phase_try: u32) -> Self {
        Self { attempt, phase, phase_try, ..Self::default() }
    }

    /// The phase's try that this is in.
    pub fn phase_place(&self) -> Self {
        Self::of_phase(self.attempt, self.phase, self.phase_try)
    }
}

/// The kinds of effects that pass the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// A call of a model.
    Call,
    /// A script.
    Execute,
    /// A question to a human.
    Ask,
    /// Something seen: the clock, a listing, a file, the machine.
    Observe,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Number within the run, from 1, without gaps.
    pub seq: u64,
    /// Seconds since 1970.
    pub at: f64,
    /// Where in the run.
    pub position: Position,
    /// What happened.
    pub entry: Entry,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "entry")]
pub enum Entry {
    /// An effect is about to act.
    Started {
        /// Its kind.
        effect: Effect,
        /// Hash of its typed input, compared at the frontier of a replay.
        input: String,
        /// What a later life or a reader wants to know of it: for a call its request and the bound of its cost.
        #[serde(default, skip_serializing_if = "Value::is_null")]
        about: Value,
    },
    /// An effect has acted; its result may now be used.
    Finished {
        /// Its kind.
        effect: Effect,
        /// What came of it.
        output: Value,
    },
    /// An effect ended without a result; a later life lets it act again.
    Failed {
        /// Its kind.
        effect: Effect,
        /// Why, in words.
        error: String,
    },
    /// Something was told to listeners.
    Event {
        /// Its kind.
        kind: String,
        /// Its fields.
        data: Value,
        /// Whether it belongs to one life alone: a replay does not come by it again.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        once: bool,
    },
    /// A phase's try is over; a later life takes this up in its place.
    Ended {
        /// How it ended and the context it left.
        kept: Value,
    },
    /// The run's status from here on.
    Status {
        /// As a word.
        status: String,
        /// What the run had spent, in the form of the events' `usage`.
        usage: Value,
    },
    /// What stands at this position or after it, in the same attempt, is to be done anew.
    Rewound {
        /// The first position that no longer counts.
        to: Position,
    },
}

/// What people ask of a run from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Demand {
    /// End before the next phase.
    Stop,
    /// End now.
    Cancel,
    /// Hold before the next effect.
    Pause,
    /// Go on.
    Resume,
}

/// The port through which the engine records a run.
pub trait Journal: Send + Sync {
    /// Appends a record and returns its number. It is safe once a later [`Journal::commit`] resolves.
    fn append(&self, at: f64, position: Position, entry: Entry) -> Result<u64>;
    /// Resolves when all that was appended is as safe as the implementation makes it; a result is
    /// used only after that.
    fn commit(&self) -> BoxFuture<'_, Result<()>>;
    /// Records from number `from` on, in order.
    fn records(&self, from: u64) -> Result<Vec<Record>>;
    /// Whether a later life will read it. When none will, nobody makes snapshots for it.
    fn keeps(&self) -> bool;
    /// The file it is in, if it is in one: executed code may not reach it.
    fn file(&self) -> Option<PathBuf> {
        None
    }
    /// Makes a question known to people elsewhere, under an id of its own in the run.
    fn ask(&self, _id: &str, _question: &Value) -> Result<()> {
        Ok(())
    }
    /// Resolves when someone elsewhere has answered the question with this id.
    fn answered<'a>(&'a self, _id: &'a str) -> BoxFuture<'a, Value> {
        Box::pin(std::future::pending())
    }
    /// The question is settled, whoever answered it.
    fn settle(&self, _id: &str, _answer: &Value) -> Result<()> {
        Ok(())
    }
    /// Resolves with the next demand that people elsewhere make of the run.
    fn demand(&self) -> BoxFuture<'_, Demand> {
        Box::pin(std::future::pending())
    }
}
