//! Agents that read a library's documentation for the engineer.

use std::sync::Arc;

use cmbagent::engine::Why;
use cmbagent::exec::scripted::{Scripted, ScriptedRunner};
use serde_json::{Value, json};

use super::stage::{Stage, plan, planned};

const DOCS: &str = "# CAMB\n## get_results(params)\nRuns CAMB; l in multipoles, spectra in muK^2.\n";

/// A stage with CAMB installed, and its documentation.
pub(crate) fn stage() -> Stage {
    let mut stage = Stage::new();
    stage.runner = Arc::new(ScriptedRunner::default().with_package("camb", "1.6.0"));
    stage.documents.holds("camb", DOCS);
    stage
}

fn steps() -> Value {
    plan(&[
        ("camb_context", "find the functions for lensed spectra", "units"),
        ("engineer", "compute", "print it"),
    ])
}

#[tokio::test]
async fn in_a_plan_the_documentation_is_read_and_reaches_the_engineer() {
    let stage = stage();
    stage.say("camb_context", "**Docstrings:** get_results(params), muK^2");
    stage.engineer("a.py", "a()", Scripted::success("x = 1\n"));
    let ended = stage.control(&steps(), json!({"camb_context_model": "reader"})).await.completed();
    assert_eq!(stage.models.agents(), ["camb_context", "engineer"]);
    assert_eq!(stage.documents.asked(), [("camb".to_owned(), Some("1.6.0".to_owned()))]);
    let call = &stage.calls("camb_context")[0];
    assert_eq!(call.request.model, "reader");
    assert!(call.request.system.starts_with("You are the camb_context agent"));
    let asked = &stage.prompts("camb_context")[0];
    for part in [DOCS.trim(), "version 1.6.0 is installed here", "version 1.6.0, scripted", "lensed spectra"]
    {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    let engineer = &stage.prompts("engineer")[0];
    assert!(engineer.contains("by the camb_context") && engineer.contains("get_results(params), muK^2"));
    let context = ended.output("final_context");
    assert!(context["camb_context"].as_str().unwrap().contains("get_results"));
    assert_eq!(context["classy_context"], Value::Null);
    let names: Vec<&str> =
        ended.outcomes[0].chat_history.iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"camb_context") && names.contains(&"camb_response_formatter"), "{names:?}");
    assert_eq!(stage.heard.of("documentation_read")[0]["installed"], "1.6.0");
}

#[tokio::test]
async fn in_a_one_shot_the_engineer_goes_on_with_what_was_read() {
    let stage = stage();
    stage.say("camb_context", "Call get_results.");
    stage.engineer("a.py", "a()", Scripted::failure("KeyError: 'TT'\n"));
    stage.engineer("a.py", "b()", Scripted::success("x = 1\n"));
    let ended = stage.run(&[("one_shot", json!({"agent": "camb_context"}))]).await.completed();
    assert_eq!(stage.models.agents(), ["camb_context", "engineer", "engineer"]);
    for prompt in stage.prompts("engineer") {
        assert!(prompt.contains("# What the documentation says\nCall get_results."), "{prompt}");
    }
    let result = ended.output("result");
    assert_eq!(
        (&result["camb_context"], &result["agent_for_sub_task"]),
        (&json!("Call get_results."), &json!("camb_context"))
    );
    assert!(stage.root().join("chats/nested_chat_output_engineer_step_1_attempt_1.json").exists());
}

#[tokio::test]
async fn offline_the_installed_docstrings_serve() {
    let mut stage = stage();
    stage.documents = Arc::default();
    stage.ends(Scripted::success("## camb.get_results(params)\nRuns it.\n"));
    stage.say("camb_context", "Call get_results.");
    stage.engineer("a.py", "a()", Scripted::success("x = 1\n"));
    stage.control(&steps(), json!({})).await.completed();
    let asked = &stage.prompts("camb_context")[0];
    assert!(asked.contains("## camb.get_results(params)\nRuns it."), "{asked}");
    assert!(asked.contains("docstrings of the installed version 1.6.0"));
    assert!(stage.executed()[0].code.starts_with("MODULE = \"camb\"\n"));
    assert!(
        stage.warnings()[0].starts_with("the network is down. The camb_context reads instead: docstrings")
    );
}

#[tokio::test]
async fn without_documentation_the_agent_is_told_so() {
    let stage = Stage::new();
    stage.say("classy_context", "I am sure of compute().");
    stage.engineer("a.py", "a()", Scripted::success("x = 1\n"));
    stage.run(&[("one_shot", json!({"agent": "classy_context"}))]).await.completed();
    let asked = &stage.prompts("classy_context")[0];
    assert!(
        asked.contains("classy; it is not installed here")
            && asked.contains("None could be had: the network is down")
    );
    assert!(stage.warnings()[0].contains("reads instead: there is none"), "{:?}", stage.warnings());
    assert_eq!(stage.executed().len(), 1, "nothing is imported that is not installed");
}

#[tokio::test]
async fn a_plan_that_ends_with_reading_is_sent_back() {
    let stage = stage();
    let reads = plan(&[("engineer", "compute", "x"), ("camb_context", "read", "y")]);
    stage.say("planner", &planned(&reads)).say("planner", &planned(&steps()));
    stage.run(&[("planning", json!({"n_plan_reviews": 0}))]).await.completed();
    assert!(stage.prompts("planner")[1].contains("a step of the engineer must follow"));
    assert!(stage.prompts("planner")[0].contains("- camb_context: reads the documentation of CAMB"));
}

#[tokio::test]
async fn a_cancel_ends_a_look_that_is_under_way() {
    let stage = stage();
    stage.documents.hangs("camb");
    let steps = steps();
    let cancelling = async {
        while stage.documents.asked().is_empty() {
            tokio::task::yield_now().await;
        }
        stage.control.cancel(Why::Requested);
    };
    let (ended, ()) = tokio::join!(stage.control(&steps, json!({})), cancelling);
    assert!(ended.error().contains("the run was cancelled"), "{}", ended.error());
    assert!(stage.models.calls().is_empty());
}
