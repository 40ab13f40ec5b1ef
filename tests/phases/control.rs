//! The control phase: what goes from step to step, where it begins and ends, what humans may say.

use cmbagent::exec::scripted::Scripted;
use serde_json::{Value, json};

use super::stage::{Ended, Stage, TASK, given, given_with, plan, planned};

fn fine() -> Scripted {
    Scripted::success("H0 = 67.4321 km/s/Mpc\n")
}

fn three() -> Value {
    plan(&[
        ("engineer", "measure H0", "use the data"),
        ("researcher", "discuss it", "be brief"),
        ("engineer", "refine it", "use the notes"),
    ])
}

fn two() -> Value {
    plan(&[("engineer", "measure H0", "use the data"), ("engineer", "refine it", "use the notes")])
}

fn summaries(ended: &Ended) -> usize {
    ended.output("step_summaries").as_array().unwrap().len()
}

#[tokio::test]
async fn six_calls_carry_out_three_steps_and_a_review() {
    let stage = Stage::new();
    stage.say("planner", &planned(&three())).say("planner", &planned(&three()));
    stage.say("plan_reviewer", r#"{"recommendations": ["x"]}"#);
    stage.engineer("a.py", "measure()", fine()).say("researcher", "# Notes\nIt is low.");
    stage.engineer("b.py", "refine()", Scripted::success("H0 = 68 km/s/Mpc\n"));
    let ended = stage.run(&[("planning", json!({})), ("control", json!({}))]).await.completed();
    let agents = ["planner", "plan_reviewer", "planner", "engineer", "researcher", "engineer"];
    assert_eq!(stage.models.agents(), agents);
    assert_eq!((stage.models.left(), stage.runner.left()), (0, 0));
    let researcher = &stage.prompts("researcher")[0];
    assert!(researcher.contains("H0 = 67.4321 km/s/Mpc") && researcher.contains("step 2 of 3"));
    let last = &stage.prompts("engineer")[1];
    for part in ["H0 = 67.4321 km/s/Mpc", "It is low.", "measure()", "step 3 of 3", TASK] {
        assert!(last.contains(part), "{part} is not in {last}");
    }
    let context = ended.output("final_context");
    let summary = context["previous_steps_execution_summary"].as_str().unwrap();
    for n in 1..=3 {
        assert!(summary.contains(&format!("### Step {n}\n")), "{summary}");
    }
    assert_eq!(context["max_n_attempts"], 3);
    assert_eq!(context["current_status"], "completed");
    assert_eq!(context["current_sub_task"], "refine it");
    assert_eq!(ended.shares("execution_complete"), true);
    assert_eq!(ended.shares("final_context"), context);
    let results = ended.output("step_results");
    let numbers: Vec<&Value> = results.as_array().unwrap().iter().map(|r| &r["step"]).collect();
    assert_eq!(numbers, [1, 2, 3]);
    let chats = stage.list("control/chats");
    for name in ["chat_history_step_2.json", "chat_output_researcher_step_2.json"] {
        assert!(chats.contains(&name.to_owned()), "{name} is not in {chats:?}");
    }
    assert!(chats.contains(&"nested_chat_output_engineer_step_3_attempt_1.json".to_owned()), "{chats:?}");
    assert_eq!(stage.list("context").len(), 4, "one of the planning and one a step");
}

#[tokio::test]
async fn instructions_for_an_agent_reach_that_agent_alone() {
    let stage = Stage::new();
    stage.engineer("a.py", "measure()", fine()).say("researcher", "# N\nIt is.");
    stage.engineer("b.py", "refine()", fine());
    let config = json!({"engineer_instructions": "use jax", "researcher_instructions": "cite Hubble"});
    stage.control(&three(), config).await.completed();
    let (engineer, researcher) = (&stage.prompts("engineer")[0], &stage.prompts("researcher")[0]);
    assert!(engineer.contains("use jax") && !engineer.contains("cite Hubble"));
    assert!(researcher.contains("cite Hubble") && !researcher.contains("use jax"));
}

#[tokio::test]
async fn instructions_given_to_planning_are_carried_to_control() {
    let stage = Stage::new();
    stage.say("planner", &planned(&two()));
    stage.engineer("a.py", "a()", fine()).engineer("b.py", "b()", fine());
    let planning =
        json!({"n_plan_reviews": 0, "engineer_instructions": "use jax", "hardware_constraints": "8 GB"});
    stage.run(&[("planning", planning), ("control", json!({}))]).await.completed();
    for prompt in stage.prompts("engineer") {
        assert!(prompt.contains("use jax") && prompt.contains("8 GB"));
    }
}

#[tokio::test]
async fn notes_stay_in_the_directory_under_a_name_of_their_own() {
    let stage = Stage::new();
    let own = stage.put("control/theirs.md", "mine\n");
    let steps = plan(&[("researcher", "write", "be brief"); 4]);
    for name in ["../../evil.md", "r.md", "r.md", "theirs.md"] {
        stage.say("researcher", &format!("<!-- filename: {name} -->\n# T\nBy {name}."));
    }
    let ended = stage.control(&steps, json!({})).await.completed();
    let notes: Vec<String> =
        stage.list("control").into_iter().filter(|n| n.rsplit('.').next() == Some("md")).collect();
    assert_eq!(notes, ["evil.md", "r.md", "r_2.md", "theirs.md", "theirs_2.md"]);
    assert_eq!(std::fs::read_to_string(own).unwrap(), "mine\n");
    assert_eq!(stage.read("control/r_2.md"), "<!-- filename: r_2.md -->\n# T\nBy r.md.");
    assert_eq!(stage.list("../"), ["work"]);
    let names: Vec<&Value> = ended.outcomes[0].chat_history.iter().map(|m| &m["name"]).collect();
    assert!(names.contains(&&json!("researcher_response_formatter")));
}

#[tokio::test]
async fn numbers_that_nothing_printed_are_warned_of() {
    let stage = Stage::new();
    let steps = plan(&[("engineer", "measure H0", "use the data"), ("researcher", "write", "be brief")]);
    stage.engineer("a.py", "a()", fine());
    stage.say("researcher", "<!-- filename: n.md -->\n# T\nH0 is 67.43 and the age is 13.78 Gyr.");
    stage.control(&steps, json!({})).await.completed();
    let warnings = stage.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("n.md quotes numbers that no script printed: 13.78;"), "{warnings:?}");
}

