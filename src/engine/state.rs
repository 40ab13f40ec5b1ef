//! The context that flows from phase to phase, as the engine sees it.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value, json};

use crate::error::Result;

/// The three dictionaries of a context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Section {
    /// Carried through the whole workflow.
    Shared,
    /// What the previous phase put out.
    Input,
    /// What this phase puts out.
    Output,
}

/// The port to a phase's context. Python's is a live dataclass; [`MemoryState`] serves Rust.
///
/// Values that JSON cannot say stay with their owner: `read` gives them as `{"$opaque": type}`.
pub trait State: Send + Sync {
    /// The task, as the user gave it.
    fn task(&self) -> String;
    /// The work directory, as given.
    fn work_dir(&self) -> String;
    /// Such as `phase_0_planning`.
    fn phase_id(&self) -> String;
    /// The value under `key`, when it is there.
    fn read(&self, section: Section, key: &str) -> Option<Value>;
    /// Puts a value under `key`.
    fn write(&self, section: Section, key: &str, value: Value) -> Result<()>;
    /// Merges values into the output's `shared` dictionary; what else that holds stays as it is.
    fn share(&self, values: Map<String, Value>) -> Result<()>;
    /// The next phase's context: a new shared dictionary with this output's `shared` merged in,
    /// this output as its input, values by reference.
    fn hand_over(&self, next_phase_id: &str) -> Result<Arc<dyn State>>;
    /// The shared and the output dictionary as `{"shared": …, "output": …}`, for the journal. A value
    /// that JSON cannot say is tagged as its owner likes; keys that start with `_` are left out.
    fn snapshot(&self) -> Result<Value>;
    /// The owner's own type, for bindings.
    fn as_any(&self) -> &dyn Any;
}

/// A context in memory.
#[derive(Debug, Default)]
pub struct MemoryState {
    task: String,
    work_dir: String,
    phase_id: String,
    sections: Mutex<[Map<String, Value>; 3]>,
}

impl MemoryState {
    /// A context with nothing in it.
    pub fn new(task: &str, work_dir: &str, phase_id: &str) -> Self {
        Self {
            task: task.into(),
            work_dir: work_dir.into(),
            phase_id: phase_id.into(),
            sections: Mutex::default(),
        }
    }

    fn with<T>(&self, section: Section, act: impl FnOnce(&mut Map<String, Value>) -> T) -> T {
        let mut sections = self.sections.lock().unwrap_or_else(PoisonError::into_inner);
        act(&mut sections[section as usize])
    }

    /// A copy of one section.
    pub fn section(&self, section: Section) -> Map<String, Value> {
        self.with(section, |map| map.clone())
    }
}

impl State for MemoryState {
    fn task(&self) -> String {
        self.task.clone()
    }

    fn work_dir(&self) -> String {
        self.work_dir.clone()
    }

    fn phase_id(&self) -> String {
        self.phase_id.clone()
    }

    fn read(&self, section: Section, key: &str) -> Option<Value> {
        self.with(section, |map| map.get(key).cloned())
    }

    fn write(&self, section: Section, key: &str, value: Value) -> Result<()> {
        self.with(section, |map| map.insert(key.into(), value));
        Ok(())
    }

    fn share(&self, values: Map<String, Value>) -> Result<()> {
        self.with(Section::Output, |output| match output.get_mut("shared") {
            Some(Value::Object(shared)) => shared.extend(values),
            _ => drop(output.insert("shared".into(), Value::Object(values))),
        });
        Ok(())
    }

    fn hand_over(&self, next_phase_id: &str) -> Result<Arc<dyn State>> {
        let next = Self::new(&self.task, &self.work_dir, next_phase_id);
        let mut shared = self.section(Section::Shared);
        let output = self.section(Section::Output);
        if let Some(Value::Object(more)) = output.get("shared") {
            shared.extend(more.clone());
        }
        next.with(Section::Shared, |map| *map = shared);
        next.with(Section::Input, |map| *map = output);
        Ok(Arc::new(next))
    }

    fn snapshot(&self) -> Result<Value> {
        let plain = |section| {
            let mut map = self.section(section);
            map.retain(|key, _| !key.starts_with('_'));
            map
        };
        Ok(json!({"shared": plain(Section::Shared), "output": plain(Section::Output)}))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Puts values into the output.
pub fn put_out<K: AsRef<str>>(state: &dyn State, values: impl IntoIterator<Item = (K, Value)>) -> Result<()> {
    values.into_iter().try_for_each(|(key, value)| state.write(Section::Output, key.as_ref(), value))
}

/// Merges values into the output's `shared` dictionary.
pub fn share<K: Into<String>>(state: &dyn State, values: impl IntoIterator<Item = (K, Value)>) -> Result<()> {
    state.share(values.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn handing_over_merges_shared_and_passes_the_output_on() {
        let first = MemoryState::new("t", "w", "phase_0_a");
        first.write(Section::Shared, "old", json!(1)).unwrap();
        first.write(Section::Output, "result", json!([1, 2])).unwrap();
        share(&first, [("new", json!(2))]).unwrap();
        let next = first.hand_over("phase_1_b").unwrap();
        assert_eq!(next.phase_id(), "phase_1_b");
        assert_eq!(next.read(Section::Shared, "old"), Some(json!(1)));
        assert_eq!(next.read(Section::Shared, "new"), Some(json!(2)));
        assert_eq!(next.read(Section::Input, "result"), Some(json!([1, 2])));
        assert_eq!(next.read(Section::Output, "result"), None);
        assert_eq!(first.read(Section::Shared, "new"), None);
    }
}
