//! The directory a run works in: where it is, what was there before, what the run has made.
//!
//! A second run in a used directory sets the earlier run's recorded products aside under
//! `.previous/<run id>/`; files of the user stay where they are. The record is a hint in
//! `.cmbagent-run.json`: paths in it that leave the directory are ignored.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde_json::json;

use super::directory::{enter, resolve, sweep};
use super::hint::{HINT, Hint, MOST_HINT, encoded, known, survey, write_hint};
use crate::engine::Run;
use crate::error::Result;
use crate::exec::confine;
use crate::exec::products::{Inventory, images, inventory};

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

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
}
