//! Steering a run from anywhere: stop it before its next phase, cancel it now, pause it.

use std::sync::{Arc, OnceLock};

use futures_util::FutureExt;
use futures_util::future::select_all;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Steers a run. Cheap to clone; every clone speaks for the same run, from any thread.
#[derive(Debug, Clone, Default)]
pub struct Control {
    /// What effects in progress are cut by.
    pub(super) token: CancellationToken,
    own: Arc<Own>,
    /// What this is a part of: whatever is asked of one of them is asked of the part.
    above: Arc<[Control]>,
}

#[derive(Debug, Default)]
struct Own {
    why: OnceLock<Why>,
    wish: watch::Sender<Wish>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Wish {
    stop: bool,
    pause: bool,
}

/// Who cancelled a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// `cancel()`.
    Requested,
    /// A callback said that it should not continue.
    Callback,
    /// The task that awaits the run was cancelled.
    Interrupted,
    /// The process that runs it was told to end: another one may go on.
    Preempted,
}

impl Control {
    /// Lets the phase that runs go on to its end, and no other begin. For good; ends a pause.
    pub fn stop(&self) {
        self.own.wish.send_modify(|wish| *wish = Wish { stop: true, pause: false });
    }

    /// Cuts what is going on, now and for good; the first reason counts.
    pub fn cancel(&self, why: Why) {
        let _ = self.own.why.set(why);
        self.token.cancel();
    }

    /// Holds the run before its next effect; one that was stopped or cancelled is not held.
    pub fn pause(&self) {
        self.own.wish.send_modify(|wish| wish.pause = !wish.stop);
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.own.wish.send_modify(|wish| wish.pause = false);
    }

    /// A part of the run: whatever is asked of the whole is asked of it, and the whole outlives it.
    #[must_use]
    pub fn part(&self) -> Self {
        Self { token: self.token.child_token(), own: Arc::default(), above: [self.clone()].into() }
    }

    /// A part of this that heeds what is asked of `other`, too. A cancellation of `other` has to be
    /// passed on to it: a token has one parent.
    #[must_use]
    pub fn part_within(&self, other: &Self) -> Self {
        Self { above: [self.clone(), other.clone()].into(), ..self.part() }
    }

    /// Whether the run is to end before its next phase.
    pub fn stop_requested(&self) -> bool {
        self.own.wish.borrow().stop || self.above.iter().any(Self::stop_requested)
    }

    /// Whether the run was cancelled.
    pub fn cancelled(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Whether the run was asked to end, in either way.
    pub fn ending(&self) -> bool {
        self.cancelled() || self.stop_requested()
    }

    /// Whether the run is held before its next effect.
    pub fn paused(&self) -> bool {
        !self.cancelled() && self.wants_pause()
    }

    fn wants_pause(&self) -> bool {
        let own = self.own.wish.borrow().pause;
        (own && !self.stop_requested()) || self.above.iter().any(Self::wants_pause)
    }

    /// Who cancelled the run, once it was. The whole's reason counts before the part's.
    pub fn why(&self) -> Option<Why> {
        self.above.iter().find_map(Self::why).or_else(|| self.own.why.get().copied())
    }

    /// Resolves when the run is cancelled.
    pub async fn cut(&self) {
        self.token.cancelled().await;
    }

    /// Resolves when the run is not paused.
    pub async fn released(&self) {
        let mut wishes = Vec::new();
        self.watch(&mut wishes);
        while self.paused() {
            let changes = wishes.iter_mut().map(|wish| wish.changed().boxed());
            tokio::select! {
                () = self.cut() => {}
                _ = select_all(changes) => {}
            }
        }
    }

    fn watch(&self, wishes: &mut Vec<watch::Receiver<Wish>>) {
        wishes.push(self.own.wish.subscribe());
        self.above.iter().for_each(|above| above.watch(wishes));
    }

    /// What an effect that was cut ends with.
    pub fn error(&self) -> Error {
        Error::Stopped(match self.why() {
            Some(Why::Callback) => "Workflow cancelled by user".into(),
            Some(Why::Interrupted) => {
                "the run was interrupted by Ctrl-C, or with the task that awaited it".into()
            }
            Some(Why::Preempted) => "the run was interrupted: its process was told to end".into(),
            Some(Why::Requested) | None => "the run was cancelled".into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `released` resolves at once.
    fn goes_on(control: &Control) -> bool {
        control.released().now_or_never().is_some()
    }

    #[test]
    fn a_part_heeds_the_whole_and_not_the_other_way_round() {
        let whole = Control::default();
        let (one, other) = (whole.part(), whole.part());
        one.pause();
        one.cancel(Why::Interrupted);
        assert!(one.cancelled() && !other.cancelled() && !whole.cancelled());
        whole.pause();
        assert!(other.paused() && !one.paused(), "what was cancelled is not held");
        whole.stop();
        assert!(other.stop_requested() && !other.paused());
        whole.cancel(Why::Requested);
        assert_eq!((one.why(), other.why()), (Some(Why::Requested), Some(Why::Requested)));
    }

    #[test]
    fn a_part_of_two_heeds_both() {
        let (inner, outer) = (Control::default(), Control::default());
        let part = inner.part_within(&outer);
        outer.pause();
        assert!(part.paused() && !inner.paused());
        inner.stop();
        assert!(part.stop_requested() && !outer.stop_requested());
        assert!(part.paused(), "the outer run is still held");
        outer.resume();
        assert!(!part.paused());
        inner.cancel(Why::Callback);
        assert!(part.cancelled() && !outer.cancelled());
    }

    #[test]
    fn a_pause_ends_by_resume_stop_or_cancel_and_none_begins_after_them() {
        let ends: [fn(&Control); 3] =
            [|control| control.resume(), |control| control.stop(), |control| control.cancel(Why::Requested)];
        for (number, end) in ends.into_iter().enumerate() {
            let control = Control::default();
            let part = control.part();
            control.pause();
            let mut waiting = Box::pin(part.released());
            assert!(waiting.as_mut().now_or_never().is_none());
            end(&control);
            assert!(waiting.now_or_never().is_some() && goes_on(&part), "{number}");
            control.pause();
            assert_eq!(goes_on(&part), number > 0, "{number}");
        }
    }
}
