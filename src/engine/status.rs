//! Status of phases and runs, and the one function that changes a run's.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Status of a phase, under the names that callers compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum PhaseStatus {
    Pending,
    Running,
    Completed,
    Failed,
    Skipped,
    Paused,
    WaitingApproval,
}

/// Status of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    /// Made, not started.
    Pending,
    /// A phase is being executed.
    Running,
    /// A human is being asked, or was and has not answered: resumable.
    WaitingApproval,
    /// Held before its next effect, or ended by a phase that holds it: resumable.
    Paused,
    /// Asked to end; the phase that runs goes on to its end, or is being cut.
    Stopping,
    /// Ended by `stop()`.
    Stopped,
    /// Ended by `cancel()`, by a callback, or with the task that awaited it.
    Cancelled,
    /// A phase failed.
    Failed,
    /// All phases are done.
    Completed,
    /// The process that ran it has gone, or was told to: resumable.
    Interrupted,
}

macro_rules! words {
    ($type:ty { $($variant:ident = $word:literal),+ $(,)? }) => {
        impl $type {
            /// The status as a word.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The status a word names.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words!(PhaseStatus {
    Pending = "pending",
    Running = "running",
    Completed = "completed",
    Failed = "failed",
    Skipped = "skipped",
    Paused = "paused",
    WaitingApproval = "waiting_approval",
});

words!(RunStatus {
    Pending = "pending",
    Running = "running",
    WaitingApproval = "waiting_approval",
    Paused = "paused",
    Stopping = "stopping",
    Stopped = "stopped",
    Cancelled = "cancelled",
    Failed = "failed",
    Completed = "completed",
    Interrupted = "interrupted",
});

impl RunStatus {
    /// Moves to `next`, or says why that cannot be.
    pub fn transition(self, next: Self) -> Result<Self> {
        use RunStatus::{
            Cancelled, Completed, Failed, Interrupted, Paused, Pending, Running, Stopped, Stopping,
            WaitingApproval,
        };
        let allowed: &[Self] = match self {
            Pending => &[Running, Stopping, Stopped, Cancelled, Failed],
            Running => {
                &[WaitingApproval, Paused, Stopping, Stopped, Cancelled, Failed, Completed, Interrupted]
            }
            WaitingApproval | Paused => {
                &[Running, Stopping, Stopped, Cancelled, Failed, Completed, Interrupted]
            }
            Stopping => &[Stopped, Cancelled, Failed, Interrupted],
            // A finished executor may be run again: a new attempt.
            Stopped | Cancelled | Failed | Completed | Interrupted => &[Running],
        };
        if allowed.contains(&next) {
            return Ok(next);
        }
        Err(Error::Configuration(format!(
            "a run that is {} cannot become {}; from there it can become: {}",
            self.as_str(),
            next.as_str(),
            allowed.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ")
        )))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::RunStatus::{self, *};

    const ALL: [RunStatus; 10] = [
        Pending,
        Running,
        WaitingApproval,
        Paused,
        Stopping,
        Stopped,
        Cancelled,
        Failed,
        Completed,
        Interrupted,
    ];

    /// One row a status, one column a status in the order of `ALL`; `x` may follow.
    const TABLE: [&str; 10] = [
        ".x..xxxx..",
        "..xxxxxxxx",
        ".x..xxxxxx",
        ".x..xxxxxx",
        ".....xxx.x",
        ".x........",
        ".x........",
        ".x........",
        ".x........",
        ".x........",
    ];

    #[test]
    fn transitions_are_those_of_the_table() {
        for (from, row) in ALL.iter().zip(TABLE) {
            for (to, cell) in ALL.iter().zip(row.chars()) {
                assert_eq!(from.transition(*to).is_ok(), cell == 'x', "{from:?} -> {to:?}");
            }
        }
    }

    #[test]
    fn words_and_statuses_map_both_ways() {
        for status in ALL {
            assert_eq!(RunStatus::parse(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
        assert_eq!(RunStatus::parse("done"), None);
    }
}
