//! Research ideas and their critique, as the idea agents answer them.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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
    /// The idea as a human writes it: the first line is the title, the rest the description.
    pub fn written(text: &str) -> Self {
        let (title, rest) = text.trim().split_once('\n').unwrap_or((text.trim(), ""));
        Self { title: title.trim().to_owned(), description: rest.trim().to_owned(), ..Self::default() }
    }

    /// Title and parts, one a line.
    pub fn text(&self) -> String {
        let bullets = self.bullets().into_iter().map(|bullet| format!("\n- {bullet}"));
        format!("{}{}", self.title, bullets.collect::<String>())
    }

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

/// The idea that a human's answer selects among `ideas`: by its number from 1, by its title, as a mapping
/// with a `title`, or written anew as text. The error says what was expected.
pub fn selected(choice: &Value, ideas: &[Value]) -> Result<Value, String> {
    let number = match choice {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    if let Some(number) = number {
        let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
        return index.and_then(|index| ideas.get(index)).cloned().ok_or_else(|| {
            format!("there is no idea {number}; expected a number from 1 to {}", ideas.len())
        });
    }
    match choice {
        Value::String(text) if !text.trim().is_empty() => {
            let title = text.trim().to_lowercase();
            let named =
                |idea: &&Value| idea["title"].as_str().is_some_and(|t| t.trim().to_lowercase() == title);
            Ok(ideas.iter().find(named).cloned().unwrap_or_else(|| json!(Idea::written(text))))
        }
        Value::Object(idea)
            if idea.get("title").and_then(Value::as_str).is_some_and(|t| !t.trim().is_empty()) =>
        {
            serde_json::from_value::<Idea>(choice.clone())
                .map(|_| choice.clone())
                .map_err(|error| format!("the selected idea cannot be read: {error}"))
        }
        _ => Err(
            "expected selected_idea as the number of an idea, its title, a mapping with `title`, or a text"
                .into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_human_picks_by_number_or_title_or_writes_anew() {
        let ideas = [json!({"title": "Lensing", "risk": "noise"}), json!({"title": "Dust"})];
        for choice in [json!(2), json!("2"), json!("dust "), json!({"title": "Dust"})] {
            assert_eq!(selected(&choice, &ideas).unwrap()["title"], "Dust", "{choice}");
        }
        let anew = selected(&json!("Cold spot\nIs it a void?"), &ideas).unwrap();
        assert_eq!((&anew["title"], &anew["description"]), (&json!("Cold spot"), &json!("Is it a void?")));
        for choice in [
            json!(0),
            json!(3),
            json!(-1),
            json!(" "),
            json!({"name": "x"}),
            json!([]),
            json!({"title": "x", "risk": 1}),
        ] {
            assert!(selected(&choice, &ideas).is_err(), "{choice}");
        }
        assert!(selected(&json!(3), &ideas).unwrap_err().contains("from 1 to 2"));
    }

    #[test]
    fn an_idea_as_text_leaves_out_what_is_blank() {
        let idea = Idea { title: "T".into(), description: "D".into(), risk: "R".into(), ..Idea::default() };
        assert_eq!(idea.text(), "T\n- D\n- Risk: R");
        assert_eq!(Idea::written("only a title").text(), "only a title");
    }
}
