//! When a failed call is made again, and how long it waits before.

use std::time::{Duration, SystemTime};

use reqwest::header::HeaderMap;

/// How patient a call is.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Tries in all, the first included.
    pub max_tries: u32,
    /// The first wait after a failure that may pass at once (a lost connection, a 500).
    pub base: Duration,
    /// The first wait after "too many requests" or "overloaded", which pass more slowly.
    pub crowded_base: Duration,
    /// The longest wait of our own choice.
    pub cap: Duration,
    /// The longest wait a server may ask for; a longer one fails the call, since nobody would sit through it.
    pub longest_asked: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_tries: 6,
            base: Duration::from_millis(500),
            crowded_base: Duration::from_secs(2),
            cap: Duration::from_secs(60),
            longest_asked: Duration::from_secs(300),
        }
    }
}

impl RetryPolicy {
    /// The wait after the `failed`-th try: doubled each time, capped, and spread by `chance` (0 to 1)
    /// over its upper half, so that parallel runs do not come back all at once.
    pub fn backoff(&self, failed: u32, crowded: bool, chance: f64) -> Duration {
        let base = if crowded { self.crowded_base } else { self.base };
        let doubled = base.saturating_mul(2_u32.saturating_pow(failed.saturating_sub(1).min(16)));
        doubled.min(self.cap).mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0))
    }
}

/// The wait a server asks for: `retry-after-ms`, or `Retry-After` in seconds or as a date after `now`.
pub fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).map(str::trim);
    let number = |name: &str| text(name).and_then(|t| t.parse::<f64>().ok());
    if let Some(wait) = number("retry-after-ms").and_then(|ms| seconds(ms / 1000.0)) {
        return Some(wait);
    }
    if let Some(wait) = number("retry-after").and_then(seconds) {
        return Some(wait);
    }
    let date = httpdate::parse_http_date(text("retry-after")?).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// A duration of so many seconds, when that is a sensible number.
pub fn seconds(number: f64) -> Option<Duration> {
    if number < 0.0 { None } else { Duration::try_from_secs_f64(number).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (k.parse().expect("a name"), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn waits_double_up_to_the_cap_and_spread() {
        let policy = RetryPolicy::default();
        let waits: Vec<u128> = (1..=9).map(|n| policy.backoff(n, false, 1.0).as_millis()).collect();
        assert_eq!(waits, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(policy.backoff(1, true, 1.0), Duration::from_secs(2));
        assert_eq!(policy.backoff(3, false, 0.0), Duration::from_secs(1));
        assert_eq!(policy.backoff(u32::MAX, true, 1.0), policy.cap);
    }

    #[test]
    fn servers_ask_in_three_ways() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (pairs, wait) in [
            (&[("retry-after-ms", "1500"), ("retry-after", "9")][..], Some(1_500)),
            (&[("retry-after", "7")], Some(7_000)),
            (&[("retry-after", "0.25")], Some(250)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT")], Some(10_000)),
            (&[("retry-after", "Sun, 06 Nov 1994 08:49:07 GMT")], Some(0)),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-3")], None),
            (&[("retry-after", "NaN")], None),
            (&[], None),
        ] {
            assert_eq!(retry_after(&headers(pairs), now), wait.map(Duration::from_millis), "{pairs:?}");
        }
    }
}
