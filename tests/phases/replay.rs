//! A run cut short anywhere and resumed from its journal.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cmbagent::Error;
use cmbagent::engine::{Answer, Outcome, Phase, Run, State};
use cmbagent::error::Result;
use cmbagent::exec::scripted::Scripted;
use cmbagent::journal::{Effect, Entry, Journal, MemoryJournal, Position, Record};
use cmbagent::phases;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::stage::{Ended, Humans, Stage, given, given_with, plan, planned, script};

/// A journal that takes so many records and then fails: the process is gone.
struct Cut {
    kept: Arc<MemoryJournal>,
    left: AtomicUsize,
}

impl Journal for Cut {
    fn append(&self, at: f64, position: Position, entry: Entry) -> Result<u64> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        if left.is_err() {
            return Err(Error::Journal("cut".into()));
        }
        self.kept.append(at, position, entry)
    }
    fn commit(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }
    fn records(&self, from: u64) -> Result<Vec<Record>> {
        self.kept.records(from)
    }
    fn keeps(&self) -> bool {
        true
    }
}

/// The same run for every test here: a plan, a failed try, a step done again, notes.
pub(super) fn answers() -> Vec<(&'static str, String)> {
    let steps = plan(&[("engineer", "fit", "use the data"), ("researcher", "write", "be brief")]);
    vec![
        ("planner", planned(&steps)),
        ("engineer", script("fit.py", "bad()")),
        ("engineer", script("fit.py", "good()")),
        ("engineer", script("fit.py", "better()")),
        ("researcher", "<!-- filename: n.md -->\n# N\nThe slope is 1.25.".into()),
    ]
}

fn scripts() -> Vec<Scripted> {
    let fine = |plot: &str| Scripted::success("slope = 1.25\n").writing(format!("data/{plot}.png"), "png");
    vec![Scripted::failure("ValueError: no\n").writing("data/half.csv", "x\n1\n"), fine("one"), fine("two")]
}

fn humans() -> Vec<Answer> {
    vec![given_with("redo", "be robust", Value::Null), given("continue"), given("continue")]
}

/// A stage with what is still to be said, run and answered after these records.
pub(super) fn stage(records: &[Record]) -> Stage {
    let done = |wanted: Effect| {
        let of = |r: &&Record| matches!(&r.entry, Entry::Finished { effect, .. } if *effect == wanted);
        records.iter().filter(of).count()
    };
    let mut stage = Stage::new();
    for (agent, text) in answers().into_iter().skip(done(Effect::Call)) {
        stage.say(agent, &text);
    }
    for ends in scripts().into_iter().skip(done(Effect::Execute)) {
        stage.ends(ends);
    }
    stage.humans = Some(Arc::new(Humans::new(humans().into_iter().skip(done(Effect::Ask)))));
    stage
}

pub(super) async fn play(stage: &Stage) -> Ended {
    let planning = json!({"n_plan_reviews": 0});
    let control = json!({"hitl_after_each_step": true});
    stage.run(&[("planning", planning), ("control", control)]).await
}

/// All files below a directory, but for the hidden ones.
fn files(root: &Path, below: &str, found: &mut Vec<String>) {
    for name in super::stage::list(&root.join(below)) {
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        if root.join(&path).is_dir() {
            files(root, &path, found);
        } else if !name.starts_with('.') {
            found.push(path);
        }
    }
}

/// What a run comes to, without the directory it was in and without durations.
pub(super) fn essence(stage: &Stage, ended: &Ended) -> Value {
    let mut found = Vec::new();
    files(&stage.root(), "", &mut found);
    let chats: Vec<Value> = ended.outcomes.iter().map(|outcome| json!(outcome.chat_history)).collect();
    let all = json!({
        "context": ended.output("final_context"), "files": found, "chats": chats, "calls": ended.calls,
        "products": ended.output("output_files"), "summaries": ended.output("step_summaries"),
    });
    serde_json::from_str(&all.to_string().replace(stage.root().to_str().unwrap(), "ROOT")).unwrap()
}

/// The kinds of events but for those that only a later life tells; the end of a run that was at its end is told again.
pub(super) fn events(records: &[Record]) -> Vec<String> {
    let own = ["run_resumed", "phase_restored", "effect_repeated"];
    let kind = |r: &Record| match &r.entry {
        Entry::Event { kind, .. } if !own.contains(&kind.as_str()) => Some(kind.clone()),
        _ => None,
    };
    let mut kinds: Vec<String> = records.iter().filter_map(kind).collect();
    kinds.dedup_by(|later, before| later == "run_finished" && before == "run_finished");
    kinds
}

#[tokio::test]
async fn a_finished_run_replays_without_an_effect_and_without_an_event() {
    let first = stage(&[]);
    let before = play(&first).await.completed();
    let records = first.journal.records(1).unwrap();
    let expected = essence(&first, &before);

    let mut again = stage(&records);
    again.temp = first.temp.clone();
    again.journal = Arc::new(MemoryJournal::replaying(records.clone()));
    let after = play(&again).await.completed();
    assert_eq!(essence(&again, &after), expected);
    assert!(again.models.calls().is_empty() && again.executed().is_empty());
    assert!(again.humans.as_ref().unwrap().asked().is_empty());
    let told: Vec<String> = again.heard.numbered().into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(told, ["run_resumed", "run_finished"]);
    let effects = |records: &[Record]| {
        records.iter().filter(|r| matches!(r.entry, Entry::Started { .. } | Entry::Finished { .. })).count()
    };
    assert_eq!(effects(&again.journal.records(1).unwrap()), effects(&records));
}

