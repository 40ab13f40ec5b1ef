//! Scripts that ended well and yet look wrong.

use std::sync::LazyLock;

use crate::pattern::pattern;
use regex::Regex;

static PLOTS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)^\W*(?:plot|visuali[sz]e)\b|\b(?:make|create|produce|generate|save|draw)\b[^.;]{0,40}\b(?:plots?|figures?|histograms?|png)\b",
    )
});
static SAVES: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)\b(?:save|write|store|export)\b"));
static DATA_FILE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)\b[\w-]+\.(csv|tsv|npy|npz|json|h5|hdf5|fits|txt|parquet|pkl|dat)\b"));
static NEGATED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)\b(?:no|not|don't|without|never|avoid|optional|optionally|if)\b"));
static VALUE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)[=:]\s*[\[(]?\s*([-+]?(?:nan|inf(?:inity)?|\d[\d.]*(?:e[-+]?\d+)?))\b"));
const IMAGES: [&str; 6] = ["png", "jpg", "jpeg", "gif", "pdf", "svg"];

/// The symptom of a script that exited with 0, or `None` when nothing looks wrong.
///
/// `bullets` are the step's; `files` the files it wrote or changed, relative to its directory.
/// Only clear symptoms are told: a false alarm costs a call.
pub fn suspect(output: &str, bullets: &[String], files: &[String]) -> Option<String> {
    if output.contains("Traceback (most recent call last):") {
        return Some("its output holds a traceback: an error was caught and passed over.".to_owned());
    }
    if output.trim().is_empty() {
        return Some("it printed nothing, so nobody can see its results.".to_owned());
    }
    let values: Vec<String> = VALUE.captures_iter(output).map(|c| c[1].to_lowercase()).collect();
    if !values.is_empty() && values.iter().all(|v| v.contains("nan") || v.contains("inf")) {
        return Some("every value it printed is NaN or infinite.".to_owned());
    }
    let extension = |f: &String| f.rsplit_once('.').map(|(_, e)| e.to_lowercase()).unwrap_or_default();
    let written: Vec<String> = files.iter().map(extension).collect();
    for bullet in bullets.iter().filter(|b| !NEGATED.is_match(b)) {
        if PLOTS.is_match(bullet) && !written.iter().any(|e| IMAGES.contains(&e.as_str())) {
            return Some(format!("it wrote no plot, though the step asks: {}", bullet.trim()));
        }
        let asked = DATA_FILE.captures(bullet).filter(|_| SAVES.is_match(bullet));
        if let Some(asked) = asked
            && !written.contains(&asked[1].to_lowercase())
        {
            return Some(format!("it wrote no .{} file, though the step asks: {}", &asked[1], bullet.trim()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(output: &str, bullet: &str, file: &str) -> bool {
        let files = if file.is_empty() { vec![] } else { vec![file.to_owned()] };
        suspect(output, &[bullet.to_owned()], &files).is_some()
    }

    #[test]
    fn clear_symptoms() {
        assert!(told("Traceback (most recent call last):\n...\ndone", "fit", "data/a.csv"));
        assert!(told(" \n", "fit", ""));
        assert!(told("chi2 = nan\nslope: inf", "fit", ""));
        assert!(told("a = 1", "Plot the residuals", "data/a.csv"));
        assert!(told("a = 1", "Save the table to data/fit.csv", "data/plot_1.png"));
    }

    #[test]
    fn ordinary_success_is_left_alone() {
        assert!(!told("chi2 = nan\nslope = 1.2", "fit", ""));
        assert!(!told("a = 1", "Do not plot anything", ""));
        assert!(!told("a = 1", "Plot the residuals", "data/res_1_20260101.png"));
        assert!(!told("a = 1", "Read data/in.csv and fit a line", ""));
        assert!(!told("a = 1", "Print what the plot of step 2 needs", ""));
        assert!(!told("saved", "Save the table to data/fit.csv", "data/fit_1.csv"));
    }
}
