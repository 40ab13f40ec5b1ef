//! Plots before the judge and before the researcher.

use cmbagent::exec::scripted::Scripted;
use cmbagent::llm::{Call, LlmErrorKind, Part};
use serde_json::{Value, json};

use super::stage::{Ended, Stage, plan, script, script_with};

const ENGINEER: &str = "gpt-4.1-2025-04-14";
const BLIND: &str = "o3-mini-2025-01-31";

/// A small picture.
pub(crate) fn png() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::DynamicImage::new_rgb8(4, 3).write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

fn plotting(names: &[&str]) -> Scripted {
    let printed: Vec<String> = names.iter().map(|name| format!("data/{name} shows the fit\n")).collect();
    names
        .iter()
        .fold(Scripted::success(&printed.concat()), |ends, name| ends.writing(format!("data/{name}"), png()))
}

/// A judge's answer on `(plot, problem)`; a blank problem lets the plot stay.
pub(crate) fn judged(plots: &[(&str, &str)]) -> String {
    let one = |(plot, problem): &(&str, &str)| {
        let retry = !problem.is_empty();
        json!({
            "plot": plot, "criteria": ["first peak near l = 220"], "verdict": if retry { "retry" } else { "continue" },
            "problems": if retry { vec![*problem] } else { vec![] }, "fixes": if retry { vec!["line 2: use ell"] } else { vec![] },
        })
    };
    json!({"plots": plots.iter().map(one).collect::<Vec<_>>()}).to_string()
}

/// A stage on which the engineer's model takes pictures and the judge's default does not.
pub(crate) fn stage() -> Stage {
    let stage = Stage::new();
    stage.models.sees(ENGINEER, true).sees(BLIND, false);
    stage
}

fn pictures(call: &Call) -> Vec<String> {
    let parts = call.request.messages.iter().flat_map(|message| &message.parts);
    parts
        .filter_map(
            |part| if let Part::Image { media_type, .. } = part { Some(media_type.clone()) } else { None },
        )
        .collect()
}

fn one() -> Value {
    plan(&[("engineer", "plot the spectrum", "save one figure")])
}

fn verdicts(stage: &Stage) -> Vec<Value> {
    stage.heard.of("plots_judged").into_iter().map(|data| data["verdict"].clone()).collect()
}

fn context(ended: &Ended) -> Value {
    ended.output("final_context")
}

#[tokio::test]
async fn every_new_plot_is_judged_and_mended_without_costing_a_try() {
    let stage = stage();
    stage.engineer("plot.py", "first()\nplot(l)", plotting(&["a.png", "b.png"]));
    stage.engineer("plot.py", "first()\nplot(ell)", plotting(&["c.png"]));
    stage.say("plot_judge", &judged(&[("data/a.png", "the peak is at 22"), ("data/b.png", "")]));
    stage.say("plot_judge", &judged(&[("data/c.png", "")]));
    let ended =
        stage.control(&one(), json!({"evaluate_plots": true, "max_n_plot_evals": 3})).await.completed();
    assert_eq!(stage.models.agents(), ["engineer", "plot_judge", "engineer", "plot_judge"]);

    let calls = stage.calls("plot_judge");
    assert_eq!(calls[0].request.model, ENGINEER, "the default takes no pictures");
    assert_eq!(pictures(&calls[0]), ["image/png", "image/png"]);
    assert_eq!(pictures(&calls[1]), ["image/png"]);
    let asked = &stage.prompts("plot_judge")[0];
    for part in
        ["save one figure", "   2  plot(l)", "data/a.png shows the fit", "1. data/a.png", "2. data/b.png"]
    {
        assert!(asked.contains(part), "{part} in {asked}");
    }
    assert!(stage.prompts("plot_judge")[1].contains("was to mend\n- data/a.png: the peak is at 22\n"));
    let again = &stage.prompts("engineer")[1];
    for part in ["data/a.png: the peak is at 22", "data/a.png: line 2: use ell", "plot(l)", "Attempt"] {
        assert_eq!(again.contains(part), part != "Attempt", "{part} in {again}");
    }
    let context = context(&ended);
    assert_eq!((&context["n_attempts"], &context["n_plot_evals"]), (&json!(0), &json!(2)));
    assert_eq!((&context["vlm_verdict"], &context["plot_problems"]), (&json!("continue"), &json!([])));
    assert!(context["vlm_plot_analysis"].as_str().unwrap().contains("first peak near l = 220"));
    assert_eq!(verdicts(&stage), ["retry", "continue"]);
    let names: Vec<&str> =
        ended.outcomes[0].chat_history.iter().map(|m| m["name"].as_str().unwrap()).collect();
    assert_eq!(names.iter().filter(|name| **name == "plot_judge").count(), 2);
    assert_eq!(names.iter().filter(|name| **name == "plot_debugger").count(), 1);
    assert!(stage.read("control/codebase/plot.py").contains("plot(ell)"));
}

