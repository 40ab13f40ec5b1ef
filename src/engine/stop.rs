//! Ending a run, or a part of it, from anywhere.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Asks a run to end. Cheap to clone; every clone speaks for the same run.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    pub(super) token: CancellationToken,
    why: Arc<OnceLock<Why>>,
    /// What this is a part of, and ends with.
    above: Option<Arc<Stop>>,
}

/// Who asked a run to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// `stop()`: the run returns what it has.
    Requested,
    /// A callback said that it should not continue.
    Callback,
    /// The task that awaits the run was cancelled.
    Cancelled,
}

impl Stop {
    /// Ends the run's effects; the first reason counts.
    pub fn stop(&self, why: Why) {
        let _ = self.why.set(why);
        self.token.cancel();
    }

    /// Ends a part of the run: it ends with the whole, and the whole outlives it.
    #[must_use]
    pub fn part(&self) -> Self {
        Self { token: self.token.child_token(), why: Arc::default(), above: Some(Arc::new(self.clone())) }
    }

    /// The whole that this is a part of, or itself.
    pub(super) fn whole(&self) -> &Self {
        self.above.as_deref().map_or(self, Self::whole)
    }

    /// Why the run was asked to end, once it was.
    pub fn why(&self) -> Option<Why> {
        self.above.as_deref().and_then(Self::why).or_else(|| self.why.get().copied())
    }

    /// Whether the run was asked to end.
    pub fn stopped(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Whether the run was asked to end by `stop()`.
    pub fn requested(&self) -> bool {
        self.why() == Some(Why::Requested)
    }

    /// Resolves when the run is asked to end.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    pub(super) fn error(&self) -> Error {
        Error::Stopped(match self.why() {
            Some(Why::Callback) => "Workflow cancelled by user".into(),
            Some(Why::Cancelled) => "the run was interrupted: the task that awaited it was cancelled".into(),
            Some(Why::Requested) | None => "the run was stopped".into(),
        })
    }
}
