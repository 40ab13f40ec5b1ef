//! What a run may spend: the limits it is within, and what is counted against them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Run;
use crate::engine::Limits;
use crate::engine::budget::Budget;
use crate::engine::ledger::{Line, Total};
use crate::error::{Error, Result};

/// An upper limit of model calls, and the setting it comes from.
#[derive(Debug)]
pub(super) struct CallLimit {
    setting: String,
    limit: u32,
    used: AtomicU32,
}

impl Run {
    /// The same place with at most `limit` model calls from here on; `setting` is named when they are used up.
    pub fn with_call_limit(&self, setting: &str, limit: u32) -> Self {
        let mut run = self.clone();
        run.limits.push(Arc::new(CallLimit { setting: setting.into(), limit, used: AtomicU32::new(0) }));
        run
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

    /// What the run has spent so far.
    pub fn spent(&self) -> Total {
        Total::of(&self.ledger().since(0))
    }

    pub(super) fn one_question(&self) -> &tokio::sync::Mutex<()> {
        &self.shared.asking
    }
}
