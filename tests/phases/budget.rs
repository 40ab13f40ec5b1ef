//! What a run may take: reserved at the door, exact after a crash, and never a reason to refuse a replay.

use std::sync::Arc;

use cmbagent::Error;
use cmbagent::engine::ledger::Total;
use cmbagent::engine::{Limits, Phase, Run, RunStatus, Settings};
use cmbagent::journal::{Effect, Entry, Journal, MemoryJournal};
use cmbagent::llm::quote::LEAST_OUTPUT;
use cmbagent::llm::{
    CallOptions, LlmErrorKind, Message, Prices, Reply, Request, Sampling, ScriptedProvider, Usage,
};
use futures_util::poll;
use serde_json::{Value, json};

use super::limits::{PausedClock, Wrapped};
use super::stage::{Humans, Stage, given, given_with, plan, reply, script};
use cmbagent::exec::scripted::Scripted;

const MODEL: &str = "gpt-4.1";

/// A stage whose models have prices.
fn priced() -> Stage {
    Stage { models: Arc::new(ScriptedProvider::priced(Prices::builtin())), ..Stage::new() }
}

fn limits(settings: Value) -> Limits {
    Limits::of(&settings).unwrap()
}

fn billed(text: &str, tokens: u64, dollars: f64) -> Reply {
    let usage = Usage { completion_tokens: tokens, cost: Some(dollars), ..Usage::default() };
    Reply { usage, ..reply(text) }
}

fn request(model: &str) -> Request {
    Request {
        model: model.into(),
        system: "You are the engineer agent.".into(),
        messages: vec![Message::user("Fit a line.")],
        schema: None,
        sampling: Sampling::default(),
        max_output_tokens: None,
    }
}

async fn ask(run: &Run) -> cmbagent::Result<Reply> {
    run.call("engineer", request(MODEL), CallOptions::default()).await
}

fn refused(outcome: cmbagent::Result<Reply>) -> String {
    let Err(Error::OverLimit(message)) = outcome else { panic!("{outcome:?}") };
    message
}

/// A later life over the same records and the same models.
fn later(stage: &Stage) -> Stage {
    let journal: Arc<dyn Journal> = Arc::new(MemoryJournal::replaying(stage.journal.records(1).unwrap()));
    Stage { journal, models: stage.models.clone(), temp: stage.temp.clone(), ..Stage::new() }
}

#[tokio::test]
async fn an_answer_is_shortened_until_its_cost_fits() {
    let stage = priced();
    stage.models.reply("engineer", billed("a", 10, 0.01));
    let run = stage.new_run().within(limits(json!({"max_cost": 0.05})));
    ask(&run).await.unwrap();
    let sent = &stage.models.calls()[0].request;
    let output = sent.max_output_tokens.unwrap();
    assert!((LEAST_OUTPUT..32_768).contains(&output), "{output}");
    assert!(run.quote(sent).cost(output).unwrap() <= 0.05);
    let told = &stage.heard.of("answer_limited")[0];
    assert_eq!(
        (told["max_output_tokens"].as_u64(), told["wanted"].as_u64()),
        (Some(output.into()), Some(32_768))
    );
}

