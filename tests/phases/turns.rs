//! Answers that cannot be used as they are: each has a bounded repair or an error of its own.

use cmbagent::exec::scripted::Scripted;
use cmbagent::llm::{Finish, LlmErrorKind, Reply, Role};
use serde_json::json;

use super::stage::{Stage, plan, planned, reply, script};

async fn research(stage: &Stage) -> super::stage::Ended {
    stage.run(&[("one_shot", json!({"agent": "researcher"}))]).await
}

const NOTES: &str = "<!-- filename: n.md -->\n# Title\nIt is so.";

#[tokio::test]
async fn an_empty_answer_is_asked_for_once_more() {
    let stage = Stage::new();
    stage.say("researcher", " \n").say("researcher", NOTES);
    research(&stage).await.completed();
    assert!(stage.prompts("researcher")[1].contains("Your answer was empty"));
    assert!(stage.read("researcher_output.md").contains("It is so."));
}

#[tokio::test]
async fn an_answer_that_stays_empty_is_an_error() {
    let stage = Stage::new();
    stage.say("researcher", "").say("researcher", "").say("researcher", NOTES);
    let ended = research(&stage).await;
    assert_eq!(ended.answer_kind(), LlmErrorKind::Incomplete);
    assert!(ended.error().contains("with nothing, also when asked again"), "{}", ended.error());
    assert_eq!((stage.models.calls().len(), stage.list("")), (2, vec![".cmbagent-run.json".to_owned()]));
}

#[tokio::test]
async fn a_refusal_is_an_error_that_quotes_it() {
    let stage = Stage::new();
    let refusal = Reply { finish: Finish::Refusal("I will not.".into()), ..reply("") };
    stage.models.reply("researcher", refusal);
    let ended = research(&stage).await;
    assert_eq!(ended.answer_kind(), LlmErrorKind::Refusal);
    assert!(ended.error().contains("declined to answer: I will not."), "{}", ended.error());
    assert_eq!(stage.models.calls().len(), 1);
}

#[tokio::test]
async fn a_cut_answer_is_continued_and_joined_to_the_character() {
    let stage = Stage::new();
    stage.say_cut("researcher", "# Title\nThe slope is 1").say_cut("researcher", ".25 ");
    stage.say("researcher", " km per second.\n");
    research(&stage).await.completed();
    assert!(stage.read("researcher_output.md").ends_with("The slope is 1.25  km per second."));
    let last = stage.calls("researcher")[2].request.clone();
    let roles: Vec<Role> = last.messages.iter().map(|m| m.role).collect();
    assert_eq!(roles, [Role::User, Role::Assistant, Role::User, Role::Assistant, Role::User]);
    assert!(stage.prompts("researcher")[1].contains("Go on exactly where it stopped"));
}

#[tokio::test]
async fn an_answer_that_is_cut_too_often_is_never_used() {
    let stage = Stage::new();
    for _ in 0..6 {
        stage.say_cut("researcher", "more ");
    }
    let ended = research(&stage).await;
    assert_eq!(ended.answer_kind(), LlmErrorKind::Incomplete);
    assert!(ended.error().contains("hit its output limit 5 times"), "{}", ended.error());
    assert_eq!(stage.models.calls().len(), 5);
    assert!(!stage.root().join("researcher_output.md").exists());
}

#[tokio::test]
async fn an_answer_cut_within_its_thoughts_is_an_error_and_not_an_empty_one() {
    let stage = Stage::new();
    stage.say_cut("researcher", "<think>Let me see").say("researcher", NOTES);
    let ended = research(&stage).await;
    assert_eq!(ended.answer_kind(), LlmErrorKind::Incomplete);
    assert_eq!(stage.models.calls().len(), 1);
}

#[tokio::test]
async fn a_cut_structured_answer_is_continued_without_the_schema_that_would_begin_it_anew() {
    let stage = Stage::new();
    let steps = plan(&[("engineer", "fit a line", "use the data")]);
    let whole = planned(&steps);
    let (head, tail) = whole.split_at(40);
    stage.say_cut("planner", head).say("planner", tail);
    let ended = stage.run(&[("planning", json!({"n_plan_reviews": 0}))]).await.completed();
    assert_eq!(ended.output("final_plan"), steps);
    let calls = stage.calls("planner");
    assert!(calls[0].request.schema.is_some() && calls[1].request.schema.is_none());
    assert_eq!(calls.len(), 2);
}

#[tokio::test]
async fn thoughts_are_no_part_of_an_answer() {
    let stage = Stage::new();
    stage.say("researcher", &format!("<think>The slope must be 99.</think>\n{NOTES}"));
    research(&stage).await.completed();
    let notes = stage.read("researcher_output.md");
    assert!(notes.ends_with("# Title\nIt is so.") && !notes.contains("99"), "{notes}");

    let stage = Stage::new();
    let thought = "<think>First try:\n```python\n# filename: bad.py\nprint('bad')\n```\n</think>\n";
    stage.say("engineer", &format!("{thought}{}", script("good.py", "print('good')")));
    stage.ends(Scripted::success("good\n"));
    stage.run(&[("one_shot", json!({}))]).await.completed();
    assert_eq!(stage.scripts(""), ["codebase/good.py"]);
    assert!(stage.executed()[0].code.contains("print('good')"));
}

#[tokio::test]
async fn thoughts_alone_count_as_an_empty_answer() {
    let stage = Stage::new();
    stage.say("researcher", "<think>Hm.</think>\n").say("researcher", NOTES);
    research(&stage).await.completed();
    assert!(stage.prompts("researcher")[1].contains("Your answer was empty"));
}
