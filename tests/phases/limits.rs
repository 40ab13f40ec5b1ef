//! What limits a run, what tries again, which model is asked, and what it costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use cmbagent::Error;
use cmbagent::engine::clock::Clock;
use cmbagent::engine::{Outcome, Phase, PhaseStatus, Run, Settings, State};
use cmbagent::error::{Meaning, Result};
use cmbagent::exec::ExecError;
use cmbagent::exec::scripted::Scripted;
use cmbagent::llm::{LlmErrorKind, Reply, Usage};
use cmbagent::phases;
use futures_util::future::BoxFuture;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::stage::{Humans, Stage, given, plan, planned, reply, script};

fn one() -> Value {
    plan(&[("engineer", "fit a line", "use the data")])
}

fn fine() -> Scripted {
    Scripted::success("slope = 1.25\n")
}

#[tokio::test]
async fn the_limit_of_calls_fails_the_phase_and_names_its_setting() {
    let stage = Stage::new();
    stage.say("planner", &planned(&one())).say("plan_reviewer", r#"{"recommendations": ["x"]}"#);
    stage.say("planner", &planned(&one()));
    let ended = stage.run(&[("planning", json!({"max_rounds": 2}))]).await;
    assert!(ended.error().contains("2 model calls were made") && ended.error().contains("max_rounds=2"));
    assert_eq!(stage.models.calls().len(), 2);
}

#[tokio::test]
async fn in_control_the_limit_of_calls_is_one_of_each_step() {
    let two = plan(&[("engineer", "fit", "use the data"), ("engineer", "fit more", "use the data")]);
    let stage = Stage::new();
    stage.engineer("a.py", "a()", fine()).engineer("b.py", "b()", fine());
    stage.control(&two, json!({"max_rounds": 1})).await.completed();
    let stage = Stage::new();
    stage.engineer("a.py", "a()", fine()).engineer("b.py", "b()", Scripted::failure("no\n"));
    stage.say("engineer", &script("b.py", "c()"));
    let ended = stage.control(&two, json!({"max_rounds": 1})).await;
    assert!(ended.error().contains("max_rounds=1"), "{}", ended.error());
    assert_eq!(stage.models.calls().len(), 2);
}

/// A built-in phase with settings of its own, or one that always raises.
pub(super) struct Wrapped {
    inner: Option<Box<dyn Phase>>,
    settings: Settings,
    tries: AtomicU32,
}

impl Wrapped {
    pub(super) fn new(
        kind: &str,
        config: Value,
        timeout_seconds: Option<f64>,
        max_retries: u32,
    ) -> Arc<Self> {
        Self::with(kind, config, Settings { timeout_seconds, max_retries, ..Settings::default() })
    }

    pub(super) fn with(kind: &str, config: Value, settings: Settings) -> Arc<Self> {
        let inner = Some(phases::build(kind, config).unwrap());
        Arc::new(Self { inner, settings, tries: AtomicU32::new(0) })
    }
}

impl Phase for Wrapped {
    fn phase_type(&self) -> &str {
        self.inner.as_ref().map_or("mine", |inner| inner.phase_type())
    }
    fn display_name(&self) -> String {
        "Wrapped".into()
    }
    fn settings(&self) -> Result<Settings> {
        Ok(self.settings.clone())
    }
    fn can_skip(&self, _: &dyn State) -> Result<bool> {
        Ok(false)
    }
    fn validate_input(&self, _: &dyn State) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn execute<'a>(&'a self, run: &'a Run, state: Arc<dyn State>) -> BoxFuture<'a, Result<Outcome>> {
        self.tries.fetch_add(1, Ordering::Relaxed);
        match &self.inner {
            Some(inner) => inner.execute(run, state),
            None => Box::pin(async {
                Err(Error::Foreign {
                    text: "mine broke".into(),
                    object: Arc::new("the object"),
                    meaning: Meaning::Failure,
                })
            }),
        }
    }
}

/// The clock of a runtime whose time is paused.
pub(super) struct PausedClock(tokio::time::Instant);

impl PausedClock {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(tokio::time::Instant::now()))
    }
}

