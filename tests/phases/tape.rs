//! Runs recorded on a tape and replayed without a model.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cmbagent::Error;
use cmbagent::exec::scripted::Scripted;
use cmbagent::journal::{Effect, Entry, MemoryJournal, Record};
use cmbagent::llm::tape::{Player, Recorder, Subject, TapeError};
use cmbagent::llm::{Call, LlmError, LlmErrorKind, Place, Provider, Reply, Usage, Watch};
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::stage::{Ended, Stage, TASK, plan, planned, reply, script};

/// Models that must not be asked.
struct Silent;
impl Provider for Silent {
    fn call<'a>(&'a self, call: &'a Call, _: &'a dyn Watch) -> BoxFuture<'a, Result<Reply, LlmError>> {
        panic!("the {} reached a model", call.place)
    }
}

fn subject(stage: &Stage) -> Subject {
    Subject { run: stage.run_id.clone(), workflow: "w".into(), task: TASK.into(), work_dir: stage.root() }
}

fn tape(stage: &Stage) -> PathBuf {
    (*stage.temp).as_ref().join("tape.jsonl")
}

/// A plan, a script that fails and is mended, notes that name the work directory.
fn scripted() -> Stage {
    let stage = Stage::new();
    let steps = plan(&[("engineer", "fit", "use the data"), ("researcher", "write", "be brief")]);
    let costly = |text: &str| Reply { usage: Usage { cost: Some(0.5), ..reply(text).usage }, ..reply(text) };
    stage.models.reply("planner", costly(&planned(&steps)));
    stage.models.reply("engineer", costly(&script("fit.py", "bad()")));
    let save = format!("save('{}/control/data/a.csv')", stage.root().display());
    stage.models.reply("engineer", costly(&script("fit.py", &save)));
    stage.models.reply("researcher", costly("<!-- filename: n.md -->\n# N\nThe slope is 1.25."));
    computing(stage)
}

/// The scripts' part of it.
fn computing(stage: Stage) -> Stage {
    stage.ends(Scripted::failure("ValueError: no\n"));
    stage.ends(Scripted::success("slope = 1.25\n").writing("data/one.png", "png"));
    stage
}

async fn play(stage: &Stage) -> Ended {
    stage.run(&[("planning", json!({"n_plan_reviews": 0})), ("control", json!({}))]).await
}

async fn recorded() -> (Stage, Ended) {
    let mut stage = scripted();
    let recorder = Recorder::open(&tape(&stage), stage.models.clone(), &subject(&stage)).unwrap();
    stage.provider = Some(Arc::new(recorder));
    let ended = play(&stage).await.completed();
    (stage, ended)
}

/// A stage in another directory whose models speak from this tape.
fn replaying(path: &Path, strict: bool) -> Stage {
    let mut stage = computing(Stage::new());
    let player = Player::open(path, Arc::new(Silent), &subject(&stage), strict).unwrap();
    stage.provider = Some(Arc::new(player));
    stage
}

/// The kind and the text of the error that ended a phase.
fn tape_error(ended: &Ended) -> String {
    let Err(Error::PhaseFailed { cause: Some(cause), .. }) = &ended.status else {
        panic!("{:?}", ended.status)
    };
    let Error::Model { error, .. } = cause.as_ref() else { panic!("{cause:?}") };
    assert_eq!(error.kind, LlmErrorKind::Tape, "{error}");
    error.message.clone()
}

/// What a run found, without its bill and its directory.
fn context(stage: &Stage, ended: &Ended) -> String {
    let mut context = ended.output("final_context");
    for name in ["cost_dataframe", "cost_report_path", "maximum_number_of_steps_in_plan"] {
        context.as_object_mut().unwrap().remove(name).unwrap();
    }
    context.to_string().replace(stage.root().to_str().unwrap(), "ROOT")
}

#[tokio::test]
async fn a_run_is_replayed_in_another_directory_without_a_model_and_without_a_bill() {
    let (first, before) = recorded().await;
    let again = replaying(&tape(&first), true);
    let after = play(&again).await.completed();
    assert_eq!(again.warnings(), [""; 0]);
    assert_eq!(context(&again, &after), context(&first, &before));
    assert_eq!((before.calls, after.calls), (4, 4));
    // The script names the directory of its own run.
    let code = &again.executed()[1].code;
    assert!(code.contains(again.root().to_str().unwrap()), "{code}");
    let bill = |stage: &Stage| stage.heard.of("run_finished")[0]["usage"].clone();
    assert_eq!((bill(&first)["cost"].clone(), bill(&again)["cost"].clone()), (json!(2.0), json!(0.0)));
    assert_eq!(bill(&first)["prompt_tokens"], bill(&again)["prompt_tokens"]);
}

