//! The directory a run works in: where it is, what was there before, what the run has made.
//!
//! A second run in a used directory sets the earlier run's recorded products aside under
//! `.previous/<run id>/`; files of the user stay where they are. The record is a hint in
//! `.cmbagent-run.json`: paths in it that leave the directory are ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::engine::Run;
use crate::error::{Error, Result};
use crate::exec::confine;
use crate::exec::products::{Inventory, images, inventory};
use crate::journal::lease;

const HINT: &str = ".cmbagent-run.json";
const PREVIOUS: &str = ".previous";
/// A record of more bytes than this is not one of ours.
const MOST_HINT: u64 = 64 << 20;

/// Which run worked here last, and what it made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Hint {
    run_id: String,
    products: BTreeSet<String>,
    /// What a restart found in a directory without a record: shown as products, never set aside,
    /// because the user's own files cannot be told from them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    adopted: BTreeSet<String>,
}

/// What was set aside of an earlier run, and where it is now.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Aside {
    path: PathBuf,
    files: usize,
}

/// A run's directory and, in it, a phase's.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The run's directory, absolute.
    pub work_dir: PathBuf,
    /// The phase's directory, absolute: where scripts run.
    pub root: PathBuf,
    /// What the run has made so far; the file is written from it.
    hint: Arc<Mutex<Hint>>,
    /// What was there before the run and is not its own.
    foreign: Arc<Inventory>,
}

impl Workspace {
    /// Opens `work_dir` for a phase that works in its subdirectory `below` (empty: in itself).
    ///
    /// Unless `keep` is set, products of an earlier run are set aside first. What was there before
    /// is looked at once: a replay is told what the first look saw.
    pub async fn open(run: &Run, work_dir: &str, below: &str, keep: bool) -> Result<Self> {
        let (work_dir, root) = places(work_dir, below)?;
        let run_id = run.execution_id();
        let (top, here, id) = (work_dir.clone(), root.clone(), run_id.clone());
        let look = move || survey(&top, &here, &id, keep);
        let (foreign, aside) = run.observe("what was there before the run", look).await?;
        if let Some(aside) = aside {
            run.tell("", "set_aside", json!(aside)).await?;
        }
        let hint = known(&work_dir, &run_id);
        Ok(Self { work_dir, root, hint, foreign: Arc::new(foreign) })
    }

    /// Looks at it as it is now, as an observation of the run.
    pub async fn look<T, F>(&self, run: &Run, what: &str, look: F) -> Result<T>
    where
        T: Serialize + serde::de::DeserializeOwned + Send + 'static,
        F: FnOnce(&Self) -> Result<T> + Send + 'static,
    {
        let space = self.clone();
        run.observe(what, move || look(&space)).await
    }

    /// Files that are not this run's, relative to the phase's directory.
    pub fn foreign(&self) -> impl Iterator<Item = &str> {
        self.foreign.files.keys().map(String::as_str)
    }

    /// What is in the phase's directory and was not there before the run, as it is now.
    pub fn inventory(&self) -> Result<Inventory> {
        let mut now = inventory(&self.root)?;
        now.files.retain(|path, file| self.foreign.files.get(path) != Some(file));
        Ok(now)
    }

    /// The absolute paths of files that are new or changed since `before`.
    pub fn new_files(&self, before: &Inventory) -> Result<Vec<PathBuf>> {
        let now = self.inventory()?;
        Ok(now.changed_since(before).into_iter().map(|file| self.root.join(&file.path)).collect())
    }

    /// The absolute paths of the images under `data/` that this run made, oldest first.
    pub fn images(&self) -> Result<Vec<PathBuf>> {
        let now = self.inventory()?;
        let data = now.files.values().filter(|file| file.path.starts_with("data/"));
        Ok(images(data).into_iter().map(|file| self.root.join(&file.path)).collect())
    }

    /// Makes a directory below the phase's.
    pub fn directory(&self, below: &str) -> Result<PathBuf> {
        let path = self.root.join(below);
        enter(&path)?;
        Ok(path)
    }

