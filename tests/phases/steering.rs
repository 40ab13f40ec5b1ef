//! Stopping, cancelling and pausing a run that is under way.

use std::sync::Arc;

use cmbagent::Error;
use cmbagent::engine::{Control, Event, PhaseStatus, Run, RunStatus, Why};
use cmbagent::error::Result;
use cmbagent::exec::scripted::Scripted;
use cmbagent::journal::{Effect, Entry, Journal, MemoryJournal, Position, Record};
use cmbagent::llm::{Call, LlmError, Provider, Reply, Usage, Watch};
use futures_util::future::{BoxFuture, FutureExt};
use serde_json::{Value, json};

use super::limits::{Wrapped, paused};
use super::stage::{Ended, Heard, Humans, Stage, given, plan, planned, script};

const RESEARCH: [&str; 2] = ["planning", "control"];

fn one() -> Value {
    plan(&[("engineer", "fit a line", "use the data")])
}

fn fine() -> Scripted {
    Scripted::success("slope = 1.25\n")
}

/// Waits for something that another part of the same task brings about.
async fn until(happened: impl Fn() -> bool) {
    while !happened() {
        tokio::task::yield_now().await;
    }
}

/// Lets everything that can go on do so.
async fn settled() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

impl Stage {
    /// Does this as soon as an event of this kind comes.
    fn at(mut self, kind: &'static str, act: impl Fn(&Control) + Send + Sync + 'static) -> Self {
        let control = self.control.clone();
        let reaction = Box::new(move |event: &Event| {
            if event.kind == kind {
                act(&control);
            }
        });
        self.heard = Arc::new(Heard { reaction: Some(reaction), ..Heard::default() });
        self
    }

    async fn research(&self) -> Ended {
        self.run(&RESEARCH.map(|kind| (kind, json!({"n_plan_reviews": 0})))).await
    }

    fn kinds(&self) -> Vec<String> {
        self.heard.numbered().into_iter().map(|(_, kind)| kind).collect()
    }
}

fn cancelled(ended: &Ended) -> String {
    let Err(Error::Stopped(words)) = &ended.status else { panic!("{:?}", ended.status) };
    words.clone()
}

// --- stop ---

