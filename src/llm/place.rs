//! Where in a run a call is made: by it a tape finds the call again in another run.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// The place of a call. Two runs of one workflow that go the same way make their calls at the same places,
/// however long they take and whatever else they do in between.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Place {
    /// The places of the phases around it, outermost first, when a phase runs a workflow of its own.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub inside: String,
    /// Which execution of the same executor, from 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// The phase's index, from 0.
    pub phase: u32,
    /// The phase's type.
    pub phase_type: String,
    /// Which try of the phase, from 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub phase_try: u32,
    /// Which piece of work that a custom phase asked for, from 1; 0 is the phase itself.
    #[serde(skip_serializing_if = "is_zero")]
    pub nested: u32,
    /// The step, from 1; 0 outside steps.
    pub step: u32,
    /// The agent that speaks.
    pub agent: String,
    /// Which call of this agent here, from 1.
    pub call: u32,
}

impl Place {
    /// The place as part of another's [`Place::inside`].
    #[must_use]
    pub fn path(&self) -> String {
        let Self { inside, attempt, phase, phase_type, phase_try, nested, .. } = self;
        let number = |sign: &str, number: u32| match number {
            0 => String::new(),
            number => format!("{sign}{number}"),
        };
        let (rerun, retry) = (number("^", *attempt), number("~", *phase_try));
        format!("{inside}{phase}{rerun}.{phase_type}{retry}.{nested}/")
    }

    /// The same place, in a workflow that is run at `path`.
    #[must_use]
    pub fn within(&self, path: &str) -> Self {
        Self { inside: format!("{path}{}", self.inside), ..self.clone() }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inside, attempt, phase, phase_type, phase_try, nested, step, agent, call } = self;
        write!(f, "call {call} of the {agent} in phase {phase} ({phase_type})")?;
        if *step > 0 {
            write!(f, ", step {step}")?;
        }
        for (word, number) in [("part", nested), ("retry", phase_try), ("rerun", attempt)] {
            if *number > 0 {
                write!(f, ", {word} {number}")?;
            }
        }
        if !inside.is_empty() {
            write!(f, ", within {}", inside.trim_end_matches('/'))?;
        }
        Ok(())
    }
}

/// How many calls were made at each place of a run.
#[derive(Debug, Default)]
pub struct Calls(Mutex<HashMap<Place, u32>>);

impl Calls {
    /// `place` with the number of the call that is made there now.
    pub fn next(&self, place: Place) -> Place {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = calls.entry(Place { call: 0, ..place.clone() }).or_default();
        *count += 1;
        Place { call: *count, ..place }
    }
}

// Serde hands the field over by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::{Calls, Place};

    #[test]
    fn each_agent_counts_its_own_calls_at_each_place() {
        let calls = Calls::default();
        let at = |agent: &str, step| calls.next(Place { agent: agent.into(), step, ..Place::default() }).call;
        let counted = [at("engineer", 1), at("engineer", 1), at("researcher", 1), at("engineer", 2)];
        assert_eq!(counted, [1, 2, 1, 1]);
    }

    #[test]
    fn a_place_says_where_it_is() {
        let place = Place {
            phase: 1,
            phase_type: "control".into(),
            step: 2,
            agent: "engineer".into(),
            call: 3,
            ..Place::default()
        };
        assert_eq!(place.to_string(), "call 3 of the engineer in phase 1 (control), step 2");
        let inner = Place { nested: 2, phase_try: 1, ..place.clone() };
        assert_eq!(inner.path(), "1.control~1.2/");
        assert_eq!(
            place.within(&inner.path()).to_string(),
            "call 3 of the engineer in phase 1 (control), step 2, within 1.control~1.2"
        );
    }
}