#[tokio::test]
async fn at_the_limit_plots_are_accepted_and_it_is_recorded() {
    let stage = stage();
    for name in ["a.png", "b.png"] {
        stage.engineer("plot.py", "plot()", plotting(&[name]));
    }
    stage.say("plot_judge", &judged(&[("data/a.png", "no units")]));
    let ended = stage.run(&[("one_shot", json!({"evaluate_plots": true}))]).await.completed();
    assert_eq!(stage.models.agents(), ["engineer", "plot_judge", "engineer"]);
    assert_eq!(verdicts(&stage), ["retry", "accepted"]);
    let told = stage.heard.of("plots_judged");
    assert_eq!(told[1]["reason"], "the limit max_n_plot_evals=1 is reached");
    let result = ended.output("result");
    assert_eq!((&result["evaluate_plots"], &result["max_n_plot_evals"]), (&json!(true), &json!(1)));
    assert_eq!((&result["vlm_verdict"], &result["n_plot_evals"]), (&json!("retry"), &json!(1)));
    assert_eq!(result["plot_problems"], json!(["data/a.png: no units"]));
}

#[tokio::test]
async fn plots_are_judged_only_when_asked_for_and_only_when_there_are_new_ones() {
    let quiet = stage();
    quiet.engineer("plot.py", "plot()", plotting(&["a.png"]));
    quiet.control(&one(), json!({})).await.completed();
    let tables = stage();
    tables.engineer(
        "fit.py",
        "fit()",
        Scripted::success("figure of merit 3\n").writing("data/fit.csv", "x\n1\n"),
    );
    let fit = plan(&[("engineer", "fit", "print chi2")]);
    tables.control(&fit, json!({"evaluate_plots": true})).await.completed();
    for stage in [quiet, tables] {
        assert_eq!(stage.models.agents(), ["engineer"]);
        assert!(verdicts(&stage).is_empty());
    }
}

#[tokio::test]
async fn the_judge_follows_settings_then_the_keys_there_are() {
    let judge = |config: Value, prepare: fn(&Stage)| async move {
        let stage = stage();
        prepare(&stage);
        stage.engineer("plot.py", "plot()", plotting(&["a.png"]));
        stage.say("plot_judge", &judged(&[("data/a.png", "")]));
        let mut config = config;
        config["evaluate_plots"] = json!(true);
        stage.control(&one(), config).await.completed();
        let model = stage.calls("plot_judge").first().map(|call| call.request.model.clone());
        (model, stage.warnings(), verdicts(&stage))
    };
    let chosen = |model: &str| (Some(model.to_owned()), vec![], vec![json!("continue")]);
    assert_eq!(judge(json!({"plot_judge_model": "eyes"}), |_| ()).await, chosen("eyes"));
    assert_eq!(judge(json!({"params": {"vlm_model": "lens"}}), |_| ()).await, chosen("lens"));
    assert_eq!(
        judge(json!({"model_overrides": {"plot_judge": "best"}, "plot_judge_model": "x"}), |_| ()).await,
        chosen("best")
    );
    let other_key = |stage: &Stage| {
        stage.models.cannot_reach(ENGINEER).sees("gemini-2.5-pro", true);
    };
    assert_eq!(judge(json!({}), other_key).await, chosen("gemini-2.5-pro"));
    let none = |stage: &Stage| {
        stage.models.cannot_reach(ENGINEER);
    };
    let (model, warnings, told) = judge(json!({}), none).await;
    assert_eq!((model, told), (None, vec![json!("accepted")]));
    assert!(warnings[0].contains("name one by plot_judge_model"), "{warnings:?}");
}

#[tokio::test]
async fn a_judge_who_fails_or_pictures_that_cannot_be_read_end_no_run() {
    let failing = stage();
    failing.engineer("plot.py", "plot()", plotting(&["a.png"]));
    failing.models.fail("plot_judge", LlmErrorKind::Server, "overloaded");
    failing.control(&one(), json!({"evaluate_plots": true})).await.completed();
    assert_eq!(verdicts(&failing), ["accepted"]);
    assert!(
        failing.warnings()[0].contains("plots are accepted unjudged")
            && failing.warnings()[0].contains("overloaded")
    );

    let broken = stage();
    broken.engineer(
        "plot.py",
        "plot()",
        Scripted::success("plotted 1\n").writing("data/a.png", "no picture"),
    );
    broken.control(&one(), json!({"evaluate_plots": true})).await.completed();
    assert_eq!(
        (broken.models.agents(), verdicts(&broken)),
        (vec!["engineer".to_owned()], vec![json!("accepted")])
    );
    assert!(
        broken.warnings()[0].starts_with("data/a.png cannot be shown to a model"),
        "{:?}",
        broken.warnings()
    );
}

