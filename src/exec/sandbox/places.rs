//! Paths that no script may read, and settings that name paths.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::super::ExecError;

/// Secrets of a user, below the home directory.
const HOME: &[&str] = &[
    ".ssh",
    ".aws",
    ".azure",
    ".config/gcloud",
    ".config/gh",
    ".config/google-chrome",
    ".config/chromium",
    ".config/op",
    ".docker/config.json",
    ".git-credentials",
    ".gnupg",
    ".huggingface/token",
    ".cache/huggingface/token",
    ".cache/huggingface/stored_tokens",
    ".kaggle",
    ".kube",
    ".local/share/keyrings",
    ".mozilla",
    ".netrc",
    ".password-store",
    ".pgpass",
    ".pypirc",
];

/// Variables that name a file or directory with secrets.
const VARIABLES: &[&str] = &[
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "CLOUDSDK_CONFIG",
    "GNUPGHOME",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "HF_TOKEN_PATH",
    "KUBECONFIG",
    "NETRC",
    "PGPASSFILE",
];

/// Secrets of the machine.
const MACHINE: &[&str] = &["/run/secrets", "/var/run/secrets"];

/// Names of files with keys that programs read into their environment.
const DOTENV: &[&str] = &[".env", ".env.local", ".env.development", ".env.production", ".env.test", ".envrc"];

/// Directories whose neighbours are searched for such files, at most.
const MOST_NEIGHBOURS: usize = 500;

/// Where things are on this machine, as the host process sees them.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The user's home directory.
    pub home: Option<PathBuf>,
    /// The directory the host works in.
    pub cwd: Option<PathBuf>,
    /// The record of all runs; it need not exist.
    pub store: Option<PathBuf>,
    /// Secrets that variables name.
    pub keys: Vec<PathBuf>,
}

impl Host {
    /// This process's.
    pub fn here() -> Self {
        Self::of(&|name| std::env::var_os(name), std::env::current_dir().ok())
    }

    /// The host with the record of this run elsewhere; the one that variables name is a secret still.
    #[must_use]
    pub fn recording(mut self, record: Option<PathBuf>) -> Self {
        if let Some(record) = record {
            self.keys.extend(self.store.replace(record));
        }
        self
    }

    /// The host with these variables and this directory.
    pub fn of(variable: &dyn Fn(&str) -> Option<OsString>, cwd: Option<PathBuf>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = set("HOME").or_else(std::env::home_dir);
        let state = set("XDG_STATE_HOME").filter(|path| path.is_absolute());
        let state = state.or_else(|| Some(home.as_ref()?.join(".local/state")));
        let store = set("CMBAGENT_STORE").or_else(|| Some(state?.join("cmbagent")));
        let full = |path: PathBuf| {
            let below = path.strip_prefix("~").ok().and_then(|rest| Some(home.as_ref()?.join(rest)));
            below.or_else(|| Some(cwd.as_ref()?.join(&path))).unwrap_or(path)
        };
        // A record in memory has no place.
        let store = store.filter(|path| path != Path::new(":memory:")).map(full);
        let keys = VARIABLES.iter().filter_map(|name| set(name)).map(full).collect();
        Self { home, cwd, store, keys }
    }
}

/// A path that a setting names: absolute, or below the home directory with `~`.
pub(super) fn named(setting: &str, path: &Path, host: &Host) -> Result<PathBuf, ExecError> {
    let below = path.strip_prefix("~").ok().and_then(|rest| Some(host.home.as_ref()?.join(rest)));
    let path = below.unwrap_or_else(|| path.to_owned());
    let refuse =
        |why: String| Err(ExecError::Confinement(format!("{setting} names {}, {why}", path.display())));
    if !path.is_absolute() {
        return refuse("which is not absolute; give the full path".to_owned());
    }
    match path.canonicalize() {
        Ok(real) => Ok(real),
        Err(error) => refuse(format!("which cannot be used: {error}; make it or leave it out")),
    }
}

