//! What a run tells those who watch it. `docs/events.md` lists the kinds and their fields.

use serde_json::{Map, Value};

/// Something that happened. An event with a number is in the journal; one without is ephemeral.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its kind, such as `step_started`.
    pub kind: String,
    /// Its fields, those common to all kinds included.
    pub data: Map<String, Value>,
}

/// The port of those who watch and steer a run.
pub trait Listener: Send + Sync {
    /// Takes note of an event. Called on the thread that polls the run.
    fn event(&self, event: &Event);
    /// Whether the run may go on; asked before every effect.
    fn should_continue(&self) -> bool {
        true
    }
    /// May block for as long as the run is to be held.
    fn pause(&self) {}
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Listener for Unwatched {
    fn event(&self, _: &Event) {}
}
