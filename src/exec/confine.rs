//! Where a script may be written, and writing it there.
//!
//! Names come from a model's answer, so they are checked twice: as text, and again while the file
//! is opened, one directory after the other without following a link.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::ExecError;

/// The directory of scripts without one of their own.
pub const CODEBASE: &str = "codebase";

/// Chooses the file of a script: its path relative to `root`, such as `codebase/step_1.py`.
///
/// `requested` is the name in the answer, `fallback` the one used without it. A bare name goes to
/// `codebase/`, and a name without a suffix gets `.py`. `taken` are files (relative to `root`)
/// that belong to others: a name among them gets a number (`fit_2.py`).
///
/// # Errors
/// [`ExecError::Confinement`] for a name that leaves `root`, is absolute, begins with `~`, holds a
/// control character, has another suffix, or runs through a symbolic link or onto one.
pub fn place(
    root: &Path,
    requested: Option<&str>,
    fallback: &str,
    taken: &[PathBuf],
) -> Result<PathBuf, ExecError> {
    let name = requested.map(str::trim).filter(|name| !name.is_empty()).unwrap_or(fallback);
    let wanted = relative(name)?;
    let mut chosen = wanted.clone();
    let mut number = 2;
    while taken.iter().any(|other| other == &chosen) {
        let stem = wanted.file_stem().unwrap_or_default().to_string_lossy();
        chosen = wanted.with_file_name(format!("{stem}_{number}.py"));
        number += 1;
    }
    let mut seen = root.to_owned();
    for part in &chosen {
        seen.push(part);
        match std::fs::symlink_metadata(&seen) {
            Ok(found) if found.is_symlink() => return Err(linked(&seen)),
            Ok(found) if (seen == root.join(&chosen)) == found.is_dir() => return Err(obstructed(&seen)),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
            Err(error) => {
                return Err(ExecError::Io(format!("{} cannot be examined: {error}", seen.display())));
            }
        }
    }
    Ok(chosen)
}

/// The end of a draft's name.
pub const DRAFT: &str = ".cmbagent.tmp";

/// The name under which a file is written before it takes its place: nobody else's, with the process in
/// it, so that what a killed one has left can be told.
pub fn draft(name: &str) -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!(".{name}.{}-{}{DRAFT}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// Writes a script to `path`, as [`place`] gave it, making directories as needed. Returns the
/// absolute path.
///
/// The file is complete or not there: it is written beside its place and renamed. No link is
/// followed below `root`, and only a regular file is replaced.
///
/// # Errors
/// [`ExecError::Confinement`] if a link or another kind of file stands in the way,
/// [`ExecError::Io`] if the file cannot be written.
pub fn write(root: &Path, path: &Path, text: &str) -> Result<PathBuf, ExecError> {
    let path = relative(&path.to_string_lossy())?;
    let full = root.join(&path);
    std::fs::create_dir_all(root)
        .map_err(|error| ExecError::Io(format!("{} cannot be made: {error}", root.display())))?;
    let start = openat(CWD, root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let start = start.map_err(|error| unwritable(&full, &error))?;
    let directory = descend(start, root, path.parent().unwrap_or(Path::new("")))?;
    let name = path.file_name().unwrap_or_default();
    match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => {}
            FileType::Symlink => return Err(linked(&full)),
            _ => return Err(obstructed(&full)),
        },
        Err(Errno::NOENT) => {}
        Err(error) => return Err(unwritable(&full, &error)),
    }
    put(&directory, &full, text.as_bytes())?;
    Ok(full)
}

/// Opens a directory, made with those above it if it is not there. A link on the way is refused: a
/// script may have put it there, and what it leads to is not the run's.
///
/// # Errors
/// [`ExecError::Confinement`] if a link or a file stands in the way, [`ExecError::Io`] if it cannot be
/// made, or is not absolute.
pub fn directory(path: &Path) -> Result<OwnedFd, ExecError> {
    let top = Path::new("/");
    let below = path
        .strip_prefix(top)
        .map_err(|_| ExecError::Io(format!("the directory {} is not absolute", path.display())))?;
    let start = openat(CWD, top, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    descend(start.map_err(|error| unwritable(path, &error))?, top, below)
}

/// Replaces a file, or makes it, in a directory as [`directory`] opens it. Readers never see half of it.
///
/// # Errors
/// As for [`directory`].
pub fn replace(path: &Path, contents: &[u8]) -> Result<(), ExecError> {
    put(&directory(path.parent().unwrap_or(path))?, path, contents)
}

/// Makes a file that was not there, in a directory as [`directory`] opens it; what was there is removed,
/// whatever it was.
///
/// # Errors
/// As for [`directory`].
pub fn create(path: &Path) -> Result<File, ExecError> {
    let parent = directory(path.parent().unwrap_or(path))?;
    let name = path.file_name().unwrap_or_default();
    match unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(unwritable(path, &error)),
    }
    Ok(File::from(fresh(&parent, name).map_err(|error| unwritable(path, &error))?))
}

