//! Memory, disk and processes of a script: bounded where the kernel can, watched where not.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Mode, Sandbox};

/// The limits of a script.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Limits {
    /// Most bytes of memory of all its processes together.
    pub(crate) memory: Option<u64>,
    /// Whether the user set the limit on memory: then each process is bounded too.
    pub(crate) memory_set: bool,
    /// Most bytes it may add to the disk; without it a reserve stays free.
    pub(crate) disk: Option<u64>,
    /// Most processes at once.
    pub(crate) processes: Option<u64>,
}

impl Limits {
    pub(crate) fn of(settings: &Sandbox) -> Self {
        if settings.mode == Mode::Off {
            return Self::default();
        }
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
        Self {
            memory: settings.memory_bytes.or_else(|| machine_memory().map(|bytes| bytes / 10 * 9)),
            memory_set: settings.memory_bytes.is_some(),
            disk: settings.disk_bytes,
            processes: Some(settings.processes.unwrap_or_else(|| (cores * 16).max(512))),
        }
    }
}

/// Bytes of memory of this machine, or less where a control group says so.
fn machine_memory() -> Option<u64> {
    let mut all: Vec<u64> = Vec::new();
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    all.extend(
        total.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()).map(|k| k * 1024),
    );
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => continue,
        };
        let group = PathBuf::from(root).join(group.trim_start_matches('/'));
        let above = group.ancestors().take_while(|path| path.starts_with(root));
        all.extend(
            above
                .filter_map(|path| std::fs::read_to_string(path.join(file)).ok()?.trim().parse::<u64>().ok()),
        );
    }
    all.into_iter().filter(|bytes| *bytes > 0).min()
}

/// What a look at a script's processes found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Living processes.
    pub(crate) processes: u64,
    /// Resident bytes of all, shared ones counted for each that has them.
    pub(crate) resident: u64,
    /// The most resident bytes that any of them ever had.
    pub(crate) highest: u64,
}

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{Watch, bind, bounded};
#[cfg(target_os = "linux")]
pub(crate) use linux::{Watch, bind, bounded};

