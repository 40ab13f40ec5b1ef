//! What the plot judge says of plots, and how engineer and callers read it.

use serde::{Deserialize, Serialize};

/// What was found of one plot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Verdict {
    /// The plot's file.
    pub plot: String,
    /// Features that physics fixes, and what was seen of them; decided upon before the rest.
    pub criteria: Vec<String>,
    /// What is wrong, in words for someone who has the code and no picture.
    pub problems: Vec<String>,
    /// Root causes in the code and what to change, naming lines.
    pub fixes: Vec<String>,
    /// `continue` or `retry`.
    pub verdict: String,
}

impl Verdict {
    /// Whether the plot is to be made again.
    pub fn retry(&self) -> bool {
        self.verdict == "retry"
    }
}

/// What the judge found of the plots of one script.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Judgement {
    /// The script, relative to the phase's directory.
    pub file: String,
    /// Its code.
    pub code: String,
    /// Plot by plot.
    pub verdicts: Vec<Verdict>,
}

impl Judgement {
    /// Whether any plot is to be made again.
    pub fn retry(&self) -> bool {
        self.verdicts.iter().any(Verdict::retry)
    }

    /// `retry` if any plot is to be made again, else `continue`.
    pub fn verdict(&self) -> &'static str {
        if self.retry() { "retry" } else { "continue" }
    }

    /// All problems, each with its plot.
    pub fn problems(&self) -> Vec<String> {
        self.named(|verdict| &verdict.problems)
    }

    /// All fixes, each with its plot.
    pub fn fixes(&self) -> Vec<String> {
        self.named(|verdict| &verdict.fixes)
    }

    fn named(&self, part: fn(&Verdict) -> &Vec<String>) -> Vec<String> {
        let of = |verdict: &Verdict| -> Vec<String> {
            part(verdict).iter().map(|text| format!("{}: {text}", verdict.plot)).collect()
        };
        self.verdicts.iter().filter(|verdict| verdict.retry()).flat_map(of).collect()
    }

    /// What the plot judge says in the transcript.
    pub fn text(&self) -> String {
        let list = |title: &str, items: &[String]| {
            let lines: Vec<String> = items.iter().map(|item| format!("- {item}\n")).collect();
            if lines.is_empty() { String::new() } else { format!("{title}:\n{}", lines.concat()) }
        };
        let one = |verdict: &Verdict| {
            format!(
                "**Plot:** {}\n{}{}VERDICT: {}\n",
                verdict.plot,
                list("Criteria", &verdict.criteria),
                list("Problems", &verdict.problems),
                verdict.verdict
            )
        };
        self.verdicts.iter().map(one).collect::<Vec<_>>().join("\n")
    }

    /// What the engineer is to change, as text.
    pub fn feedback(&self) -> String {
        let list =
            |items: Vec<String>| items.iter().map(|item| format!("- {item}\n")).collect::<Vec<_>>().concat();
        let fixes = self.fixes();
        let fixes = if fixes.is_empty() { String::new() } else { format!("Fixes:\n{}", list(fixes)) };
        format!("Problems:\n{}{fixes}", list(self.problems()))
    }
}