#[tokio::test]
async fn one_step_alone_is_run_when_asked_for() {
    let stage = Stage::new();
    stage.engineer("b.py", "refine()", fine());
    let config = json!({"execute_all_steps": false, "step_number": 2});
    let ended = stage.control(&two(), config).await.completed();
    assert!(stage.prompts("engineer")[0].contains("Sub-task: refine it"));
    assert_eq!(ended.output("step_results").as_array().unwrap().len(), 1);
    for (config, why) in [
        (json!({"execute_all_steps": false}), "step_number is None"),
        (json!({"execute_all_steps": false, "step_number": 3}), "step_number is 3"),
        (json!({"params": {"start_step": 5}}), "restart_at_step is 5"),
    ] {
        let stage = Stage::new();
        let error = stage.control(&two(), config).await.error();
        assert!(error.contains(why) && error.contains("numbered from 1 to 2"), "{error}");
        assert!(stage.models.calls().is_empty());
    }
}

#[tokio::test]
async fn a_restart_knows_the_earlier_steps_from_the_restored_summary() {
    let first = Stage::new();
    first.engineer("a.py", "measure()", fine()).engineer("b.py", "refine()", fine());
    let before = first.control(&two(), json!({})).await.completed();
    let context = before.output("step_results")[0]["context"].clone();

    let stage = Stage::new();
    stage.engineer("a.py", "again()", fine());
    let config = json!({"params": {"start_step": 2, "restored_context": context}});
    let ended = stage.control(&two(), config).await.completed();
    let prompt = &stage.prompts("engineer")[0];
    assert!(prompt.contains("step 2 of 2") && prompt.contains("H0 = 67.4321 km/s/Mpc"), "{prompt}");
    assert!(prompt.contains("measure()"), "{prompt}");
    assert_eq!(stage.scripts("control/codebase"), ["a_2.py"], "step 1 has that name");
    assert_eq!((summaries(&ended), stage.models.calls().len()), (2, 1));
}

