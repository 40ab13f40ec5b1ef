//! The human checkpoint and what it leads to.

use std::sync::Arc;

use cmbagent::engine::{Answer, MemoryState, PhaseStatus, RunStatus, Section};
use cmbagent::exec::scripted::Scripted;
use cmbagent::phases;
use serde_json::{Value, json};

use super::stage::{Ended, Stage, given, given_with, plan, planned};

async fn ask(stage: &Stage, config: Value) -> Ended {
    stage.run(&[("hitl_checkpoint", config)]).await
}

fn timed_out() -> Answer {
    Answer::TimedOut
}

fn broken() -> Answer {
    Answer::Failed { error: "no line".into() }
}

#[tokio::test]
async fn every_outcome_has_the_status_and_output_of_the_contract() {
    let approve = json!({"default_on_timeout": "approve"});
    for (answer, config, status, error) in [
        (given("approve"), json!({}), "approved", None),
        (given("Approved"), json!({}), "approved", None),
        (given("modified"), json!({}), "modified", None),
        (given("reject"), json!({}), "rejected", Some("Rejected by user")),
        (timed_out(), json!({}), "timeout", Some("Approval timeout - defaulted to reject")),
        (timed_out(), approve.clone(), "timeout_auto_approved", None),
        (broken(), json!({}), "error", Some("Approval error: no line")),
        (broken(), approve, "error_auto_approved", None),
    ] {
        let stage = Stage::asking([answer]);
        let ended = ask(&stage, config).await;
        let outcome = &ended.outcomes[0];
        assert_eq!(outcome.error.as_deref(), error, "{status}");
        let expected = if error.is_some() { PhaseStatus::Failed } else { PhaseStatus::Completed };
        assert_eq!(outcome.status, expected, "{status}");
        assert_eq!(ended.output("approval_status"), status);
        for key in ["user_feedback", "modifications"] {
            assert_eq!(outcome.state.read(Section::Output, key), Some(Value::Null), "{status}: {key}");
        }
    }
}

#[tokio::test]
async fn nobody_to_ask_approves_with_a_warning() {
    let stage = Stage::new();
    let ended = ask(&stage, json!({})).await.completed();
    assert_eq!(ended.output("approval_status"), "auto_approved");
    assert_eq!(ended.output("no_hitl_manager"), true);
    assert!(stage.warnings()[0].contains("approval_manager="));
}

#[tokio::test]
async fn a_checkpoint_that_needs_no_approval_is_skipped() {
    let stage = Stage::asking([]);
    let ended = ask(&stage, json!({"require_approval": false})).await;
    assert_eq!((*ended.status.as_ref().unwrap(), ended.outcomes.len()), (RunStatus::Completed, 0));
    assert_eq!(ended.skipped, [0]);
    assert_eq!(stage.heard.of("phase_skipped").len(), 1);
}

#[tokio::test]
async fn approval_and_feedback_are_shared_with_what_follows() {
    let stage = Stage::asking([given_with("approve", "mind the units", Value::Null)]);
    let ended = ask(&stage, json!({})).await.completed();
    assert_eq!(ended.output("user_feedback"), "mind the units");
    assert_eq!(ended.shares("hitl_feedback"), "mind the units");
    assert_eq!(ended.shares("all_hitl_feedback"), json!(["mind the units"]));
    assert_eq!(ended.shares("hitl_approved"), true);
}

#[tokio::test]
async fn feedback_of_two_checkpoints_adds_up_and_reaches_the_agents() {
    let stage = Stage::asking([
        given_with("approve", "mind the units", Value::Null),
        given_with("approve", "be quick", Value::Null),
    ]);
    let steps = plan(&[("engineer", "fit", "use the data")]);
    stage.engineer("a.py", "a()", Scripted::success("a = 1\n"));
    let control = json!({"params": {"preloaded_plan": steps}});
    let checkpoint = || ("hitl_checkpoint", json!({}));
    stage.run(&[checkpoint(), checkpoint(), ("control", control)]).await.completed();
    let prompt = &stage.prompts("engineer")[0];
    let at = |words: &str| prompt.find(words).unwrap_or_else(|| panic!("{words} is not in {prompt}"));
    assert!(at("mind the units") < at("be quick"));
}

