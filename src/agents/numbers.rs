//! Numbers that notes quote and no output contains.

use std::sync::LazyLock;

use crate::pattern::pattern;
use regex::Regex;

static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
    pattern(concat!(
        r"(?P<mantissa>[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+−]?\.\d+)",
        r"(?:[eE](?P<e>[-+]?\d+)|\s*(?:×|x|\\times|\\cdot|·|\*)\s*10\s*(?:\^|\*\*)?\s*\{?\s*(?P<p>[-+−]?\d+|[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)\s*\}?)?"
    ))
});
static SKIPPED: LazyLock<Regex> = LazyLock::new(|| {
    // Comments, links, file names, code spans and fences, list numbers, headings: no quoted results.
    pattern(concat!(
        r"(?s)<!--.*?-->|```.*?```|`[^`\n]*`|<code>.*?</code>|\]\([^)]*\)|https?://\S+",
        r"|[\w./-]*\.(?:png|jpe?g|gif|csv|npy|npz|json|py|md|txt|h5|fits|pdf)\b",
        r"|(?m:^\s*\d+[.)]\s)|(?m:^#{1,6}\s*[\d.]+)",
        r"|(?i:\b(?:step|section|figure|fig\.|table|eq\.|equation|chapter|appendix|ref\.?)\s*\(?\d+(?:\.\d+)*)|\[\d+(?:[,–-]\s*\d+)*\]"
    ))
});

/// Thousands set apart as LaTeX or typographers do it.
static GROUPED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(\d)(?:\\,|\{,\}|\u{2009}|\u{202f}|\u{a0})(\d{3}\b)"));

/// Levels at which results are quoted by custom, in per cent.
const LEVELS: [f64; 7] = [68.0, 68.3, 90.0, 95.0, 95.4, 99.0, 99.7];

/// A number as a text shows it.
#[derive(Debug, Clone, Copy)]
struct Shown {
    value: f64,
    /// Half a unit of the last shown digit.
    half: f64,
    whole: bool,
}

/// The numbers quoted in `notes` that occur in none of `sources`, as written, each once, in order.
///
/// A quoted number counts as found when a source rounds to it at the digits shown, as it stands, as a
/// percentage or as a fraction; its sign is ignored. Small integers, years and list numbers are not asked
/// about, nor are customary confidence levels. `sources` are outputs and code of scripts, the task, the
/// step and earlier notes.
pub fn unsupported(notes: &str, sources: &[&str]) -> Vec<String> {
    let mut known: Vec<f64> = sources.iter().flat_map(|s| found(s)).map(|(_, _, n)| n.value.abs()).collect();
    known.sort_by(f64::total_cmp);
    let text = SKIPPED.replace_all(notes, " ");
    let text = GROUPED.replace_all(&text, "$1,$2");
    let mut missing: Vec<String> = Vec::new();
    for (end, written, number) in found(&text) {
        let per_cent = text[end..].trim_start().trim_start_matches('\\').starts_with('%');
        let level = per_cent && LEVELS.iter().any(|l| (l - number.value).abs() < 1e-9);
        if level || ordinary(number) || supported(number, &known) || missing.contains(&written) {
            continue;
        }
        missing.push(written);
    }
    missing
}

/// Small integers and years: prose, not results.
fn ordinary(number: Shown) -> bool {
    let value = number.value.abs();
    number.whole && (value <= 30.0 || matches!(value, 100.0 | 1000.0) || (1900.0..=2100.0).contains(&value))
}

fn supported(number: Shown, known: &[f64]) -> bool {
    [1.0, 100.0, 0.01].iter().any(|factor| {
        // Shown × factor against the source: 42 % is quoted of 0.42 and 0.42 of 42 %.
        let value = number.value.abs() * factor;
        let half = number.half * factor * (1.0 + 1e-9) + value * 1e-12;
        let from = known.partition_point(|k| *k < value - half);
        known.get(from).is_some_and(|k| *k <= value + half)
    })
}

/// Every number of `text` that is no part of a word: where it ends, how it is written, what it is.
fn found(text: &str) -> Vec<(usize, String, Shown)> {
    let inside = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    NUMBER
        .captures_iter(text)
        .filter_map(|c| {
            let whole = c.get(0)?;
            // `step_1` and `H0` are names; `3sigma` and `5km` are numbers with a unit.
            if inside(text[..whole.start()].chars().next_back())
                && !whole.as_str().starts_with(['-', '+', '−'])
            {
                return None;
            }
            let digits: String = c["mantissa"].chars().filter(|d| d.is_ascii_digit() || *d == '.').collect();
            let power = c.name("e").or_else(|| c.name("p")).map_or(Some(0), |m| exponent(m.as_str()))?;
            let decimals = digits.split_once('.').map_or(0, |(_, d)| d.len());
            let decimals = i32::try_from(decimals).ok()?;
            let value: f64 = format!("{digits}e{power}").parse().ok()?;
            let half = 0.5 * 10f64.powi(power - decimals);
            let is_whole = decimals == 0 && power == 0;
            value.is_finite().then(|| {
                (whole.end(), whole.as_str().trim().to_owned(), Shown { value, half, whole: is_whole })
            })
        })
        .collect()
}

fn exponent(text: &str) -> Option<i32> {
    let plain: String = text
        .chars()
        .map(|c| match c {
            '−' | '⁻' => '-',
            '⁺' => '+',
            c => "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().position(|s| s == c).map_or(c, |i| char::from(b"0123456789"[i])),
        })
        .collect();
    plain.parse().ok().filter(|p: &i32| p.abs() <= 300)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(notes: &str, output: &str) -> Vec<String> {
        unsupported(notes, &[output])
    }

    #[test]
    fn rounding_percentages_and_powers_are_found() {
        let output = "chi2 = 1.23456\nfraction: 0.4213\nrate 6.02e-05\nn = 12345\nslope=-0.77";
        let notes = "A reduced $\\chi^2$ of 1.23, 42.1% of 12,345 points, $6.0 \\times 10^{-5}$, 6.02×10⁻⁵ and a slope of −0.77.";
        assert!(missing(notes, output).is_empty(), "{:?}", missing(notes, output));
        let latex = "Of $12\\,345$ points, 95% (68.3\\%) lie within 42.13 %.";
        assert!(missing(latex, output).is_empty(), "{:?}", missing(latex, output));
    }

    #[test]
    fn invented_numbers_are_listed_once() {
        assert_eq!(missing("Slope 3.71 (again 3.71), p = 0.049", "slope 3.72"), ["3.71", "0.049"]);
    }

    #[test]
    fn prose_numbers_are_ignored() {
        let notes = "1. In 2024, 3 of 10 runs (step 4, Fig. 77) of `x_512`; see data/plot_1_20260101.png and [45].\n```\n999\n```";
        assert!(missing(notes, "").is_empty(), "{:?}", missing(notes, ""));
    }
}