/// A place for writing must not hold the record of runs: a script could rewrite what happened.
pub(super) fn refuse_store(place: &Path, host: &Host) -> Result<(), ExecError> {
    let Some(store) = &host.store else { return Ok(()) };
    let store = resolved(store);
    if store.starts_with(place) || place.starts_with(&store) {
        return Err(ExecError::Confinement(format!(
            "scripts would have write access to the record of runs: {} lies in {}. Choose another work_dir \
             or another place for the record (CMBAGENT_STORE), or set sandbox=\"off\"",
            store.display(),
            place.display()
        )));
    }
    Ok(())
}

/// What may not be read, except below `open`: the places of secrets, and files with keys beside the
/// work directory, beside the host's and in the home directory.
pub(crate) fn secrets(open: &[PathBuf], host: &Host) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = host.store.iter().flat_map(|store| record(store)).collect();
    found.extend(host.keys.iter().flat_map(|path| both(path)));
    found.extend(MACHINE.iter().flat_map(|place| both(Path::new(place))));
    if let Some(home) = &host.home {
        found.extend(HOME.iter().flat_map(|below| both(&home.join(below))));
    }
    let mut searched: Vec<PathBuf> = Vec::new();
    for start in [host.home.as_deref(), host.cwd.as_deref(), open.first().map(PathBuf::as_path)] {
        let Some(start) = start.and_then(|path| path.canonicalize().ok()) else { continue };
        searched.extend(start.ancestors().map(Path::to_owned));
        // Projects often lie beside each other.
        let neighbours =
            if Some(&start) == host.home.as_ref() { Some(start.as_path()) } else { start.parent() };
        let Some(entries) = neighbours.and_then(|path| std::fs::read_dir(path).ok()) else { continue };
        let folders = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        searched.extend(folders.take(MOST_NEIGHBOURS).map(|entry| entry.path()));
    }
    searched.sort();
    searched.dedup();
    for folder in searched {
        found.extend(dotenv(&folder).flat_map(|file| both(&file)));
    }
    found.retain(|secret| !open.iter().any(|place| secret.starts_with(place)));
    found.sort();
    found.dedup();
    found
}

/// The files of the record of runs: a database has a log and an index beside it.
fn record(store: &Path) -> Vec<PathBuf> {
    let beside = ["", "-wal", "-shm", "-journal"].map(|end| {
        let mut name = store.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    });
    beside.iter().flat_map(|path| both(path)).collect()
}

/// Warnings of files with keys where every script can read them.
pub(super) fn exposed(work_dir: &Path) -> Vec<String> {
    dotenv(work_dir)
        .map(|file| format!("scripts can read {}: it lies in the work directory", file.display()))
        .collect()
}

/// Files with keys in a directory; a directory of that name is a virtual environment.
fn dotenv(folder: &Path) -> impl Iterator<Item = PathBuf> {
    DOTENV.iter().map(|name| folder.join(name)).filter(|path| path.is_file())
}

/// A path as it is named and, if links lead elsewhere, where it really is.
fn both(path: &Path) -> Vec<PathBuf> {
    let mut both = vec![resolved(path)];
    both.extend(path.canonicalize().ok().filter(|real| *real != both[0]));
    both
}

/// The path without links in the directories on the way; the path itself need not exist.
fn resolved(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut known = path;
    while let (Some(parent), Some(name)) = (known.parent(), known.file_name()) {
        missing.push(name.to_owned());
        known = parent;
        if let Ok(real) = known.canonicalize() {
            return missing.iter().rev().fold(real, |path, name| path.join(name));
        }
    }
    path.to_owned()
}

