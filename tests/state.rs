//! The laws of the state port, over states that nobody thought of.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used)]

use cmbagent::engine::state::{put_out, share};
use cmbagent::engine::{MemoryState, Section, State};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::{Map, Value, json};

/// Few names, so that they meet.
fn key() -> impl Strategy<Value = String> {
    prop_oneof![Just("plan_steps".to_owned()), Just("shared".to_owned()), "[a-c]", "\\PC{0,3}"]
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map(key(), inner, 0..4).prop_map(|map| map.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

fn values() -> impl Strategy<Value = Map<String, Value>> {
    btree_map(key(), value(), 0..5).prop_map(|map| map.into_iter().collect())
}

/// A context with something shared and something put out; whatever is put out as `shared` is a dictionary.
fn state() -> impl Strategy<Value = MemoryState> {
    (values(), values(), values()).prop_map(|(shared, output, more)| {
        let state = MemoryState::new("task", "dir", "phase_0_a");
        for (key, value) in shared {
            state.write(Section::Shared, &key, value).unwrap();
        }
        put_out(&state, output).unwrap();
        state.write(Section::Output, "shared", Value::Object(more)).unwrap();
        state
    })
}

fn section(state: &dyn State, section: Section) -> Map<String, Value> {
    state.as_any().downcast_ref::<MemoryState>().unwrap().section(section)
}

fn merged(below: &Map<String, Value>, above: &Map<String, Value>) -> Map<String, Value> {
    let mut all = below.clone();
    all.extend(above.clone());
    all
}

fn shared_out(state: &dyn State) -> Map<String, Value> {
    state.read(Section::Output, "shared").and_then(|s| s.as_object().cloned()).unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn handing_over_makes_the_output_the_input_and_merges_what_is_shared(state in state()) {
        let (shared, output) = (section(&state, Section::Shared), section(&state, Section::Output));
        let next = state.hand_over("phase_1_b").unwrap();
        prop_assert_eq!(section(&*next, Section::Input), output.clone());
        prop_assert_eq!(section(&*next, Section::Shared), merged(&shared, &shared_out(&state)));
        prop_assert!(section(&*next, Section::Output).is_empty());
        prop_assert_eq!((next.task(), next.work_dir(), next.phase_id()),
                        ("task".into(), "dir".into(), "phase_1_b".into()));
        // The one that was handed over stays as it was.
        prop_assert_eq!(section(&state, Section::Shared), shared);
        prop_assert_eq!(section(&state, Section::Output), output);
    }

    #[test]
    fn a_phase_that_puts_nothing_out_hands_on_what_it_was_given(state in state()) {
        let next = state.hand_over("phase_1_b").unwrap();
        let after = next.hand_over("phase_2_c").unwrap();
        prop_assert_eq!(section(&*after, Section::Shared), section(&*next, Section::Shared));
        prop_assert!(section(&*after, Section::Input).is_empty());
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else_changes(
        state in state(), at in 0..3usize, key in key(), value in value(),
    ) {
        let sections = [Section::Shared, Section::Input, Section::Output];
        let before = sections.map(|each| section(&state, each));
        state.write(sections[at], &key, value.clone()).unwrap();
        prop_assert_eq!(state.read(sections[at], &key), Some(value.clone()));
        for (number, each) in sections.into_iter().enumerate() {
            let mut expected = before[number].clone();
            if number == at {
                expected.insert(key.clone(), value.clone());
            }
            prop_assert_eq!(section(&state, each), expected);
        }
    }

    #[test]
    fn sharing_in_parts_is_sharing_at_once_and_keeps_the_rest(
        state in state(), first in values(), second in values(),
    ) {
        let (rest, before) = (section(&state, Section::Output), shared_out(&state));
        share(&state, first.clone()).unwrap();
        share(&state, second.clone()).unwrap();
        let all = merged(&before, &merged(&first, &second));
        prop_assert_eq!(shared_out(&state), all.clone());
        let mut expected = rest;
        expected.insert("shared".into(), Value::Object(all));
        prop_assert_eq!(section(&state, Section::Output), expected);
    }

    #[test]
    fn the_later_one_of_two_that_share_a_name_counts(state in state(), name in key(), value in value()) {
        share(&state, [(name.clone(), json!("early"))]).unwrap();
        let next = state.hand_over("phase_1_b").unwrap();
        share(&*next, [(name.clone(), value.clone())]).unwrap();
        prop_assert_eq!(next.read(Section::Shared, &name), Some(json!("early")));
        let after = next.hand_over("phase_2_c").unwrap();
        prop_assert_eq!(after.read(Section::Shared, &name), Some(value));
    }
}
