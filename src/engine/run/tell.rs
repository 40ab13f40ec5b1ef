//! Telling those who watch.

use std::sync::PoisonError;

use serde_json::{Map, Value, json};

use super::Run;
use crate::engine::Event;
use crate::error::Result;
use crate::journal::Entry;

/// So many events may be on their way to the journal.
const TOLD_AT_ONCE: u64 = 1000;

impl Run {
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