    /// Removes directories below the phase's that hold nothing.
    pub fn remove_empty(&self, names: &[&str]) {
        for name in names {
            // Refused by the system unless it is empty: that is the point.
            let _ = fs::remove_dir(self.root.join(name));
        }
    }

    /// Notes which files this run has made, for a later run in the same directory. A file that was
    /// there before stays the user's, also when a script has changed it.
    pub fn record(&self, files: impl IntoIterator<Item = PathBuf>) -> Result<()> {
        let mut hint = self.hint.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news = false;
        for file in files {
            let below = file.strip_prefix(&self.root).map(|path| path.to_string_lossy().into_owned());
            if below.is_ok_and(|path| self.foreign.files.contains_key(&path)) {
                continue;
            }
            if let Ok(path) = file.strip_prefix(&self.work_dir) {
                news |= hint.products.insert(path.to_string_lossy().into_owned());
            }
        }
        if news { write_hint(&self.work_dir, &hint) } else { Ok(()) }
    }

    /// Writes the record anew if a script has changed it; says whether one had.
    pub fn restore(&self) -> Result<bool> {
        let hint = self.hint.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = encoded(&hint)?;
        let there = confine::read(&self.work_dir.join(HINT), MOST_HINT);
        let intact = there.is_ok_and(|bytes| bytes == wanted);
        if !intact {
            write_hint(&self.work_dir, &hint)?;
        }
        Ok(!intact)
    }
}

/// The run's directory and the phase's, absolute and made.
fn places(work_dir: &str, below: &str) -> Result<(PathBuf, PathBuf)> {
    let work_dir = resolve(work_dir)?;
    let root = if below.is_empty() { work_dir.clone() } else { work_dir.join(below) };
    enter(&root)?;
    sweep(&work_dir);
    sweep(&work_dir.join("context"));
    for directory in ["", "chats", "time", "cost", "codebase"] {
        sweep(&root.join(directory));
    }
    Ok((work_dir, root))
}

/// Sets an earlier run's products aside and lists what then is in `root` and not this run's own.
fn survey(work_dir: &Path, root: &Path, run_id: &str, keep: bool) -> Result<(Inventory, Option<Aside>)> {
    let mut aside = None;
    let mut hint = read_hint(work_dir);
    let unrecorded = hint.run_id.is_empty();
    let prefix = relative(work_dir, root);
    if hint.run_id != run_id && !keep {
        aside = set_aside(work_dir, &hint, &prefix)?;
        hint.products.retain(|product| !is_replaced(product, &prefix));
        hint.adopted.clear();
    }
    let mut foreign = inventory(root)?;
    if keep && unrecorded {
        hint.adopted = foreign.files.keys().map(|path| format!("{prefix}{path}")).collect();
    }
    let own = |path: &String| hint.products.contains(path) || hint.adopted.contains(path);
    foreign.files.retain(|path, _| !own(&format!("{prefix}{path}")));
    hint.run_id = run_id.into();
    write_hint(work_dir, &hint)?;
    Ok((foreign, aside))
}

fn relative(work_dir: &Path, root: &Path) -> String {
    match root.strip_prefix(work_dir) {
        Ok(below) if !below.as_os_str().is_empty() => format!("{}/", below.display()),
        _ => String::new(),
    }
}

/// The absolute form of a work directory, with `~` expanded; made when it is missing.
pub fn resolve(work_dir: &str) -> Result<PathBuf> {
    if work_dir.trim().is_empty() {
        return Err(Error::WorkDir("work_dir is empty: give the directory the run may work in".into()));
    }
    let expanded = match work_dir.strip_prefix('~').map(|rest| rest.strip_prefix('/').unwrap_or(rest)) {
        Some(rest) if work_dir == "~" || work_dir.starts_with("~/") => {
            let home = std::env::home_dir().ok_or_else(|| {
                Error::WorkDir(format!(
                    "work_dir={work_dir}: this user has no home directory; give a full path"
                ))
            })?;
            home.join(rest)
        }
        _ => PathBuf::from(work_dir),
    };
    let absolute = std::path::absolute(&expanded)
        .map_err(|e| Error::WorkDir(format!("work_dir={work_dir} cannot be made absolute: {e}")))?;
    make(&absolute)?;
    absolute.canonicalize().map_err(|e| Error::WorkDir(format!("work_dir={work_dir} cannot be used: {e}")))
}

