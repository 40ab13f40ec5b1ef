//! `final_context`: the map that legacy callers read, with the original's keys in a stable order.

use serde_json::{Map, Value, json};

use super::judgement::Judgement;
use super::{PlanStep, StepRecord, formats, roster, summary};

/// What `researcher_filename` says when the name is free.
pub const FREE_FILENAME: &str = "Choose a suitable file name for the notes";

/// What a context starts from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seed {
    /// The task.
    pub task: String,
    /// At most this many steps in the plan.
    pub max_plan_steps: usize,
    /// Rounds of review.
    pub n_plan_reviews: usize,
    /// `max_n_attempts`.
    pub max_n_attempts: usize,
    /// Instructions for planner and reviewer.
    pub plan_instructions: String,
    /// Instructions for the engineer.
    pub engineer_instructions: String,
    /// Instructions for the researcher.
    pub researcher_instructions: String,
    /// `hardware_constraints`.
    pub hardware_constraints: String,
    /// `researcher_filename`; blank means that the name is free.
    pub researcher_filename: String,
    /// The directory in which scripts run, absolute.
    pub work_dir: String,
    /// Whether plots are judged.
    pub evaluate_plots: bool,
    /// At most this many judgements a step.
    pub max_n_plot_evals: usize,
}

/// The context before anything has happened, with all keys.
pub fn initial(seed: &Seed) -> Map<String, Value> {
    let filename =
        if seed.researcher_filename.trim().is_empty() { FREE_FILENAME } else { &seed.researcher_filename };
    let entries = [
        ("main_task", json!(seed.task)),
        ("improved_main_task", json!(seed.task)),
        ("plans", json!([])),
        ("reviews", json!([])),
        ("proposed_plan", Value::Null),
        ("recommendations", Value::Null),
        ("feedback_left", json!(seed.n_plan_reviews)),
        ("number_of_steps_in_plan", Value::Null),
        ("maximum_number_of_steps_in_plan", json!(seed.max_plan_steps)),
        ("final_plan", Value::Null),
        ("needed_agents", json!([])),
        ("current_plan_step_number", Value::Null),
        ("current_sub_task", Value::Null),
        ("agent_for_sub_task", Value::Null),
        ("current_status", Value::Null),
        ("current_instructions", Value::Null),
        ("previous_steps_execution_summary", json!("\n")),
        ("n_attempts", json!(0)),
        ("max_n_attempts", json!(seed.max_n_attempts)),
        ("database_path", json!("data/")),
        ("codebase_path", json!("codebase/")),
        ("current_codebase", json!("")),
        ("displayed_images", json!([])),
        ("work_dir", json!(seed.work_dir)),
        ("researcher_filename", json!(filename)),
        ("planner_append_instructions", json!(seed.plan_instructions)),
        ("plan_reviewer_append_instructions", json!(seed.plan_instructions)),
        ("engineer_append_instructions", json!(seed.engineer_instructions)),
        ("researcher_append_instructions", json!(seed.researcher_instructions)),
        ("hardware_constraints", json!(seed.hardware_constraints)),
        ("transfer_to_engineer", json!(false)),
        ("transfer_to_researcher", json!(false)),
        ("transfer_to_camb_agent", json!(false)),
        ("transfer_to_classy_agent", json!(false)),
        ("transfer_to_cobaya_agent", json!(false)),
        ("transfer_to_perplexity", json!(false)),
        ("transfer_to_camb_context", json!(false)),
        ("transfer_to_classy_context", json!(false)),
        ("transfer_to_idea_maker", json!(false)),
        ("transfer_to_idea_hater", json!(false)),
        ("transfer_to_classy_sz_agent", json!(false)),
        ("transfer_to_planck_agent", json!(false)),
        ("evaluate_plots", json!(seed.evaluate_plots)),
        ("latest_plot_path", Value::Null),
        ("latest_executed_code", Value::Null),
        ("n_plot_evals", json!(0)),
        ("max_n_plot_evals", json!(seed.max_n_plot_evals)),
        ("vlm_plot_analysis", Value::Null),
        ("vlm_verdict", Value::Null),
        ("plot_problems", json!([])),
        ("plot_fixes", json!([])),
        ("vlm_plot_structured_feedback", Value::Null),
        ("AAS_keywords_string", Value::Null),
        ("text_input_for_AAS_keyword_finder", Value::Null),
        ("N_AAS_keywords", json!(5)),
        ("perplexity_query", Value::Null),
        ("perplexity_response", Value::Null),
        ("perplexity_citations", Value::Null),
        ("camb_context", Value::Null),
        ("classy_context", Value::Null),
        ("cost_dataframe", json!([])),
        ("cost_report_path", Value::Null),
    ];
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Enters what planning came to: all plans and reviews, oldest first; the last plan is final.
pub fn planned(map: &mut Map<String, Value>, plans: &[Vec<PlanStep>], reviews: &[Vec<String>]) {
    let texts: Vec<String> = plans.iter().map(|p| formats::plan(p)).collect();
    let reviews: Vec<String> = reviews.iter().map(|r| formats::review(r)).collect();
    let last: &[PlanStep] = plans.last().map_or(&[], Vec::as_slice);
    let left =
        map.get("feedback_left").and_then(Value::as_u64).unwrap_or(0).saturating_sub(reviews.len() as u64);
    let mut agents: Vec<&str> = Vec::new();
    for step in last {
        if !agents.contains(&step.sub_task_agent.as_str()) {
            agents.push(&step.sub_task_agent);
        }
    }
    set(map, "needed_agents", json!(agents));
    set(map, "proposed_plan", json!(texts.last()));
    set(map, "final_plan", json!(texts.last()));
    set(map, "number_of_steps_in_plan", json!(last.len()));
    set(map, "recommendations", json!(reviews.last()));
    set(map, "plans", json!(texts));
    set(map, "reviews", json!(reviews));
    set(map, "feedback_left", json!(left));
}

/// Enters the one-step plan of a one-shot run by `agent`.
pub fn one_shot(map: &mut Map<String, Value>, agent: &str) {
    set(map, "final_plan", json!("Step 1: solve the main task."));
    set(map, "feedback_left", json!(0));
    set(map, "number_of_steps_in_plan", json!(1));
    set(map, "maximum_number_of_steps_in_plan", json!(1));
    set(map, "current_plan_step_number", json!(1));
    set(map, "current_sub_task", json!("solve the main task."));
    set(map, "current_instructions", json!("solve the main task."));
    set(map, "agent_for_sub_task", json!(agent));
    set(map, "current_status", json!("In progress"));
}

/// Enters that step `number` (1-based) of `plan` begins.
pub fn step_begins(map: &mut Map<String, Value>, plan: &[PlanStep], number: usize) {
    set(map, "number_of_steps_in_plan", json!(plan.len()));
    set(map, "current_plan_step_number", json!(number));
    set(map, "n_attempts", json!(0));
    set(map, "current_status", json!("in progress"));
    if let Some(step) = number.checked_sub(1).and_then(|i| plan.get(i)) {
        set(map, "current_sub_task", json!(step.sub_task));
        set(map, "agent_for_sub_task", json!(step.sub_task_agent));
        set(map, "current_instructions", json!(formats::current_instructions(step)));
    }
}

/// How a step ended, for [`step_ends`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StepEnd {
    /// Whether the step is completed.
    pub completed: bool,
    /// Failed tries.
    pub n_attempts: usize,
    /// Images under `data/`, absolute, oldest first.
    pub images: Vec<String>,
    /// The listing of all modules.
    pub codebase: String,
    /// How many scripts' plots were judged.
    pub plot_rounds: usize,
    /// What the plot judge said last.
    pub judgement: Option<Judgement>,
}

