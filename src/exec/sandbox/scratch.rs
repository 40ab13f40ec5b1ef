//! The run's own temporary directory, caches and packages.
//!
//! Scripts of one run share them, and nothing else reads them: a poisoned cache harms nobody but the
//! run that made it. They go with the run; what a killed host left is removed by the next one.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// How the directories are called.
const PREFIX: &str = "cmbagent-run-";
/// The file whose lock says that the directory is in use.
const LOCK: &str = "lock";

/// Variables that lead libraries to the run's caches, and where below them.
const CACHES: &[(&str, &str)] = &[
    ("XDG_CACHE_HOME", ""),
    ("MPLCONFIGDIR", "matplotlib"),
    ("ASTROPY_CACHE_DIR", "astropy"),
    ("NUMBA_CACHE_DIR", "numba"),
    ("JAX_COMPILATION_CACHE_DIR", "jax"),
    ("CUDA_CACHE_PATH", "cuda"),
    ("TRITON_CACHE_DIR", "triton"),
    ("TORCHINDUCTOR_CACHE_DIR", "inductor"),
];

/// Collections of downloaded data that are used where they are, though they cannot be written.
const COLLECTIONS: &[(&str, &str)] = &[("HF_HOME", "huggingface"), ("TORCH_HOME", "torch")];

/// The directories of one run; they go with this value.
#[derive(Debug)]
pub(crate) struct Scratch {
    root: PathBuf,
    /// The process that made them: a fork of it has this value too, but not the directories.
    owner: u32,
    _lock: File,
}

impl Scratch {
    /// Makes the directories of a run in the system's place for temporary files, and removes those
    /// that a killed host left there.
    pub(crate) fn make() -> io::Result<Self> {
        let base = std::env::temp_dir().canonicalize()?;
        sweep(&base);
        let id = uuid::Uuid::new_v4().simple().to_string();
        // It gets its name when it is locked: till then nobody takes it for one that was left.
        let draft = base.join(format!(".{PREFIX}{id}"));
        let mut private = DirBuilder::new();
        private.mode(0o700);
        private.create(&draft)?;
        let lock = File::create(draft.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
        let root = base.join(format!("{PREFIX}{id}"));
        std::fs::rename(&draft, &root)?;
        for below in ["tmp", "cache", "packages"] {
            private.create(root.join(below))?;
        }
        for (_, below) in CACHES.iter().filter(|(_, below)| !below.is_empty()) {
            private.create(root.join("cache").join(below))?;
        }
        Ok(Self { root, owner: std::process::id(), _lock: lock })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where packages of this run are installed.
    pub(crate) fn packages(&self) -> PathBuf {
        self.root.join("packages")
    }

    /// Leads a script's temporary files and caches here, except where the user named a variable.
    pub(crate) fn lead(&self, environment: &mut Vec<(String, String)>, passthrough: &[String]) {
        let mut ours: Vec<(&str, PathBuf)> = Vec::new();
        let tmp = self.root.join("tmp");
        ours.extend(["TMPDIR", "TMP", "TEMP"].map(|name| (name, tmp.clone())));
        let cache = self.root.join("cache");
        let value =
            |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        let home = value("HOME").map(PathBuf::from);
        let before = value("XDG_CACHE_HOME").map(PathBuf::from);
        let before = before.or_else(|| Some(home.as_ref()?.join(".cache")));
        for (name, below) in COLLECTIONS {
            let place = before.as_ref().map(|cache| cache.join(below)).filter(|path| path.is_dir());
            ours.extend(place.filter(|_| value(name).is_none()).map(|place| (*name, place)));
        }
        // The user's own settings go on to hold: only the cache moves.
        let settings = value("MPLCONFIGDIR").map(PathBuf::from);
        let settings = settings.or_else(|| Some(home?.join(".config/matplotlib")));
        let settings = settings.map(|folder| folder.join("matplotlibrc")).filter(|path| path.is_file());
        ours.extend(settings.filter(|_| value("MATPLOTLIBRC").is_none()).map(|path| ("MATPLOTLIBRC", path)));
        ours.extend(CACHES.iter().map(|(name, below)| (*name, cache.join(below))));
        for (name, path) in ours {
            if passthrough.iter().any(|wanted| wanted == name) {
                continue;
            }
            if let Ok(path) = path.into_os_string().into_string() {
                environment.retain(|(key, _)| key != name);
                environment.push((name.to_owned(), path));
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.owner == std::process::id() {
            // What cannot be removed now is removed by the next run.
            let _ = std::fs::remove_dir_all(&self.root);
        }
    }
}

/// Removes directories of this user that no living process has locked.
fn sweep(base: &Path) {
    let me = rustix::process::getuid().as_raw();
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.metadata().is_ok_and(|facts| facts.is_dir() && facts.uid() == me);
        let left = || match File::open(entry.path().join(LOCK)) {
            Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
            // It was locked before it had its name: without the file it is half removed.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if ours && left() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_directories_are_private_and_go_with_the_run() {
        let scratch = Scratch::make().unwrap();
        let root = scratch.root().to_owned();
        assert_eq!(std::fs::metadata(&root).unwrap().mode() & 0o777, 0o700);
        // A run in use is left alone by the next one.
        let other = Scratch::make().unwrap();
        assert!(root.join("tmp").is_dir());
        drop((scratch, other));
        assert!(!root.exists());
    }

    #[test]
    fn what_a_killed_host_left_is_removed() {
        let base = tempfile::tempdir().unwrap();
        let left = base.path().join(format!("{PREFIX}left"));
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join(LOCK), "").unwrap();
        let half_removed = base.path().join(format!("{PREFIX}half"));
        std::fs::create_dir_all(half_removed.join("cache")).unwrap();
        let theirs = base.path().join("mine");
        std::fs::create_dir(&theirs).unwrap();
        sweep(base.path());
        assert!(!left.exists() && !half_removed.exists() && theirs.exists());
    }

    #[test]
    fn scripts_are_led_to_the_runs_own_caches_unless_the_user_names_one() {
        let scratch = Scratch::make().unwrap();
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join(".cache/huggingface")).unwrap();
        std::fs::create_dir_all(home.path().join(".config/matplotlib")).unwrap();
        std::fs::write(home.path().join(".config/matplotlib/matplotlibrc"), "").unwrap();
        let mut environment: Vec<(String, String)> =
            [("HOME", home.path().to_str().unwrap()), ("TMPDIR", "/tmp"), ("NUMBA_CACHE_DIR", "/mine")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec();
        scratch.lead(&mut environment, &["NUMBA_CACHE_DIR".to_owned()]);
        let value = |name: &str| {
            let found: Vec<_> = environment.iter().filter(|(key, _)| key == name).collect();
            assert!(found.len() < 2, "{name} is there twice");
            found.first().map(|(_, value)| PathBuf::from(value))
        };
        assert_eq!(value("TMPDIR").unwrap(), scratch.root().join("tmp"));
        assert_eq!(value("MPLCONFIGDIR").unwrap(), scratch.root().join("cache/matplotlib"));
        assert_eq!(value("NUMBA_CACHE_DIR").unwrap(), Path::new("/mine"));
        assert_eq!(value("HF_HOME").unwrap(), home.path().join(".cache/huggingface"));
        assert_eq!(value("MATPLOTLIBRC").unwrap(), home.path().join(".config/matplotlib/matplotlibrc"));
        assert_eq!(value("TORCH_HOME"), None);
    }
}
