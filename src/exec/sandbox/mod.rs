//! What a script may do to the machine it runs on, and how that is enforced.
//!
//! * [`places`] — paths that no script may read, and settings that name paths.
//! * [`grants`] — what a script may read and write, as a list for the kernel.
//! * [`kernel`] — Landlock and capabilities, put on the thread that starts a script.
//! * [`limits`] — memory, disk and processes: bounded where the kernel can, watched where not.
//! * [`scratch`] — the run's own temporary directory, caches and packages.

pub(super) mod grants;
pub(super) mod kernel;
pub(super) mod limits;
pub mod places;
pub(super) mod scratch;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{ExecError, Script};
use limits::Limits;
use places::Host;

/// How much a script is confined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Reads are allow-listed to the system, Python and the work directory, there is no network, and
    /// nothing runs on a machine that cannot enforce it.
    Strict,
    /// Writes are allow-listed, secret places cannot be read; what cannot be enforced is told.
    #[default]
    Default,
    /// No confinement and no limits. The environment stays filtered, and no process is left behind.
    Off,
}

impl Mode {
    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Default => "default",
            Self::Off => "off",
        }
    }
}

/// The settings of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sandbox {
    /// How much a script is confined.
    pub mode: Mode,
    /// The run's directory: readable, besides the script's own.
    pub work_dir: Option<PathBuf>,
    /// Files and directories that may be written, besides the script's own directory.
    pub write_paths: Vec<PathBuf>,
    /// Files and directories that may be read although the mode would not let them.
    pub read_paths: Vec<PathBuf>,
    /// Whether the network can be reached; by default unless the mode is strict.
    pub network: Option<bool>,
    /// Most memory of a script and all it starts, in bytes; by default nine tenths of the machine's.
    pub memory_bytes: Option<u64>,
    /// Most bytes a script may add to the disk; by default all but a reserve of what is free.
    pub disk_bytes: Option<u64>,
    /// Most processes of a script at once; by default many more than computing wants.
    pub processes: Option<u64>,
}

impl Sandbox {
    /// Whether scripts reach the network.
    pub fn network(&self) -> bool {
        self.network.unwrap_or(self.mode != Mode::Strict)
    }

    /// Checks the paths that the settings name, for scripts that are to run in `directory`.
    ///
    /// # Errors
    /// [`ExecError::Confinement`] for a path that cannot be used, or a place for writing that holds the
    /// record of runs.
    pub fn check(&self, directory: &Path) -> Result<(), ExecError> {
        self.paths(directory, &Host::here()).map(drop)
    }

    /// What may be written and what read, as the settings name it.
    fn paths(&self, directory: &Path, host: &Host) -> Result<[Vec<PathBuf>; 2], ExecError> {
        let work_dir = self.work_dir.as_deref().unwrap_or(directory);
        let [mut write, mut read] = [vec![real(directory)?], vec![real(work_dir)?]];
        if self.mode == Mode::Off {
            return Ok([write, read]);
        }
        for path in &self.write_paths {
            write.push(places::named("write_paths", path, host)?);
        }
        for place in &write {
            places::refuse_store(place, host)?;
        }
        for path in &self.read_paths {
            read.push(places::named("read_paths", path, host)?);
        }
        Ok([write, read])
    }
}

/// What holds for one script: the settings, resolved on this machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Policy {
    pub(super) mode: Mode,
    /// Directories and files that may be written.
    pub(super) write: Vec<PathBuf>,
    /// Directories and files that may be read, whatever they are.
    pub(super) read: Vec<PathBuf>,
    /// What may not be read, absolute and without links.
    pub(super) secrets: Vec<PathBuf>,
    pub(super) network: bool,
    pub(super) limits: Limits,
    /// Directories of Python, for the mode that lists what may be read.
    pub(super) python: Vec<PathBuf>,
    /// What the user should know: a secret where scripts can read it.
    pub(super) warnings: Vec<String>,
}

