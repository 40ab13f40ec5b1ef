//! Shortening a text so that what matters of it stays: both ends and the lines that bear numbers.

/// Whether `text` has at most `limit` characters.
pub fn fits(text: &str, limit: usize) -> bool {
    text.len() <= limit || text.chars().count() <= limit
}

/// `text` in at most about `limit` characters: head, tail and the number-bearing lines between them, in
/// order, with a note that says what was left out and where the whole is.
///
/// `whole` names the file with the whole text. A text that fits comes back as it was.
pub fn excerpt(text: &str, limit: usize, whole: &str) -> String {
    if fits(text, limit) {
        return text.to_owned();
    }
    let budget = limit.saturating_sub(whole.chars().count() + 90).max(40);
    let longest = (budget / 4).max(20);
    let lines: Vec<String> = text.lines().map(|l| clip(l, longest)).collect();
    let cost: Vec<usize> = lines.iter().map(|l| l.chars().count() + 1).collect();
    let mut keep = vec![false; lines.len()];

    let share = budget * 3 / 10;
    let head = take(0..lines.len(), &cost, share, &mut keep);
    let tail = take((0..lines.len()).rev(), &cost, share, &mut keep);
    let mut left = budget.saturating_sub(head + tail);
    for rank in [2, 1] {
        for i in 0..lines.len() {
            // A line kept alone also costs the mark of the gap before it.
            if !keep[i] && weight(&lines[i]) == rank && cost[i] + 4 <= left {
                keep[i] = true;
                left -= cost[i] + 4;
            }
        }
    }

    let dropped = keep.iter().filter(|k| !**k).count();
    let mut out =
        format!("[shortened: {dropped} of {} lines left out; the whole is in {whole}]\n", lines.len());
    let mut gap = false;
    for (line, kept) in lines.iter().zip(&keep) {
        if *kept {
            if gap {
                out.push_str("[…]\n");
            }
            out.push_str(line);
            out.push('\n');
        }
        gap = !kept;
    }
    out
}

/// Marks lines in the order given until their cost reaches `share`; returns what they cost.
fn take(order: impl Iterator<Item = usize>, cost: &[usize], share: usize, keep: &mut [bool]) -> usize {
    let mut spent = 0;
    for i in order {
        if keep[i] || spent + cost[i] > share {
            break;
        }
        keep[i] = true;
        spent += cost[i];
    }
    spent
}

/// 2 for a line that states a value (`chi2 = 1.2`), 1 for one with any digit, else 0.
fn weight(line: &str) -> u8 {
    let digit = line.bytes().any(|b| b.is_ascii_digit());
    let states = line.contains(['=', ':', '±']) && line.chars().any(char::is_alphabetic);
    u8::from(digit) + u8::from(digit && states)
}

fn clip(line: &str, limit: usize) -> String {
    if fits(line, limit) {
        return line.to_owned();
    }
    let mut short: String = line.chars().take(limit.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_ends_and_numbers() {
        let mut lines = vec!["first".to_owned()];
        lines.extend((0..400).map(|_| "just some words without any value".to_owned()));
        lines.insert(200, "H0 = 67.4 km/s/Mpc".into());
        lines.push("last".into());
        let text = lines.join("\n");
        let short = excerpt(&text, 1000, "logs/step_1.log");
        assert!(short.chars().count() <= 1000, "{}", short.chars().count());
        for part in ["first", "H0 = 67.4 km/s/Mpc", "last", "logs/step_1.log", "lines left out"] {
            assert!(short.contains(part), "{part} in {short}");
        }
    }

    #[test]
    fn one_endless_line_is_clipped_between_characters() {
        let short = excerpt(&"é".repeat(5000), 500, "x.log");
        assert!(short.chars().count() <= 500);
        assert!(short.contains('…'));
    }

    #[test]
    fn what_fits_is_untouched() {
        assert_eq!(excerpt("a\n\nb", 10, "x"), "a\n\nb");
    }
}
