//! The idea phase.

use cmbagent::engine::Answer;
use cmbagent::exec::scripted::Scripted;
use cmbagent::llm::LlmErrorKind;
use serde_json::{Value, json};

use super::stage::{Stage, TASK, given, given_with, plan, planned};

fn ideas(titles: &[&str]) -> String {
    let ideas: Vec<Value> =
        titles.iter().map(|t| json!({"title": t, "description": format!("about {t}")})).collect();
    json!({"ideas": ideas}).to_string()
}

const CRITIQUE: &str =
    r#"{"critiques": [{"title": "A", "weaknesses": "too vague", "discard": true}, {"title": "B"}]}"#;

#[tokio::test]
async fn ideas_are_made_criticised_updated_and_one_is_selected() {
    let stage = Stage::new();
    stage.say("idea_maker", &ideas(&["A", "B"])).say("idea_hater", CRITIQUE);
    stage.say("idea_maker", &ideas(&["B", "C"])).say("idea_maker", &ideas(&["C"]));
    let config = json!({"n_ideas": 2, "n_reviews": 1, "idea_maker_model": "m1", "idea_hater_model": "m2"});
    let ended = stage.run(&[("idea_generation", config)]).await.completed();
    assert_eq!(stage.models.agents(), ["idea_maker", "idea_hater", "idea_maker", "idea_maker"]);
    let (maker, hater) = (stage.prompts("idea_maker"), stage.prompts("idea_hater"));
    assert!(maker[0].contains("Answer with 2 ideas") && maker[0].contains(TASK));
    assert!(hater[0].contains("about A") && hater[0].contains("about B"));
    assert!(maker[1].contains("too vague") && maker[1].contains("updated by the critique"));
    assert!(maker[2].contains("Select the best idea") && maker[2].contains("about C"));
    let titles = |value: Value| -> Vec<Value> {
        value.as_array().unwrap().iter().map(|idea| idea["title"].clone()).collect()
    };
    assert_eq!(titles(ended.output("ideas")), ["B", "C"]);
    assert_eq!(ended.output("selected_idea")["title"], "C");
    assert_eq!(ended.output("reviews")[0][0]["discard"], true);
    assert_eq!(ended.shares("selected_idea"), ended.output("selected_idea"));
    assert_eq!(titles(ended.shares("ideas")), ["B", "C"]);
    assert!(ended.output("idea_context")["selected_idea_text"].as_str().unwrap().contains("about C"));
    let models: Vec<String> = stage.models.calls().iter().map(|call| call.request.model.clone()).collect();
    assert_eq!(models, ["m1", "m2", "m1", "m1"]);
    let file = stage.list("ideas").into_iter().find(|name| name.starts_with("ideas_")).unwrap();
    assert_eq!(titles(stage.json(&format!("ideas/{file}"))), ["B", "C"]);
}

#[tokio::test]
async fn a_single_idea_needs_no_selection_and_no_review_no_hater() {
    let stage = Stage::new();
    stage.say("idea_maker", &ideas(&["A"]));
    let ended = stage.run(&[("idea_generation", json!({"n_ideas": 1, "n_reviews": 0}))]).await.completed();
    assert_eq!(stage.models.agents(), ["idea_maker"]);
    assert_eq!(ended.output("selected_idea")["title"], "A");
    assert!(stage.prompts("idea_maker")[0].contains("Answer with 1 idea."));
}

#[tokio::test]
async fn a_selection_of_two_is_sent_back_and_then_an_error() {
    let stage = Stage::new();
    for _ in 0..3 {
        stage.say("idea_maker", &ideas(&["A", "B"]));
    }
    let ended = stage.run(&[("idea_generation", json!({"n_reviews": 0}))]).await;
    assert_eq!(ended.answer_kind(), LlmErrorKind::BadReply);
    assert!(stage.prompts("idea_maker")[2].contains("expected the one selected idea, got 2"));
    assert_eq!(stage.models.calls().len(), 3);
}

#[tokio::test]
async fn the_limit_of_calls_is_that_of_the_phase() {
    let stage = Stage::new();
    stage.say("idea_maker", &ideas(&["A", "B"])).say("idea_hater", CRITIQUE);
    let ended = stage.run(&[("idea_generation", json!({"max_rounds": 2}))]).await;
    assert!(ended.error().contains("max_rounds=2"), "{}", ended.error());
    assert_eq!(stage.models.calls().len(), 2);
}

/// The phases of `idea_to_execution`, with a plan of one step, answered so.
async fn carried_out(answer: Answer) -> (Stage, super::stage::Ended) {
    let stage = Stage::asking([answer, given("approve")]);
    stage.say("idea_maker", &ideas(&["A", "B"])).say("idea_maker", &ideas(&["B"]));
    stage.say("planner", &planned(&plan(&[("engineer", "do it", "print it")])));
    stage.engineer("a.py", "a()", Scripted::success("x = 1\n"));
    let ideas = json!({"n_ideas": 2, "n_reviews": 0});
    let phases = [
        ("idea_generation", ideas),
        ("hitl_checkpoint", json!({"checkpoint_type": "custom", "custom_message": "Which one?"})),
        ("planning", json!({"n_plan_reviews": 0})),
        ("hitl_checkpoint", json!({})),
        ("control", json!({})),
    ];
    let ended = stage.run(&phases).await.completed();
    (stage, ended)
}