impl Policy {
    /// Resolves a script's settings; `scratch` is the run's own temporary directory, `secrets` tells what
    /// may not be read of all but the given places.
    pub(super) fn of(
        script: &Script,
        scratch: &Path,
        python: &Path,
        host: &Host,
        secrets: impl FnOnce(&[PathBuf]) -> Vec<PathBuf>,
    ) -> Result<Self, ExecError> {
        let settings = &script.sandbox;
        let [write, read] = settings.paths(&script.cwd, host)?;
        let mut policy = Self {
            mode: settings.mode,
            write,
            read,
            secrets: Vec::new(),
            network: settings.network(),
            limits: Limits::of(settings),
            python: Vec::new(),
            warnings: Vec::new(),
        };
        if settings.mode == Mode::Off {
            return Ok(policy);
        }
        policy.write.extend([scratch.join("tmp"), scratch.join("cache")]);
        policy.read.push(scratch.to_owned());
        policy.secrets = secrets(&policy.read);
        policy.warnings = places::exposed(&policy.read[0]);
        if settings.mode == Mode::Strict {
            policy.python = places::interpreter(python);
            policy.python.extend(script.python_path.iter().cloned());
            let lists = ["PYTHONPATH", "LD_LIBRARY_PATH"].into_iter().filter_map(std::env::var_os);
            let named = lists.flat_map(|list| std::env::split_paths(&list).collect::<Vec<_>>());
            policy.python.extend(named.filter(|path| path.is_absolute()));
        }
        Ok(policy)
    }
}

fn real(path: &Path) -> Result<PathBuf, ExecError> {
    path.canonicalize().map_err(|error| {
        ExecError::Io(format!("the directory of scripts {} cannot be used: {error}", path.display()))
    })
}

/// What was enforced on a script, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Confinement {
    /// The mode's name.
    pub mode: String,
    /// What holds, a phrase each.
    pub enforced: Vec<String>,
    /// What was wanted and does not hold on this machine, a phrase each.
    pub not_enforced: Vec<String>,
    /// What the user should know: a secret where scripts can read it.
    pub warnings: Vec<String>,
    /// What may be written.
    pub write: Vec<PathBuf>,
    /// Whether the network can be reached.
    pub network: bool,
}

/// What the machine can do for a policy, as far as it is known before a script starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Means {
    /// The version of Landlock's interface; `None` without Landlock.
    pub(super) landlock: Option<i32>,
    /// Whether the supervisor has a network of its own, without a way out.
    pub(super) isolated: bool,
    /// Whether limits on the number of processes bind this user.
    pub(super) bounded: bool,
}

/// The words for what `policy` comes to with these means; `Err` with what a strict policy misses.
pub(super) fn confinement(policy: &Policy, means: Means) -> Result<Confinement, String> {
    let mut told = Confinement {
        mode: policy.mode.name().to_owned(),
        warnings: policy.warnings.clone(),
        write: policy.write.clone(),
        network: policy.network,
        ..Confinement::default()
    };
    if policy.mode == Mode::Off {
        told.not_enforced.push("anything: sandbox=\"off\" confines nothing".to_owned());
        return Ok(told);
    }
    let abi = means.landlock.unwrap_or(0);
    let mut grave = Vec::new();
    // (what, the version of Landlock that enforces it, whether strict means it)
    let rules = [
        ("writes outside the directories for writing", 1, true),
        ("reads of secret places", 1, true),
        ("memory and environment of other programs", 1, true),
        ("shortening of files outside", 3, true),
        ("signals to other programs", 6, true),
        ("connections to sockets of other programs by path", 9, false),
    ];
    told.not_enforced
        .push("permissions and times of files outside (Landlock has no rule for them)".to_owned());
    for (what, since, strict) in rules {
        if abi >= since {
            told.enforced.push(what.to_owned());
        } else {
            let here = means.landlock.map_or("none is enabled".to_owned(), |abi| format!("this has {abi}"));
            let words = format!("{what} (needs a kernel with Landlock {since}; {here})");
            if strict {
                grave.push(words.clone());
            }
            told.not_enforced.push(words);
        }
    }
    if !policy.network {
        if means.isolated || abi >= 10 {
            told.enforced.push("network".to_owned());
        } else {
            let words = if abi >= 4 {
                told.enforced.push("network: TCP".to_owned());
                "network: other than TCP (user namespaces are not allowed here)"
            } else {
                "network (neither user namespaces nor Landlock 4 are there)"
            };
            grave.push(words.to_owned());
            told.not_enforced.push(words.to_owned());
        }
    }
    if means.bounded {
        told.enforced.push("number of processes".to_owned());
    } else {
        told.not_enforced.push(
            "a bound on the number of processes (root has none; they are counted and ended instead)"
                .to_owned(),
        );
    }
    if policy.mode == Mode::Strict && !grave.is_empty() {
        return Err(format!(
            "sandbox=\"strict\" runs nothing here, because this machine cannot enforce: {}. Use \
             sandbox=\"default\", which enforces what it can and tells the rest",
            grave.join("; ")
        ));
    }
    Ok(told)
}

