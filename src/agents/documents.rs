//! The parts of a long documentation that a piece of work needs, within a budget of characters.

use std::collections::{BTreeMap, BTreeSet};

/// The most characters of documentation in a prompt, whatever the model could read.
pub const MOST: usize = 200_000;
/// Sections longer than this are divided at blank lines.
const LONGEST_SECTION: usize = 8_000;
const GAP: &str = "[…]";

/// `text` whole where it fits into `budget` characters (and [`MOST`]), else the sections that have most
/// of the rarer words of `wanted`, in their order, with a mark where something is left out.
pub fn choose(text: &str, wanted: &str, budget: usize) -> String {
    let budget = budget.min(MOST);
    let text = text.trim();
    if text.chars().count() <= budget {
        return text.to_owned();
    }
    let sections = sections(text);
    let words: Vec<BTreeMap<String, usize>> = sections.iter().map(|section| counted(section)).collect();
    let asked: BTreeSet<String> = counted(wanted).into_keys().collect();
    let score = |section: &BTreeMap<String, usize>| -> f64 {
        asked
            .iter()
            .map(|word| {
                let holders = words.iter().filter(|other| other.contains_key(word)).count();
                let times = section.get(word).copied().unwrap_or(0);
                (float(sections.len()) / float(holders.max(1))).ln() * float(times).ln_1p()
            })
            .sum()
    };
    let mut ranked: Vec<(usize, f64)> = words.iter().map(score).enumerate().collect();
    // A stable order: equal sections stay in that of the text.
    ranked.sort_by(|(_, one), (_, two)| two.total_cmp(one));
    let mut kept = BTreeSet::new();
    let mut left = budget;
    for (index, _) in ranked {
        let length = sections[index].chars().count() + GAP.len() + 4;
        if length <= left {
            left -= length;
            kept.insert(index);
        }
    }
    let mut told = String::new();
    let mut next = 0;
    for index in kept {
        if index > next {
            told.push_str(GAP);
            told.push_str("\n\n");
        }
        told.push_str(sections[index].trim_end());
        told.push_str("\n\n");
        next = index + 1;
    }
    if next < sections.len() {
        told.push_str(GAP);
    }
    told.trim_end().to_owned()
}

/// The text divided at its headings; long sections again at blank lines.
fn sections(text: &str) -> Vec<String> {
    let mut sections = vec![String::new()];
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        let heading = !fenced && line.starts_with('#');
        let here = sections.last().map_or(0, String::len);
        let full = line.trim().is_empty() && here > LONGEST_SECTION;
        if (heading || full) && here > 0 {
            sections.push(String::new());
        }
        if let Some(section) = sections.last_mut() {
            section.push_str(line);
            section.push('\n');
        }
    }
    sections
}

/// The words of a text with how often they occur; names such as `get_cmb_power_spectra` also in pieces.
fn counted(text: &str) -> BTreeMap<String, usize> {
    let mut words = BTreeMap::new();
    let mut count = |word: &str| {
        if word.chars().count() >= 2 {
            *words.entry(word.to_lowercase()).or_insert(0) += 1;
        }
    };
    for name in text.split(|c: char| !c.is_alphanumeric() && c != '_') {
        count(name);
        if name.contains('_') {
            name.split('_').for_each(&mut count);
        }
    }
    words
}

// Counts of words and sections are far below 2^52, where a float is exact.
#[allow(clippy::cast_precision_loss)]
fn float(n: usize) -> f64 {
    n as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_documentation_goes_whole_and_long_in_its_fitting_parts() {
        let filler = |n: usize| format!("# Topic {n}\n{}\n", "general words about nothing. ".repeat(40));
        let wanted = "# Spectra\nget_cmb_power_spectra(params, lmax): lensed spectra in muK^2.\n";
        let mut text = String::from("# CAMB\nIntroduction.\n");
        for n in 0..20 {
            text.push_str(&filler(n));
            if n == 13 {
                text.push_str(wanted);
            }
        }
        assert_eq!(choose(&text, "anything", 100_000), text.trim());
        let chosen = choose(&text, "Compute the lensed power spectra with lmax 2500", 3_000);
        assert!(chosen.contains("get_cmb_power_spectra(params, lmax): lensed"), "{chosen}");
        assert!(chosen.contains(GAP) && chosen.chars().count() <= 3_000);
        assert_eq!(
            choose(&text, "lensed power spectra", 3_000),
            choose(&text, "lensed power spectra", 3_000)
        );
    }

    #[test]
    fn a_long_section_is_divided_and_code_is_no_heading() {
        let paragraph = format!("{}\n\n", "word ".repeat(400));
        let long = format!("# One\n{}```python\n# a comment\n```\n", paragraph.repeat(10));
        let parts = sections(&long);
        assert!(parts.len() > 2 && parts.concat() == long);
        assert!(parts.iter().any(|part| part.contains("```python\n# a comment\n```")));
    }
}