/// Enters the end of a step; `records` are those of all finished steps, oldest first.
pub fn step_ends(map: &mut Map<String, Value>, records: &[StepRecord], end: &StepEnd) {
    set(map, "current_status", json!(if end.completed { "completed" } else { "failed" }));
    set(map, "n_attempts", json!(end.n_attempts));
    set(map, "previous_steps_execution_summary", json!(summary::summary(records)));
    set(map, "displayed_images", json!(end.images));
    set(map, "current_codebase", json!(end.codebase));
    let scripts = records.iter().flat_map(|r| &r.scripts);
    if let Some(script) = scripts.last() {
        set(map, "latest_executed_code", json!(script.code));
    }
    if let Some(image) = end.images.last() {
        set(map, "latest_plot_path", json!(image));
    }
    // A step that a restart restored from its summary has no notes: what the context holds of it stays.
    let read = records.iter().filter(|record| roster::library(&record.agent).is_some());
    for (record, notes) in read.filter_map(|record| record.notes.as_ref().map(|notes| (record, notes))) {
        set(map, &record.agent, json!(notes));
    }
    set(map, "n_plot_evals", json!(end.plot_rounds));
    if let Some(judgement) = &end.judgement {
        set(map, "vlm_plot_analysis", json!(judgement.text()));
        set(map, "vlm_verdict", json!(judgement.verdict()));
        set(map, "plot_problems", json!(judgement.problems()));
        set(map, "plot_fixes", json!(judgement.fixes()));
        let feedback = judgement.retry().then(|| judgement.feedback());
        set(map, "vlm_plot_structured_feedback", json!(feedback));
    }
}

