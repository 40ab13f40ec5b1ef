//! The one clock of a run, so that tests neither sleep nor differ.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// A source of time.
pub trait Clock: Send + Sync {
    /// Seconds since 1970.
    fn now(&self) -> f64;
    /// The local form used in file names: `YYYYmmdd_HHMMSS`.
    fn stamp(&self, at: f64) -> String;
}

/// The machine's clock and time zone.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
    }

    fn stamp(&self, at: f64) -> String {
        format_stamp(at, jiff::tz::TimeZone::system())
    }
}

/// A clock that advances by a millisecond at every look; for tests.
#[derive(Debug, Default)]
pub struct SteppingClock(AtomicU64);

impl Clock for SteppingClock {
    fn now(&self) -> f64 {
        let looks = u32::try_from(self.0.fetch_add(1, Ordering::Relaxed)).unwrap_or(u32::MAX);
        1_700_000_000.0 + f64::from(looks) / 1000.0
    }

    fn stamp(&self, at: f64) -> String {
        format_stamp(at, jiff::tz::TimeZone::UTC)
    }
}

fn format_stamp(at: f64, zone: jiff::tz::TimeZone) -> String {
    #[allow(clippy::cast_possible_truncation)]
    let timestamp = jiff::Timestamp::from_second(at as i64).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    timestamp.to_zoned(zone).strftime("%Y%m%d_%H%M%S").to_string()
}