#[tokio::test]
async fn a_run_cut_anywhere_comes_to_the_same_and_tells_nothing_twice() {
    let whole = stage(&[]);
    let ended = play(&whole).await.completed();
    let expected = essence(&whole, &ended);
    let told = events(&whole.journal.records(1).unwrap());
    let records = whole.journal.records(1).unwrap().len();
    for cut in 0..records {
        let kept = Arc::new(MemoryJournal::default());
        let mut first = stage(&[]);
        first.journal = Arc::new(Cut { kept: kept.clone(), left: AtomicUsize::new(cut) });
        assert!(matches!(play(&first).await.status, Err(Error::Journal(_))), "cut after {cut}");
        assert_eq!(kept.records(1).unwrap().len(), cut);

        let mut second = stage(&kept.records(1).unwrap());
        second.temp = first.temp.clone();
        second.journal = Arc::new(MemoryJournal::replaying(kept.records(1).unwrap()));
        let ended = play(&second).await.completed();
        let found = essence(&second, &ended);
        for (key, value) in expected.as_object().unwrap() {
            assert_eq!(found[key], *value, "{key}: cut after {cut}");
        }
        assert_eq!(events(&second.journal.records(1).unwrap()), told, "cut after {cut}");
        let (before, after) = (first.heard.numbered(), second.heard.numbered());
        assert!(before.iter().all(|(seq, _)| after.iter().all(|(later, _)| later > seq)), "cut after {cut}");
        let calls = first.models.calls().len() + second.models.calls().len();
        let scripts = first.executed().len() + second.executed().len();
        assert!(
            calls <= answers().len() + 1 && scripts <= 4,
            "cut after {cut}: {calls} calls, {scripts} scripts"
        );
        assert_eq!((second.models.left(), second.runner.left()), (0, 0));
    }
}

#[tokio::test]
async fn a_journal_of_another_workflow_is_refused() {
    let first = stage(&[]);
    play(&first).await.completed();
    let mut again = stage(&[]);
    again.temp = first.temp.clone();
    again.journal = Arc::new(MemoryJournal::replaying(first.journal.records(1).unwrap()));
    let ended = again.run(&[("hitl_checkpoint", json!({}))]).await;
    assert!(ended.error().contains("where a Ask follows now"), "{}", ended.error());
}

#[tokio::test]
async fn another_attempt_at_the_same_run_acts_and_tells_anew() {
    let first = stage(&[]);
    play(&first).await.completed();
    let told = first.heard.numbered().len();
    let mut again = stage(&[]);
    again.temp = first.temp.clone();
    again.journal = first.journal.clone();
    let planning = phases::build("planning", json!({"n_plan_reviews": 0})).unwrap();
    let ended = again.run_at(&again.new_run().at_attempt(1), &[planning.into()]).await.completed();
    assert_eq!((again.models.calls().len(), ended.outcomes.len()), (1, 1));
    let events = again.heard.numbered();
    assert_eq!((events[0].1.as_str(), events.last().unwrap().1.as_str()), ("run_started", "run_finished"));
    assert!(told > 0 && first.heard.numbered().len() == told);
}

/// A phase of a user's that executes a built-in one twice itself.
struct Twice(Box<dyn Phase>);

impl Phase for Twice {
    fn phase_type(&self) -> &'static str {
        "twice"
    }
    fn display_name(&self) -> String {
        "Twice".into()
    }
    fn can_skip(&self, _: &dyn State) -> Result<bool> {
        Ok(false)
    }
    fn validate_input(&self, _: &dyn State) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn execute<'a>(&'a self, run: &'a Run, state: Arc<dyn State>) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            self.0.execute(&run.nested("one_shot"), state.clone()).await?;
            self.0.execute(&run.nested("one_shot"), state).await
        })
    }
}

#[tokio::test]
async fn executions_within_a_phase_have_places_of_their_own() {
    let stage = Stage::new();
    stage.say("researcher", "# One\nFirst.").say("researcher", "# Two\nSecond.");
    let twice = || Twice(phases::build("one_shot", json!({"agent": "researcher"})).unwrap());
    let ended = stage.run_built(&[Arc::new(twice())]).await.completed();
    let summary = |ended: &Ended| ended.output("result")["previous_steps_execution_summary"].clone();
    assert!(summary(&ended).as_str().unwrap().contains("Second."));
    let mut again = Stage::new();
    again.temp = stage.temp.clone();
    again.journal = Arc::new(MemoryJournal::replaying(stage.journal.records(1).unwrap()));
    let replayed = again.run_built(&[Arc::new(twice())]).await.completed();
    assert_eq!(summary(&replayed), summary(&ended));
    assert!(again.models.calls().is_empty());
}
