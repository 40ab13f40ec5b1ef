//! One agent, one task, no plan.

use cmbagent::exec::scripted::Scripted;
use serde_json::json;

use super::stage::{Stage, TASK};

#[tokio::test]
async fn the_engineer_works_in_the_work_directory_itself() {
    let stage = Stage::new();
    let own = stage.put("codebase/fit.py", "theirs = 1\n");
    stage.engineer("fit.py", "fit()", Scripted::success("slope = 2.5\n").writing("data/p.png", "png"));
    let ended = stage.run(&[("one_shot", json!({}))]).await.completed();
    assert!(stage.prompts("engineer")[0].contains(TASK));
    assert_eq!(stage.scripts(""), ["codebase/fit_2.py"]);
    assert_eq!(std::fs::read_to_string(own).unwrap(), "theirs = 1\n");
    let result = ended.output("result");
    assert_eq!(result["final_plan"], "Step 1: solve the main task.");
    assert_eq!(result["current_status"], "completed");
    assert_eq!(result["displayed_images"], json!([stage.root().join("data/p.png")]));
    assert!(result["previous_steps_execution_summary"].as_str().unwrap().contains("slope = 2.5"));
    assert_eq!((ended.output("status"), ended.output("error")), (json!("completed"), json!(null)));
    assert_eq!(ended.shares("execution_complete"), true);
    let names: Vec<_> = ended.outcomes[0].chat_history.iter().map(|m| m["name"].clone()).collect();
    assert!(names.contains(&json!("engineer_nest")) && names[0] == "user");
    assert!(stage.root().join("chats/chat_output_step_1.json").exists());
    let timing: Vec<&str> = ended.outcomes[0].timing.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(timing, ["initialization", "execution", "total"]);
}

#[tokio::test]
async fn the_researcher_writes_under_the_name_that_is_free() {
    let stage = Stage::new();
    let own = stage.put("researcher_output.md", "mine\n");
    stage.say("researcher", "# Title\nIt is so.");
    stage.run(&[("one_shot", json!({"agent": "researcher"}))]).await.completed();
    assert!(stage.prompts("researcher")[0].contains("File name: researcher_output.md"));
    assert_eq!(std::fs::read_to_string(own).unwrap(), "mine\n");
    assert!(stage.read("researcher_output_2.md").ends_with("# Title\nIt is so."));
    let directories = stage.list("");
    for unused in ["codebase", "data", "logs", "attempts"] {
        assert!(!directories.contains(&unused.to_owned()), "{unused} holds nothing");
    }
}

#[tokio::test]
async fn a_failure_names_step_one_and_its_tries() {
    let stage = Stage::new();
    stage.engineer("a.py", "a()", Scripted::failure("ValueError: no\n"));
    let ended = stage.run(&[("one_shot", json!({"max_n_attempts": 0}))]).await;
    assert_eq!(ended.error(), "Phase one_shot failed: Step 1 failed after 1 attempts: ValueError: no");
    assert_eq!(ended.output("status"), "failed");
    let stage = Stage::new();
    stage.engineer("a.py", "a()", Scripted::failure("ValueError: no\n"));
    let soft = json!({"max_n_attempts": 0, "params": {"fail_softly": true}});
    let ended = stage.run(&[("one_shot", soft)]).await.failed_softly();
    assert_eq!(ended.output("error"), "Step 1 failed after 1 attempts: ValueError: no");
}

#[tokio::test]
async fn agents_that_do_no_tasks_are_refused_before_anything_is_made() {
    for (agent, why) in [
        ("enginere", "Unknown agent: enginere. Did you mean \"engineer\"?"),
        ("planner", "agent=planner: that agent does no tasks"),
    ] {
        let stage = Stage::new();
        let ended = stage.run(&[("one_shot", json!({"agent": agent}))]).await;
        assert!(ended.error().contains(why), "{}", ended.error());
        assert!(stage.models.calls().is_empty() && !stage.root().exists());
    }
}

#[tokio::test]
async fn an_idea_maker_may_do_a_task_too() {
    let stage = Stage::new();
    stage.say("idea_maker", r#"{"ideas": [{"title": "Stack voids"}]}"#);
    let ended = stage.run(&[("one_shot", json!({"agent": "idea_maker"}))]).await.completed();
    assert!(
        ended.output("result")["previous_steps_execution_summary"].as_str().unwrap().contains("Stack voids")
    );
}

#[tokio::test]
async fn a_second_opinion_comes_from_the_formatter_model() {
    for (config, model) in [
        (json!({}), "o3-mini-2025-01-31"),
        (json!({"default_formatter_model": "o4-mini"}), "o4-mini"),
        (
            json!({"default_formatter_model": "o4-mini", "params": {"default_formatter_model": "gpt-5"}}),
            "gpt-5",
        ),
    ] {
        let stage = Stage::new();
        for code in ["a()", "b()"] {
            stage.engineer("fit.py", code, Scripted::failure("ValueError: no\n"));
        }
        stage.say("second_opinion", "Cause: the sign.");
        stage.engineer("fit.py", "c()", Scripted::success("slope = 2.5\n"));
        stage.run(&[("one_shot", config)]).await.completed();
        assert_eq!(stage.calls("second_opinion")[0].request.model, model);
    }
}
