//! Who runs a run: a process on a host, as long as it shows signs of life.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Seconds between two signs of life.
pub const HEARTBEAT_SECONDS: f64 = 5.0;

/// Seconds without a sign of life after which another process may take over.
pub const STALE_SECONDS: f64 = 60.0;

/// A process, told from all others, also from a later one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its number.
    pub pid: u32,
    /// The host's name.
    pub host: String,
    /// Which boot of the host, and which of its process namespaces: only there the number means something.
    pub space: String,
    /// When it started, in the kernel's clock ticks; 0 where the system does not tell.
    pub started: u64,
}

impl Owner {
    /// This process.
    pub fn here() -> Self {
        static SPACE: OnceLock<String> = OnceLock::new();
        let space = SPACE.get_or_init(|| {
            let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
            let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
            format!("{} {}", boot.trim(), namespace.display()).trim().to_owned()
        });
        let pid = std::process::id();
        Self { pid, host: host(), space: space.clone(), started: started(pid).unwrap_or(0) }
    }

    /// Whether it is this process.
    pub fn is_here(&self) -> bool {
        *self == Self::here()
    }

    /// Whether it may still be running, given its last sign of life.
    pub fn alive(&self, heartbeat: f64) -> bool {
        let here = Self::here();
        let near = self.host == here.host && self.space == here.space;
        if near && !exists(self.pid, self.started) {
            return false;
        }
        // A clock that was set back must not make the dead immortal, nor one set forward kill the living.
        (now() - heartbeat).abs() < STALE_SECONDS
    }

    /// In words, for refusals.
    pub fn words(&self) -> String {
        format!("process {} on {}", self.pid, self.host)
    }
}

/// Seconds since 1970.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

fn host() -> String {
    #[cfg(unix)]
    return rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    return std::env::var("COMPUTERNAME").unwrap_or_default();
}

/// The start time of a process from `/proc`: field 22, after the command in parentheses. One that has
/// ended and that its parent has not asked about yet has none.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X");
    if ended { None } else { fields.nth(18)?.parse().ok() }
}

/// Whether a process of this number runs on this host.
pub fn runs(pid: u32) -> bool {
    started(pid).is_some() || (started(std::process::id()).is_none() && exists(pid, 0))
}

fn exists(pid: u32, since: u64) -> bool {
    if let Some(now) = started(pid) {
        return now == since;
    }
    #[cfg(unix)]
    {
        let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
        // Without /proc: a process of another user exists too.
        let dead = |pid| rustix::process::test_kill_process(pid) == Err(rustix::io::Errno::SRCH);
        pid.is_some_and(|pid| !dead(pid)) && since == 0
    }
    #[cfg(not(unix))]
    true
}

#[cfg(test)]
mod tests {
    use super::{Owner, STALE_SECONDS, now};

    #[test]
    fn a_process_is_alive_while_it_exists_and_shows_it() {
        let here = Owner::here();
        assert!(here.is_here() && here.alive(now()));
        assert!(!here.alive(now() - STALE_SECONDS - 1.0), "no sign of life");
        assert!(!Owner { started: here.started + 1, ..here.clone() }.alive(now()), "another with its number");
        assert!(!Owner { pid: u32::MAX, ..here.clone() }.alive(now()));
        let elsewhere = Owner { host: "elsewhere".into(), pid: u32::MAX, ..here };
        assert!(super::runs(std::process::id()) && !super::runs(u32::MAX));
        assert!(elsewhere.alive(now() - 1.0), "what is elsewhere is known by its signs of life alone");
    }
}
