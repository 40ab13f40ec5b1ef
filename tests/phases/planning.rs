//! The planning phase.

use cmbagent::llm::LlmErrorKind;
use serde_json::{Value, json};

use super::stage::{Stage, TASK, plan, planned};

const ALPHA: &str = r#"{"recommendations": ["name alpha"]}"#;
const BETA: &str = r#"{"recommendations": ["name beta"]}"#;

fn one(task: &str) -> Value {
    plan(&[("engineer", task, "use the data")])
}

#[tokio::test]
async fn calls_alternate_as_often_as_there_are_reviews() {
    for (reviews, agents) in [
        (0, vec!["planner"]),
        (1, vec!["planner", "plan_reviewer", "planner"]),
        (2, vec!["planner", "plan_reviewer", "planner", "plan_reviewer", "planner"]),
    ] {
        let stage = Stage::new();
        for round in 0..=reviews {
            stage.say("planner", &planned(&one(&format!("fit {round}")))).say("plan_reviewer", ALPHA);
        }
        let ended = stage.run(&[("planning", json!({"n_plan_reviews": reviews}))]).await.completed();
        assert_eq!(stage.models.agents(), agents);
        assert_eq!(ended.output("final_plan"), one(&format!("fit {reviews}")), "the last plan counts");
    }
}

#[tokio::test]
async fn the_previous_plan_and_earlier_reviews_are_in_the_prompts() {
    let stage = Stage::new();
    for task in ["first fit", "second fit", "third fit"] {
        stage.say("planner", &planned(&one(task)));
    }
    stage.say("plan_reviewer", ALPHA).say("plan_reviewer", BETA);
    stage.run(&[("planning", json!({"n_plan_reviews": 2}))]).await.completed();
    let (planner, reviewer) = (stage.prompts("planner"), stage.prompts("plan_reviewer"));
    assert!(!planner[0].contains("Your current plan") && planner[0].contains(TASK));
    assert!(planner[1].contains("first fit") && planner[1].contains("name alpha"));
    assert!(planner[2].contains("second fit") && planner[2].contains("name beta"));
    assert!(!planner[2].contains("first fit"), "only the plan that is to be updated");
    assert!(reviewer[0].contains("first fit") && !reviewer[0].contains("Earlier reviews"));
    assert!(reviewer[1].contains("second fit") && reviewer[1].contains("name alpha"));
}

