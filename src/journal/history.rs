//! What earlier lives of a run have left: the index that a replay asks.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{Effect, Entry, Position, Record};

/// The records of earlier lives by position. What was rewound does not count.
#[derive(Debug, Default)]
pub struct History {
    started: HashMap<Position, (Effect, String)>,
    finished: HashMap<Position, (Effect, Value)>,
    ended: HashMap<Position, Value>,
    told: HashMap<Position, u64>,
    unknown: Vec<(Position, Value)>,
    abandoned: Vec<(String, Value)>,
    raised: Vec<Value>,
    seconds: HashMap<(u32, u32), f64>,
    last_try: HashMap<(u32, u32), u32>,
    failed_step: Option<Position>,
    /// Calls, scripts and questions that ended without a result and were not made again.
    failed: HashSet<Position>,
    completed: bool,
}

impl History {
    /// Indexes records, which are in order.
    pub fn of(records: impl IntoIterator<Item = Record>) -> Self {
        let mut history = Self::default();
        let mut open: HashMap<Position, Vec<Value>> = HashMap::new();
        let mut agents: HashMap<Position, String> = HashMap::new();
        let mut last_at = None;
        // The step that the record before told to have failed.
        let mut broken_off: Option<Position> = None;
        for Record { position, entry, at, .. } in records {
            // What precedes the word that the run goes on was a wait for a human, or a time without a life.
            let idle = matches!(&entry, Entry::Status { status, .. } if status == "running");
            let spent: f64 = last_at.map_or(0.0, |before: f64| if idle { 0.0 } else { at - before });
            *history.seconds.entry((position.attempt, position.phase)).or_default() += spent.max(0.0);
            last_at = Some(at);
            let before = broken_off.take();
            if position.phase != Position::NO_PHASE {
                let last = history.last_try.entry((position.attempt, position.phase)).or_default();
                *last = position.phase_try.max(*last);
            }
            match entry {
                Entry::Started { effect, input, about } => {
                    history.failed.remove(&position);
                    if effect == Effect::Call {
                        let agent = about["agent"].as_str().unwrap_or_default();
                        agents.insert(position, agent.to_owned());
                        open.entry(position).or_default().push(about);
                    }
                    history.started.insert(position, (effect, input));
                }
                Entry::Finished { effect, output } => {
                    open.get_mut(&position).map(Vec::pop);
                    history.finished.insert(position, (effect, output));
                }
                Entry::Failed { effect, .. } => {
                    if effect != Effect::Observe {
                        history.failed.insert(position);
                    }
                    open.get_mut(&position).map(Vec::pop);
                    history.started.remove(&position);
                }
                Entry::Event { kind, data, once } => {
                    if kind == "limit_raised" {
                        history.raised.push(data.clone());
                    }
                    // A later life goes on with a phase that broke off, in the midst of a step perhaps, and
                    // tells of the end that they come to then.
                    let again = kind == "phase_finished" && data["status"] != "completed";
                    if again && let Some(step) = before {
                        history.told.entry(step).and_modify(|told| *told -= 1);
                    }
                    if !once && !again {
                        *history.told.entry(position).or_default() += 1;
                    }
                    if kind == "step_finished" {
                        let failed = data["status"] == "failed";
                        broken_off = failed.then_some(position);
                        history.failed_step = failed.then_some(Position { turn: 0, call: 0, ..position });
                    }
                }
                Entry::Ended { kept } => drop(history.ended.insert(position, kept)),
                Entry::Status { status, .. } if status != "running" => {
                    history.completed = status == "completed";
                }
                Entry::Status { .. } => {}
                Entry::Rewound { to } => history.rewind(to, &agents),
            }
        }
        let calls = open.into_iter().flat_map(|(at, calls)| calls.into_iter().map(move |call| (at, call)));
        history.unknown = calls.collect();
        history
    }

    fn rewind(&mut self, to: Position, agents: &HashMap<Position, String>) {
        let gone = |at: &Position| at.attempt == to.attempt && at.phase != Position::NO_PHASE && *at >= to;
        self.started.retain(|at, _| !gone(at));
        let paid = self.finished.iter().filter(|(at, (effect, _))| gone(at) && *effect == Effect::Call);
        let paid = paid
            .map(|(at, (_, output))| (*at, (agents.get(at).cloned().unwrap_or_default(), output.clone())));
        let mut paid: Vec<_> = paid.collect();
        paid.sort_by_key(|(at, _)| *at);
        self.abandoned.extend(paid.into_iter().map(|(_, call)| call));
        self.finished.retain(|at, _| !gone(at));
        self.told.retain(|at, _| !gone(at));
        // A phase's end comes after all that is in it, though its position comes first.
        self.ended.retain(|at, _| !gone(at) && *at != to.phase_place());
        self.failed_step = self.failed_step.filter(|at| !gone(at));
        self.failed.retain(|at| !gone(at));
    }

    /// The result of the effect at `position`.
    pub fn finished(&self, position: &Position) -> Option<&(Effect, Value)> {
        self.finished.get(position)
    }

