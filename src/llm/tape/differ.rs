//! The difference of two texts, short enough to be read.

/// Lines around a change that are shown with it.
const AROUND: usize = 1;
/// Lines shown at most, and characters of one line.
const MOST_LINES: usize = 40;
const MOST_CHARACTERS: usize = 200;
/// Beyond so many pairs of lines, what lies between the first and the last change is shown as one.
const MOST_PAIRS: usize = 1_000_000;

#[derive(Clone, Copy, PartialEq)]
enum Mark {
    Same,
    Gone,
    New,
}

/// How `new` differs from `old`, as a unified diff; and how many lines are gone or new.
pub(crate) fn diff(old: &str, new: &str) -> (String, usize) {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let marked = compare(&old, &new);
    let changes = marked.iter().filter(|(mark, _)| *mark != Mark::Same).count();
    let near = |at: usize| {
        let around = &marked[at.saturating_sub(AROUND)..(at + AROUND + 1).min(marked.len())];
        around.iter().any(|(mark, _)| *mark != Mark::Same)
    };
    let (mut lines, mut old_at, mut new_at, mut open) = (Vec::new(), 1, 1, false);
    for (at, (mark, text)) in marked.iter().enumerate() {
        let shown = near(at);
        if shown && !open {
            lines.push(format!("@@ -{old_at} +{new_at} @@"));
        }
        open = shown;
        if shown {
            let sign = match mark {
                Mark::Same => ' ',
                Mark::Gone => '-',
                Mark::New => '+',
            };
            lines.push(format!("{sign}{}", cut(text)));
        }
        old_at += usize::from(*mark != Mark::New);
        new_at += usize::from(*mark != Mark::Gone);
    }
    if lines.len() > MOST_LINES {
        let left = lines.len() - MOST_LINES;
        lines.truncate(MOST_LINES);
        lines.push(format!("… {left} more lines"));
    }
    (lines.join("\n"), changes)
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(MOST_CHARACTERS) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

/// The lines of both, marked; by the longest common subsequence.
fn compare<'a>(old: &[&'a str], new: &[&'a str]) -> Vec<(Mark, &'a str)> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[head..], &new[head..]);
    let tail = a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[..a.len() - tail], &b[..b.len() - tail]);
    let same = |lines: &[&'a str]| lines.iter().map(|line| (Mark::Same, *line)).collect::<Vec<_>>();
    let mut marked = same(&old[..head]);
    if a.len() * b.len() > MOST_PAIRS {
        marked.extend(a.iter().map(|line| (Mark::Gone, *line)));
        marked.extend(b.iter().map(|line| (Mark::New, *line)));
    } else {
        // common[i][j]: the length of the longest common part of a[i..] and b[j..].
        let width = b.len() + 1;
        let mut common = vec![0_u32; (a.len() + 1) * width];
        for i in (0..a.len()).rev() {
            for j in (0..b.len()).rev() {
                common[i * width + j] = if a[i] == b[j] {
                    common[(i + 1) * width + j + 1] + 1
                } else {
                    common[(i + 1) * width + j].max(common[i * width + j + 1])
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < a.len() || j < b.len() {
            if i < a.len() && j < b.len() && a[i] == b[j] {
                marked.push((Mark::Same, a[i]));
                (i, j) = (i + 1, j + 1);
            } else if j == b.len()
                || (i < a.len() && common[(i + 1) * width + j] >= common[i * width + j + 1])
            {
                marked.push((Mark::Gone, a[i]));
                i += 1;
            } else {
                marked.push((Mark::New, b[j]));
                j += 1;
            }
        }
    }
    marked.extend(same(&old[old.len() - tail..]));
    marked
}

#[cfg(test)]
mod tests {
    use super::diff;

    #[test]
    fn changes_are_shown_with_their_neighbours() {
        let (text, changes) = diff("a\nb\nc\nd\ne\nf", "a\nb\nX\nd\ne\nf\ng");
        assert_eq!((text.as_str(), changes), ("@@ -2 +2 @@\n b\n-c\n+X\n d\n@@ -6 +6 @@\n f\n+g", 3));
        assert_eq!(diff("a\nb", "a\nb"), (String::new(), 0));
        assert_eq!(diff("", "x").0, "@@ -1 +1 @@\n+x");
        assert_eq!(diff("x\ny", "y").0, "@@ -1 +1 @@\n-x\n y");
    }

    #[test]
    fn long_differences_are_cut() {
        let many = |word: &str, count: usize| {
            (0..count).map(|n| format!("{word} {n}")).collect::<Vec<_>>().join("\n")
        };
        let (text, changes) = diff(&many("old", 30), &many("new", 30));
        assert_eq!((text.lines().count(), changes), (41, 60));
        assert!(text.ends_with("… 21 more lines"), "{text}");
        // Too many pairs for a table.
        assert_eq!(diff(&many("old", 1_100), &many("new", 1_100)).1, 2_200);
        assert!(diff("", &"é".repeat(500)).0.chars().count() < 230);
    }
}