#[tokio::test]
async fn a_restart_without_a_summary_knows_the_earlier_steps_from_their_chats() {
    let first = Stage::new();
    first.engineer("a.py", "measure()", fine()).engineer("b.py", "refine()", fine());
    first.control(&two(), json!({})).await.completed();

    let mut stage = Stage::new();
    stage.temp = first.temp.clone();
    stage.run_id = "run-2".into();
    stage.engineer("c.py", "again()", fine());
    let plots = [stage.put("control/data/p.png", "png"), stage.root().join("control/data/gone.png")];
    let context = json!({"previous_steps_execution_summary": "\n", "displayed_images": plots});
    let config = json!({"params": {"start_step": 2, "restored_context": context}});
    let ended = stage.control(&two(), config).await.completed();
    assert!(stage.prompts("engineer")[0].contains("H0 = 67.4321 km/s/Mpc"));
    assert_eq!(summaries(&ended), 2);
    let displayed = &ended.output("final_context")["displayed_images"];
    assert_eq!(*displayed, json!([plots[0]]), "those of the earlier steps that are still there");
    assert!(stage.root().join("control/codebase/a.py").exists(), "a restart sets nothing aside");
    assert!(!stage.root().join(".previous").exists());
}

#[tokio::test]
async fn idea_agents_steps_are_carried_on_as_text() {
    let stage = Stage::new();
    let steps = plan(&[
        ("idea_maker", "make five ideas", "be bold"),
        ("idea_hater", "criticise them", "be harsh"),
        ("engineer", "try the best", "use the data"),
    ]);
    stage.say("idea_maker", r#"{"ideas": [{"title": "Stack voids", "description": "Count them."}]}"#);
    stage.say("idea_hater", r#"{"critiques": [{"title": "Stack voids", "weaknesses": "Too few."}]}"#);
    stage.engineer("a.py", "a()", fine());
    let ended = stage.control(&steps, json!({"idea_maker_model": "m1"})).await.completed();
    assert_eq!(stage.calls("idea_maker")[0].request.model, "m1");
    assert!(stage.prompts("idea_maker")[0].contains("Answer with the ideas this step asks for."));
    assert!(stage.prompts("idea_hater")[0].contains("Stack voids"));
    let last = &stage.prompts("engineer")[0];
    assert!(last.contains("Count them.") && last.contains("Too few."), "{last}");
    let files: Vec<String> =
        stage.list("control").into_iter().filter(|name| name.starts_with("ideas_")).collect();
    assert_eq!(stage.json(&format!("control/{}", files[0]))[0]["title"], "Stack voids");
    let names: Vec<&Value> = ended.outcomes[0].chat_history.iter().map(|m| &m["name"]).collect();
    for name in ["idea_maker_nest", "idea_hater_nest"] {
        assert!(names.contains(&&json!(name)), "{name}");
    }
}

#[tokio::test]
async fn two_lists_of_ideas_of_one_second_are_two_files() {
    let stage = Stage::new();
    let steps = plan(&[("idea_maker", "make ideas", "be bold"); 2]);
    for title in ["A", "B"] {
        stage.say("idea_maker", &json!({"ideas": [{"title": title}]}).to_string());
    }
    stage.control(&steps, json!({})).await.completed();
    assert_eq!(stage.list("control").iter().filter(|name| name.starts_with("ideas_")).count(), 2);
}

#[tokio::test]
async fn only_images_of_this_run_are_displayed() {
    let stage = Stage::new();
    stage.put("control/data/users.png", "theirs");
    stage.engineer(
        "a.py",
        "a()",
        fine().writing("data/fit_1.png", "png").writing("data/t.csv", "x,y\n1,2\n"),
    );
    stage.engineer("b.py", "b()", fine().writing("data/fit_2.png", "png"));
    let ended = stage.control(&two(), json!({})).await.completed();
    let path = |name: &str| json!(stage.root().join("control/data").join(name));
    let context = ended.output("final_context");
    assert_eq!(context["displayed_images"], json!([path("fit_1.png"), path("fit_2.png")]));
    assert_eq!(context["latest_plot_path"], path("fit_2.png"));
    let prompt = &stage.prompts("engineer")[1];
    assert!(prompt.contains("data/t.csv (8 B, step 1); columns x, y; 1 row"), "{prompt}");
    assert!(!prompt.contains("users.png"));
    let files = ended.output("output_files");
    let files = files.as_array().unwrap();
    assert!(files.contains(&path("fit_1.png")) && !files.contains(&path("users.png")));
}

#[tokio::test]
async fn a_second_run_sets_the_first_ones_products_aside_and_keeps_the_users() {
    let mut stage = Stage::new();
    let own = stage.put("control/data/users.png", "theirs");
    stage.engineer("a.py", "a()", fine().writing("data/fit.png", "png"));
    let steps = plan(&[("engineer", "measure H0", "use the data")]);
    stage.control(&steps, json!({})).await.completed();
    stage.run_id = "run-2".into();
    stage.journal = std::sync::Arc::new(cmbagent::journal::MemoryJournal::default());
    stage.engineer("a.py", "b()", fine());
    let ended = stage.control(&steps, json!({})).await.completed();
    assert_eq!(ended.output("final_context")["displayed_images"], json!([]));
    assert!(own.exists());
    assert!(stage.root().join(".previous/run-1/control/data/fit.png").exists());
    assert_eq!(stage.scripts("control"), ["codebase/a.py", "codebase/a.py"]);
}

const EACH: &str = "hitl_after_each_step";

#[tokio::test]
async fn a_human_is_asked_after_each_step_and_may_let_it_go_on() {
    let stage = Stage::asking([given("continue"), given("Continued")]);
    stage.engineer("a.py", "a()", fine()).engineer("b.py", "b()", fine());
    stage.control(&two(), json!({EACH: true})).await.completed();
    let asked = stage.humans.as_ref().unwrap().asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0].step_id, "phase_0_control_step_1");
    assert_eq!(asked[0].checkpoint_type, "after_step");
    assert_eq!(asked[0].options, ["continue", "redo", "skip", "abort"]);
    assert!(asked[0].message.starts_with("Step 1 of 2 is done: measure H0"));
    for kind in ["approval_requested", "approval_received"] {
        let steps: Vec<Value> = stage.heard.of(kind).iter().map(|event| event["step"].clone()).collect();
        assert_eq!(steps, [1, 2], "{kind}");
    }
    let summary = asked[1].context_snapshot["summary"].as_str().unwrap();
    assert!(summary.starts_with("### Step 2\n") && summary.contains("H0 = 67.4321"), "{summary}");
}

