//! The idea phase.

use cmbagent::llm::LlmErrorKind;
use serde_json::{Value, json};

use super::stage::{Stage, TASK};

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
