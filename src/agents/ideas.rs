//! Research ideas and their critique, as the idea agents answer them.

use serde::{Deserialize, Serialize};

/// One research idea.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Idea {
    /// Its title.
    pub title: String,
    /// What it is; after a selection also why it was chosen.
    pub description: String,
    /// The data it needs.
    pub data_needed: String,
    /// How it is done.
    pub method: String,
    /// What would be new.
    pub expected_result: String,
    /// What could go wrong.
    pub risk: String,
}

impl Idea {
    /// The parts that are not blank, as bullets; the description comes without a label.
    pub fn bullets(&self) -> Vec<String> {
        labelled(&[
            ("", &self.description),
            ("Data needed", &self.data_needed),
            ("Method", &self.method),
            ("Expected result", &self.expected_result),
            ("Risk", &self.risk),
        ])
    }
}

/// What the idea_hater says of one idea.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Critique {
    /// The idea's title.
    pub title: String,
    /// Whether it serves the task.
    pub relevance: String,
    /// Whether it can be done with the data, machine and time at hand.
    pub feasibility: String,
    /// What is weak about it.
    pub weaknesses: String,
    /// What would make it better.
    pub improvements: String,
    /// Whether it should be dropped.
    pub discard: bool,
}

impl Critique {
    /// The parts that are not blank, as bullets.
    pub fn bullets(&self) -> Vec<String> {
        let mut bullets = labelled(&[
            ("Relevance", &self.relevance),
            ("Feasibility", &self.feasibility),
            ("Weaknesses", &self.weaknesses),
            ("Improvements", &self.improvements),
        ]);
        if self.discard {
            bullets.push("Verdict: discard".to_owned());
        }
        bullets
    }
}

fn labelled(parts: &[(&str, &String)]) -> Vec<String> {
    let told = parts.iter().filter(|(_, text)| !text.trim().is_empty());
    told.map(|(label, text)| if label.is_empty() { (*text).clone() } else { format!("{label}: {text}") })
        .collect()
}