#[tokio::test]
async fn nobody_is_asked_unless_it_is_wanted_or_when_there_is_nobody() {
    let stage = Stage::asking([]);
    stage.engineer("a.py", "a()", fine()).engineer("b.py", "b()", fine());
    stage.control(&two(), json!({})).await.completed();
    let stage = Stage::new();
    stage.engineer("a.py", "a()", fine()).engineer("b.py", "b()", fine());
    stage.control(&two(), json!({EACH: true})).await.completed();
}

#[tokio::test]
async fn feedback_on_a_step_reaches_the_steps_after_it() {
    let stage = Stage::asking([
        given_with("redo", "use robust errors", Value::Null),
        given("continue"),
        given("skip"),
    ]);
    for file in ["a.py", "a.py", "b.py"] {
        stage.engineer(file, "a()", fine());
    }
    let ended = stage.control(&two(), json!({EACH: true})).await.completed();
    let prompts = stage.prompts("engineer");
    assert!(prompts[1].contains("A human asks for this step to be done again\nuse robust errors"));
    assert!(prompts[2].contains("use robust errors") && !prompts[2].contains("to be done again"));
    assert_eq!(summaries(&ended), 2);
}

#[tokio::test]
async fn a_human_may_abort_with_words() {
    let stage = Stage::asking([given_with("abort", "wrong data", Value::Null)]);
    stage.engineer("a.py", "a()", fine());
    let ended = stage.control(&two(), json!({EACH: true})).await;
    assert_eq!(ended.error(), "Phase control failed: Aborted by user after step 1: wrong data");
    assert_eq!(summaries(&ended), 1, "what was done is kept");
    assert_eq!(stage.executed().len(), 1);
}

