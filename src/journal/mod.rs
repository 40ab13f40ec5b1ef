//! The record of a run: what was started, what came of it, what was told about it.
//!
//! A run is replayed from its journal: every effect has a [`Position`], and an effect whose result
//! is recorded is not repeated. The journal knows records, never phases.

pub mod memory;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::Result;

pub use memory::MemoryJournal;

/// Where in a run an effect stands. The same run, replayed, gives every effect the same position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    /// Which execution of the same executor, from 0.
    pub attempt: u32,
    /// The phase's index, from 0.
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
    },
    /// An effect has acted; its result may now be used.
    Finished {
        /// Its kind.
        effect: Effect,
        /// What came of it.
        output: Value,
    },
    /// Something was told to listeners.
    Event {
        /// Its kind.
        kind: String,
        /// Its fields.
        data: Value,
    },
}

/// The port through which the engine records a run.
pub trait Journal: Send + Sync {
    /// Appends a record and returns its number. When this resolves, the record is as safe as the
    /// implementation makes it; a result is used only after that.
    fn append(&self, at: f64, position: Position, entry: Entry) -> BoxFuture<'_, Result<u64>>;
    /// The recorded result of the effect at `position`.
    fn finished(&self, position: &Position) -> Option<(Effect, Value)>;
    /// The input hash of an effect that was started at `position`.
    fn started(&self, position: &Position) -> Option<String>;
    /// Records from number `from` on, in order.
    fn records(&self, from: u64) -> Vec<Record>;
}