#[tokio::test]
async fn the_selected_idea_is_what_planning_and_control_work_on() {
    let (stage, ended) = carried_out(given("approve")).await;
    assert_eq!(stage.models.agents(), ["idea_maker", "idea_maker", "planner", "engineer"]);
    for agent in ["planner", "engineer"] {
        let prompt = &stage.prompts(agent)[0];
        assert!(prompt.contains(TASK) && prompt.contains("chosen for this task\nB\n- about B\n"), "{prompt}");
        assert!(!prompt.contains("about A"));
    }
    assert!(!stage.prompts("idea_maker")[1].contains("chosen for this task"));
    let context = ended.output("final_context");
    assert_eq!(context["main_task"], TASK);
    assert_eq!(context["improved_main_task"], format!("{TASK}\n\nB\n- about B"));
    let asked = &stage.humans.as_ref().unwrap().asked()[0];
    let message = "Which one?\n\n**Ideas:**\n  Idea 1: A\n  Idea 2: B\n  Selected so far: B";
    assert_eq!(asked.message, message);
    assert_eq!(asked.context_snapshot["ideas"][0]["description"], "about A");
    assert_eq!(asked.context_snapshot["selected_idea"]["title"], "B");
}

#[tokio::test]
async fn a_human_may_pick_another_idea_or_rewrite_it() {
    let anew = json!({"title": "C", "description": "quite another"});
    for (word, choice, told) in [
        ("modify", json!(1), "A\n- about A"),
        ("approve", json!("a"), "A\n- about A"),
        ("modify", anew, "C\n- quite another"),
        ("modify", json!("Count voids\nin the catalogue"), "Count voids\n- in the catalogue"),
    ] {
        let (stage, ended) = carried_out(given_with(word, "", json!({"selected_idea": choice}))).await;
        for agent in ["planner", "engineer"] {
            let prompt = &stage.prompts(agent)[0];
            assert!(
                prompt.contains(&format!("chosen for this task\n{told}\n")) && !prompt.contains("about B"),
                "{prompt}"
            );
        }
        assert_eq!(ended.outcomes.len(), 5);
    }
}

#[tokio::test]
async fn a_choice_that_there_is_not_keeps_the_question_open() {
    let stage = Stage::asking([given_with("modify", "", json!({"selected_idea": 7})), given("approve")]);
    stage.say("idea_maker", &ideas(&["A", "B"])).say("idea_maker", &ideas(&["B"]));
    let phases = [
        ("idea_generation", json!({"n_reviews": 0})),
        ("hitl_checkpoint", json!({"checkpoint_type": "custom"})),
    ];
    let ended = stage.run(&phases).await.completed();
    assert!(
        stage.warnings()[0].contains("there is no idea 7; expected a number from 1 to 2"),
        "{:?}",
        stage.warnings()
    );
    assert_eq!(ended.shares("selected_idea"), Value::Null, "the idea phase's own stays in the shared state");
    assert_eq!(
        ended.outcomes[0].state.read(cmbagent::engine::Section::Output, "selected_idea").unwrap()["title"],
        "B"
    );
}

#[tokio::test]
async fn idea_agents_as_steps_obey_their_step_and_leave_their_file_and_messages() {
    let stage = Stage::new();
    stage.say("idea_maker", &ideas(&["A", "B", "C", "D", "E"])).say("idea_hater", CRITIQUE);
    stage.say("idea_maker", "**Ideas**\n- Idea 1:\n\t* B\n\t\t- five sentences\n");
    let steps = plan(&[
        ("idea_maker", "make five ideas", "five"),
        ("idea_hater", "criticise them", "be harsh"),
        ("idea_maker", "select one", "title and five sentences"),
    ]);
    let ended = stage.control(&steps, json!({})).await.completed();
    let prompts = stage.prompts("idea_maker");
    assert!(
        prompts[0].contains("Answer with the ideas this step asks for.")
            && !prompts[0].contains("Answer with 3")
    );
    assert!(prompts[1].contains("about A") && prompts[1].contains("too vague"), "{}", prompts[1]);
    let history = &ended.outcomes[0].chat_history;
    let last = |name: &str| {
        let found = history.iter().rev().find(|message| message["name"] == name);
        found.unwrap_or_else(|| panic!("{name}"))["content"].as_str().unwrap().to_owned()
    };
    assert_eq!(last("idea_maker_nest"), "\n**Ideas**\n\n- Idea 1:\n\t* B\n\t\t- five sentences\n\n        ");
    assert_eq!(last("idea_maker_response_formatter"), last("idea_maker_nest"));
    assert!(last("idea_hater_response_formatter").starts_with("\n**IDEA CRITIQUE**\n\n- Idea 1:\n\t* A\n"));
    let files: Vec<String> = stage.list("control").into_iter().filter(|n| n.starts_with("ideas_")).collect();
    assert_eq!(files.len(), 2);
    assert_eq!(stage.json(&format!("control/{}", files[0])).as_array().unwrap().len(), 5);
}