/// Reads a file that a script may have put there: no link, no pipe that never ends, and no more than
/// `most` bytes.
///
/// # Errors
/// The system's, also for a file that is none of the kind or too large.
pub fn read(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty())?);
    let facts = file.metadata()?;
    if !facts.is_file() || facts.len() > most {
        return Err(std::io::Error::other("it is no regular file, or too large"));
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn fresh(parent: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::from_raw_mode(0o644))
}

/// Writes a file beside its place and renames it.
fn put(parent: &OwnedFd, full: &Path, contents: &[u8]) -> Result<(), ExecError> {
    let name = full.file_name().unwrap_or_default();
    let draft = OsString::from(draft(&name.to_string_lossy()));
    let file = fresh(parent, &draft).map_err(|error| unwritable(full, &error))?;
    let written = File::from(file)
        .write_all(contents)
        .map_err(|error| unwritable(full, &error))
        .and_then(|()| renameat(parent, &draft, parent, name).map_err(|error| unwritable(full, &error)));
    if let Err(error) = written {
        // The first error is the one to tell.
        let _ = unlinkat(parent, &draft, AtFlags::empty());
        return Err(error);
    }
    Ok(())
}

/// Opens a directory some levels below another, `at`; each is made if it is not there.
fn descend(mut from: OwnedFd, at: &Path, below: &Path) -> Result<OwnedFd, ExecError> {
    let mut seen = at.to_owned();
    for part in below {
        seen.push(part);
        from = enter(&from, part, &seen)?;
    }
    Ok(from)
}

fn unwritable(path: &Path, error: &dyn std::fmt::Display) -> ExecError {
    ExecError::Io(format!("{} cannot be written: {error}", path.display()))
}

/// Opens a directory below another, made if it is not there.
fn enter(parent: &OwnedFd, name: &OsStr, full: &Path) -> Result<OwnedFd, ExecError> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    let open = || openat(parent, name, flags, Mode::empty());
    let opened = match open() {
        Err(Errno::NOENT) => match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => open(),
            Err(error) => return Err(ExecError::Io(format!("{} cannot be made: {error}", full.display()))),
        },
        other => other,
    };
    opened.map_err(|error| match error {
        // With both flags a link is "not a directory" on Linux and "too many links" elsewhere.
        Errno::LOOP | Errno::NOTDIR => linked(full),
        other => ExecError::Io(format!("{} cannot be opened: {other}", full.display())),
    })
}

/// Checks a name as text; the result has plain components only and ends in `.py`.
fn relative(name: &str) -> Result<PathBuf, ExecError> {
    let refuse = |why: &str| {
        // A name may hold anything; what is shown stays on one line and short.
        let shown: String = name.chars().take(120).flat_map(char::escape_debug).collect();
        Err(ExecError::Confinement(format!(
            "the file name \"{shown}\" {why}; expected a Python file below the working directory, \
             such as {CODEBASE}/fit.py"
        )))
    };
    if name.chars().any(char::is_control) {
        return refuse("holds a control character");
    }
    let slashed = name.replace('\\', "/");
    let drive = slashed.as_bytes().get(1) == Some(&b':');
    if slashed.starts_with('/') || drive {
        return refuse("is absolute");
    }
    if slashed.starts_with('~') {
        return refuse("begins with a home directory");
    }
    let parts: Vec<&str> = slashed.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    if parts.contains(&"..") {
        return refuse("leads out of its directory");
    }
    let Some((file, parents)) = parts.split_last() else { return refuse("is empty") };
    if slashed.ends_with('/') {
        return refuse("names a directory");
    }
    let file = match file.rsplit_once('.') {
        None => format!("{file}.py"),
        Some(("", _)) => return refuse("has no stem"),
        Some((_, "py")) => (*file).to_owned(),
        Some(_) => return refuse("has another suffix than .py"),
    };
    if parents.iter().any(|part| part.len() > 200) || file.len() > 200 {
        return refuse("is too long");
    }
    let mut path: PathBuf =
        if parents.is_empty() { PathBuf::from(CODEBASE) } else { parents.iter().collect() };
    path.push(file);
    Ok(path)
}

fn linked(path: &Path) -> ExecError {
    ExecError::Confinement(format!(
        "{} is a symbolic link or not a directory; runs write to plain files and directories only: \
         remove it or choose another name",
        path.display()
    ))
}