#[tokio::test]
async fn other_words_never_approve() {
    let stage = Stage::asking([given("yes"), given("sure"), given("")]);
    let ended = ask(&stage, json!({})).await;
    assert!(
        ended.error().contains(
            "Approval error: the answer \"\" is none of the options ['approve', 'reject', 'modify']"
        )
    );
    assert_eq!(stage.humans.as_ref().unwrap().asked().len(), 3);
    let stage = Stage::asking([given("yes"), given("approve")]);
    ask(&stage, json!({})).await.completed();
}

#[tokio::test]
async fn the_question_shows_the_plan_and_what_was_spent() {
    let stage = Stage::asking([given("approve")]);
    let steps = plan(&[("engineer", "fit a line", "use the data"), ("researcher", "write", "be brief")]);
    stage.say("planner", &planned(&steps));
    let planning = ("planning", json!({"n_plan_reviews": 0}));
    let config = json!({"custom_message": "Look well.", "show_context": true, "timeout_seconds": 60});
    stage.run(&[planning, ("hitl_checkpoint", config)]).await.completed();
    let asked = &stage.humans.as_ref().unwrap().asked()[0];
    let lines: Vec<&str> = asked.message.lines().collect();
    assert_eq!((lines[0], *lines.last().unwrap()), ("Look well.", "  Step 2: write"));
    assert!(asked.message.contains("\n**Plan:**\n  Step 1: fit a line\n"));
    assert_eq!((asked.timeout_seconds, asked.step_id.as_str()), (60, "phase_1_hitl_checkpoint"));
    assert_eq!(asked.run_id, "run-1");
    let snapshot = &asked.context_snapshot;
    assert_eq!((&snapshot["plan"], &snapshot["spent"]["calls"]), (&steps, &json!(1)));
    assert_eq!((&snapshot["estimate"]["calls"], &snapshot["estimate"]["cost"]), (&json!(2), &Value::Null));
    assert_eq!(snapshot["context"]["number_of_steps_in_plan"], 2);
}

#[tokio::test]
async fn only_a_plan_that_is_still_to_come_is_estimated() {
    let steps = plan(&[("engineer", "fit", "use the data")]);
    let estimated = |config: Value, shared: Value| {
        let mut stage = Stage::asking([given("approve")]);
        stage.shared = shared.as_object().cloned().unwrap_or_default();
        async move {
            ask(&stage, config).await.completed();
            let shown = &stage.humans.as_ref().unwrap().asked()[0].context_snapshot;
            assert_eq!(shown["spent"]["calls"], 0);
            shown.get("estimate").is_some()
        }
    };
    let planned = json!({"plan_steps": steps});
    assert!(estimated(json!({}), planned.clone()).await);
    assert!(estimated(json!({"checkpoint_type": "custom"}), planned.clone()).await);
    for kind in ["before_step", "after_step", "on_error", "after_execution"] {
        assert!(!estimated(json!({"checkpoint_type": kind}), planned.clone()).await, "{kind}");
    }
    let done = json!({"plan_steps": steps, "execution_complete": true});
    assert!(!estimated(json!({"checkpoint_type": "custom"}), done).await);
    assert!(!estimated(json!({"show_plan": false}), planned).await);
    assert!(!estimated(json!({}), json!({})).await);
}

#[tokio::test]
async fn an_edited_plan_is_executed_as_it_was_edited() {
    let edited = plan(&[("engineer", "count galaxies", "use the catalogue")]);
    for changes in [json!({"plan": edited}), json!({"final_plan": {"sub_tasks": edited}}), edited.clone()] {
        let stage = Stage::asking([given_with("modify", "one step will do", changes.clone())]);
        let steps = plan(&[("engineer", "fit a line", "use the data"), ("researcher", "write", "be brief")]);
        stage.say("planner", &planned(&steps));
        stage.engineer("a.py", "count()", Scripted::success("n = 12\n"));
        let planning = ("planning", json!({"n_plan_reviews": 0}));
        let checkpoint = ("hitl_checkpoint", json!({}));
        let ended = stage.run(&[planning, checkpoint, ("control", json!({}))]).await.completed();
        let prompt = &stage.prompts("engineer")[0];
        assert!(prompt.contains("Sub-task: count galaxies") && prompt.contains("use the catalogue"));
        assert!(!prompt.contains("fit a line") && prompt.contains("one step will do"), "{prompt}");
        assert_eq!(stage.models.agents(), ["planner", "engineer"]);
        assert_eq!(stage.json("planning/final_plan.json")["sub_tasks"], edited);
        let context = ended.output("final_context");
        assert_eq!(context["number_of_steps_in_plan"], 1);
        let told = context["final_plan"].as_str().unwrap();
        assert!(told.contains("count galaxies") && !told.contains("fit a line"), "{told}");
        let checkpoint = ended.outcomes[1].state.read(Section::Output, "shared").unwrap();
        assert_eq!(checkpoint["plan_modified_by_human"], true);
        assert_eq!(checkpoint["user_modifications"], changes);
        assert_eq!(checkpoint["plan_steps"], edited);
    }
}

