//! How fast a process may ask a provider, and what happens while that one is down.
//!
//! One lane a server, shared by all runs of the process: calls pass it in the order in which they came.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tokio::time::{Instant, sleep};

use super::LlmErrorKind;

/// Failed tries in a row after which a provider counts as down: those of two calls that gave up.
const DOWN_AFTER: u32 = 12;
/// How long it is left alone at first; doubled each time a probe fails.
const FIRST_REST: Duration = Duration::from_secs(10);
const LONGEST_REST: Duration = Duration::from_secs(120);
/// How long others wait for what the probe finds.
const PROBE_WAIT: Duration = Duration::from_secs(2);
/// The part of a minute's rate that may be taken at once.
const BURST: f64 = 1.0 / 6.0;

/// How fast a provider may be asked. What is `None` has no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// Calls at the same time.
    pub concurrency: Option<u32>,
    /// Calls begun in a minute.
    pub requests_per_minute: Option<f64>,
    /// Tokens of prompts and answers in a minute.
    pub tokens_per_minute: Option<f64>,
}

impl Rates {
    /// What is wrong with them.
    fn fault(&self) -> Option<&'static str> {
        let bad = |rate: Option<f64>| rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0);
        if self.concurrency == Some(0) {
            Some("concurrency must be a whole number, 1 or more")
        } else if bad(self.requests_per_minute) {
            Some("requests_per_minute must be a number above 0")
        } else if bad(self.tokens_per_minute) {
            Some("tokens_per_minute must be a number above 0")
        } else {
            None
        }
    }
}

type ByName<T> = LazyLock<Mutex<HashMap<String, T>>>;

static RATES: ByName<Rates> = LazyLock::new(Mutex::default);
static LANES: ByName<Arc<Lane>> = LazyLock::new(Mutex::default);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sets rates for the process: of `openai`, `anthropic` or `gemini`, or of one server by its base URL.
///
/// # Errors
/// Words that say what cannot be used.
pub fn set_rates(rates: BTreeMap<String, Rates>) -> Result<(), String> {
    for (name, rate) in &rates {
        if let Some(fault) = rate.fault() {
            return Err(format!("rates of {name}: {fault}"));
        }
        if !matches!(name.as_str(), "openai" | "anthropic" | "gemini") && !name.contains("://") {
            return Err(format!("rates must be of openai, anthropic, gemini or a base URL, not of {name:?}"));
        }
    }
    lock(&RATES).extend(rates.into_iter().map(|(name, rate)| (name.trim_end_matches('/').to_owned(), rate)));
    Ok(())
}

/// The lane of a server.
pub(crate) fn lane(base_url: &str, provider: &'static str) -> Arc<Lane> {
    let mut lanes = lock(&LANES);
    let lane = lanes.entry(base_url.to_owned()).or_insert_with(|| Arc::new(Lane::new(base_url, provider)));
    lane.clone()
}

/// The calls of a process to one server.
pub(crate) struct Lane {
    base_url: String,
    provider: &'static str,
    /// Whoever holds it is next.
    turn: tokio::sync::Mutex<()>,
    left: tokio::sync::Notify,
    state: Mutex<State>,
}

/// The server is down, and is to be left alone for so long.
#[derive(Debug, PartialEq)]
pub(crate) struct Down {
    pub(crate) rest: Duration,
    pub(crate) failures: u32,
}

/// A try on its way; its end is told by [`Pass::end`], or it was given up.
pub(crate) struct Pass {
    lane: Arc<Lane>,
    ended: bool,
}

impl Lane {
    fn new(base_url: &str, provider: &'static str) -> Self {
        Self {
            base_url: base_url.into(),
            provider,
            turn: tokio::sync::Mutex::default(),
            left: tokio::sync::Notify::new(),
            state: Mutex::default(),
        }
    }

    fn rates(&self) -> Rates {
        let rates = lock(&RATES);
        rates.get(&self.base_url).or_else(|| rates.get(self.provider)).copied().unwrap_or_default()
    }

    /// Waits until a try with a prompt of so many tokens may begin.
    pub(crate) async fn enter(self: &Arc<Self>, tokens: u64) -> Result<Pass, Down> {
        let _turn = self.turn.lock().await;
        loop {
            let left = self.left.notified();
            let admitted = lock(&self.state).admit(Instant::now(), &self.rates(), tokens);
            match admitted {
                Ok(()) => return Ok(Pass { lane: self.clone(), ended: false }),
                Err(Wait::Down(down)) => return Err(down),
                Err(Wait::Time(wait)) => sleep(wait).await,
                Err(Wait::Others) => left.await,
            }
        }
    }
}