#[tokio::test]
async fn a_tape_is_lines_of_json_that_only_its_owner_reads() {
    let (stage, _) = recorded().await;
    let text = std::fs::read_to_string(tape(&stage)).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(
        (&lines[0]["tape"], &lines[0]["run"], &lines[0]["workflow"]),
        (&json!(1), &json!("run-1"), &json!("w"))
    );
    assert_eq!(lines[0]["task"], blake3::hash(TASK.as_bytes()).to_hex().to_string());
    let place = json!({"phase": 1, "phase_type": "control", "step": 1, "agent": "engineer", "call": 2});
    assert_eq!(lines[3]["place"], place);
    assert_eq!(lines[3]["reply"]["usage"]["cost"], 0.5);
    assert!(!text.contains(stage.root().to_str().unwrap()), "{text}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(tape(&stage)).unwrap().permissions().mode() & 0o777, 0o600);
    }
}

#[tokio::test]
async fn a_difference_is_told_and_under_strict_an_error() {
    let (first, before) = recorded().await;
    let phases = [("planning", json!({"n_plan_reviews": 0, "max_plan_steps": 7})), ("control", json!({}))];
    let again = replaying(&tape(&first), false);
    let after = again.run(&phases).await.completed();
    assert_eq!(context(&again, &after), context(&first, &before));
    let warnings = again.heard.of("warning");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0]["message"]
            .as_str()
            .unwrap()
            .contains("call 1 of the planner in phase 0 (planning) differs")
    );
    let diff = warnings[0]["diff"].as_str().unwrap();
    assert!(
        diff.contains("\n-") && diff.lines().any(|line| line.starts_with('+') && line.contains('7')),
        "{diff}"
    );

    // A journal gives the warning back with the call it belongs to, and tells nobody twice.
    let mut resumed = Stage { temp: again.temp.clone(), ..Stage::new() };
    resumed.provider = Some(Arc::new(Silent));
    resumed.journal = Arc::new(MemoryJournal::replaying(again.journal.records(1).unwrap()));
    resumed.run(&phases).await.completed();
    assert_eq!(resumed.warnings(), [""; 0]);

    let strict = replaying(&tape(&first), true);
    let ended = strict.run(&phases).await;
    let message = tape_error(&ended);
    assert!(message.contains("strict=True") && !message.contains(TASK), "{message}");
    assert_eq!(strict.heard.of("warning")[0]["diff"], warnings[0]["diff"]);
}

#[tokio::test]
async fn another_task_is_told_once_and_under_strict_refused() {
    let (first, _) = recorded().await;
    let mut again = computing(Stage::new());
    let other = Subject { task: "Another.".into(), ..subject(&again) };
    let player = Player::open(&tape(&first), Arc::new(Silent), &other, false).unwrap();
    again.provider = Some(Arc::new(player));
    play(&again).await.completed();
    let warnings = again.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("recorded for another task"), "{warnings:?}");
    let refused = Player::open(&tape(&first), Arc::new(Silent), &other, true).err().unwrap();
    assert!(matches!(&refused, TapeError::Unusable(text) if text.contains("strict=True")), "{refused}");
}

#[tokio::test]
async fn a_call_that_the_tape_lacks_is_named_and_asked_of_nobody() {
    let (first, _) = recorded().await;
    let mut again = replaying(&tape(&first), false);
    again.runner = Arc::default();
    for _ in 0..3 {
        again.ends(Scripted::failure("ValueError: worse here\n"));
    }
    let ended = again
        .run(&[("planning", json!({"n_plan_reviews": 0})), ("control", json!({"max_retries": 3}))])
        .await;
    let message = tape_error(&ended);
    for part in ["call 3 of the engineer in phase 1 (control), step 1", "only 2 of this agent", "tape.jsonl"]
    {
        assert!(message.contains(part), "{message}");
    }
    assert_eq!(again.executed().len(), 2, "what the tape lacks is not tried again");
}

#[tokio::test]
async fn a_failure_is_replayed_as_it_was() {
    let mut first = Stage::new();
    first.models.fail("planner", LlmErrorKind::RateLimit, "no credit");
    let recorder = Recorder::open(&tape(&first), first.models.clone(), &subject(&first)).unwrap();
    first.provider = Some(Arc::new(recorder));
    assert_eq!(play(&first).await.answer_kind(), LlmErrorKind::RateLimit);
    let again = replaying(&tape(&first), true);
    let ended = play(&again).await;
    assert_eq!(ended.answer_kind(), LlmErrorKind::RateLimit);
    assert!(ended.error().contains("no credit (so it was recorded on"), "{}", ended.error());
}