fn make(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| {
        Error::WorkDir(format!(
            "the directory {} cannot be made: {e}; choose another work_dir",
            path.display()
        ))
    })
}

/// Makes a directory below a work directory; a link that a script left on the way is refused.
fn enter(path: &Path) -> Result<()> {
    confine::directory(path).map(drop).map_err(|e| Error::WorkDir(e.to_string()))
}

fn read_hint(work_dir: &Path) -> Hint {
    // Only a hint: one that is missing or damaged means that nothing is known.
    confine::read(&work_dir.join(HINT), MOST_HINT)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

fn write_hint(work_dir: &Path, hint: &Hint) -> Result<()> {
    write(&work_dir.join(HINT), &encoded(hint)?)
}

fn encoded(hint: &Hint) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(hint).map_err(|e| Error::WorkDir(e.to_string()))
}

/// What this process knows of a run in a directory: scripts may change the file, not this.
fn known(work_dir: &Path, run_id: &str) -> Arc<Mutex<Hint>> {
    type Known = BTreeMap<(PathBuf, String), Weak<Mutex<Hint>>>;
    static KNOWN: Mutex<Known> = Mutex::new(BTreeMap::new());
    let mut all = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|_, hint| hint.strong_count() > 0);
    let key = (work_dir.to_owned(), run_id.to_owned());
    if let Some(hint) = all.get(&key).and_then(Weak::upgrade) {
        return hint;
    }
    let mut hint = read_hint(work_dir);
    if hint.run_id != run_id {
        hint = Hint { run_id: run_id.into(), ..Hint::default() };
    }
    let hint = Arc::new(Mutex::new(hint));
    all.insert(key, Arc::downgrade(&hint));
    hint
}

/// Deletes what is in a work directory and keeps the directory; links are removed, not followed.
pub fn clear(work_dir: &str) -> Result<()> {
    let place = resolve(work_dir)?;
    let precious = place.parent().is_none()
        || std::env::home_dir().and_then(|home| home.canonicalize().ok()).as_ref() == Some(&place)
        || std::env::current_dir().is_ok_and(|here| here != place && here.starts_with(&place));
    if precious {
        return Err(Error::WorkDir(format!(
            "refusing to empty {}; give a directory that holds nothing but results",
            place.display()
        )));
    }
    let fail = |e: std::io::Error| Error::WorkDir(format!("{} cannot be emptied: {e}", place.display()));
    for entry in fs::read_dir(&place).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let directory = entry.file_type().map_err(fail)?.is_dir();
        let removed =
            if directory { fs::remove_dir_all(entry.path()) } else { fs::remove_file(entry.path()) };
        removed.map_err(fail)?;
    }
    Ok(())
}

/// Writes a file whole or not at all: readers never see half of it. A link that a script left on the way
/// is refused.
pub fn write(path: &Path, contents: &[u8]) -> Result<()> {
    confine::replace(path, contents).map_err(|e| Error::WorkDir(e.to_string()))
}

