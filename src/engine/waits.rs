//! How long a run has waited for humans: for their answers, or while they held it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::clock::Clock;

/// Adds up waits; those at the same time count once.
#[derive(Debug, Default)]
pub(super) struct Waits(Mutex<Sum>);

#[derive(Debug, Default)]
struct Sum {
    total: f64,
    now: u32,
    since: f64,
}

/// A wait; it ends when this is dropped.
pub(super) struct Wait<'a> {
    waits: &'a Waits,
    clock: &'a dyn Clock,
}

impl Waits {
    /// Begins a wait.
    pub(super) fn begin<'a>(&'a self, clock: &'a dyn Clock) -> Wait<'a> {
        let at = clock.now();
        let mut sum = self.sum();
        if sum.now == 0 {
            sum.since = at;
        }
        sum.now += 1;
        Wait { waits: self, clock }
    }

    /// Seconds so far, a wait in progress included.
    pub(super) fn seconds(&self, clock: &dyn Clock) -> f64 {
        let at = clock.now();
        let sum = self.sum();
        sum.total + if sum.now > 0 { at - sum.since } else { 0.0 }
    }

    fn sum(&self) -> MutexGuard<'_, Sum> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let at = self.clock.now();
        let mut sum = self.waits.sum();
        sum.now -= 1;
        if sum.now == 0 {
            sum.total += at - sum.since;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[derive(Default)]
    struct Hand(AtomicU32);

    impl Clock for Hand {
        fn now(&self) -> f64 {
            self.0.load(Ordering::Relaxed).into()
        }
        fn stamp(&self, _: f64) -> String {
            String::new()
        }
    }

    #[test]
    fn waits_at_the_same_time_count_once_and_one_that_is_given_up_counts() {
        let (waits, clock) = (Waits::default(), Hand::default());
        let after = |seconds| {
            clock.0.fetch_add(seconds, Ordering::Relaxed);
            waits.seconds(&clock).to_string()
        };
        assert_eq!(after(5), "0");
        let one = waits.begin(&clock);
        assert_eq!(after(1), "1");
        let other = waits.begin(&clock);
        assert_eq!(after(10), "11");
        drop(one);
        assert_eq!(after(100), "111");
        drop(other);
        assert_eq!(after(1000), "111");
    }
}
