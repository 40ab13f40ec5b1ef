//! Workflow definitions, and the seven that come with the package.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Error, Result, python_list};

/// A workflow as a sequence of phases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkflowDefinition {
    /// Its id.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// What it does.
    #[serde(default)]
    pub description: String,
    /// `{"type": …, "config": {…}}` each.
    pub phases: Vec<Value>,
    /// Its version.
    #[serde(default = "one")]
    pub version: u32,
    /// Whether it comes with the package.
    #[serde(default)]
    pub is_system: bool,
}

fn one() -> u32 {
    1
}

/// The seven system workflows, in order.
pub fn system_workflows() -> Vec<WorkflowDefinition> {
    let planning = || json!({"type": "planning", "config": {"max_plan_steps": 3, "n_plan_reviews": 1}});
    let control = || json!({"type": "control", "config": {"execute_all_steps": true}});
    let checkpoint = |kind: &str, message: &str| {
        let mut config = json!({"checkpoint_type": kind});
        if !message.is_empty() {
            config["custom_message"] = message.into();
        }
        json!({"type": "hitl_checkpoint", "config": config})
    };
    let select = || checkpoint("custom", "Which idea shall be pursued? Choose or rewrite one.");
    let ideas = || json!({"type": "idea_generation", "config": {"n_ideas": 3, "n_reviews": 1}});
    let one_shot = |agent: &str| json!({"type": "one_shot", "config": {"agent": agent}});
    let define = |id: &str, name: &str, description: &str, phases: Vec<Value>| WorkflowDefinition {
        id: id.into(),
        name: name.into(),
        description: description.into(),
        phases,
        version: 1,
        is_system: true,
    };
    vec![
        define(
            "deep_research",
            "Deep Research",
            "Planning followed by multi-step execution",
            vec![planning(), control()],
        ),
        define(
            "deep_research_hitl",
            "Deep Research with HITL",
            "Planning, approval of the plan by a human, multi-step execution",
            vec![planning(), checkpoint("after_planning", ""), control()],
        ),
        define(
            "deep_research_full_hitl",
            "Deep Research with Full HITL",
            "Planning, approval of the plan by a human, execution with a question after each step",
            vec![
                planning(),
                checkpoint("after_planning", ""),
                json!({
                    "type": "control",
                    "config": {"execute_all_steps": true, "hitl_after_each_step": true},
                }),
            ],
        ),
        define(
            "one_shot",
            "Quick Task",
            "One task for the engineer, without a plan",
            vec![one_shot("engineer")],
        ),
        define(
            "one_shot_researcher",
            "Quick Research",
            "One task for the researcher, without a plan",
            vec![one_shot("researcher")],
        ),
        define(
            "idea_generation",
            "Idea Generation",
            "Research ideas, made and criticised, then chosen by a human",
            vec![ideas(), select()],
        ),
        define(
            "idea_to_execution",
            "Idea to Execution",
            "Research ideas, choice by a human, planning, approval of the plan, execution",
            vec![ideas(), select(), planning(), checkpoint("after_planning", ""), control()],
        ),
    ]
}

/// The system workflow of this id, or an error that lists what there is.
pub fn get_workflow(id: &str) -> Result<WorkflowDefinition> {
    let all = system_workflows();
    let ids: Vec<String> = all.iter().map(|w| w.id.clone()).collect();
    all.into_iter().find(|w| w.id == id).ok_or_else(|| {
        Error::Configuration(format!("Unknown workflow: {id}. Available: {}", python_list(&ids)))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_seven_are_those_of_the_specification() {
        let phases: Vec<(String, Vec<String>)> = system_workflows()
            .into_iter()
            .map(|w| (w.id, w.phases.iter().map(|p| p["type"].as_str().unwrap().to_owned()).collect()))
            .collect();
        let expected: [(&str, &[&str]); 7] = [
            ("deep_research", &["planning", "control"]),
            ("deep_research_hitl", &["planning", "hitl_checkpoint", "control"]),
            ("deep_research_full_hitl", &["planning", "hitl_checkpoint", "control"]),
            ("one_shot", &["one_shot"]),
            ("one_shot_researcher", &["one_shot"]),
            ("idea_generation", &["idea_generation", "hitl_checkpoint"]),
            (
                "idea_to_execution",
                &["idea_generation", "hitl_checkpoint", "planning", "hitl_checkpoint", "control"],
            ),
        ];
        for ((id, types), (want_id, want)) in phases.iter().zip(expected) {
            assert_eq!((id.as_str(), types.as_slice()), (want_id, want.map_strings().as_slice()));
        }
        assert_eq!(phases.len(), 7);
        let error = get_workflow("nope").unwrap_err().to_string();
        assert!(error.starts_with("Unknown workflow: nope. Available: ['deep_research', "), "{error}");
    }

    trait MapStrings {
        fn map_strings(&self) -> Vec<String>;
    }
    impl MapStrings for &[&str] {
        fn map_strings(&self) -> Vec<String> {
            self.iter().map(|s| (*s).to_owned()).collect()
        }
    }
}