#[tokio::test]
async fn a_call_that_does_not_fit_is_not_made_and_a_higher_limit_goes_on() {
    let stage = priced();
    stage.models.reply("engineer", billed("a", 10, 0.045)).reply("engineer", billed("b", 10, 0.01));
    let run = stage.new_run().within(limits(json!({"max_cost": 0.05})));
    ask(&run).await.unwrap();
    let message = refused(ask(&run).await);
    for part in ["the run has spent $0.0450 of max_cost=0.05", "engineer", MODEL, "higher limit"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    assert_eq!(stage.models.calls().len(), 1);
    assert_eq!(stage.heard.of("limit_reached")[0]["setting"], "max_cost");

    let again = later(&stage);
    let run = again.new_run().within(limits(json!({"max_cost": 0.2})));
    assert_eq!(ask(&run).await.unwrap().text, "a");
    assert_eq!(ask(&run).await.unwrap().text, "b");
    assert_eq!(again.models.calls().len(), 2, "what was answered is not asked again");
}

#[tokio::test]
async fn a_replayed_call_is_never_refused_but_counts() {
    let stage = priced();
    for text in ["a", "b", "c"] {
        stage.models.reply("engineer", billed(text, 10, 0.5));
    }
    let run = stage.new_run();
    ask(&run).await.unwrap();
    ask(&run).await.unwrap();
    let run = later(&stage).new_run().within(limits(json!({"max_llm_calls": 1, "max_cost": 0.1})));
    assert_eq!(ask(&run).await.unwrap().text, "a");
    assert_eq!(ask(&run).await.unwrap().text, "b");
    assert!(refused(ask(&run).await).contains("max_llm_calls=1"));
}

#[tokio::test]
async fn calls_at_the_same_time_reserve_too() {
    let stage = priced();
    stage.models.hang("engineer");
    let run = stage.new_run().within(limits(json!({"max_cost": 0.27})));
    let first = ask(&run);
    tokio::pin!(first);
    assert!(poll!(&mut first).is_pending());
    let message = refused(run.at_turn(1).call("planner", request(MODEL), CallOptions::default()).await);
    assert!(message.contains("has spent $0.26"), "{message}");
}

#[tokio::test]
async fn what_was_reserved_is_given_back() {
    let stage = priced();
    stage.models.fail("engineer", LlmErrorKind::BadRequest, "no").reply("engineer", billed("a", 10, 0.1));
    let run = stage.new_run().within(limits(json!({"max_cost": 0.27, "max_llm_calls": 1})));
    assert!(matches!(ask(&run).await, Err(Error::Model { .. })));
    ask(&run).await.unwrap();
}

#[tokio::test]
async fn the_limits_of_a_phase_hold_for_all_its_tries_beside_those_of_the_run() {
    let stage = priced();
    stage.models.reply("engineer", billed(&script("a.py", "a()"), 100, 0.1));
    stage.ends(Scripted::failure("no\n"));
    let steps = plan(&[("engineer", "fit a line", "use the data")]);
    let config = json!({"params": {"preloaded_plan": steps}, "max_n_attempts": 0});
    let settings =
        Settings { max_retries: 3, limits: limits(json!({"max_llm_calls": 1})), timeout_seconds: None };
    let phase: Arc<dyn Phase> = Wrapped::with("control", config, settings);
    let ended = stage.run_built(&[phase]).await;
    assert!(ended.error().contains("phase control has made its max_llm_calls=1"), "{}", ended.error());
    assert!(ended.status.unwrap_err().is_over_limit());
    assert_eq!(stage.models.calls().len(), 1);
    let finished = &stage.heard.of("run_finished")[0];
    assert_eq!(finished["status"], RunStatus::Stopped.as_str());
    assert_eq!(stage.heard.of("step_finished").len(), 1, "a step that a limit cut has not failed");
}

#[tokio::test]
async fn tokens_are_limited_with_the_answer_shortened() {
    let stage = priced();
    stage.models.reply("engineer", billed("a", 2_000, 0.0)).reply("engineer", billed("b", 2_500, 0.0));
    let run = stage.new_run().within(limits(json!({"max_tokens": 5_000})));
    ask(&run).await.unwrap();
    ask(&run).await.unwrap();
    let outputs: Vec<u32> =
        stage.models.calls().iter().map(|call| call.request.max_output_tokens.unwrap()).collect();
    assert!(outputs[0] > 4_900 && (2_900..3_000).contains(&outputs[1]), "{outputs:?}");
    assert!(refused(ask(&run).await).contains("4500 tokens of max_tokens=5000"));
}

#[tokio::test]
async fn a_model_without_a_price_stops_a_limit_in_dollars_unless_its_tokens_count() {
    let stage = priced();
    let unknown =
        |run: Run| async move { run.call("engineer", request("qwen3:30b"), CallOptions::default()).await };
    let message = refused(unknown(stage.new_run().within(limits(json!({"max_cost": 9})))).await);
    assert!(message.contains("price of qwen3:30b") && message.contains("count-tokens"), "{message}");
    stage.say("engineer", "a");
    let counting = limits(json!({"max_cost": 9, "max_tokens": 50_000, "unpriced": "count-tokens"}));
    unknown(stage.new_run().within(counting)).await.unwrap();
    assert_eq!(stage.models.calls()[0].request.max_output_tokens, Some(8_192));
}

#[tokio::test]
async fn a_cheaper_model_goes_on_and_is_the_one_that_is_billed_also_in_a_replay() {
    let stage = priced();
    stage.models.reply("engineer", billed("a", 10, 0.001));
    let cheaper =
        || limits(json!({"max_cost": 0.004, "on_limit": "cheaper", "cheaper_model": "gpt-4.1-nano"}));
    let run = stage.new_run().within(cheaper());
    ask(&run).await.unwrap();
    assert_eq!(stage.models.calls()[0].request.model, "gpt-4.1-nano");
    assert_eq!(stage.heard.of("model_replaced")[0]["next"], "gpt-4.1-nano");
    assert_eq!(run.ledger().since(0)[0].model, "gpt-4.1-nano");
    let replayed = later(&stage).new_run();
    ask(&replayed).await.unwrap();
    assert_eq!(replayed.ledger().since(0), run.ledger().since(0));
    // Where that does not fit either, the run stops.
    let run = stage.new_run().within(limits(json!({"max_cost": 1e-6, "cheaper_model": "gpt-4.1-nano"})));
    assert!(refused(ask(&run.at_turn(2)).await).contains("gpt-4.1-nano"));
}

#[tokio::test]
async fn a_human_raises_the_limit_by_what_it_was_or_to_a_number() {
    let raised = [given("raise"), given_with("raise", "up to 5, please", Value::Null), given("abort")];
    let stage = Stage { humans: Some(Arc::new(Humans::new(raised))), ..priced() };
    for _ in 0..5 {
        stage.models.reply("engineer", billed("a", 10, 0.1));
    }
    let asking = || limits(json!({"max_llm_calls": 1, "on_limit": "ask"}));
    let run = stage.new_run().within(asking());
    for _ in 0..5 {
        ask(&run).await.unwrap();
    }
    assert!(refused(ask(&run).await).contains("max_llm_calls=5"));
    let asked = stage.humans.as_ref().unwrap().asked();
    assert_eq!(asked.len(), 3);
    assert_eq!(
        (asked[0].checkpoint_type.as_str(), asked[0].options.join(" ")),
        ("limit", "raise abort".into())
    );
    let limits: Vec<Value> = stage.heard.of("limit_raised").into_iter().map(|e| e["limit"].clone()).collect();
    assert_eq!(limits, [2.0, 5.0]);

    // A later life asks only for what is new, and knows what was granted.
    let again = Stage { humans: Some(Arc::new(Humans::new([given("abort")]))), ..later(&stage) };
    let run = again.new_run().within(asking());
    for _ in 0..5 {
        ask(&run).await.unwrap();
    }
    assert!(refused(ask(&run).await).contains("max_llm_calls=5"));
    assert_eq!(stage.models.calls().len(), 5);
}

#[tokio::test]
async fn nobody_to_ask_means_to_stop() {
    let stage = priced();
    let run = stage.new_run().within(limits(json!({"max_llm_calls": 0, "on_limit": "ask"})));
    assert!(refused(ask(&run).await).contains("max_llm_calls=0"));
}

#[tokio::test]
async fn a_call_of_unknown_outcome_counts_at_most() {
    let stage = priced();
    stage.models.hang("engineer");
    let run = stage.new_run().within(limits(json!({"max_cost": 1})));
    {
        let cut = ask(&run);
        tokio::pin!(cut);
        assert!(poll!(&mut cut).is_pending());
    }
    let again = later(&stage);
    again.models.reply("engineer", billed("b", 10, 0.01));
    let run = again.new_run().within(limits(json!({"max_cost": 0.27})));
    let total = Total::of(&run.ledger().since(0));
    assert_eq!(total.unknown_calls, 1);
    assert!(total.unknown_cost > 0.26 && total.unknown_cost < 0.27, "{}", total.unknown_cost);
    assert!(refused(ask(&run).await).contains("has spent $0.26"));
}

#[tokio::test]
async fn runs_within_a_run_count_there_too() {
    let stage = priced();
    stage.models.reply("engineer", billed("a", 10, 0.1)).reply("engineer", billed("b", 10, 0.1));
    let above = stage.new_run().within(limits(json!({"max_llm_calls": 2})));
    ask(&above).await.unwrap();
    let inner =
        Stage { journal: Arc::new(MemoryJournal::default()), models: stage.models.clone(), ..Stage::new() };
    let nested = inner.run_above(&above).within(limits(json!({"max_llm_calls": 5})));
    ask(&nested).await.unwrap();
    assert!(refused(ask(&nested).await).contains("the run has made its max_llm_calls=2"));
    assert!(refused(ask(&above).await).contains("max_llm_calls=2"));
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_time_cuts_what_is_under_way_and_counts_earlier_lives() {
    let stage = Stage { clock: PausedClock::new(), ..priced() };
    stage.models.hang("engineer");
    let begin = |stage: &Stage, seconds: u32| {
        let run = stage.new_run().within(limits(json!({"max_wall_seconds": seconds})));
        run.mark(RunStatus::Running).unwrap();
        run
    };
    let run = begin(&stage, 5);
    let before = run.clock().now();
    assert!(refused(ask(&run).await).contains("the run took longer than max_wall_seconds=5"));
    assert!((run.clock().now() - before - 5.0).abs() < 0.1);
    let cut = stage.journal.records(1).unwrap();
    let failed = cut.iter().any(|r| matches!(r.entry, Entry::Failed { effect: Effect::Call, .. }));
    assert!(!failed, "what was sent may have been paid for");
    // The seconds of earlier lives count.
    let again = Stage { clock: stage.clock.clone(), ..later(&stage) };
    tokio::time::advance(std::time::Duration::from_secs(1_000)).await;
    assert!(refused(ask(&begin(&again, 4)).await).contains("=4"));
    again.models.reply("engineer", billed("b", 10, 0.1));
    ask(&begin(&again, 60)).await.unwrap();
}

#[tokio::test]
async fn a_fallback_answers_when_a_model_cannot_be_reached() {
    let stage = priced();
    stage.models.fail("engineer", LlmErrorKind::Server, "down").fail(
        "engineer",
        LlmErrorKind::RateLimit,
        "busy",
    );
    stage.models.reply("engineer", billed("a", 10, 0.1));
    let options = CallOptions {
        base_url: Some("http://own/v1".into()),
        fallbacks: vec!["gpt-4o".into(), "claude-sonnet-4-5".into()],
        ..CallOptions::default()
    };
    let run = stage.new_run();
    run.call("engineer", request(MODEL), options.clone()).await.unwrap();
    let calls = stage.models.calls();
    let models: Vec<&str> = calls.iter().map(|call| call.request.model.as_str()).collect();
    assert_eq!(models, [MODEL, "gpt-4o", "claude-sonnet-4-5"]);
    assert_eq!((calls[0].options.fail_fast, calls[2].options.fail_fast), (true, false));
    assert_eq!((calls[1].options.fail_fast, calls[1].options.base_url.as_deref()), (true, None));
    assert_eq!(run.ledger().since(0)[0].model, "claude-sonnet-4-5");
    assert_eq!(stage.heard.of("model_fallback").len(), 2);

    // What no other model would do better fails at once.
    stage.models.fail("engineer", LlmErrorKind::BadRequest, "no");
    let outcome = run.at_turn(1).call("engineer", request(MODEL), options).await;
    assert!(matches!(outcome, Err(Error::Model { error, .. }) if error.kind == LlmErrorKind::BadRequest));
    assert_eq!(stage.models.calls().len(), 4);
}

#[tokio::test]
async fn fallbacks_come_from_the_settings_for_all_models_or_for_each() {
    for (fallbacks, model) in
        [(json!(["gpt-4o"]), "gpt-4o"), (json!({"gpt-4.1": ["gpt-4o-mini"], "o3": ["x"]}), "gpt-4o-mini")]
    {
        let stage = priced();
        stage.models.fail("engineer", LlmErrorKind::Server, "down");
        stage.engineer("a.py", "a()", Scripted::success("x = 1\n"));
        let config = json!({"engineer_model": MODEL, "params": {"model_fallbacks": fallbacks}});
        stage.control(&plan(&[("engineer", "fit", "use the data")]), config).await.completed();
        assert_eq!(stage.models.calls()[1].request.model, model);
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_has_a_deadline_over_all_its_calls() {
    let stage = Stage { clock: PausedClock::new(), ..priced() };
    stage.say_cut("engineer", "It computes.\n\n");
    stage.engineer("a.py", "a()", Scripted::success("x = 1\n"));
    let config = json!({"params": {"turn_deadline_seconds": 30.0, "call_deadline_seconds": 90.0}});
    stage.control(&plan(&[("engineer", "fit", "use the data")]), config).await.completed();
    let deadlines: Vec<f64> =
        stage.models.calls().iter().map(|call| call.options.deadline_seconds.unwrap()).collect();
    assert!(deadlines.iter().all(|seconds| *seconds <= 30.0) && deadlines.len() == 2, "{deadlines:?}");
}

#[tokio::test]
async fn a_prompt_too_long_for_the_model_is_shortened_before_it_is_sent() {
    let stage = priced();
    // Lines that differ, so that none is left out as a repetition.
    let letter = |n: u8| char::from(b'a' + n % 26);
    let word = |n: u8| [letter(n / 26), letter(n), letter(n / 3), letter(n / 7)].iter().collect::<String>();
    let pairs = (0..=250).flat_map(|a| (0..8).map(move |b| (a, b)));
    let lines: Vec<String> = pairs.map(|(a, b)| format!("{} without any {}\n", word(a), word(b))).collect();
    let words = lines.concat();
    let long = format!("{words}chi2 = 1.25\n{words}");
    stage.engineer("a.py", "a()", Scripted::success(&long));
    stage.say("researcher", "# N\nchi2 is 1.25.");
    let steps = plan(&[("engineer", "fit", "use the data"), ("researcher", "write", "be brief")]);
    stage.control(&steps, json!({"engineer_model": MODEL, "researcher_model": "gpt-4"})).await.completed();
    let sent = &stage.calls("researcher")[0].request;
    assert_eq!(stage.new_run().quote(sent).excess(), 0);
    let prompt = &stage.prompts("researcher")[0];
    assert!(prompt.contains("chi2 = 1.25") && prompt.contains("lines left out"), "{prompt}");
    assert_eq!(stage.heard.of("prompt_shortened")[0]["model"], "gpt-4");
}

#[tokio::test]
async fn a_prompt_that_cannot_fit_is_not_sent() {
    let stage = priced();
    let mut request = request("gpt-4");
    request.messages = vec![Message::user("The task is long. ".repeat(5_000))];
    let outcome = stage.new_run().call("engineer", request, CallOptions::default()).await;
    let Err(Error::Model { error, .. }) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.kind, LlmErrorKind::ContextLength);
    assert!(error.message.contains("gpt-4 reads 8192"), "{}", error.message);
    assert!(stage.models.calls().is_empty());
}

#[tokio::test]
async fn a_conversation_that_outgrows_the_window_loses_its_oldest_answers() {
    let stage = priced();
    // Two answers that are sent back, each as long as a third of the window.
    let broken = script("a.py", &format!("print((({}", "x ".repeat(5_500)));
    stage.say("engineer", &broken).say("engineer", &broken);
    stage.engineer("a.py", "a()", Scripted::success("x = 1\n"));
    let config = json!({"engineer_model": "gpt-4"});
    stage.control(&plan(&[("engineer", "fit", "use the data")]), config).await.completed();
    let sizes: Vec<usize> = stage.calls("engineer").iter().map(|call| call.request.messages.len()).collect();
    assert_eq!(sizes, [1, 3, 3]);
    for call in stage.calls("engineer") {
        assert_eq!(stage.new_run().quote(&call.request).excess(), 0);
    }
}