#[tokio::test]
async fn a_stop_lets_the_phase_finish_and_no_other_begin() {
    let stage = Stage::new().at("call_started", Control::stop);
    stage.say("planner", &planned(&one())).say("plan_reviewer", r#"{"recommendations": ["x"]}"#);
    stage.say("planner", &planned(&one()));
    let ended = stage.run(&[("planning", json!({"n_plan_reviews": 1})), ("control", json!({}))]).await;
    assert_eq!(*ended.status.as_ref().unwrap(), RunStatus::Stopped);
    assert_eq!(stage.models.agents(), ["planner", "plan_reviewer", "planner"], "all of its calls");
    assert_eq!(ended.outcomes.len(), 1);
    assert_eq!(ended.output("final_plan").as_array().unwrap().len(), 1);
    assert_eq!(stage.heard.of("phase_started").len(), 1);
    assert_eq!(stage.heard.of("run_finished")[0]["status"], "stopped");
}

#[tokio::test]
async fn a_stop_leaves_scripts_and_questions_alone() {
    let mut stage = Stage::new().at("script_started", Control::stop);
    stage.humans = Some(Arc::new(Humans::new([given("continue")])));
    stage.engineer("a.py", "a()", fine());
    let ended = stage.control(&one(), json!({"hitl_after_each_step": true})).await.completed();
    assert_eq!((ended.outcomes.len(), stage.executed().len()), (1, 1));
    assert_eq!(stage.humans.unwrap().asked().len(), 1);
}

#[tokio::test]
async fn a_failed_phase_is_not_tried_again_after_a_stop() {
    let stage = Stage::new().at("phase_started", Control::stop);
    stage.models.fail("planner", cmbagent::llm::LlmErrorKind::Server, "down");
    let ended = stage.run_built(&[Wrapped::new("planning", json!({}), None, 3)]).await;
    assert!(ended.error().starts_with("Phase planning failed: down"), "{}", ended.error());
    assert_eq!(stage.models.calls().len(), 1);
}

#[tokio::test]
async fn a_run_that_was_stopped_beforehand_does_nothing() {
    let stage = Stage::new();
    stage.control.stop();
    let ended = stage.research().await;
    assert_eq!(*ended.status.as_ref().unwrap(), RunStatus::Stopped);
    assert_eq!(stage.kinds(), ["run_started", "run_finished"]);
}

// --- cancel ---

#[tokio::test]
async fn a_cancel_ends_a_call_that_is_under_way_also_after_a_stop() {
    for (why, words) in
        [(Why::Requested, "the run was cancelled"), (Why::Interrupted, "Ctrl-C, or with the task")]
    {
        let stage = Stage::new();
        stage.models.hang("planner");
        let cancelling = async {
            until(|| stage.models.calls().len() == 1).await;
            stage.control.stop();
            settled().await;
            assert!(stage.heard.of("run_finished").is_empty(), "a stop cuts nothing");
            stage.control.cancel(why);
        };
        let (ended, ()) = tokio::join!(stage.research(), cancelling);
        assert!(cancelled(&ended).contains(words));
        assert_eq!(stage.heard.of("run_finished")[0]["status"], "cancelled");
        assert_eq!(stage.heard.of("phase_finished")[0]["status"], "cancelled");
        assert_eq!((stage.models.calls().len(), stage.heard.of("phase_started").len()), (1, 1));
        let records = stage.journal.records(1).unwrap();
        let finished =
            records.iter().any(|r| matches!(r.entry, Entry::Finished { effect: Effect::Call, .. }));
        assert!(!finished, "a call that was cut short has no result");
    }
}

#[tokio::test]
async fn a_cancel_ends_a_script_that_is_under_way() {
    let stage = Stage::new().at("script_output", |control| control.cancel(Why::Requested));
    stage.engineer("a.py", "a()", Scripted::until_cancelled("begun\n"));
    let ended = stage.control(&one(), json!({})).await;
    assert_eq!(cancelled(&ended), "the run was cancelled");
    assert_eq!((stage.models.calls().len(), stage.heard.of("script_finished").len()), (1, 0));
}

/// A journal in which a cancellation arrives while an effect is being recorded.
struct Cancelling(MemoryJournal, Control);

impl Journal for Cancelling {
    fn append(&self, at: f64, position: Position, entry: Entry) -> Result<u64> {
        if matches!(entry, Entry::Started { effect: Effect::Execute, .. }) {
            self.1.cancel(Why::Requested);
        }
        self.0.append(at, position, entry)
    }
    fn commit(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
    fn records(&self, from: u64) -> Result<Vec<Record>> {
        self.0.records(from)
    }
    fn keeps(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn a_cancel_just_before_a_script_begins_is_no_failure_of_it() {
    let mut stage = Stage::new();
    stage.journal = Arc::new(Cancelling(MemoryJournal::default(), stage.control.clone()));
    stage.engineer("a.py", "a()", fine());
    let ended = stage.control(&one(), json!({})).await;
    assert_eq!(cancelled(&ended), "the run was cancelled");
    assert!(stage.executed().is_empty());
}

#[tokio::test]
async fn a_cancel_ends_the_wait_for_a_human() {
    let mut stage = Stage::new();
    let humans = Arc::new(Humans { takes: 1e6, ..Humans::new([given("approve")]) });
    stage.humans = Some(humans.clone());
    let cancelling = async {
        until(|| humans.asked().len() == 1).await;
        stage.control.cancel(Why::Requested);
    };
    let checkpoint = [("hitl_checkpoint", json!({}))];
    let (ended, ()) = tokio::join!(stage.run(&checkpoint), cancelling);
    assert_eq!(cancelled(&ended), "the run was cancelled");
}

#[tokio::test]
async fn a_callback_that_says_no_cancels_the_run() {
    let mut stage = Stage::new();
    stage.heard = Arc::new(Heard { until: Some(3), ..Heard::default() });
    let ended = stage.run(&[("planning", json!({}))]).await;
    assert_eq!(ended.error(), "Workflow cancelled by user");
    assert!(stage.models.calls().is_empty());
    assert_eq!(stage.heard.of("run_finished")[0]["status"], "cancelled");
}

#[tokio::test]
async fn a_cancel_while_a_callback_holds_the_run_ends_it() {
    let mut stage = Stage::new();
    stage.heard = Arc::new(Heard { cancels_when_held: Some(stage.control.clone()), ..Heard::default() });
    let ended = stage.run(&[("planning", json!({}))]).await;
    assert_eq!(cancelled(&ended), "the run was cancelled");
    let records = stage.journal.records(1).unwrap();
    let begun = records.iter().any(|r| matches!(r.entry, Entry::Started { effect: Effect::Call, .. }));
    assert!(!begun, "no call may begin any more");
}

#[tokio::test]
async fn a_part_of_a_run_is_cancelled_with_the_whole_and_not_the_other_way_round() {
    let stage = Stage::new();
    let run = stage.new_run();
    let (one, other) = (run.nested("a"), run.nested("b"));
    one.control().cancel(Why::Interrupted);
    assert!(one.gate().await.is_err());
    assert!(other.gate().await.is_ok() && run.gate().await.is_ok());
    stage.control.cancel(Why::Requested);
    let words = |run: &Run| run.gate().now_or_never().unwrap().unwrap_err().to_string();
    assert_eq!(words(&other), words(&run));
    assert_eq!(words(&one), words(&run), "the whole's reason counts, for it is the run that was cancelled");
}

/// A model that says something and is silent then.
struct Halting;

impl Provider for Halting {
    fn call<'a>(&'a self, call: &'a Call, watch: &'a dyn Watch) -> BoxFuture<'a, Result<Reply, LlmError>> {
        async move {
            let used = |tokens| Usage {
                prompt_tokens: 7,
                completion_tokens: tokens,
                cost: Some(0.5),
                ..Usage::default()
            };
            watch.text("Well");
            watch.spent(&used(1));
            watch.spent(&used(2));
            call.cancel.cancelled().await;
            Err(LlmError {
                kind: cmbagent::llm::LlmErrorKind::Cancelled,
                message: "cancelled".into(),
                status: None,
                model: "m".into(),
            })
        }
        .boxed()
    }
}

#[tokio::test]
async fn what_a_call_had_used_when_it_was_cut_is_booked_once() {
    let stage = Stage::new().at("call_text", |control| control.cancel(Why::Requested));
    let phases = [cmbagent::phases::build("planning", json!({})).unwrap().into()];
    let run = stage.run_with(Arc::new(Halting));
    let ended = stage.run_at(&run, &phases).await;
    assert_eq!(cancelled(&ended), "the run was cancelled");
    let usage = &stage.heard.of("run_finished")[0]["usage"];
    let expected = json!([1, 7, 2, 0.5]);
    let of = |key: &str| usage[key].clone();
    assert_eq!(json!([of("calls"), of("prompt_tokens"), of("completion_tokens"), of("cost")]), expected);
    assert_eq!(stage.heard.of("phase_finished")[0]["usage"], *usage);
}

// --- pause ---

#[tokio::test]
async fn a_pause_holds_between_two_calls_until_it_is_resumed() {
    let stage = Stage::new().at("call_finished", Control::pause);
    stage.say("planner", &planned(&one())).say("plan_reviewer", r#"{"recommendations": ["x"]}"#);
    stage.say("planner", &planned(&one()));
    let resuming = async {
        for calls in 1..=3 {
            until(|| stage.heard.of("run_paused").len() == calls).await;
            settled().await;
            assert_eq!(stage.models.calls().len(), calls, "no call while it is held");
            stage.control.resume();
        }
    };
    let phases = [("planning", json!({"n_plan_reviews": 1})), ("hitl_checkpoint", json!({}))];
    let (ended, ()) = tokio::join!(stage.run(&phases), resuming);
    ended.completed();
    let kinds = stage.kinds();
    let place = |kind: &str| kinds.iter().position(|each| each == kind).unwrap();
    assert_eq!(
        &kinds[place("run_paused")..place("run_paused") + 3],
        ["run_paused", "run_continued", "call_started"]
    );
    assert_eq!(stage.heard.of("run_continued").len(), 3);
    assert_eq!(stage.heard.of("run_paused")[0]["phase"], "planning");
}

#[tokio::test]
async fn a_stop_during_a_pause_finishes_the_phase_and_a_cancel_does_not() {
    for stopped in [true, false] {
        let stage = Stage::new().at("call_finished", Control::pause);
        stage.say("planner", &planned(&one())).say("plan_reviewer", r#"{"recommendations": ["x"]}"#);
        stage.say("planner", &planned(&one()));
        let ending = async {
            until(|| !stage.heard.of("run_paused").is_empty()).await;
            if stopped { stage.control.stop() } else { stage.control.cancel(Why::Requested) }
        };
        let phases = [("planning", json!({"n_plan_reviews": 1})), ("control", json!({}))];
        let (ended, ()) = tokio::join!(stage.run(&phases), ending);
        match &ended.status {
            Ok(status) => assert!(stopped && *status == RunStatus::Stopped),
            Err(error) => assert!(!stopped && error.to_string() == "the run was cancelled", "{error}"),
        }
        assert_eq!(stage.models.calls().len(), if stopped { 3 } else { 1 });
        assert_eq!(ended.outcomes.len(), usize::from(stopped));
        assert_eq!(stage.heard.of("run_continued").len(), usize::from(stopped));
    }
}

#[tokio::test]
async fn a_stop_during_a_pause_between_two_phases_begins_no_other() {
    let stage = Stage::new().at("phase_finished", Control::pause);
    stage.say("planner", &planned(&one()));
    let stopping = async {
        until(|| !stage.heard.of("run_paused").is_empty()).await;
        stage.control.stop();
    };
    let (ended, ()) = tokio::join!(stage.research(), stopping);
    assert_eq!(ended.status.unwrap(), RunStatus::Stopped);
    assert_eq!(ended.outcomes.len(), 1);
    assert_eq!(ended.outcomes[0].status, PhaseStatus::Completed);
}

#[tokio::test]
async fn what_is_held_at_several_places_is_told_once() {
    let stage = Stage::new();
    let run = stage.new_run();
    stage.control.pause();
    let places: Vec<Run> = (0..3).map(|_| run.nested("mine")).collect();
    let resuming = async {
        settled().await;
        assert_eq!(stage.kinds(), ["run_paused"]);
        stage.control.resume();
    };
    let (one, two, three, ()) = tokio::join!(places[0].gate(), places[1].gate(), places[2].gate(), resuming);
    assert!(one.is_ok() && two.is_ok() && three.is_ok());
    assert_eq!(stage.kinds(), ["run_paused", "run_continued"]);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_phase_does_not_count_a_pause() {
    let (stage, start) = paused();
    let stage = stage.at("call_finished", Control::pause);
    stage.engineer("a.py", "a()", fine());
    let resuming = async {
        until(|| !stage.heard.of("run_paused").is_empty()).await;
        tokio::time::sleep(std::time::Duration::from_secs(5000)).await;
        stage.control.resume();
    };
    let config = json!({"params": {"preloaded_plan": one()}});
    let phases = [Wrapped::new("control", config, Some(10.0), 0) as Arc<_>];
    let (ended, ()) = tokio::join!(stage.run_built(&phases), resuming);
    ended.completed();
    assert!(start.elapsed().as_secs() >= 5000);
}

#[tokio::test]
async fn a_replay_of_a_run_that_was_held_tells_of_the_rest_only() {
    let mut whole = Stage::new();
    let control = whole.control.clone();
    let reaction = Box::new(move |event: &Event| match event.kind.as_str() {
        "call_finished" => control.pause(),
        "run_paused" => control.resume(),
        _ => {}
    });
    whole.heard = Arc::new(Heard { reaction: Some(reaction), ..Heard::default() });
    whole.say("planner", &planned(&one()));
    whole.engineer("a.py", "a()", fine());
    whole.research().await.completed();
    let records = whole.journal.records(1).unwrap();
    let told = |record: &Record| match &record.entry {
        Entry::Event { kind, .. } => kind.clone(),
        _ => String::new(),
    };
    assert!(records.iter().any(|record| told(record) == "run_paused"));
    let cut = records.iter().position(|record| told(record) == "script_started").unwrap();
    let again = Stage { temp: whole.temp.clone(), ..Stage::new() };
    let again = Stage { journal: Arc::new(MemoryJournal::replaying(records[..cut].to_vec())), ..again };
    again.say("engineer", &script("a.py", "a()")).ends(fine());
    again.research().await.completed();
    let mut kinds = again.kinds();
    assert_eq!(kinds.remove(0), "run_resumed");
    assert_eq!(kinds.first().map(String::as_str), Some("script_started"), "{kinds:?}");
    let rest: Vec<String> = whole.kinds().into_iter().skip_while(|kind| kind != "script_started").collect();
    let rest: Vec<String> =
        rest.into_iter().filter(|kind| !kind.starts_with("run_paused") && kind != "run_continued").collect();
    assert_eq!(kinds, rest);
}
