//! The files a script left: inventories and their differences, images, and facts about tables.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::ExecError;

/// Files an inventory holds at most.
const MOST_FILES: usize = 20_000;
/// Directories below each other at most.
const DEEPEST: usize = 24;
/// Bytes of a table that are read at most.
const TABLE_BYTES: u64 = 64 * 1024 * 1024;
/// Columns of a table that are named at most.
const MOST_COLUMNS: usize = 200;

/// One file of an inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileFacts {
    /// Path relative to the inventory's root, with `/`.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Time of the last change in nanoseconds since 1970.
    pub modified_ns: u64,
}

/// The files below a directory, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Inventory {
    /// The files, by their relative path.
    pub files: BTreeMap<String, FileFacts>,
    /// What is missing from it, in words: directories that could not be read, or the rest beyond
    /// the limits.
    pub incomplete: Vec<String>,
}

/// What is in a table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Table {
    /// The names of the columns; `None` without a header.
    pub columns: Option<Vec<String>>,
    /// Rows without the header; `None` if the file is too large to count.
    pub rows: Option<u64>,
}

/// Lists the files below `root`; a missing `root` has none.
///
/// Hidden files, `__pycache__` and `.ipynb_checkpoints` are skipped. Links to directories are not
/// entered, and a link to a file counts only if the file lies below `root`.
///
/// # Errors
/// [`ExecError::Io`] if `root` itself cannot be read.
pub fn inventory(root: &Path) -> Result<Inventory, ExecError> {
    let mut found = Inventory::default();
    let real = match root.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(ExecError::Io(format!("{} cannot be listed: {error}", root.display()))),
    };
    let mut queue = vec![(real.clone(), String::new(), 0)];
    while let Some((directory, prefix, depth)) = queue.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => {
                return Err(ExecError::Io(format!("{} cannot be listed: {error}", root.display())));
            }
            Err(error) => {
                found.incomplete.push(format!("{prefix} cannot be listed: {error}"));
                continue;
            }
        };
        for entry in entries {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    found.incomplete.push(format!("{prefix} cannot be listed: {error}"));
                    break;
                }
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || name == "__pycache__" {
                continue;
            }
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                if depth == DEEPEST {
                    found.incomplete.push(format!("{path} lies more than {DEEPEST} directories deep"));
                } else {
                    queue.push((entry.path(), path, depth + 1));
                }
                continue;
            }
            if kind.is_symlink() && !entry.path().canonicalize().is_ok_and(|target| target.starts_with(&real))
            {
                continue;
            }
            // A file that is gone by now is no file of this inventory.
            let Ok(facts) = std::fs::metadata(entry.path()) else { continue };
            if !facts.is_file() {
                continue;
            }
            if found.files.len() == MOST_FILES {
                found.incomplete.push(format!("there are more than {MOST_FILES} files"));
                return Ok(found);
            }
            let since = facts.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let modified_ns = since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0);
            found.files.insert(path.clone(), FileFacts { path, bytes: facts.len(), modified_ns });
        }
    }
    Ok(found)
}

impl Inventory {
    /// Files that are new against `before`, or have another size or time, by path.
    pub fn changed_since(&self, before: &Inventory) -> Vec<&FileFacts> {
        self.files.values().filter(|file| before.files.get(&file.path) != Some(*file)).collect()
    }
}

/// Whether a file's name is that of an image.
pub fn is_image(path: &str) -> bool {
    has_suffix(path, &["png", "jpg", "jpeg", "gif"])
}

/// Whether a file's name is that of an image that models take.
pub fn is_picture(path: &str) -> bool {
    has_suffix(path, &["png", "jpg", "jpeg"])
}

/// The images among files, oldest first; equal times by path.
pub fn images<'a>(files: impl IntoIterator<Item = &'a FileFacts>) -> Vec<&'a FileFacts> {
    let mut images: Vec<_> = files.into_iter().filter(|file| is_image(&file.path)).collect();
    images.sort_by(|one, two| (one.modified_ns, &one.path).cmp(&(two.modified_ns, &two.path)));
    images
}

fn has_suffix(path: &str, suffixes: &[&str]) -> bool {
    let suffix = Path::new(path).extension().unwrap_or_default().to_string_lossy().to_lowercase();
    suffixes.contains(&suffix.as_str())
}