/// The directories of an interpreter: its own, its virtual environment's, and the one that was
/// made from.
pub(super) fn interpreter(python: &Path) -> Vec<PathBuf> {
    let prefix = |program: &Path| Some(program.parent()?.parent()?.to_owned());
    let mut found: Vec<PathBuf> = prefix(python).into_iter().collect();
    if let Some(environment) = found.first()
        && let Ok(settings) = std::fs::read_to_string(environment.join("pyvenv.cfg"))
    {
        let homes = settings.lines().filter_map(|line| line.split_once('='));
        let homes = homes.filter(|(name, _)| name.trim() == "home").map(|(_, home)| home.trim());
        found.extend(homes.filter_map(|home| Path::new(home).parent().map(Path::to_owned)));
    }
    found.extend(python.canonicalize().ok().and_then(|real| prefix(&real)));
    found.retain(|path| path.is_absolute() && path.parent().is_some());
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn host(root: &Path) -> Host {
        let home = root.join("home/me");
        std::fs::create_dir_all(&home).unwrap();
        let variables = move |name: &str| match name {
            "HOME" => Some(home.clone().into_os_string()),
            "GOOGLE_APPLICATION_CREDENTIALS" => Some("key.json".into()),
            _ => None,
        };
        Host::of(&variables, Some(root.join("home/me")))
    }

    fn put(path: PathBuf) -> PathBuf {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "KEY=1").unwrap();
        path
    }

    #[test]
    fn the_store_is_where_the_variables_say() {
        let host = |pairs: &'static [(&'static str, &'static str)]| {
            let variable = |name: &str| {
                pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
            };
            Host::of(&variable, Some("/here".into())).store.unwrap()
        };
        assert_eq!(host(&[("HOME", "/h")]), Path::new("/h/.local/state/cmbagent"));
        assert_eq!(host(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]), Path::new("/s/cmbagent"));
        assert_eq!(host(&[("HOME", "/h"), ("CMBAGENT_STORE", "/x/a.db")]), Path::new("/x/a.db"));
        assert_eq!(host(&[("HOME", "/h"), ("CMBAGENT_STORE", "a.db")]), Path::new("/here/a.db"));
        assert_eq!(host(&[("HOME", "/h"), ("CMBAGENT_STORE", "~/a.db")]), Path::new("/h/a.db"));
        let memory = |name: &str| (name == "CMBAGENT_STORE").then(|| OsString::from(":memory:"));
        assert_eq!(Host::of(&memory, None).store, None);
    }

    #[test]
    fn secrets_are_found_also_behind_links_and_beside_the_work_directory() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let host = host(&root);
        let home = root.join("home/me");
        let keys = root.join("elsewhere/keys");
        std::fs::create_dir_all(&keys).unwrap();
        std::os::unix::fs::symlink(&keys, home.join(".ssh")).unwrap();
        let inside = put(root.join("projects/mine/.env"));
        let beside = put(root.join("projects/other/.env.local"));
        let above = put(root.join("projects/.envrc"));
        let in_home = put(home.join("app/.env"));
        std::fs::create_dir_all(home.join("venv/.env")).unwrap();
        let work_dir = root.join("projects/mine");
        let found = secrets(std::slice::from_ref(&work_dir), &host);
        for secret in [&home.join(".ssh"), &keys, &home.join(".aws"), &beside, &above, &in_home] {
            assert!(found.contains(secret), "{} is missing", secret.display());
        }
        assert!(
            found.contains(&home.join(".local/state/cmbagent")) && found.contains(&home.join("key.json"))
        );
        assert!(!found.contains(&inside) && !found.contains(&home.join("venv/.env")));
        let told = exposed(&work_dir);
        assert!(told.len() == 1 && told[0].contains(&*inside.to_string_lossy()), "{told:?}");
    }

    #[test]
    fn what_the_user_names_may_be_read() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let host = host(&root);
        let keys = put(root.join("home/me/.aws/config")).parent().unwrap().to_owned();
        let open = [root.join("work"), named("read_paths", Path::new("~/.aws"), &host).unwrap()];
        assert!(!secrets(&open, &host).contains(&keys));
        for (path, why) in [("data", "not absolute"), ("/nowhere/at/all", "make it or leave it out")] {
            let told = named("write_paths", Path::new(path), &host).unwrap_err().to_string();
            assert!(told.contains(why) && told.contains("write_paths") && told.contains(path), "{told}");
        }
    }

    #[test]
    fn a_place_for_writing_with_the_record_of_runs_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let host = host(&root);
        let store = host.store.clone().unwrap();
        for place in [&root, &root.join("home/me"), &store.join("below")] {
            let told = refuse_store(place, &host).unwrap_err().to_string();
            assert!(told.contains("CMBAGENT_STORE") && told.contains("off"), "{told}");
        }
        refuse_store(&root.join("work"), &host).unwrap();
    }
}