#[tokio::test]
async fn other_words_are_asked_about_twice_more_and_never_go_on() {
    let stage = Stage::asking([given("yes"), given("ok"), given("go")]);
    stage.engineer("a.py", "a()", fine());
    let ended = stage.control(&two(), json!({EACH: true})).await;
    assert!(ended.error().contains(r#"Approval error after step 1: the answer "go" is none of the options"#));
    assert_eq!((stage.humans.as_ref().unwrap().asked().len(), stage.executed().len()), (3, 1));
    assert_eq!(stage.warnings().len(), 3);

    let stage = Stage::asking([given("yes"), given("continue"), given("continue")]);
    stage.engineer("a.py", "a()", fine()).engineer("b.py", "b()", fine());
    stage.control(&two(), json!({EACH: true})).await.completed();
}

#[tokio::test]
async fn a_failed_step_is_asked_about_only_when_hitl_is_enabled() {
    let fails = || Scripted::failure("ValueError: no\n");
    let stage = Stage::asking([given("retry"), given("continue"), given("skip")]);
    stage.engineer("a.py", "a()", fails()).engineer("a.py", "a()", fine()).engineer("b.py", "b()", fails());
    let config = json!({"hitl_enabled": true, "max_n_attempts": 0});
    let ended = stage.control(&two(), config).await.completed();
    let asked = stage.humans.as_ref().unwrap().asked();
    let kinds: Vec<&str> = asked.iter().map(|q| q.checkpoint_type.as_str()).collect();
    assert_eq!(kinds, ["on_error", "after_step", "on_error"]);
    assert_eq!(asked[0].options, ["retry", "skip", "abort"]);
    assert!(asked[0].message.starts_with("Step 1 failed after 1 attempts: ValueError: no"));
    assert_eq!(summaries(&ended), 1, "a skipped step leaves nothing");
    assert_eq!(ended.output("step_results")[1]["status"], "failed");

    let stage = Stage::asking([]);
    stage.engineer("a.py", "a()", fails());
    let ended = stage.control(&two(), json!({EACH: true, "max_n_attempts": 0})).await;
    assert!(ended.error().contains("Step 1 failed after 1 attempts"));
}

#[tokio::test]
async fn a_plan_that_is_missing_empty_or_unreadable_is_refused() {
    let stage = Stage::new();
    let missing = stage.run(&[("control", json!({}))]).await.error();
    let expected =
        "Phase control validation failed: ['Plan is required for control phase (run planning first)']";
    assert_eq!(missing, expected);
    let empty = stage.control(&json!({"sub_tasks": []}), json!({})).await.error();
    assert!(empty.contains("Plan is empty (0 steps)."), "{empty}");
    let unknown = plan(&[("enginere", "a", "b")]);
    let unknown = stage.control(&unknown, json!({})).await.error();
    assert!(unknown.contains("Unknown agent: enginere. Did you mean \"engineer\"?"), "{unknown}");
    let one = json!({"execute_all_steps": false, "step_number": 1});
    let error = stage.run(&[("control", one)]).await.error();
    assert_eq!(error, "Phase control failed: No plan found in context. Run planning phase first.");
    assert!(stage.models.calls().is_empty());
}

#[tokio::test]
async fn plain_files_are_one_report_of_all_steps_and_no_contexts() {
    let stage = Stage::new();
    stage.engineer("a.py", "a()", fine()).engineer("b.py", "b()", fine());
    stage.control(&two(), json!({"params": {"files": "plain"}})).await.completed();
    assert!(stage.list("context").is_empty());
    let [times, costs] = [stage.list("control/time"), stage.list("control/cost")];
    assert!(times.len() == 1 && times[0].starts_with("timing_report_control_"), "{times:?}");
    assert!(costs.len() == 1 && costs[0].starts_with("cost_report_control_"), "{costs:?}");
    let report = stage.json(&format!("control/cost/{}", costs[0]));
    let total = report.as_array().unwrap().last().unwrap();
    assert_eq!((&total["Agent"], &total["Prompt Tokens"]), (&json!("Total"), &json!(2)));
}

#[tokio::test]
async fn a_template_of_the_users_replaces_the_built_in_one() {
    let stage = Stage::new();
    let path = stage
        .put("engineer.md", "You are the engineer agent. Mine.\n---user---\nStep {{ step }}: {{ task }}");
    stage.engineer("a.py", "a()", fine());
    let steps = plan(&[("engineer", "measure H0", "use the data")]);
    stage.control(&steps, json!({"params": {"prompts": {"engineer": path}}})).await.completed();
    assert_eq!(stage.prompts("engineer")[0], format!("You are the engineer agent. Mine.\nStep 1: {TASK}"));
}