/// Enters the cost: a list of records, one an agent and a total, and the report's path.
pub fn cost(map: &mut Map<String, Value>, records: Value, report_path: &str) {
    set(map, "cost_dataframe", records);
    set(map, "cost_report_path", json!(report_path));
}

fn set(map: &mut Map<String, Value>, key: &str, value: Value) {
    map.insert(key.to_owned(), value);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn plan() -> Vec<PlanStep> {
        let step = |agent: &str| PlanStep {
            bullet_points: vec!["b".into()],
            sub_task: format!("work of {agent}"),
            sub_task_agent: agent.into(),
        };
        vec![step("engineer"), step("researcher"), step("engineer")]
    }

    #[test]
    fn all_keys_are_there_from_the_start_and_stay_in_order() {
        let mut map = initial(&Seed { task: "t".into(), n_plan_reviews: 1, ..Seed::default() });
        assert_eq!(map.len(), 62);
        let before: Vec<String> = map.keys().cloned().collect();
        planned(&mut map, &[plan(), plan()], &[vec!["r".into()]]);
        step_begins(&mut map, &plan(), 2);
        let end = StepEnd { completed: true, images: vec!["/w/data/a.png".into()], ..StepEnd::default() };
        step_ends(
            &mut map,
            &[StepRecord { number: 1, summary: Some("s".into()), ..StepRecord::default() }],
            &end,
        );
        cost(&mut map, json!([{"Agent": "Total"}]), "/w/cost.json");
        assert_eq!(map.keys().cloned().collect::<Vec<_>>(), before);
        assert_eq!(map["feedback_left"], 0);
        assert_eq!(map["needed_agents"], json!(["engineer", "researcher"]));
        assert_eq!(map["current_sub_task"], "work of researcher");
        assert_eq!(map["current_instructions"], "\t\t- b\n");
        assert_eq!(map["current_status"], "completed");
        assert_eq!(map["previous_steps_execution_summary"], "### Step 1\ns");
        assert_eq!(map["displayed_images"], json!(["/w/data/a.png"]));
    }

    #[test]
    fn what_was_read_stays_when_a_restart_knows_only_its_summary() {
        let mut map = initial(&Seed::default());
        let read = StepRecord { agent: "camb_context".into(), ..StepRecord::default() };
        let with_notes = StepRecord { notes: Some("get_results".into()), ..read.clone() };
        for record in [with_notes, read] {
            step_ends(&mut map, &[record], &StepEnd::default());
            assert_eq!(map["camb_context"], "get_results");
        }
    }

    #[test]
    fn one_shot_overrides() {
        let mut map = initial(&Seed { max_plan_steps: 3, ..Seed::default() });
        one_shot(&mut map, "engineer");
        assert_eq!(map["final_plan"], "Step 1: solve the main task.");
        assert_eq!(map["maximum_number_of_steps_in_plan"], 1);
        assert_eq!(map["current_status"], "In progress");
    }
}