impl Clock for PausedClock {
    fn now(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
    fn stamp(&self, _: f64) -> String {
        "20260101_000000".into()
    }
}

pub(super) fn paused() -> (Stage, tokio::time::Instant) {
    let start = tokio::time::Instant::now();
    let mut stage = Stage::new();
    stage.clock = Arc::new(PausedClock(start));
    (stage, start)
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_phase_does_not_count_what_a_human_takes() {
    let (mut stage, start) = paused();
    stage.humans = Some(Arc::new(Humans { takes: 5000.0, ..Humans::new([given("continue")]) }));
    stage.engineer("a.py", "a()", fine());
    let config = json!({"hitl_after_each_step": true, "params": {"preloaded_plan": one()}});
    stage.run_built(&[Wrapped::new("control", config, Some(10.0), 0)]).await.completed();
    assert!(start.elapsed().as_secs() >= 5000);
}

#[tokio::test(start_paused = true)]
async fn a_phase_that_takes_too_long_itself_fails_and_names_its_setting() {
    let (mut stage, start) = paused();
    stage.humans = Some(Arc::new(Humans { takes: 5000.0, ..Humans::new([given("continue")]) }));
    let two = plan(&[("engineer", "fit", "use the data"), ("engineer", "fit more", "use the data")]);
    stage.engineer("a.py", "a()", fine()).models.hang("engineer");
    let config = json!({"hitl_after_each_step": true, "params": {"preloaded_plan": two}});
    let ended = stage.run_built(&[Wrapped::new("control", config, Some(10.0), 0)]).await;
    assert!(ended.error().contains("longer than its timeout_seconds=10"), "{}", ended.error());
    assert_eq!(start.elapsed().as_secs(), 5010, "the human's time and its own");
    let Err(Error::PhaseFailed { cause: Some(cause), .. }) = &ended.status else { panic!() };
    assert!(matches!(**cause, Error::Timeout(_)));
}

#[tokio::test]
async fn a_phase_is_tried_again_as_often_as_it_says() {
    let stage = Stage::new();
    let down = |stage: &Stage| {
        stage.models.fail("planner", LlmErrorKind::Server, "down");
    };
    down(&stage);
    down(&stage);
    stage.say("planner", &planned(&one()));
    let planning = || Wrapped::new("planning", json!({"n_plan_reviews": 0}), None, 2);
    let ended = stage.run_built(&[planning()]).await.completed();
    assert_eq!((stage.models.calls().len(), ended.outcomes.len()), (3, 1));
    let statuses: Vec<Value> =
        stage.heard.of("phase_finished").iter().map(|event| event["status"].clone()).collect();
    assert_eq!(statuses, ["failed", "failed", "completed"]);

    let stage = Stage::new();
    (0..3).for_each(|_| down(&stage));
    let ended = stage.run_built(&[planning()]).await;
    assert_eq!(ended.error(), "Phase planning failed: down [agent planner, phase planning]");
    assert_eq!((stage.models.calls().len(), ended.outcomes[0].status), (3, PhaseStatus::Failed));
}

#[tokio::test]
async fn what_trying_again_cannot_help_is_not_tried_again() {
    let kinds = [LlmErrorKind::MissingKey, LlmErrorKind::Authentication, LlmErrorKind::ModelNotFound];
    for kind in kinds {
        let stage = Stage::new();
        stage.models.fail("planner", kind, "no");
        let ended = stage.run_built(&[Wrapped::new("planning", json!({}), None, 3)]).await;
        assert_eq!((ended.answer_kind(), stage.models.calls().len()), (kind, 1));
    }
}

#[tokio::test]
async fn a_retry_of_control_works_in_the_files_of_the_try_before() {
    let stage = Stage::new();
    stage.engineer("a.py", "bad()", fine().writing("data/p.png", "one"));
    stage.models.fail("researcher", LlmErrorKind::Server, "down");
    stage.engineer("a.py", "good()", fine().writing("data/p.png", "other"));
    stage.say("researcher", "# N\nIt is so.");
    let steps = plan(&[("engineer", "fit", "use the data"), ("researcher", "write", "be brief")]);
    let config = json!({"params": {"preloaded_plan": steps}});
    let ended = stage.run_built(&[Wrapped::new("control", config, None, 1)]).await.completed();
    assert_eq!(
        stage.scripts("control"),
        ["codebase/a.py", "codebase/a.py"],
        "no name is lost to the first try"
    );
    assert_eq!(ended.output("final_context")["displayed_images"].as_array().unwrap().len(), 1);
    assert_eq!(stage.list("control/codebase"), ["a.py"]);
}

#[tokio::test]
async fn a_script_that_could_not_be_run_leaves_its_name_to_the_next_try() {
    let stage = Stage::new();
    let lost = Scripted::error(ExecError::Supervisor("the supervisor is gone".into()));
    stage.engineer("a.py", "one()", lost).engineer("a.py", "two()", fine());
    let config = json!({"params": {"preloaded_plan": one()}});
    stage.run_built(&[Wrapped::new("control", config, None, 1)]).await.completed();
    assert_eq!(stage.list("control/codebase"), ["a.py"]);
}

#[tokio::test]
async fn an_exception_of_a_custom_phase_comes_back_as_the_same_object_after_its_last_try() {
    let stage = Stage::new();
    let settings = Settings { max_retries: 1, ..Settings::default() };
    let phase = Arc::new(Wrapped { inner: None, settings, tries: AtomicU32::new(0) });
    let phases: [Arc<dyn Phase>; 1] = [phase.clone()];
    let ended = stage.run_built(&phases).await;
    let Err(Error::Foreign { object, .. }) = &ended.status else { panic!("{:?}", ended.status) };
    assert_eq!(object.downcast_ref::<&str>(), Some(&"the object"));
    assert_eq!(phase.tries.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn overrides_outrank_an_agents_configuration_which_outranks_the_field() {
    let stage = Stage::new();
    let steps = plan(&[
        ("engineer", "fit", "use the data"),
        ("researcher", "write", "be brief"),
        ("idea_maker", "think", "be bold"),
        ("idea_hater", "doubt", "be harsh"),
    ]);
    stage.engineer("a.py", "a()", fine()).say("researcher", "# N\nIt is.");
    stage.say("idea_maker", r#"{"ideas": [{"title": "A"}]}"#);
    stage.say("idea_hater", r#"{"critiques": [{"title": "A"}]}"#);
    let config = json!({
        "engineer_model": "field", "researcher_model": "field", "idea_maker_model": "field",
        "model_overrides": {"engineer": "override"},
        "params": {"call_deadline_seconds": 90.0, "agent_llm_configs": {
            "engineer": {"model": "own", "base_url": "http://gateway/v1", "api_key": "k-1", "api_type": "openai",
                         "temperature": 0.5, "top_p": 0.25, "reasoning_effort": "high", "max_tokens": 777, "stream": false},
            "researcher": {"model": "own"},
        }},
    });
    stage.control(&steps, config).await.completed();
    let models: Vec<String> = stage.models.calls().iter().map(|call| call.request.model.clone()).collect();
    assert_eq!(models, ["override", "own", "field", "o3-mini-2025-01-31"]);
    let calls = stage.models.calls();
    let (request, options) = (&calls[0].request, &calls[0].options);
    assert_eq!((request.sampling.temperature, request.sampling.top_p), (Some(0.5), Some(0.25)));
    assert_eq!(request.sampling.reasoning_effort.as_deref(), Some("high"));
    assert_eq!((request.max_output_tokens, options.stream), (Some(777), Some(false)));
    assert_eq!(options.base_url.as_deref(), Some("http://gateway/v1"));
    assert_eq!(options.api_type.as_deref(), Some("openai"));
    assert_eq!(options.api_key.as_ref().unwrap().expose_secret(), "k-1");
    assert_eq!((options.deadline_seconds, calls[1].options.deadline_seconds), (Some(90.0), Some(90.0)));
    assert_eq!((calls[1].request.sampling.temperature, calls[1].options.stream), (Some(0.00001), None));
    let journal = format!("{:?}", stage.journal.records(1).unwrap());
    assert!(!journal.contains("k-1"), "a key is in the journal");
}

#[tokio::test]
async fn reports_add_up_to_what_was_billed_and_name_what_has_no_price() {
    let stage = Stage::new();
    let billed = |text: &str, prompt_tokens, cost| {
        let usage = Usage { prompt_tokens, completion_tokens: 10, cost, ..Usage::default() };
        Reply { usage, ..reply(text) }
    };
    let steps = plan(&[("engineer", "fit", "use the data"), ("researcher", "write", "be brief")]);
    stage.models.reply("planner", billed(&planned(&steps), 100, Some(0.5)));
    stage.models.reply("engineer", billed(&script("a.py", "a()"), 20, Some(0.25)));
    stage.models.reply("engineer", billed(&script("a.py", "b()"), 30, Some(0.125)));
    stage.models.reply("researcher", billed("# N\nIt is.", 7, None));
    stage.ends(Scripted::failure("no\n")).ends(fine());
    let planning = json!({"n_plan_reviews": 0, "planner_model": "m1"});
    let control = json!({"engineer_model": "m2", "researcher_model": "local"});
    let ended = stage.run(&[("planning", planning), ("control", control)]).await.completed();
    assert_eq!(ended.calls, 4);

    let report = |directory: &str, part: &str| {
        let name = stage.list(directory).into_iter().find(|name| name.contains(part)).unwrap();
        stage.json(&format!("{directory}/{name}"))
    };
    let first = report("control/cost", "cost_report_step_1");
    assert_eq!(first.as_array().unwrap().len(), 2);
    assert_eq!((&first[0]["Agent"], &first[0]["Model"]), (&json!("engineer"), &json!("m2")));
    assert_eq!((&first[1]["Cost ($)"], &first[1]["Total Tokens"]), (&json!(0.375), &json!(70)));
    assert_eq!(report("planning/cost", "cost_report")[1]["Cost ($)"], 0.5);
    let second = report("control/cost", "cost_report_step_2");
    assert!(second[0]["Cost ($)"].is_null());
    let told = stage.heard.of("cost");
    let costs: Vec<&Value> = told.iter().map(|event| &event["total_cost"]).collect();
    assert_eq!(costs, [0.5, 0.375, 0.0]);
    assert_eq!(told[2]["unpriced_models"], json!(["local"]));
    let usage = &stage.heard.of("run_finished")[0]["usage"];
    assert_eq!((&usage["cost"], &usage["calls"]), (&json!(0.875), &json!(4)));
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(157), &json!(40)));
    let phases: Vec<Value> =
        stage.heard.of("phase_finished").iter().map(|event| event["usage"]["calls"].clone()).collect();
    assert_eq!(phases, [1, 3]);
}

#[tokio::test]
async fn no_prompt_and_no_key_is_in_an_error() {
    let stage = Stage::new();
    stage.models.fail("planner", LlmErrorKind::BadRequest, "no");
    let config = json!({"params": {"agent_llm_configs": {"planner": {"api_key": "sk-secret"}}}});
    let ended = stage.run(&[("planning", config)]).await;
    let shown = format!("{:?} {}", ended.status, ended.error());
    assert!(shown.contains("agent planner"), "{shown}");
    assert!(!shown.contains("sk-secret") && !shown.contains("frac"), "{shown}");
}