/// Without `/proc` and `prlimit` nothing is bounded and nothing can be counted.
#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::path::PathBuf;

    use rustix::process::Pid;

    use super::{Census, Limits};

    pub(crate) fn bounded() -> bool {
        false
    }

    pub(crate) fn bind(_pid: Pid, _limits: &Limits, _room: Option<u64>) {}

    pub(crate) struct Watch;

    impl Watch {
        pub(crate) fn new(_limits: Limits, _places: &[PathBuf]) -> Self {
            Self
        }

        #[allow(clippy::unused_self)] // The same signature everywhere.
        pub(crate) fn room(&self) -> Option<u64> {
            None
        }

        #[allow(clippy::unused_self)] // The same signature everywhere.
        pub(crate) fn passed(&self, _census: Census, _shared: impl Fn() -> u64) -> Option<String> {
            None
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::path::{Path, PathBuf};
    use std::time::{Duration, SystemTime};

    use rustix::io::Errno;
    use rustix::process::{Pid, Resource, Rlimit, prlimit};

    use super::{Census, Limits};

    const GIB: u64 = 1 << 30;
    const SHARED: &str = "/dev/shm";

    /// Threads a script may have beyond its processes: libraries start one a core in each.
    const THREADS: u64 = 4096;

    /// Whether the kernel bounds the number of this user's processes.
    pub(crate) fn bounded() -> bool {
        !rustix::process::getuid().is_root()
    }

    /// Sets the limits of a process that has just been started and of all it will start.
    pub(crate) fn bind(pid: Pid, limits: &Limits, room: Option<u64>) {
        let set = |resource, value: u64| {
            let limit = Rlimit { current: Some(value), maximum: Some(value) };
            match prlimit(Some(pid), resource, limit) {
                // A limit that is lower already holds, and a script that has ended needs none.
                Ok(_) | Err(Errno::PERM | Errno::SRCH) => {}
                Err(error) => debug_assert!(false, "{resource:?} cannot be limited: {error}"),
            }
        };
        // The image of a crashed process holds what the process held, and fills the disk.
        set(Resource::Core, 0);
        if let Some(room) = room {
            set(Resource::Fsize, room);
        }
        if let Some(memory) = limits.memory.filter(|_| limits.memory_set) {
            set(Resource::Data, memory);
        }
        if let Some(processes) = limits.processes.filter(|_| bounded()) {
            // The kernel counts all threads of the user; those of the whole machine are an upper bound.
            set(Resource::Nproc, tasks() + processes + THREADS);
        }
        // When memory runs out, the kernel ends a script before anything else.
        let _ = std::fs::write(format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()), "1000");
    }

    /// Threads on this machine.
    fn tasks() -> u64 {
        let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let all = text.split_whitespace().nth(3).and_then(|counts| counts.split_once('/'));
        all.and_then(|(_, all)| all.parse().ok()).unwrap_or(100_000)
    }

    /// Watches what the kernel does not bound.
    pub(crate) struct Watch {
        limits: Limits,
        /// Directories that a script writes to, and what was free at its start.
        disks: Vec<(PathBuf, u64)>,
        begun: SystemTime,
    }

    impl Watch {
        pub(crate) fn new(limits: Limits, places: &[PathBuf]) -> Self {
            let watched = limits != Limits::default();
            let places = places.iter().filter(|_| watched);
            let disks = places.filter_map(|place| Some((place.clone(), free(place)?.0))).collect();
            // The clock of files is a little behind.
            Self { limits, disks, begun: SystemTime::now() - Duration::from_secs(1) }
        }

        /// Most bytes that one file may have.
        pub(crate) fn room(&self) -> Option<u64> {
            let shared = free(Path::new(SHARED)).map_or(0, |(free, _)| free);
            let free = self.disks.iter().map(|(_, free)| *free).max();
            self.limits.disk.or_else(|| free.map(|free| free.max(shared).max(GIB)))
        }

        /// Which limit was passed, in words.
        ///
        /// `shared` tells the bytes of memory with shared ones counted once: it takes long to find out.
        pub(crate) fn passed(&self, census: Census, shared: impl Fn() -> u64) -> Option<String> {
            if let Some(most) = self.limits.processes.filter(|most| census.processes > *most) {
                return Some(format!("it had more than {most} processes at once"));
            }
            if let Some(most) = self.limits.memory {
                let kept = self.in_shared_memory();
                if census.resident + kept > most && shared() + kept > most {
                    return Some(format!("it held more than {} of memory", size(most)));
                }
            }
            for (place, before) in &self.disks {
                let Some((now, total)) = free(place) else { continue };
                let used = before.saturating_sub(now);
                if let Some(most) = self.limits.disk.filter(|most| used > *most) {
                    // Others write to the same disk, so only what lies below counts.
                    if self.written(place) > most {
                        return Some(format!("it wrote more than {}", size(most)));
                    }
                }
                let reserve = reserve(total);
                if now < reserve && *before >= reserve && self.written(place) > used / 2 {
                    let left = size(reserve);
                    return Some(format!("it left less than {left} free on the disk of {}", place.display()));
                }
            }
            None
        }

        /// Bytes of files below a directory that were written since the start.
        fn written(&self, place: &Path) -> u64 {
            let mut sum = 0;
            let mut queue = vec![place.to_owned()];
            while let Some(folder) = queue.pop() {
                for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                    let Ok(facts) = entry.metadata() else { continue };
                    if facts.is_dir() {
                        queue.push(entry.path());
                    } else if facts.modified().is_ok_and(|time| time >= self.begun) {
                        sum += blocks(&facts);
                    }
                }
            }
            sum
        }

        /// Bytes of this user's files in shared memory that were written since the start: memory that
        /// no process needs to hold.
        fn in_shared_memory(&self) -> u64 {
            self.written(Path::new(SHARED))
        }
    }

    fn blocks(facts: &std::fs::Metadata) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let own = facts.uid() == rustix::process::getuid().as_raw();
        if own { facts.blocks() * 512 } else { 0 }
    }

    /// What stays free of a disk.
    fn reserve(total: u64) -> u64 {
        (total / 50).min(GIB)
    }

    /// Free and total bytes of the disk of a path.
    fn free(path: &Path) -> Option<(u64, u64)> {
        let facts = rustix::fs::statvfs(path).ok()?;
        Some((facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize))
    }

    fn size(bytes: u64) -> String {
        #[allow(clippy::cast_precision_loss)] // For people.
        let bytes = bytes as f64;
        if bytes >= 1e9 { format!("{:.3} GB", bytes / 1e9) } else { format!("{:.1} MB", bytes / 1e6) }
    }

    #[cfg(test)]
    mod tests {
        #![allow(clippy::unwrap_used)]
        use super::*;

        #[test]
        fn limits_are_passed_in_words() {
            let folder = tempfile::tempdir().unwrap();
            let limits = Limits {
                memory: Some(3_000_000_000_000),
                memory_set: true,
                disk: Some(1_000_000),
                processes: Some(10),
            };
            let watch = Watch::new(limits, &[folder.path().to_owned()]);
            let census = |processes, resident| Census { processes, resident, highest: 0 };
            assert_eq!(watch.room(), Some(1_000_000));
            assert_eq!(watch.passed(census(10, 5), || 0), None);
            let told = watch.passed(census(11, 5), || 0).unwrap();
            assert!(told.contains("more than 10 processes"), "{told}");
            assert_eq!(watch.passed(census(1, 4_000_000_000_000), || 5), None, "shared pages count once");
            let told = watch.passed(census(1, 4_000_000_000_000), || 4_000_000_000_000).unwrap();
            assert!(told.contains("3000.000 GB of memory"), "{told}");
            std::fs::write(folder.path().join("a"), vec![1; 3_000_000]).unwrap();
            assert!(watch.written(folder.path()) >= 3_000_000);
        }
    }
}