impl Pass {
    /// The try has ended: with an answer of so many tokens, or a failure of this kind.
    pub(crate) fn end(mut self, outcome: Result<u64, LlmErrorKind>) {
        self.ended = true;
        lock(&self.lane.state).end(Instant::now(), outcome);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if !self.ended {
            lock(&self.lane.state).give_up(Instant::now());
        }
        self.lane.left.notify_one();
    }
}

#[derive(Debug, PartialEq)]
enum Wait {
    Time(Duration),
    Others,
    Down(Down),
}

#[derive(Debug, Default)]
struct State {
    under_way: u32,
    requests: Bucket,
    tokens: Bucket,
    health: Health,
}

/// Whether a provider is up, as far as this process has seen.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Health {
    Up { failures: u32 },
    Down { until: Instant, rest: Duration, failures: u32 },
    Probed { rest: Duration, failures: u32 },
}

impl Default for Health {
    fn default() -> Self {
        Self::Up { failures: 0 }
    }
}

impl State {
    fn admit(&mut self, now: Instant, rates: &Rates, tokens: u64) -> Result<(), Wait> {
        let probe = match self.health {
            Health::Up { .. } => None,
            Health::Down { until, rest, failures } if until <= now => Some(Health::Probed { rest, failures }),
            Health::Down { until, failures, .. } => {
                return Err(Wait::Down(Down { rest: until - now, failures }));
            }
            Health::Probed { failures, .. } => {
                return Err(Wait::Down(Down { rest: PROBE_WAIT, failures }));
            }
        };
        if rates.concurrency.is_some_and(|most| self.under_way >= most) {
            return Err(Wait::Others);
        }
        let requests = self.requests.wait(now, rates.requests_per_minute, 1.0);
        let wait = requests.max(self.tokens.wait(now, rates.tokens_per_minute, amount(tokens)));
        if !wait.is_zero() {
            return Err(Wait::Time(wait));
        }
        self.requests.level -= 1.0;
        self.tokens.level -= amount(tokens);
        self.under_way += 1;
        self.health = probe.unwrap_or(self.health);
        Ok(())
    }

    fn end(&mut self, now: Instant, outcome: Result<u64, LlmErrorKind>) {
        self.under_way -= 1;
        if let Ok(tokens) = outcome {
            self.tokens.level -= amount(tokens);
        }
        let sick =
            matches!(outcome, Err(LlmErrorKind::Server | LlmErrorKind::Connection | LlmErrorKind::Timeout));
        self.health = match self.health {
            _ if !sick => Health::Up { failures: 0 },
            Health::Up { failures } if failures + 1 < DOWN_AFTER => Health::Up { failures: failures + 1 },
            Health::Up { failures } => {
                Health::Down { until: now + FIRST_REST, rest: FIRST_REST, failures: failures + 1 }
            }
            Health::Probed { rest, failures } => {
                let rest = (rest * 2).min(LONGEST_REST);
                Health::Down { until: now + rest, rest, failures: failures + 1 }
            }
            // A try that began before.
            down @ Health::Down { .. } => down,
        };
    }

    /// A try was given up: nothing is known of the provider, and another may probe it.
    fn give_up(&mut self, now: Instant) {
        self.under_way -= 1;
        if let Health::Probed { rest, failures } = self.health {
            self.health = Health::Down { until: now, rest, failures };
        }
    }
}

// Token counts stay far below 2^52, where a float is exact.
#[allow(clippy::cast_precision_loss)]
fn amount(tokens: u64) -> f64 {
    tokens as f64
}

/// What may be taken: filled at a rate, up to a burst, and emptied below zero by what came to more.
#[derive(Debug, Default)]
struct Bucket {
    level: f64,
    filled: Option<Instant>,
}

