//! Work directories as such: named, made, emptied, written to.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::exec::confine;
use crate::journal::lease;

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
pub(super) fn enter(path: &Path) -> Result<()> {
    confine::directory(path).map(drop).map_err(|e| Error::WorkDir(e.to_string()))
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
pub(super) fn sweep(directory: &Path) {
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