/// Columns and rows of a `.csv` or `.tsv` file below `root`; `None` for any other file, and for
/// one that is not text.
///
/// The separator is the one the first line uses most (comma, semicolon, tab, bar). Leading `#` lines
/// are comments, and the last of them is the header if it has as many names as the data has columns.
///
/// # Errors
/// [`ExecError::Io`] if the file cannot be read, [`ExecError::Confinement`] if it lies outside.
pub fn table(root: &Path, path: &str) -> Result<Option<Table>, ExecError> {
    if !has_suffix(path, &["csv", "tsv"]) {
        return Ok(None);
    }
    let failed = |error: std::io::Error| ExecError::Io(format!("{path} cannot be read: {error}"));
    let full = root.join(path).canonicalize().map_err(failed)?;
    if !full.starts_with(root.canonicalize().map_err(failed)?) {
        return Err(ExecError::Confinement(format!("{path} lies outside {}", root.display())));
    }
    let file = File::open(&full).map_err(failed)?;
    let countable = file.metadata().map_err(failed)?.len() <= TABLE_BYTES;
    let mut records = Records { reader: BufReader::new(file), left: TABLE_BYTES };

    let mut comment = None;
    let first = loop {
        match records.next().map_err(failed)? {
            None => return Ok(Some(Table { columns: None, rows: Some(0) })),
            Some(Err(NotText)) => return Ok(None),
            Some(Ok(line)) => match line.trim_start().strip_prefix('#') {
                Some(text) => comment = Some(text.trim().to_owned()),
                None => break line,
            },
        }
    };
    let separator = separator(&first);
    let cells = split(&first, separator);
    let from_comment = comment.map(|text| split(&text, self::separator(&text)));
    let from_comment = from_comment.filter(|names| names.len() == cells.len());
    let headless = cells.iter().all(|cell| cell.is_empty() || cell.parse::<f64>().is_ok());
    let (columns, mut rows) = match from_comment {
        Some(names) => (Some(names), 1),
        None if headless => (None, 1),
        None => (Some(cells), 0),
    };
    let columns = columns.map(|mut names| {
        names.truncate(MOST_COLUMNS);
        names
    });
    if !countable {
        return Ok(Some(Table { columns, rows: None }));
    }
    while let Some(record) = records.next().map_err(failed)? {
        match record {
            Ok(line) => rows += u64::from(!line.trim_start().starts_with('#')),
            Err(NotText) => return Ok(None),
        }
    }
    Ok(Some(Table { columns, rows: Some(rows) }))
}

/// A byte of this file cannot be in a text.
struct NotText;

/// The records of a table: lines, joined where a quoted cell holds a line break; blank ones are
/// left out.
struct Records {
    reader: BufReader<File>,
    left: u64,
}

impl Records {
    fn next(&mut self) -> std::io::Result<Option<Result<String, NotText>>> {
        let mut record = Vec::new();
        loop {
            let before = record.len();
            // One limit for the whole file: a table without line breaks must not fill memory.
            let mut bounded = std::io::Read::take(&mut self.reader, self.left);
            let count = bounded.read_until(b'\n', &mut record)?;
            self.left -= count as u64;
            if record[before..].contains(&0) {
                return Ok(Some(Err(NotText)));
            }
            let open = record.iter().fold(false, |open, byte| open ^ (*byte == b'"'));
            if count > 0 && (open || record.trim_ascii().is_empty()) {
                continue;
            }
            let text = String::from_utf8_lossy(&record).trim_end_matches(['\r', '\n']).to_owned();
            return Ok((!text.trim().is_empty()).then_some(Ok(text)));
        }
    }
}

fn separator(line: &str) -> char {
    let count = |separator: char| split(line, separator).len();
    // The first of equals wins, so from the most usual one down.
    let mut best = (',', count(','));
    for other in ['\t', ';', '|', ' '] {
        let cells = count(other);
        if cells > best.1 && (other != ' ' || best.1 == 1) {
            best = (other, cells);
        }
    }
    best.0
}

