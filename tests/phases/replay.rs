//! A run cut short anywhere and resumed from its journal.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cmbagent::Error;
use cmbagent::engine::{Answer, Outcome, Phase, Run, State};
use cmbagent::error::Result;
use cmbagent::exec::scripted::Scripted;
use cmbagent::journal::{Effect, Entry, Journal, MemoryJournal, Position, Record};
use cmbagent::llm::LlmErrorKind;
use cmbagent::phases;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::plots::{judged, png};
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

/// A run to be cut: what models, scripts and humans say in it, and its phases.
pub(super) struct Play {
    pub(super) answers: fn() -> Vec<(&'static str, String)>,
    scripts: fn() -> Vec<Scripted>,
    humans: fn() -> Vec<Answer>,
    phases: fn() -> Vec<(&'static str, Value)>,
    stage: fn() -> Stage,
}

/// An answer that is none: the model cannot be reached.
const DOWN: &str = "down";

/// A plan, a failed try, a step done again, notes.
pub(super) const STEPS: Play = Play {
    answers: || {
        let steps = plan(&[("engineer", "fit", "use the data"), ("researcher", "write", "be brief")]);
        vec![
            ("planner", planned(&steps)),
            ("engineer", script("fit.py", "bad()")),
            ("engineer", script("fit.py", "good()")),
            ("engineer", script("fit.py", "better()")),
            ("researcher", "<!-- filename: n.md -->\n# N\nThe slope is 1.25.".into()),
        ]
    },
    scripts: || {
        let fine =
            |plot: &str| Scripted::success("slope = 1.25\n").writing(format!("data/{plot}.png"), "png");
        let bad = Scripted::failure("ValueError: no\n").writing("data/half.csv", "x\n1\n");
        vec![bad, fine("one"), fine("two")]
    },
    humans: || vec![given_with("redo", "be robust", Value::Null), given("continue"), given("continue")],
    phases: || {
        vec![("planning", json!({"n_plan_reviews": 0})), ("control", json!({"hitl_after_each_step": true}))]
    },
    stage: Stage::new,
};

/// An idea that a human rewrites, documentation, a plot that is mended and one whose judge fails, notes
/// with pictures.
const IDEA: Play = Play {
    answers: || {
        let steps = plan(&[
            ("camb_context", "read", "spectra"),
            ("engineer", "plot", "save a figure"),
            ("engineer", "plot more", "save a figure"),
            ("researcher", "write", "be brief"),
        ]);
        let ideas = |titles: &[&str]| {
            json!({"ideas": titles.iter().map(|title| json!({"title": title})).collect::<Vec<_>>()})
                .to_string()
        };
        vec![
            ("idea_maker", ideas(&["A", "B"])),
            ("idea_maker", ideas(&["A"])),
            ("planner", planned(&steps)),
            ("camb_context", "Call get_results.".into()),
            ("engineer", script("one.py", "plot(l)")),
            ("plot_judge", judged(&[("data/one.png", "the peak is at 22")])),
            ("engineer", script("one.py", "plot(ell)")),
            ("engineer", script("two.py", "plot()")),
            ("plot_judge", DOWN.into()),
            ("researcher", "<!-- filename: n.md -->\n# N\nThe slope is 1.25.".into()),
        ]
    },
    scripts: || {
        let plot =
            |name: &str| Scripted::success("slope = 1.25\n").writing(format!("data/{name}.png"), png());
        vec![plot("one"), plot("one_again"), plot("two")]
    },
    humans: || vec![given_with("modify", "", json!({"selected_idea": "C\nquite another"}))],
    phases: || {
        vec![
            ("idea_generation", json!({"n_ideas": 2, "n_reviews": 0})),
            ("hitl_checkpoint", json!({"checkpoint_type": "custom"})),
            ("planning", json!({"n_plan_reviews": 0, "max_plan_steps": 4})),
            ("control", json!({"evaluate_plots": true})),
        ]
    },
    stage: || {
        let stage = super::consult::stage();
        stage.models.sees("gpt-4.1-2025-04-14", true).sees("o3-mini-2025-01-31", false);
        stage
    },
};

/// A stage with what is still to be said, run and answered after these records.
pub(super) fn stage(play: &Play, records: &[Record]) -> Stage {
    let done = |wanted: Effect| {
        let of = |r: &&Record| matches!(&r.entry, Entry::Finished { effect, .. } if *effect == wanted);
        records.iter().filter(of).count()
    };
    let mut stage = (play.stage)();
    for (agent, text) in (play.answers)().into_iter().skip(done(Effect::Call)) {
        if text == DOWN {
            stage.models.fail(agent, LlmErrorKind::Server, DOWN);
        } else {
            stage.say(agent, &text);
        }
    }
    for ends in (play.scripts)().into_iter().skip(done(Effect::Execute)) {
        stage.ends(ends);
    }
    stage.humans = Some(Arc::new(Humans::new((play.humans)().into_iter().skip(done(Effect::Ask)))));
    stage
}

pub(super) async fn perform(play: &Play, stage: &Stage) -> Ended {
    stage.run(&(play.phases)()).await
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
    for play in [STEPS, IDEA] {
        let first = stage(&play, &[]);
        let before = perform(&play, &first).await.completed();
        let records = first.journal.records(1).unwrap();
        let expected = essence(&first, &before);

        let mut again = stage(&play, &records);
        again.temp = first.temp.clone();
        again.journal = Arc::new(MemoryJournal::replaying(records.clone()));
        let after = perform(&play, &again).await.completed();
        assert_eq!(essence(&again, &after), expected);
        assert!(again.models.calls().is_empty() && again.executed().is_empty());
        assert!(again.documents.asked().is_empty());
        assert!(again.humans.as_ref().unwrap().asked().is_empty());
        let told: Vec<String> = again.heard.numbered().into_iter().map(|(_, kind)| kind).collect();
        assert_eq!(told, ["run_resumed", "run_finished"]);
        let effects = |records: &[Record]| {
            let effect = |r: &&Record| matches!(r.entry, Entry::Started { .. } | Entry::Finished { .. });
            records.iter().filter(effect).count()
        };
        assert_eq!(effects(&again.journal.records(1).unwrap()), effects(&records));
    }
}

#[tokio::test]
async fn a_run_cut_anywhere_comes_to_the_same_and_tells_nothing_twice() {
    cut_everywhere(&STEPS).await;
}

#[tokio::test]
async fn a_run_with_ideas_documentation_and_plots_cut_anywhere_comes_to_the_same() {
    cut_everywhere(&IDEA).await;
}

async fn cut_everywhere(play: &Play) {
    let whole = stage(play, &[]);
    let ended = perform(play, &whole).await.completed();
    let expected = essence(&whole, &ended);
    let told = events(&whole.journal.records(1).unwrap());
    let records = whole.journal.records(1).unwrap().len();
    for cut in 0..records {
        let kept = Arc::new(MemoryJournal::default());
        let mut first = stage(play, &[]);
        first.journal = Arc::new(Cut { kept: kept.clone(), left: AtomicUsize::new(cut) });
        assert!(matches!(perform(play, &first).await.status, Err(Error::Journal(_))), "cut after {cut}");
        assert_eq!(kept.records(1).unwrap().len(), cut);

        let mut second = stage(play, &kept.records(1).unwrap());
        second.temp = first.temp.clone();
        second.journal = Arc::new(MemoryJournal::replaying(kept.records(1).unwrap()));
        let ended = perform(play, &second).await.completed();
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
            calls <= (play.answers)().len() + 1 && scripts <= (play.scripts)().len() + 1,
            "cut after {cut}: {calls} calls, {scripts} scripts"
        );
        assert_eq!((second.models.left(), second.runner.left()), (0, 0));
    }
}

#[tokio::test]
async fn a_journal_of_another_workflow_is_refused() {
    let first = stage(&STEPS, &[]);
    perform(&STEPS, &first).await.completed();
    let mut again = stage(&STEPS, &[]);
    again.temp = first.temp.clone();
    again.journal = Arc::new(MemoryJournal::replaying(first.journal.records(1).unwrap()));
    let ended = again.run(&[("hitl_checkpoint", json!({}))]).await;
    assert!(ended.error().contains("where a Ask follows now"), "{}", ended.error());
}

#[tokio::test]
async fn another_attempt_at_the_same_run_acts_and_tells_anew() {
    let first = stage(&STEPS, &[]);
    perform(&STEPS, &first).await.completed();
    let told = first.heard.numbered().len();
    let mut again = stage(&STEPS, &[]);
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