fn obstructed(path: &Path) -> ExecError {
    ExecError::Confinement(format!(
        "{} exists and is of another kind than needed (a directory for a file, or a file for a directory); \
         choose another name",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    fn placed(name: &str) -> Result<PathBuf, ExecError> {
        place(tempfile::tempdir().unwrap().path(), Some(name), "step_1.py", &[])
    }

    #[test]
    fn names_that_stay_inside() {
        for (name, path) in [
            ("fit.py", "codebase/fit.py"),
            ("fit", "codebase/fit.py"),
            ("  ", "codebase/step_1.py"),
            ("./codebase/fit.py", "codebase/fit.py"),
            ("codebase\\fit.py", "codebase/fit.py"),
            ("src//deep/fit.py", "src/deep/fit.py"),
            ("a..b.py", "codebase/a..b.py"),
            ("größe 1.py", "codebase/größe 1.py"),
        ] {
            assert_eq!(placed(name).unwrap(), Path::new(path), "{name}");
        }
        let root = tempfile::tempdir().unwrap();
        assert_eq!(place(root.path(), None, "step_3", &[]).unwrap(), Path::new("codebase/step_3.py"));
    }

    #[test]
    fn names_that_do_not_are_refused_with_the_reason() {
        for (name, why) in [
            ("../fit.py", "leads out"),
            ("codebase/../../fit.py", "leads out"),
            ("..\\fit.py", "leads out"),
            ("/etc/fit.py", "absolute"),
            ("C:\\fit.py", "absolute"),
            ("~/fit.py", "home directory"),
            ("~root/fit.py", "home directory"),
            ("fit.py\0.txt", "control character"),
            ("fit\n.py", "control character"),
            ("fit.sh", "another suffix"),
            ("fit.py.sh", "another suffix"),
            (".py", "no stem"),
            ("codebase/", "directory"),
            ("./", "is empty"),
        ] {
            let Err(ExecError::Confinement(told)) = placed(name) else { panic!("{name:?} was accepted") };
            assert!(told.contains(why) && told.contains("codebase/fit.py"), "{name:?}: {told}");
        }
        assert!(placed(&format!("{}.py", "x".repeat(300))).is_err());
    }

    #[test]
    fn a_taken_name_gets_a_number() {
        let root = tempfile::tempdir().unwrap();
        let taken = [PathBuf::from("codebase/fit.py"), PathBuf::from("codebase/fit_2.py")];
        let chosen = place(root.path(), Some("fit.py"), "x.py", &taken).unwrap();
        assert_eq!(chosen, Path::new("codebase/fit_3.py"));
    }

    #[test]
    fn links_are_refused_by_both() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (root, outside) = (root.path(), outside.path());
        symlink(outside, root.join("codebase")).unwrap();
        std::fs::create_dir(root.join("src")).unwrap();
        std::fs::write(outside.join("mine.py"), "mine").unwrap();
        symlink(outside.join("mine.py"), root.join("src/fit.py")).unwrap();
        symlink(outside.join("nothing.py"), root.join("src/dangling.py")).unwrap();
        for name in ["codebase/fit.py", "src/fit.py", "src/dangling.py"] {
            let one = place(root, Some(name), "x.py", &[]);
            let two = write(root, Path::new(name), "theirs");
            assert!(matches!(one, Err(ExecError::Confinement(_))), "{name}: {one:?}");
            assert!(matches!(two, Err(ExecError::Confinement(_))), "{name}: {two:?}");
        }
        assert!(write(root, Path::new("src/../../fit.py"), "").is_err());
        assert_eq!(std::fs::read_dir(outside).unwrap().count(), 1);
        assert_eq!(std::fs::read_to_string(outside.join("mine.py")).unwrap(), "mine");
    }

    #[test]
    fn another_kind_of_file_in_the_way_is_refused() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("codebase/fit.py")).unwrap();
        std::fs::write(root.path().join("src"), "").unwrap();
        for name in ["fit.py", "src/fit.py"] {
            assert!(place(root.path(), Some(name), "x.py", &[]).is_err(), "{name}");
            let path = relative(name).unwrap();
            assert!(write(root.path(), &path, "").is_err(), "{name}");
        }
    }

    #[test]
    fn a_file_is_written_and_replaced_whole() {
        let root = tempfile::tempdir().unwrap();
        let path = Path::new("codebase/deep/fit.py");
        let full = write(root.path(), path, "one, and longer").unwrap();
        assert_eq!(write(root.path(), path, "two").unwrap(), full);
        assert_eq!(std::fs::read_to_string(&full).unwrap(), "two");
        assert_eq!(std::fs::read_dir(full.parent().unwrap()).unwrap().count(), 1, "a draft was left");
    }

    #[test]
    fn what_a_script_put_in_the_way_is_neither_followed_nor_waited_for() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        let outside = root.join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("mine"), "mine").unwrap();
        let work = root.join("work");
        std::fs::create_dir(&work).unwrap();
        symlink(&outside, work.join("logs")).unwrap();
        for refused in [
            directory(&work.join("logs/deeper")).map(drop),
            replace(&work.join("logs/mine"), b"x"),
            create(&work.join("logs/mine")).map(drop),
        ] {
            assert!(matches!(refused, Err(ExecError::Confinement(_))), "{refused:?}");
        }
        symlink(outside.join("mine"), work.join("file")).unwrap();
        assert!(read(&work.join("file"), 100).is_err());
        replace(&work.join("file"), b"ours").unwrap();
        assert_eq!(read(&work.join("file"), 100).unwrap(), b"ours");
        assert!(read(&work.join("file"), 3).is_err());
        let pipe = std::process::Command::new("mkfifo").arg(work.join("pipe")).status().unwrap();
        assert!(pipe.success() && read(&work.join("pipe"), 100).is_err());
        create(&work.join("pipe")).unwrap().write_all(b"log").unwrap();
        assert_eq!(read(&work.join("pipe"), 100).unwrap(), b"log");
        assert_eq!(std::fs::read_to_string(outside.join("mine")).unwrap(), "mine");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    }
}