/// Removes what processes that were killed while they wrote have left in a directory.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let writer = name
            .strip_prefix('.')
            .and_then(|name| name.strip_suffix(confine::DRAFT))
            .and_then(|name| name.rsplit_once('.')?.1.split_once('-')?.0.parse().ok());
        if writer.is_some_and(|process| !lease::runs(process)) {
            // What cannot be removed is in nobody's way.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether a run whose first phase works below `prefix` makes this earlier product anew. The plan that
/// control carries out is none of its own: it stays, with the context that belongs to it.
fn is_replaced(product: &str, prefix: &str) -> bool {
    let after_planning = product.starts_with("context/") && product != "context/context_step_0.pkl";
    prefix != "control/" || product.starts_with(prefix) || after_planning
}

fn set_aside(work_dir: &Path, hint: &Hint, prefix: &str) -> Result<Option<Aside>> {
    let plain = |path: &Path| path.components().all(|c| matches!(c, Component::Normal(_)));
    if hint.run_id.is_empty() || !plain(Path::new(&hint.run_id)) || hint.run_id.contains('/') {
        return Ok(None);
    }
    let shelf = work_dir.join(PREVIOUS).join(&hint.run_id);
    let mut files = 0;
    for product in hint.products.iter().filter(|product| is_replaced(product, prefix)) {
        let from = work_dir.join(product);
        let inside =
            from.parent().and_then(|p| p.canonicalize().ok()).is_some_and(|p| p.starts_with(work_dir));
        if !plain(Path::new(product)) || !inside || fs::symlink_metadata(&from).is_err() {
            continue;
        }
        let to = shelf.join(product);
        if let Some(parent) = to.parent() {
            enter(parent)?;
        }
        fs::rename(&from, &to).map_err(|e| {
            Error::WorkDir(format!(
                "{} of the earlier run {} cannot be set aside: {e}; choose another work_dir",
                from.display(),
                hint.run_id
            ))
        })?;
        files += 1;
    }
    Ok((files > 0).then_some(Aside { path: shelf, files }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn put(dir: &Path, name: &str) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
        path
    }

    fn open(work_dir: &str, below: &str, run_id: &str, keep: bool) -> Workspace {
        let (work_dir, root) = places(work_dir, below).unwrap();
        let foreign = Arc::new(survey(&work_dir, &root, run_id, keep).unwrap().0);
        Workspace { hint: known(&work_dir, run_id), work_dir, root, foreign }
    }

    fn names(space: &Workspace) -> Vec<String> {
        space.inventory().unwrap().files.into_keys().collect()
    }

    #[test]
    fn a_second_run_sets_the_first_ones_products_aside_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().to_str().unwrap();
        let theirs = put(temp.path(), "control/data/input.csv");
        let first = open(dir, "control", "run-1", false);
        assert!(names(&first).is_empty());
        let ours = put(temp.path(), "control/data/plot.png");
        first.record([ours.canonicalize().unwrap()]).unwrap();
        assert_eq!(names(&first), ["data/plot.png"]);

        let same = open(dir, "control", "run-1", false);
        assert_eq!(names(&same), ["data/plot.png"], "the same run keeps its products");
        let kept = open(dir, "control", "run-2", true);
        assert_eq!(names(&kept), ["data/plot.png"], "a restart inherits them");
        let second = open(dir, "control", "run-3", false);
        assert!(names(&second).is_empty());
        assert!(theirs.exists() && !ours.exists());
        assert!(temp.path().join(".previous/run-2/control/data/plot.png").exists());
    }

    #[test]
    fn control_alone_leaves_the_plan_where_it_is() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().to_str().unwrap();
        let first = open(dir, "planning", "run-1", false);
        let [plan, start, end, script] = [
            "planning/final_plan.json",
            "context/context_step_0.pkl",
            "context/context_step_1.pkl",
            "control/codebase/a.py",
        ]
        .map(|name| put(temp.path(), name));
        let made = [&plan, &start, &end, &script].map(|path| path.canonicalize().unwrap());
        first.record(made).unwrap();
        open(dir, "control", "run-2", false);
        assert!(plan.exists() && start.exists() && !end.exists() && !script.exists());
        open(dir, "planning", "run-3", false);
        assert!(!plan.exists() && temp.path().join(".previous/run-2/planning/final_plan.json").exists());
    }

    #[test]
    fn a_restart_without_a_record_adopts_what_is_there_and_never_moves_it() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().to_str().unwrap();
        let found = put(temp.path(), "control/data/table.csv");
        for run_id in ["run-1", "run-2"] {
            assert_eq!(names(&open(dir, "control", run_id, true)), ["data/table.csv"]);
        }
        assert!(names(&open(dir, "control", "run-3", false)).is_empty());
        assert!(found.exists());
    }

    #[test]
    fn clearing_follows_no_link_and_spares_precious_places() {
        let temp = tempfile::tempdir().unwrap();
        let kept = put(temp.path(), "kept/file.txt");
        let work = temp.path().join("work");
        put(&work, "a/b.txt");
        std::os::unix::fs::symlink(temp.path().join("kept"), work.join("link")).unwrap();
        clear(work.to_str().unwrap()).unwrap();
        assert_eq!(fs::read_dir(&work).unwrap().count(), 0);
        assert!(kept.exists());
        assert!(clear("/").unwrap_err().to_string().contains("refusing to empty /"));
    }

    #[test]
    fn a_record_that_a_script_changed_is_written_anew() {
        let temp = tempfile::tempdir().unwrap();
        let space = open(temp.path().to_str().unwrap(), "", "run-1", false);
        let product = put(&space.work_dir.clone(), "a.csv");
        space.record([product]).unwrap();
        let file = space.work_dir.join(HINT);
        let before = fs::read(&file).unwrap();
        assert!(!space.restore().unwrap());
        let elsewhere = put(temp.path(), "elsewhere");
        for tamper in [
            Box::new(|| fs::write(&file, r#"{"run_id": "run-0", "products": ["theirs.csv"]}"#).unwrap())
                as Box<dyn Fn()>,
            Box::new(|| fs::remove_file(&file).unwrap()),
            Box::new(|| {
                fs::remove_file(&file).unwrap();
                std::os::unix::fs::symlink(&elsewhere, &file).unwrap();
            }),
        ] {
            tamper();
            assert!(space.restore().unwrap());
            assert_eq!(fs::read(&file).unwrap(), before);
        }
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "elsewhere");
    }

    #[test]
    fn a_link_in_place_of_a_phases_directory_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let work = temp.path().join("work");
        fs::create_dir(&work).unwrap();
        std::os::unix::fs::symlink(temp.path(), work.join("control")).unwrap();
        let told = places(work.to_str().unwrap(), "control").unwrap_err().to_string();
        assert!(told.contains("symbolic link") && told.contains("control"), "{told}");
    }

    #[test]
    fn a_hint_that_points_outside_moves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let victim = put(temp.path(), "victim.txt");
        let work = temp.path().join("work");
        fs::create_dir(&work).unwrap();
        std::os::unix::fs::symlink(temp.path(), work.join("link")).unwrap();
        for (run_id, product) in
            [("x", "../victim.txt"), ("x", "link/victim.txt"), ("../x", "a"), ("x", "/etc/hosts")]
        {
            let hint = format!(r#"{{"run_id": "{run_id}", "products": ["{product}"]}}"#);
            fs::write(work.join(HINT), hint).unwrap();
            open(work.to_str().unwrap(), "", "new", false);
            assert!(victim.exists(), "{run_id} {product}");
        }
    }

    #[test]
    fn drafts_of_killed_processes_are_swept_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let own = temp.path().join(confine::draft("a.json"));
        let dead = temp.path().join(".a.json.4294967295-7.cmbagent.tmp");
        let theirs = [".a.json.tmp", "a.json.4294967295-7.cmbagent.tmp", ".x.cmbagent.tmp"];
        let theirs = theirs.map(|name| temp.path().join(name));
        for path in [&own, &dead].into_iter().chain(&theirs) {
            fs::write(path, "half").unwrap();
        }
        sweep(temp.path());
        assert!(!dead.exists() && own.exists() && theirs.iter().all(|path| path.exists()));
    }
}
