//! The record beside a run's files, `.cmbagent-run.json`: which run worked in a directory last, and what it made.
//!
//! It is only a hint: paths in it that leave the directory are ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use super::directory::{enter, write};
use crate::error::{Error, Result};
use crate::exec::confine;
use crate::exec::products::{Inventory, inventory};

pub(super) const HINT: &str = ".cmbagent-run.json";
const PREVIOUS: &str = ".previous";
/// A record of more bytes than this is not one of ours.
pub(super) const MOST_HINT: u64 = 64 << 20;

/// Which run worked here last, and what it made.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Hint {
    run_id: String,
    pub(super) products: BTreeSet<String>,
    /// What a restart found in a directory without a record: shown as products, never set aside,
    /// because the user's own files cannot be told from them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    adopted: BTreeSet<String>,
}

/// What was set aside of an earlier run, and where it is now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Aside {
    path: PathBuf,
    files: usize,
}

/// Sets an earlier run's products aside and lists what then is in `root` and not this run's own.
pub(super) fn survey(
    work_dir: &Path,
    root: &Path,
    run_id: &str,
    keep: bool,
) -> Result<(Inventory, Option<Aside>)> {
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

fn read_hint(work_dir: &Path) -> Hint {
    // Only a hint: one that is missing or damaged means that nothing is known.
    confine::read(&work_dir.join(HINT), MOST_HINT)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

pub(super) fn write_hint(work_dir: &Path, hint: &Hint) -> Result<()> {
    write(&work_dir.join(HINT), &encoded(hint)?)
}

pub(super) fn encoded(hint: &Hint) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(hint).map_err(|e| Error::WorkDir(e.to_string()))
}

/// What this process knows of a run in a directory: scripts may change the file, not this.
pub(super) fn known(work_dir: &Path, run_id: &str) -> Arc<Mutex<Hint>> {
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