#[tokio::test]
async fn an_edited_plan_that_cannot_be_read_keeps_the_question_open() {
    let bad = json!({"plan": [{"sub_task_agent": "engineer"}]});
    let good = json!({"plan": plan(&[("engineer", "count", "use the data")])});
    let stage = Stage::asking([given_with("modify", "", bad), given_with("modify", "", good.clone())]);
    let ended = ask(&stage, json!({})).await.completed();
    assert_eq!(ended.output("final_plan"), good["plan"]);
    assert!(stage.warnings()[0].contains("Step 1 has no `sub_task`"), "{:?}", stage.warnings());
}

#[tokio::test]
async fn a_rejected_plan_executes_nothing_and_keeps_the_plan() {
    let stage = Stage::asking([given_with("reject", "too long", Value::Null)]);
    stage.say("planner", &planned(&plan(&[("engineer", "fit", "use the data")])));
    let planning = ("planning", json!({"n_plan_reviews": 0}));
    let ended = stage.run(&[planning, ("hitl_checkpoint", json!({})), ("control", json!({}))]).await;
    assert_eq!(ended.error(), "Phase hitl_checkpoint failed: Rejected by user");
    assert_eq!((ended.outcomes.len(), ended.output("user_feedback")), (2, json!("too long")));
    assert_eq!(stage.models.agents(), ["planner"]);
    assert!(stage.root().join("planning/final_plan.json").exists());
}

#[tokio::test]
async fn a_chosen_idea_is_carried_on() {
    let idea = json!({"title": "Stack voids"});
    let stage = Stage::asking([given_with("modify", "", json!({"selected_idea": idea}))]);
    let ended = ask(&stage, json!({"checkpoint_type": "custom"})).await.completed();
    assert_eq!((ended.output("selected_idea"), ended.shares("selected_idea")), (idea.clone(), idea));
}

#[tokio::test]
async fn a_checkpoint_that_needs_no_approval_passes_when_it_is_executed_all_the_same() {
    let stage = Stage::asking([]);
    let checkpoint = phases::build("hitl_checkpoint", json!({"require_approval": false})).unwrap();
    let state = Arc::new(MemoryState::new("t", &stage.root().to_string_lossy(), "phase_0_hitl_checkpoint"));
    let outcome = checkpoint.execute(&stage.new_run(), state).await.unwrap();
    assert_eq!(outcome.status, PhaseStatus::Completed);
    let output = |key| outcome.state.read(Section::Output, key).unwrap();
    assert_eq!((output("approval_status"), output("skipped")), (json!("auto_approved"), json!(true)));
}

#[tokio::test]
async fn each_kind_of_checkpoint_asks_its_own_question() {
    for (kind, message) in [
        ("after_planning", "**Plan:**\nPlan not available"),
        ("before_step", "Step 2 is about to begin. Go on?"),
        ("after_step", "Step 2 is done. Go on?"),
        ("custom", "Shall the workflow go on?"),
    ] {
        let mut stage = Stage::asking([given("approve")]);
        stage.shared.insert("current_step".into(), json!(2));
        ask(&stage, json!({"checkpoint_type": kind})).await.completed();
        let asked = &stage.humans.as_ref().unwrap().asked()[0];
        assert!(asked.message.ends_with(message), "{kind}: {}", asked.message);
        assert_eq!(asked.checkpoint_type, kind);
    }
}