#[tokio::test]
async fn calls_are_counted_also_where_a_journal_replays_them() {
    let (first, before) = recorded().await;
    let records = first.journal.records(1).unwrap();
    let is_engineer = |at: usize| matches!(&records[at].entry, Entry::Finished { effect: Effect::Call, output } if output.to_string().contains("bad()"));
    let cut = (0..records.len()).find(|at| is_engineer(*at)).unwrap();
    let mut again = Stage { temp: first.temp.clone(), ..Stage::new() };
    let player = Player::open(&tape(&first), Arc::new(Silent), &subject(&again), true).unwrap();
    again.provider = Some(Arc::new(player));
    again.journal = Arc::new(MemoryJournal::replaying(records[..=cut].to_vec()));
    let again = computing(again);
    let after = play(&again).await.completed();
    assert_eq!(context(&again, &after), context(&first, &before));
}

#[tokio::test]
async fn a_recording_is_never_written_over_and_goes_on_after_a_crash() {
    let (stage, _) = recorded().await;
    let path = tape(&stage);
    let whole = std::fs::read_to_string(&path).unwrap();
    let other = Subject { run: "run-2".into(), ..subject(&stage) };
    let refused = Recorder::open(&path, Arc::new(Silent), &other).err().unwrap();
    assert!(refused.to_string().contains("the recording of run run-1 and is not written over"), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), whole);

    // The process died while it wrote the last line: the call is made and recorded again.
    std::fs::write(&path, &whole[..whole.len() - 40]).unwrap();
    let records = stage.journal.records(1).unwrap();
    let last = |record: &Record| matches!(&record.entry, Entry::Finished { effect: Effect::Call, .. });
    let cut = records.iter().rposition(last).unwrap();
    let mut again = Stage { temp: stage.temp.clone(), ..Stage::new() };
    again.say("researcher", "<!-- filename: n.md -->\n# N\nThe slope is 1.5.");
    again.provider = Some(Arc::new(Recorder::open(&path, again.models.clone(), &subject(&again)).unwrap()));
    again.journal = Arc::new(MemoryJournal::replaying(records[..cut].to_vec()));
    play(&again).await.completed();
    let now = std::fs::read_to_string(&path).unwrap();
    assert_eq!(now.lines().count(), 5);
    assert!(
        now.starts_with(&whole[..whole.rfind("{\"place\"").unwrap()]) && now.contains("slope is 1.5"),
        "{now}"
    );
}

#[test]
fn what_is_no_tape_is_refused_in_words() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.jsonl");
    let stage = Stage::new();
    let head = r#"{"tape": 1, "cmbagent": "0.1.0", "run": "r", "workflow": "w", "task": "t"}"#;
    let open = || Player::open(&path, Arc::new(Silent), &subject(&stage), false).err().unwrap();
    assert!(matches!(open(), TapeError::Missing(text) if text.contains("there is no tape")));
    for (text, sign) in [
        (String::new(), "no first line"),
        ("[1, 2]\n".into(), "does not say"),
        ("{\"tape\": 2}\n".into(), "reads up to 1; use a newer version"),
        ("{\"tape\": 1}\n".into(), "line 1: missing field"),
        (format!("{head}\n\n{{\"place\": 3}}\n"), "line 3 is no call"),
    ] {
        std::fs::write(&path, &text).unwrap();
        let error = open();
        assert!(matches!(&error, TapeError::Unusable(said) if said.contains(sign)), "{text:?}: {error}");
    }
    let nowhere = directory.path().join("missing/t.jsonl");
    let error = Recorder::open(&nowhere, Arc::new(Silent), &subject(&stage)).err().unwrap();
    assert!(error.to_string().contains("its directory must exist"), "{error}");
}

#[tokio::test]
async fn a_run_within_a_run_is_on_the_same_tape_at_its_own_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.jsonl");
    let (outer, inner) = (Stage::new(), Stage::new());
    inner.say("researcher", "from within");
    let place = Place { phase: 3, phase_type: "mine".into(), nested: 2, ..Place::default() };
    let ask = async |provider: Arc<dyn Provider>, stage: &Stage| {
        let mut stage =
            Stage { provider: Some(provider), ..Stage { models: stage.models.clone(), ..Stage::new() } };
        stage.run_id = "inner".into();
        stage.run(&[("one_shot", json!({"agent": "researcher"}))]).await.completed()
    };
    let recorder = Recorder::open(&path, outer.models.clone(), &subject(&outer)).unwrap();
    ask(recorder.within(&place, inner.models.clone()), &inner).await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(r#""inside":"3.mine.2/""#), "{text}");
    let player = Player::open(&path, Arc::new(Silent), &subject(&outer), false).unwrap();
    let ended = ask(player.within(&place, Arc::new(Silent)), &inner).await;
    assert_eq!(ended.calls, 1);
    assert_eq!(inner.models.calls().len(), 1);
}
