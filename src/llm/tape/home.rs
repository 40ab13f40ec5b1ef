//! The directory of a run as it stands on a tape: as a word, since another run has another one.

use std::path::Path;

/// What stands on a tape for the run's work directory.
pub(crate) const WORD: &str = "{work_dir}";

/// A run's work directory, in the forms in which texts may name it.
#[derive(Debug)]
pub(crate) struct Home {
    /// As the run names it.
    given: String,
    /// The same with links resolved, when that differs; as scripts may see it.
    resolved: Option<String>,
}

impl Home {
    pub(crate) fn new(work_dir: &Path) -> Self {
        let text = |path: &Path| path.to_string_lossy().trim_end_matches('/').to_owned();
        let given = text(work_dir);
        // A directory that is not there yet has no other form either.
        let resolved = work_dir.canonicalize().ok().map(|path| text(&path)).filter(|path| *path != given);
        Self { given, resolved }
    }

    /// `text` with the word in place of the directory.
    pub(crate) fn hide(&self, text: &str) -> String {
        let forms = self.resolved.iter().chain([&self.given]).filter(|form| form.len() > 1);
        forms.fold(text.to_owned(), |text, form| replace(&text, form))
    }

    /// `text` with the directory in place of the word.
    pub(crate) fn show(&self, text: &str) -> String {
        text.replace(WORD, &self.given)
    }
}

/// Replaces `path` where it stands for itself or begins a longer path, not inside another name.
fn replace(text: &str, path: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(path) {
        let (before, after) = (&rest[..at], &rest[at + path.len()..]);
        let mut following = after.chars();
        let ends = match following.next() {
            // A full stop ends a sentence, unless the name goes on after it.
            Some('.') => !following.next().is_some_and(char::is_alphanumeric),
            Some(c) => !(c.is_alphanumeric() || matches!(c, '_' | '-')),
            None => true,
        };
        let last = before.chars().next_back().or_else(|| out.chars().next_back());
        let begins = !last.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'));
        out.push_str(before);
        out.push_str(if begins && ends { WORD } else { path });
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_directory_goes_and_comes_back() {
        let old = Home::new(Path::new("/home/ann/run"));
        let new = Home::new(Path::new("/tmp/x/"));
        let text = "Save to /home/ann/run/data/a.csv ('/home/ann/run'). Not /home/ann/run2, /home/ann/run.old or \
                    /mnt/home/ann/run; but /home/ann/run.";
        let hidden = old.hide(text);
        assert_eq!(
            hidden,
            "Save to {work_dir}/data/a.csv ('{work_dir}'). Not /home/ann/run2, /home/ann/run.old or \
             /mnt/home/ann/run; but {work_dir}."
        );
        assert_eq!(old.show(&hidden), text);
        assert!(new.show(&hidden).starts_with("Save to /tmp/x/data/a.csv ('/tmp/x')."));
        assert_eq!(Home::new(Path::new("/")).hide("/a /"), "/a /");
    }
}