    /// The kind and the input's hash of an effect that was cut short at `position`.
    pub fn cut_short(&self, position: &Position) -> Option<&(Effect, String)> {
        self.started.get(position).filter(|_| !self.finished.contains_key(position))
    }

    /// How the phase's try at `position` ended.
    pub fn ended(&self, position: &Position) -> Option<&Value> {
        self.ended.get(&position.phase_place())
    }

    /// The last try of a phase that has any record.
    pub fn last_try(&self, attempt: u32, phase: u32) -> Option<u32> {
        self.last_try.get(&(attempt, phase)).copied()
    }

    /// How many events were told at each position.
    pub fn told(&self) -> &HashMap<Position, u64> {
        &self.told
    }

    /// What is known of calls that were sent and of whose reply nothing is known.
    pub fn unknown_calls(&self) -> &[(Position, Value)] {
        &self.unknown
    }

    /// Agents and results of calls that were rewound: they were paid for all the same.
    pub fn abandoned_calls(&self) -> &[(String, Value)] {
        &self.abandoned
    }

    /// The limits that humans have raised, as the events say.
    pub fn raised(&self) -> &[Value] {
        &self.raised
    }

    /// Seconds that earlier lives took for an execution as a whole, or for one of its phases alone;
    /// waits for humans do not count.
    pub fn seconds(&self, attempt: u32, phase: Option<u32>) -> f64 {
        let wanted = |at: &(u32, u32)| at.0 == attempt && phase.is_none_or(|phase| at.1 == phase);
        self.seconds.iter().filter(|(at, _)| wanted(at)).map(|(_, seconds)| seconds).sum()
    }

    /// Whether the life before this one has come to the run's end.
    pub fn was_completed(&self) -> bool {
        self.completed
    }

    /// Whether an effect in the same phase, at `from` or after it, ended without a result: it acts again.
    pub fn failed_since(&self, from: Position) -> bool {
        self.failed.iter().any(|at| at.phase_place() == from.phase_place() && *at >= from)
    }

    /// The place of the step that failed last, when no later one was completed.
    pub fn failed_step(&self) -> Option<Position> {
        self.failed_step
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::History;
    use crate::journal::{Effect, Entry, Position, Record};

    fn at(phase: u32, step: u32, call: u32) -> Position {
        Position { phase, step, call, ..Position::default() }
    }

    fn records(entries: Vec<(Position, Entry)>) -> Vec<Record> {
        let numbered = (1..).zip(entries);
        numbered.map(|(seq, (position, entry))| Record { seq, at: 0.0, position, entry }).collect()
    }

    fn started(about: Value) -> Entry {
        Entry::Started { effect: Effect::Call, input: "h".into(), about }
    }

    fn finished() -> Entry {
        Entry::Finished { effect: Effect::Call, output: json!(1) }
    }

    #[test]
    fn what_was_rewound_is_done_anew_and_what_came_before_stays() {
        let failed =
            Entry::Event { kind: "step_finished".into(), data: json!({"status": "failed"}), once: false };
        let history = History::of(records(vec![
            (at(0, 1, 0), finished()),
            (at(0, 2, 0), finished()),
            (at(0, 2, 0), failed),
            (at(0, 0, 0), Entry::Ended { kept: json!("end") }),
            (Position::of_attempt(0), Entry::Rewound { to: at(0, 2, 0) }),
        ]));
        assert!(history.finished(&at(0, 1, 0)).is_some());
        assert!(history.finished(&at(0, 2, 0)).is_none());
        assert!(history.ended(&at(0, 5, 5)).is_none());
        assert_eq!(history.failed_step(), None);
        assert!(history.told().is_empty());
    }

    #[test]
    fn the_end_of_a_phase_that_goes_on_is_told_again() {
        let ended = |status: &str| Entry::Event {
            kind: "phase_finished".into(),
            data: json!({"status": status}),
            once: false,
        };
        let told = |status| History::of(records(vec![(at(0, 0, 0), ended(status))])).told().len();
        assert_eq!((told("failed"), told("cancelled"), told("completed")), (0, 0, 1));
    }

    #[test]
    fn a_call_without_a_reply_is_unknown_until_it_fails_or_finishes() {
        let history = History::of(records(vec![
            (at(0, 0, 0), started(json!("a"))),
            (at(0, 0, 0), started(json!("b"))),
            (at(0, 0, 0), finished()),
            (at(0, 0, 1), started(json!("c"))),
            (at(0, 0, 1), Entry::Failed { effect: Effect::Call, error: "400".into() }),
            (at(0, 0, 2), started(json!("d"))),
        ]));
        let mut unknown: Vec<&str> =
            history.unknown_calls().iter().filter_map(|(_, call)| call.as_str()).collect();
        unknown.sort_unstable();
        assert_eq!(unknown, ["a", "d"]);
        assert!(history.cut_short(&at(0, 0, 0)).is_none());
        assert!(history.cut_short(&at(0, 0, 1)).is_none(), "a failed effect was not cut short");
        assert!(history.cut_short(&at(0, 0, 2)).is_some());
    }
}