fn split(line: &str, separator: char) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut quoted = false;
    for character in line.trim_start_matches('\u{feff}').chars() {
        if character == '"' {
            quoted = !quoted;
        } else if character == separator && !quoted {
            cells.push(String::new());
        } else if let Some(cell) = cells.last_mut() {
            cell.push(character);
        }
    }
    let cells = cells.into_iter().map(|cell| cell.trim().to_owned());
    if separator == ' ' { cells.filter(|cell| !cell.is_empty()).collect() } else { cells.collect() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let full = root.join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, text).unwrap();
    }

    fn names(inventory: &Inventory) -> Vec<&str> {
        inventory.files.keys().map(String::as_str).collect()
    }

    #[test]
    fn an_inventory_has_the_products_and_nothing_else() {
        let (root, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = root.path();
        for path in ["data/a.csv", "b.png", ".hidden", "codebase/__pycache__/c.pyc", ".ipynb_checkpoints/d"] {
            put(root, path, "x");
        }
        put(outside.path(), "secret", "x");
        std::os::unix::fs::symlink(outside.path().join("secret"), root.join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), root.join("folder")).unwrap();
        std::os::unix::fs::symlink(root, root.join("loop")).unwrap();
        std::os::unix::fs::symlink(root.join("b.png"), root.join("inside.png")).unwrap();
        let found = inventory(root).unwrap();
        assert_eq!(names(&found), ["b.png", "data/a.csv", "inside.png"]);
        assert_eq!(found.files["data/a.csv"].bytes, 1);
        assert!(found.incomplete.is_empty());
        assert_eq!(inventory(&root.join("nothing")).unwrap(), Inventory::default());
        assert!(inventory(&root.join("b.png")).is_err());
    }

    #[test]
    fn differences_are_new_and_changed_files() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        for path in ["same", "longer", "touched"] {
            put(root, path, "x");
        }
        let before = inventory(root).unwrap();
        put(root, "longer", "xx");
        put(root, "new", "x");
        let later = SystemTime::now() + Duration::from_secs(5);
        File::options().write(true).open(root.join("touched")).unwrap().set_modified(later).unwrap();
        let after = inventory(root).unwrap();
        let changed: Vec<_> = after.changed_since(&before).iter().map(|file| file.path.as_str()).collect();
        assert_eq!(changed, ["longer", "new", "touched"]);
    }

    #[test]
    fn images_come_oldest_first() {
        let file = |path: &str, modified_ns| FileFacts { path: path.to_owned(), bytes: 1, modified_ns };
        let files = [file("b.png", 2), file("z.JPG", 1), file("a.gif", 2), file("t.csv", 0), file("png", 0)];
        let found: Vec<_> = images(&files).into_iter().map(|file| file.path.as_str()).collect();
        assert_eq!(found, ["z.JPG", "a.gif", "b.png"]);
    }

    #[test]
    fn tables() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let facts = |text: &str| {
            put(root, "t.csv", text);
            let table = table(root, "t.csv").unwrap().unwrap();
            (table.columns.map(|names| names.join("/")), table.rows)
        };
        let named = |names: &str, rows| (Some(names.to_owned()), Some(rows));
        assert_eq!(facts("a,b\n1,2\n3,4\n"), named("a/b", 2));
        assert_eq!(facts("\u{feff}a;b c\r\n1,5;2\r\n"), named("a/b c", 1));
        assert_eq!(facts("a\tb\n1\t2"), named("a/b", 1));
        assert_eq!(facts("name,\"x, [Mpc]\"\n\"two\nlines\",2\n\n3,4\n"), named("name/x, [Mpc]", 2));
        assert_eq!(facts("# made by f\n# x, y\n1,2\n"), named("x/y", 1));
        assert_eq!(facts("# x y\n1,2\n# note\n3,4\n"), named("x/y", 2));
        assert_eq!(facts("1,2\n3,nan\n"), (None, Some(2)));
        assert_eq!(facts(""), (None, Some(0)));
        assert_eq!(facts("only\n1\n"), named("only", 1));
    }

    #[test]
    fn what_is_no_table_of_this_directory() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        put(root, "work/a.txt", "a,b\n");
        put(root, "work/b.csv", "PK\u{0}\u{1},\n");
        put(root, "c.csv", "a,b\n");
        let work = root.join("work");
        assert_eq!(table(&work, "a.txt").unwrap(), None);
        assert_eq!(table(&work, "b.csv").unwrap(), None);
        assert!(matches!(table(&work, "../c.csv"), Err(ExecError::Confinement(_))));
        assert!(matches!(table(&work, "none.csv"), Err(ExecError::Io(_))));
    }
}
