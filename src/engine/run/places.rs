//! The places of a run: its executions, phases, steps and turns, and what tells one from another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Run;
use crate::engine::Approvals;
use crate::journal::Position;

impl Run {
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

    /// The same place, for an effect beside those of the turn: its number is `call`.
    pub(super) fn beside(&self, call: u32) -> Self {
        Self { ordinal: Arc::new(AtomicU32::new(call)), ..self.at(|p| p.call = call) }
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
}