#[tokio::test]
async fn an_unusable_plan_is_sent_back_once_with_its_faults() {
    let four = plan(&[("engineer", "a", "b"); 4]);
    for (bad, fault) in [
        (planned(&four), "The plan has 4 steps; at most 3 are allowed"),
        (planned(&plan(&[("plotter", "a", "b")])), r#"Step 1 is given to "plotter""#),
        (planned(&json!([])), "The plan has no step"),
        (planned(&plan(&[("engineer", "a", " ")])), "Step 1 has no bullet points"),
        ("I would rather not plan.".into(), "Expected JSON"),
    ] {
        let stage = Stage::new();
        stage.say("planner", &bad).say("planner", &planned(&one("fit")));
        let ended = stage.run(&[("planning", json!({"n_plan_reviews": 0}))]).await.completed();
        assert_eq!(ended.output("final_plan"), one("fit"), "{fault}");
        let second = &stage.prompts("planner")[1];
        assert!(second.contains(fault) && second.contains(&bad), "{fault} is not in {second}");
    }
}

#[tokio::test]
async fn a_plan_that_stays_unusable_is_an_error_after_two_answers() {
    let stage = Stage::new();
    for _ in 0..3 {
        stage.say("planner", "no plan");
    }
    let ended = stage.run(&[("planning", json!({}))]).await;
    assert_eq!(ended.answer_kind(), LlmErrorKind::BadReply);
    assert!(ended.error().starts_with("Phase planning failed: the planner ("), "{}", ended.error());
    assert_eq!(stage.models.agents(), ["planner", "planner"]);
    assert!(!stage.root().join("planning/final_plan.json").exists());
}

#[tokio::test]
async fn a_plan_in_markdown_needs_no_repair() {
    let stage = Stage::new();
    let markdown = "**PLAN**\n\n- Step 1:\n\t* sub-task: fit a line\n\t* agent in charge: engineer\n\n\t* instructions:\n\
                    \t\t- use the data\n\n- Step 2:\n\t* sub-task: write it up\n\t* agent in charge: researcher\n\n\
                    \t* instructions:\n\t\t- be brief\n";
    stage.say("planner", markdown);
    let ended = stage.run(&[("planning", json!({"n_plan_reviews": 0}))]).await.completed();
    let expected =
        plan(&[("engineer", "fit a line", "use the data"), ("researcher", "write it up", "be brief")]);
    assert_eq!(ended.output("final_plan"), expected);
    assert_eq!(stage.models.agents(), ["planner"]);
}

#[tokio::test]
async fn a_restriction_narrows_the_schema_and_refuses_other_agents() {
    let configs = [
        json!({"n_plan_reviews": 0, "plan_instructions": "Use only the researcher agent."}),
        json!({"n_plan_reviews": 0, "params": {"allowed_agents": ["researcher"]}}),
    ];
    for config in configs {
        let stage = Stage::new();
        let good = plan(&[("researcher", "write", "be brief")]);
        stage.say("planner", &planned(&one("fit"))).say("planner", &planned(&good));
        let ended = stage.run(&[("planning", config)]).await.completed();
        assert_eq!(ended.output("final_plan"), good);
        let calls = stage.calls("planner");
        let schema = &calls[0].request.schema.as_ref().unwrap().schema;
        let agents = &schema["properties"]["sub_tasks"]["items"]["properties"]["sub_task_agent"]["enum"];
        assert_eq!(*agents, json!(["researcher"]));
        let second = &stage.prompts("planner")[1];
        assert!(second.contains(r#"Step 1 is given to "engineer"; allowed are researcher."#), "{second}");
    }
}

#[tokio::test]
async fn an_unknown_allowed_agent_is_refused_before_any_call() {
    let stage = Stage::new();
    let ended = stage.run(&[("planning", json!({"params": {"allowed_agents": ["enginere"]}}))]).await;
    assert!(ended.error().contains("Did you mean \"engineer\"?"), "{}", ended.error());
    assert!(stage.models.calls().is_empty());
}

#[tokio::test]
async fn instructions_hardware_and_feedback_reach_planner_and_reviewer() {
    let mut stage = Stage::new();
    stage.shared.insert("all_hitl_feedback".into(), json!(["use spline fits"]));
    stage
        .say("planner", &planned(&one("fit")))
        .say("plan_reviewer", ALPHA)
        .say("planner", &planned(&one("fit")));
    let config =
        json!({"plan_instructions": "Two steps at most.", "hardware_constraints": "One core of a 486."});
    stage.run(&[("planning", config)]).await.completed();
    for prompt in stage.prompts("planner").iter().chain(&stage.prompts("plan_reviewer")) {
        for part in [TASK, "Two steps at most.", "One core of a 486.", "use spline fits"] {
            assert!(prompt.contains(part), "{part} is not in {prompt}");
        }
    }
}

#[tokio::test]
async fn the_plan_and_its_files_have_the_names_and_shapes_that_callers_read() {
    let stage = Stage::new();
    stage
        .say("planner", &planned(&one("fit")))
        .say("plan_reviewer", ALPHA)
        .say("planner", &planned(&one("fit well")));
    let config = json!({
        "engineer_instructions": "use numpy", "researcher_instructions": "cite", "plan_instructions": "be short",
        "hardware_constraints": "a laptop", "max_n_attempts": 5,
    });
    let ended = stage.run(&[("planning", config)]).await.completed();
    let exact = "{\n    \"sub_tasks\": [\n        {\n            \"bullet_points\": [\n                \"use the data\"\n            ],\n            \"sub_task\": \"fit well\",\n            \"sub_task_agent\": \"engineer\"\n        }\n    ]\n}";
    assert_eq!(stage.read("planning/final_plan.json"), exact);
    assert_eq!(ended.output("plan_file_path"), json!(stage.root().join("planning/final_plan.json")));
    assert_eq!(ended.output("number_of_steps_in_plan"), 1);
    let context = ended.output("planning_context");
    for (key, value) in [
        ("main_task", json!(TASK)),
        ("feedback_left", json!(0)),
        ("number_of_steps_in_plan", json!(1)),
        ("maximum_number_of_steps_in_plan", json!(3)),
        ("max_n_attempts", json!(5)),
        ("engineer_append_instructions", json!("use numpy")),
        ("researcher_append_instructions", json!("cite")),
        ("planner_append_instructions", json!("be short")),
        ("plan_reviewer_append_instructions", json!("be short")),
        ("hardware_constraints", json!("a laptop")),
        ("needed_agents", json!(cmbagent::agents::roster::step_agents())),
        ("work_dir", json!(stage.root().join("planning"))),
    ] {
        assert_eq!(context[key], value, "{key}");
    }
    assert_eq!(context["plans"].as_array().unwrap().len(), 2);
    assert!(context["reviews"][0].as_str().unwrap().contains("name alpha"));
    assert!(context["final_plan"].as_str().unwrap().contains("sub-task: fit well"));
    let shared = ended.output("shared");
    assert_eq!(shared["plan_steps"], one("fit well"));
    assert_eq!(
        (&shared["current_step"], &shared["number_of_steps_in_plan"], &shared["planning_context"]),
        (&json!(0), &json!(1), &context)
    );
    assert_eq!(stage.list("planning/chats"), ["chat_output_planning.json"]);
    assert_eq!(stage.list("context"), ["context_step_0.pkl"]);
    let [costs, times] = [stage.list("planning/cost"), stage.list("planning/time")];
    assert!(costs.len() == 1 && costs[0].starts_with("cost_report_2023"), "{costs:?}");
    assert!(times.len() == 1 && times[0].starts_with("timing_report_planning_"), "{times:?}");
    let names: Vec<Value> = ended.outcomes[0].chat_history.iter().map(|m| m["name"].clone()).collect();
    for name in ["user", "plan_setter", "planner", "planner_response_formatter", "plan_reviewer"] {
        assert!(names.contains(&json!(name)), "{name} is not in {names:?}");
    }
}