#[tokio::test]
async fn an_answer_that_cannot_be_used_is_sent_back_once() {
    let stage = stage();
    stage.engineer("plot.py", "plot()", plotting(&["a.png"]));
    stage.say("plot_judge", &judged(&[("data/a.png", "x")]).replace("\"x\"", ""));
    stage.say("plot_judge", "Looks right.\nVerdict: continue");
    stage.control(&one(), json!({"evaluate_plots": true})).await.completed();
    assert!(stage.prompts("plot_judge")[1].contains("`retry` needs at least one problem"));
    assert_eq!(verdicts(&stage), ["continue"]);
}

#[tokio::test]
async fn when_mending_a_plot_fails_the_script_that_worked_stays() {
    let stage = stage();
    stage.engineer("plot.py", "works()", plotting(&["a.png"]));
    stage.say("plot_judge", &judged(&[("data/a.png", "no units")]));
    for _ in 0..2 {
        stage.engineer("plot.py", "breaks()", Scripted::failure("ValueError: no\n"));
    }
    let ended = stage
        .control(&one(), json!({"evaluate_plots": true, "max_n_plot_evals": 9, "max_n_attempts": 1}))
        .await
        .completed();
    assert!(stage.read("control/codebase/plot.py").contains("works()"));
    let context = context(&ended);
    assert_eq!((&context["current_status"], &context["n_attempts"]), (&json!("completed"), &json!(2)));
    assert!(stage.warnings().last().unwrap().contains("accepted as they are: mending them failed"));
    assert!(
        stage.prompts("engineer")[2].contains("no units"),
        "the problems stay known until they are mended"
    );
}

#[tokio::test]
async fn a_script_with_work_left_is_judged_too_and_the_step_goes_on() {
    let stage = stage();
    stage
        .say("engineer", &script_with("one.py", "one()", "remaining: the second figure"))
        .ends(plotting(&["a.png"]));
    stage.say("engineer", &script("two.py", "two()")).ends(plotting(&["b.png"]));
    stage.say("plot_judge", &judged(&[("data/a.png", "")])).say("plot_judge", &judged(&[("data/b.png", "")]));
    stage.control(&one(), json!({"evaluate_plots": true, "max_n_plot_evals": 2})).await.completed();
    assert_eq!(stage.models.agents(), ["engineer", "plot_judge", "engineer", "plot_judge"]);
    assert!(stage.prompts("engineer")[1].contains("the second figure"));
}

#[tokio::test]
async fn the_researcher_sees_plots_when_its_model_takes_them() {
    let steps = plan(&[("engineer", "plot", "save"), ("researcher", "write", "be brief")]);
    for (sees, expected) in [(Some(true), 2), (Some(false), 0), (None, 0)] {
        let stage = Stage::new();
        if let Some(sees) = sees {
            stage.models.sees("writer", sees);
        }
        stage.engineer("plot.py", "plot()", plotting(&["a.png", "b.png"]));
        stage.say("researcher", "# N\nIt is so.");
        stage.control(&steps, json!({"researcher_model": "writer"})).await.completed();
        assert_eq!(pictures(&stage.calls("researcher")[0]).len(), expected, "{sees:?}");
        let told =
            stage.prompts("researcher")[0].contains("Attached plots, in this order: data/a.png, data/b.png");
        assert_eq!(told, expected > 0);
    }
}

#[tokio::test]
async fn a_plot_that_was_made_anew_is_not_shown_to_the_researcher() {
    let stage = stage();
    stage.engineer("plot.py", "plot(l)", plotting(&["a.png"]));
    stage.engineer("plot.py", "plot(ell)", plotting(&["b.png"]));
    stage.say("plot_judge", &judged(&[("a.png", "no units")]));
    stage.say("researcher", "# N\nIt is so.");
    let steps = plan(&[("engineer", "plot", "save"), ("researcher", "write", "be brief")]);
    stage.control(&steps, json!({"evaluate_plots": true})).await.completed();
    let asked = &stage.prompts("researcher")[0];
    assert!(asked.contains("Attached plots, in this order: data/b.png\n"), "{asked}");
    assert!(asked.contains("step 1): rejected by the plot judge, and made anew"), "{asked}");
}

#[tokio::test]
async fn a_server_that_refuses_pictures_gets_the_text_alone() {
    let stage = stage();
    stage.engineer("plot.py", "plot()", plotting(&["a.png"]));
    stage.models.fail("researcher", LlmErrorKind::BadRequest, "image_url is not supported");
    stage.say("researcher", "# N\nIt is so.");
    let steps = plan(&[("engineer", "plot", "save"), ("researcher", "write", "be brief")]);
    stage.control(&steps, json!({})).await.completed();
    let calls = stage.calls("researcher");
    assert_eq!((pictures(&calls[0]).len(), pictures(&calls[1]).len()), (1, 0));
    assert!(stage.warnings()[0].contains("asked again without pictures"));
}