impl Bucket {
    fn wait(&mut self, now: Instant, per_minute: Option<f64>, wanted: f64) -> Duration {
        let Some(rate) = per_minute else {
            (self.level, self.filled) = (0.0, None);
            return Duration::ZERO;
        };
        let most = (rate * BURST).max(1.0);
        let more = self.filled.map(|filled| (now - filled).as_secs_f64() * rate / 60.0);
        self.level = more.map_or(most, |more| (self.level + more).min(most));
        self.filled = Some(now);
        let lacking = wanted.min(most) - self.level;
        if lacking <= 1e-9 {
            return Duration::ZERO;
        }
        Duration::try_from_secs_f64(lacking * 60.0 / rate).unwrap_or(LONGEST_REST)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SICK: Result<u64, LlmErrorKind> = Err(LlmErrorKind::Server);

    fn down(state: &mut State, now: Instant) {
        for _ in 0..DOWN_AFTER {
            state.admit(now, &Rates::default(), 1).unwrap();
            state.end(now, SICK);
        }
    }

    #[test]
    fn a_provider_that_is_down_rests_until_one_probe_succeeds() {
        let (mut state, now) = (State::default(), Instant::now());
        let admit = |state: &mut State, seconds| {
            state.admit(now + Duration::from_secs(seconds), &Rates::default(), 1)
        };
        down(&mut state, now);
        let refused = admit(&mut state, 4).unwrap_err();
        assert_eq!(refused, Wait::Down(Down { rest: Duration::from_secs(6), failures: DOWN_AFTER }));
        admit(&mut state, 10).unwrap();
        assert!(matches!(admit(&mut state, 10), Err(Wait::Down(_))), "one probe at a time");
        state.end(now + Duration::from_secs(10), SICK);
        assert!(matches!(admit(&mut state, 29), Err(Wait::Down(_))), "it rests twice as long");
        admit(&mut state, 30).unwrap();
        state.end(now + Duration::from_secs(30), Ok(1));
        assert_eq!(state.health, Health::Up { failures: 0 });
        admit(&mut state, 30).unwrap();
        admit(&mut state, 30).unwrap();
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_the_next_to_another() {
        let (mut state, now) = (State::default(), Instant::now());
        down(&mut state, now);
        let later = now + FIRST_REST;
        state.admit(later, &Rates::default(), 1).unwrap();
        state.give_up(later);
        state.admit(later, &Rates::default(), 1).unwrap();
    }

    #[test]
    fn a_refusal_is_no_sign_of_being_down() {
        let (mut state, now) = (State::default(), Instant::now());
        for _ in 0..3 * DOWN_AFTER {
            state.admit(now, &Rates::default(), 1).unwrap();
            state.end(now, Err(LlmErrorKind::RateLimit));
        }
        assert_eq!(state.health, Health::Up { failures: 0 });
    }

    #[test]
    fn calls_wait_for_the_rate_of_requests_and_of_tokens() {
        let (mut state, now) = (State::default(), Instant::now());
        let rates = Rates { requests_per_minute: Some(60.0), ..Rates::default() };
        for _ in 0..10 {
            state.admit(now, &rates, 1).unwrap();
        }
        assert_eq!(state.admit(now, &rates, 1), Err(Wait::Time(Duration::from_secs(1))));
        state.admit(now + Duration::from_secs(1), &rates, 1).unwrap();

        let rates = Rates { tokens_per_minute: Some(6_000.0), ..Rates::default() };
        let mut state = State::default();
        state.admit(now, &rates, 900).unwrap();
        state.end(now, Ok(600));
        assert_eq!(state.admit(now, &rates, 100), Err(Wait::Time(Duration::from_secs(6))));
        state.admit(now + Duration::from_secs(6), &rates, 100).unwrap();
    }

    #[tokio::test]
    async fn calls_at_the_same_time_are_as_many_as_allowed() {
        let url = "http://lane.test/v1";
        let rates = Rates { concurrency: Some(1), ..Rates::default() };
        set_rates(BTreeMap::from([(format!("{url}/"), rates)])).unwrap();
        let lane = lane(url, "openai");
        let first = lane.enter(1).await.unwrap();
        let second = lane.enter(1);
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        first.end(Ok(1));
        second.await.unwrap();
    }

    #[test]
    fn rates_that_cannot_be_used_are_named() {
        let set = |name: &str, rates| set_rates(BTreeMap::from([(name.to_owned(), rates)])).unwrap_err();
        let none = Rates { concurrency: Some(0), ..Rates::default() };
        assert!(set("openai", none).contains("concurrency"));
        let never = Rates { requests_per_minute: Some(0.0), ..Rates::default() };
        assert!(set("openai", never).contains("requests_per_minute"));
        assert!(set("opnai", Rates::default()).contains("opnai"));
    }
}
