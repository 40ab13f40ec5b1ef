//! The shapes of structured answers, and what a plan must fulfil.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};

use super::{PlanStep, roster};
use crate::pattern::pattern;

/// JSON schema of a plan whose steps may only be given to `agents`.
pub fn plan_schema(agents: &[String]) -> Value {
    let step = object(&json!({
        "bullet_points": {"type": "array", "items": {"type": "string"}},
        "sub_task": {"type": "string"},
        "sub_task_agent": {"type": "string", "enum": agents},
    }));
    object(&json!({"sub_tasks": {"type": "array", "items": step}}))
}

/// JSON schema of a review.
pub fn review_schema() -> Value {
    object(&json!({"recommendations": {"type": "array", "items": {"type": "string"}}}))
}

/// JSON schema of a list of ideas.
pub fn ideas_schema() -> Value {
    let keys = ["title", "description", "data_needed", "method", "expected_result", "risk"];
    object(&json!({"ideas": {"type": "array", "items": object(&texts(&keys))}}))
}

/// JSON schema of a critique of ideas.
pub fn critique_schema() -> Value {
    let mut parts = texts(&["title", "relevance", "feasibility", "weaknesses", "improvements"]);
    parts["discard"] = json!({"type": "boolean"});
    object(&json!({"critiques": {"type": "array", "items": object(&parts)}}))
}

/// JSON schema of the plot judge's answer: criteria come before the verdict, so that it follows from them.
pub fn judgement_schema() -> Value {
    let list = || json!({"type": "array", "items": {"type": "string"}});
    let plot = object(&json!({
        "plot": {"type": "string"}, "criteria": list(), "problems": list(), "fixes": list(),
        "verdict": {"type": "string", "enum": ["continue", "retry"]},
    }));
    object(&json!({"plots": {"type": "array", "items": plot}}))
}

/// Strict providers want every property required and none besides.
fn object(properties: &Value) -> Value {
    let required: Vec<String> =
        properties.as_object().map(|p| p.keys().cloned().collect()).unwrap_or_default();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn texts(keys: &[&str]) -> Value {
    keys.iter()
        .map(|k| ((*k).to_owned(), json!({"type": "string"})))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

static INTERPRETS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:interpret|discuss|analy[sz]e|summari[sz]e|report)\w*\b.*\b(?:results?|outputs?|plots?|figures?)\b",
    )
});

/// What is wrong with a plan, one sentence each, fit for a repair turn; empty when it is sound.
///
/// `agents` are those a step may be given to.
pub fn check(plan: &[PlanStep], max_steps: usize, agents: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    if plan.is_empty() {
        faults.push("The plan has no step.".to_owned());
    }
    if plan.len() > max_steps {
        faults.push(format!(
            "The plan has {} steps; at most {max_steps} are allowed. Merge steps, do not drop work.",
            plan.len()
        ));
    }
    for (i, step) in plan.iter().enumerate() {
        let n = i + 1;
        if !agents.contains(&step.sub_task_agent) {
            faults.push(format!(
                "Step {n} is given to {:?}; allowed are {}.",
                step.sub_task_agent,
                agents.join(", ")
            ));
        }
        if step.sub_task.trim().is_empty() {
            faults.push(format!("Step {n} has no sub-task."));
        }
        if !step.bullet_points.iter().any(|b| !b.trim().is_empty()) {
            faults.push(format!("Step {n} has no bullet points for {}.", step.sub_task_agent));
        }
    }
    // Only wrong where something is computed later: a plan without an engineer interprets what is given.
    if let [first, rest @ ..] = plan
        && first.sub_task_agent == "researcher"
        && rest.iter().any(|s| s.sub_task_agent == "engineer")
        && INTERPRETS.is_match(&first.sub_task)
    {
        faults.push("Step 1 interprets results that no step has produced yet.".to_owned());
    }
    if let Some(last) = plan.last()
        && roster::library(&last.sub_task_agent).is_some()
        && agents.iter().any(|agent| agent == "engineer")
    {
        faults.push(format!(
            "The last step is given to {}, which runs nothing: a step of the engineer must follow.",
            last.sub_task_agent
        ));
    }
    faults
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn step(agent: &str, task: &str, bullets: &[&str]) -> PlanStep {
        PlanStep {
            bullet_points: bullets.iter().map(|b| (*b).to_owned()).collect(),
            sub_task: task.into(),
            sub_task_agent: agent.into(),
        }
    }

    #[test]
    fn a_plan_is_checked_point_by_point() {
        let agents = vec!["engineer".to_owned(), "researcher".to_owned()];
        let good =
            [step("engineer", "fit", &["use x"]), step("researcher", "report the results", &["write"])];
        assert!(check(&good, 2, &agents).is_empty());
        let bad = [
            step("researcher", "Interpret the results of the fit", &["a"]),
            step("engineer", "fit", &[" "]),
            step("camb_agent", "", &["x"]),
        ];
        let faults = check(&bad, 2, &agents);
        let all = faults.join("\n");
        for part in [
            "has 3 steps",
            "Step 1 interprets",
            "Step 2 has no bullet",
            "\"camb_agent\"",
            "Step 3 has no sub-task",
        ] {
            assert!(all.contains(part), "{part} in {all}");
        }
        assert_eq!(check(&[], 3, &agents), ["The plan has no step."]);
        let agents = vec!["engineer".to_owned(), "camb_context".to_owned()];
        let reads = step("camb_context", "find the functions for the spectra", &["lensed TT"]);
        assert!(check(&[reads.clone(), step("engineer", "compute", &["x"])], 3, &agents).is_empty());
        assert!(check(&[reads], 3, &agents)[0].contains("a step of the engineer must follow"));
    }

    #[test]
    fn only_the_researcher_admits_no_engineer() {
        let agents = crate::agents::restrict::restricted_agents("only the researcher").unwrap();
        assert_eq!(
            plan_schema(&agents)["properties"]["sub_tasks"]["items"]["properties"]["sub_task_agent"]["enum"],
            json!(["researcher"])
        );
        assert!(check(&[step("engineer", "x", &["y"])], 3, &agents)[0].contains("engineer"));
    }
}