/// What the default mode comes to on this machine, as it would for a script.
///
/// It is tried on a thread of its own, since it holds for good.
///
/// # Errors
/// The kernel has Landlock and refuses to use it.
pub fn here() -> Result<Confinement, String> {
    let policy = Policy {
        mode: Mode::Default,
        write: Vec::new(),
        read: Vec::new(),
        secrets: Vec::new(),
        network: true,
        limits: Limits::default(),
        python: Vec::new(),
        warnings: Vec::new(),
    };
    let tried = std::thread::spawn(|| kernel::confine(&[], true)).join();
    let landlock = tried.map_err(|_| "the sandbox could not be tried: its thread panicked".to_owned())??;
    confinement(&policy, Means { landlock, isolated: false, bounded: limits::bounded() })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn policy(mode: Mode, network: bool) -> Policy {
        Policy {
            mode,
            write: vec!["/w".into()],
            read: Vec::new(),
            secrets: Vec::new(),
            network,
            limits: Limits::default(),
            python: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// What is told as not enforced, in short.
    fn missing(mode: Mode, network: bool, means: Means) -> String {
        confinement(&policy(mode, network), means)
            .map_or_else(|error| error, |told| told.not_enforced.join("\n"))
    }

    #[test]
    fn what_an_old_kernel_lacks_is_told() {
        let means = |landlock| Means { landlock, isolated: false, bounded: true };
        let lacks = |landlock| missing(Mode::Default, true, means(landlock));
        assert!(lacks(None).contains("writes outside") && lacks(None).contains("none is enabled"));
        assert!(!lacks(Some(1)).contains("writes outside") && lacks(Some(1)).contains("shortening"));
        assert!(!lacks(Some(3)).contains("shortening") && lacks(Some(5)).contains("signals"));
        assert!(!lacks(Some(6)).contains("signals") && lacks(Some(6)).contains("by path"));
        assert!(!lacks(Some(9)).contains("by path") && lacks(Some(9)).contains("permissions"));
    }

    #[test]
    fn a_network_that_cannot_be_kept_away_is_told() {
        let means = |landlock, isolated| Means { landlock: Some(landlock), isolated, bounded: true };
        let lacks = |landlock, isolated| missing(Mode::Default, false, means(landlock, isolated));
        assert!(!lacks(7, true).contains("network"));
        assert!(lacks(7, false).contains("other than TCP"));
        assert!(lacks(3, false).contains("network (neither"));
        assert!(!lacks(10, false).contains("network"));
        assert!(!missing(Mode::Default, true, means(3, false)).contains("network"));
    }

    #[test]
    fn strict_runs_nothing_where_it_cannot_be_enforced_and_off_says_so() {
        let means = Means { landlock: Some(5), isolated: true, bounded: false };
        let refused = confinement(&policy(Mode::Strict, true), means).unwrap_err();
        assert!(refused.contains("signals") && refused.contains("sandbox=\"default\""), "{refused}");
        let means = Means { landlock: Some(6), ..means };
        let told = confinement(&policy(Mode::Strict, false), means).unwrap();
        assert!(told.enforced.contains(&"network".to_owned()));
        assert!(told.not_enforced.iter().any(|what| what.contains("root")), "{told:?}");
        assert!(missing(Mode::Off, true, means).contains("off"));
    }
}
