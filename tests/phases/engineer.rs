//! An engineer's step: tries, repairs, file names, and when it ends.

use std::os::unix::fs::symlink;

use cmbagent::engine::{Answer, RunStatus};
use cmbagent::exec::Exit;
use cmbagent::exec::sandbox::Mode;
use cmbagent::exec::scripted::Scripted;
use serde_json::{Value, json};

use super::stage::{BROKEN, Ended, Stage, list, plan, script, script_with};

const TRACE: &str = "Traceback (most recent call last):\n  File \"x.py\", line 3, in <module>\n";

fn raised(error: &str) -> Scripted {
    Scripted::failure(&format!("begun\n{TRACE}{error}\n"))
}

fn fine() -> Scripted {
    Scripted::success("slope = 1.25 km/s\n")
}

fn one() -> Value {
    plan(&[("engineer", "fit a line", "use the data")])
}

fn two() -> Value {
    plan(&[("engineer", "fit a line", "use the data"), ("engineer", "fit a parabola", "use the data")])
}

fn attempts(ended: &Ended) -> Value {
    ended.output("final_context")["n_attempts"].clone()
}

#[tokio::test]
async fn a_retry_sees_the_last_script_and_its_output_and_a_line_of_each_earlier_one() {
    let stage = Stage::new();
    stage.engineer("fit.py", "first_code()", raised("ValueError: bad shape"));
    stage.engineer("fit.py", "second_code()", raised("KeyError: 'mass'"));
    stage.engineer("fit.py", "third_code()", fine());
    let ended = stage.control(&one(), json!({})).await.completed();
    let prompts = stage.prompts("engineer");
    assert!(!prompts[0].contains("Failed attempts"));
    assert!(prompts[1].contains("first_code()") && prompts[1].contains("begun\nTraceback"));
    assert!(prompts[1].contains("Attempt 2 of 4"), "{}", prompts[1]);
    assert!(prompts[2].contains("second_code()") && !prompts[2].contains("first_code()"));
    for error in ["ValueError: bad shape", "KeyError: 'mass'", "Attempt 3 of 4"] {
        assert!(prompts[2].contains(error), "{error} is not in {}", prompts[2]);
    }
    assert_eq!(attempts(&ended), 2);
    assert!(stage.models.agents().iter().all(|agent| agent == "engineer"));
}

#[tokio::test]
async fn a_step_has_one_try_more_than_max_n_attempts_and_then_fails_with_their_number() {
    for limit in [0, 2] {
        let stage = Stage::new();
        for n in 0..=limit {
            stage.engineer("fit.py", "fit()", raised(&format!("Error{}Error: no", ["A", "B", "C"][n])));
        }
        let ended = stage.control(&two(), json!({"max_n_attempts": limit})).await;
        let last = ["A", "B", "C"][limit];
        let text = format!("Step 1 failed after {} attempts: Error{last}Error: no", limit + 1);
        assert_eq!(ended.error(), format!("Phase control failed: {text}"));
        assert_eq!((stage.executed().len(), stage.models.calls().len()), (limit + 1, limit + 1));
        assert_eq!((ended.output("status"), ended.output("error")), (json!("failed"), json!(text)));
        assert_eq!(ended.output("step_results").as_array().unwrap().len(), 1, "step 2 must not begin");
        assert_eq!(ended.shares("execution_complete"), false);
    }
}

#[tokio::test]
async fn failing_softly_raises_nothing_and_says_that_it_failed() {
    let stage = Stage::new();
    stage.engineer("fit.py", "fit()", raised("ValueError: no"));
    let config = json!({"max_n_attempts": 0, "params": {"fail_softly": true}});
    let ended = stage.control(&one(), config).await.failed_softly();
    assert!(!stage.root().join("context/context_step_1.pkl").exists(), "there is nothing to go on from");
    assert_eq!(ended.output("status"), "failed");
    assert_eq!(ended.output("error"), "Step 1 failed after 1 attempts: ValueError: no");
    assert_eq!(ended.output("final_context")["current_status"], "failed");
}

#[tokio::test]
async fn a_second_opinion_is_asked_for_exactly_when_two_attempts_fail_alike() {
    let stage = Stage::new();
    stage.engineer("fit.py", "a()", raised("ValueError: bad shape (3, 4)"));
    stage.engineer("fit.py", "b()", raised("ValueError: bad shape (5, 4)"));
    stage.say("second_opinion", "Cause: the axes are swapped.").engineer("fit.py", "c()", fine());
    let config = json!({"params": {"default_formatter_model": "o4-mini"}});
    stage.control(&one(), config).await.completed();
    assert_eq!(stage.models.agents(), ["engineer", "engineer", "second_opinion", "engineer"]);
    assert!(stage.prompts("engineer")[2].contains("Cause: the axes are swapped."));
    assert!(stage.prompts("second_opinion")[0].contains("b()"));
    assert_eq!(stage.calls("second_opinion")[0].request.model, "o4-mini");

    let stage = Stage::new();
    stage.engineer("fit.py", "a()", raised("ValueError: bad shape"));
    stage.engineer("fit.py", "b()", raised("KeyError: 'mass'"));
    stage.engineer("fit.py", "c()", raised("ValueError: bad shape"));
    stage.engineer("fit.py", "d()", fine());
    stage.control(&one(), json!({})).await.completed();
    assert!(stage.calls("second_opinion").is_empty());
}

#[tokio::test]
async fn two_answers_that_could_not_be_run_for_different_reasons_did_not_fail_alike() {
    let stage = Stage::new();
    for _ in 0..3 {
        stage.say("engineer", "I have no code.");
    }
    for _ in 0..3 {
        stage.say("engineer", &script("../out.py", "a()"));
    }
    stage.engineer("fit.py", "b()", fine());
    let ended = stage.control(&one(), json!({})).await.completed();
    assert!(stage.calls("second_opinion").is_empty());
    assert_eq!(attempts(&ended), 2);
}

#[tokio::test]
async fn a_suspect_success_goes_back_once_and_is_counted() {
    let stage = Stage::new();
    stage.engineer("fit.py", "a()", Scripted::success("  \n"));
    stage.engineer("fit.py", "b()", fine());
    let ended = stage.control(&one(), json!({})).await.completed();
    let prompt = &stage.prompts("engineer")[1];
    assert!(prompt.contains("The last script ended well, but") && prompt.contains("it printed nothing"));
    assert!(prompt.contains("Attempt 2 of 4"));
    assert_eq!(attempts(&ended), 1);
}

#[tokio::test]
async fn a_success_that_looks_wrong_again_is_taken_with_a_warning() {
    let stage = Stage::new();
    let nan = || Scripted::success("slope = nan\n");
    stage.engineer("fit.py", "a()", nan()).engineer("fit.py", "b()", nan());
    let ended = stage.control(&one(), json!({})).await.completed();
    assert_eq!((stage.executed().len(), attempts(&ended)), (2, json!(1)));
    let warnings = stage.warnings();
    assert!(warnings.iter().any(|w| w.contains("every value it printed is NaN")), "{warnings:?}");
}

#[tokio::test]
async fn a_suspect_success_of_the_last_try_is_no_failure() {
    let stage = Stage::new();
    stage.engineer("fit.py", "a()", Scripted::success(""));
    stage.control(&one(), json!({"max_n_attempts": 0})).await.completed();
    assert!(stage.warnings().iter().any(|w| w.contains("it printed nothing")), "{:?}", stage.warnings());
}

#[tokio::test]
async fn work_that_remains_is_done_by_the_next_script_without_counting_a_try() {
    let stage = Stage::new();
    stage.say("engineer", &script_with("a.py", "part_one()", "remaining: the second fit"));
    stage.ends(Scripted::success("chi2 = 7.125\n"));
    stage.engineer("b.py", "part_two()", fine());
    let steps = plan(&[("engineer", "fit twice", "use the data"), ("researcher", "write", "be brief")]);
    stage.say("researcher", "# Notes\nIt is so.");
    let ended = stage.control(&steps, json!({"max_n_attempts": 0})).await.completed();
    let prompt = &stage.prompts("engineer")[1];
    for part in ["the second fit", "part_one()", "chi2 = 7.125", "Answer with the next script"] {
        assert!(prompt.contains(part), "{part} is not in {prompt}");
    }
    assert!(!prompt.contains("Failed attempts"));
    let notes = &stage.prompts("researcher")[0];
    assert!(
        notes.contains("chi2 = 7.125") && notes.contains("slope = 1.25 km/s"),
        "both scripts are carried"
    );
    assert_eq!(ended.output("step_results")[0]["context"]["n_attempts"], 0);
}

#[tokio::test]
async fn a_step_that_never_finishes_ends_after_a_bounded_number_of_scripts_with_a_warning() {
    let stage = Stage::new();
    for n in 0..14 {
        stage.say("engineer", &script_with(&format!("s{n}.py"), "a()", "remaining: the rest")).ends(fine());
    }
    stage.control(&one(), json!({})).await.completed();
    assert_eq!(stage.executed().len(), 12);
    let warnings = stage.warnings();
    assert!(warnings[0].contains("after 12 scripts") && warnings[0].contains("the rest"), "{warnings:?}");
}

#[tokio::test]
async fn tries_are_counted_over_all_scripts_of_a_step() {
    let stage = Stage::new();
    stage.engineer("a.py", "one()", raised("ValueError: x"));
    stage.say("engineer", &script_with("a.py", "two()", "remaining: more")).ends(fine());
    stage.engineer("b.py", "three()", raised("KeyError: 'y'"));
    let ended = stage.control(&one(), json!({"max_n_attempts": 1})).await;
    assert!(ended.error().contains("Step 1 failed after 2 attempts: KeyError: 'y'"), "{}", ended.error());
    assert!(!stage.prompts("engineer")[2].contains("Failed attempts"), "that script has not failed yet");
    let started = stage.heard.of("script_started");
    let tries: Vec<&Value> = started.iter().map(|event| &event["attempts"]).collect();
    assert_eq!(tries, [2, 2, 1], "the last script has the one try that is left");
}

#[tokio::test]
async fn a_script_that_does_not_compile_goes_back_without_being_run_or_counted() {
    let stage = Stage::new();
    stage.say("engineer", &script("fit.py", BROKEN)).say("engineer", &script("fit.py", BROKEN));
    stage.engineer("fit.py", "good()", fine());
    let ended = stage.control(&one(), json!({"max_n_attempts": 0})).await.completed();
    assert_eq!((stage.executed().len(), attempts(&ended)), (1, json!(0)));
    let second = &stage.prompts("engineer")[1];
    assert!(second.contains("does not compile") && second.contains("'(' was never closed"), "{second}");
    assert!(second.contains(BROKEN), "it sees its own answer");
    assert!(!stage.root().join("control/attempts").exists());
}

#[tokio::test]
async fn the_third_script_in_a_row_that_does_not_compile_costs_a_try() {
    let stage = Stage::new();
    for _ in 0..4 {
        stage.say("engineer", &script("fit.py", BROKEN));
    }
    let ended = stage.control(&one(), json!({"max_n_attempts": 0})).await;
    assert!(ended.error().contains("Step 1 failed after 1 attempts: The script does not compile"));
    assert_eq!((stage.executed().len(), stage.models.calls().len()), (0, 3));
}

#[tokio::test]
async fn an_answer_without_code_is_asked_for_it() {
    let stage = Stage::new();
    stage.say("engineer", "One should fit a line.").engineer("fit.py", "good()", fine());
    let ended = stage.control(&one(), json!({"max_n_attempts": 0})).await.completed();
    assert!(stage.prompts("engineer")[1].contains("The answer held no Python block"));
    assert_eq!(attempts(&ended), 0);
}

#[tokio::test]
async fn file_names_that_leave_the_directory_are_refused_and_the_engineer_is_told() {
    for (name, why) in [
        ("../../outside.py", "leads out of its directory"),
        ("$ABSOLUTE", "is absolute"),
        ("link.py", "symbolic link"),
    ] {
        let stage = Stage::new();
        let outside = (*stage.temp).as_ref().join("outside.py");
        let name = name.replace("$ABSOLUTE", &outside.to_string_lossy());
        std::fs::write(&outside, "theirs").unwrap();
        std::fs::create_dir_all(stage.root().join("control/codebase")).unwrap();
        symlink(&outside, stage.root().join("control/codebase/link.py")).unwrap();
        stage.say("engineer", &script(&name, "evil()")).engineer("fit.py", "good()", fine());
        stage.control(&one(), json!({"max_n_attempts": 0})).await.completed();
        let told = &stage.prompts("engineer")[1];
        assert!(told.contains(why), "{name}: {why} is not in {told}");
        assert_eq!(std::fs::read_to_string(&outside).unwrap(), "theirs");
        assert_eq!(list((*stage.temp).as_ref()), ["outside.py", "work"]);
        assert_eq!(stage.scripts("control"), ["codebase/fit.py"]);
    }
}

#[tokio::test]
async fn a_script_never_takes_the_name_of_an_earlier_steps_or_of_a_users_file() {
    let stage = Stage::new();
    let own = stage.put("control/codebase/tools.py", "theirs = 1\n");
    stage.engineer("fit.py", "one()", fine());
    stage.engineer("fit.py", "two()", fine());
    stage.engineer("tools.py", "three()", fine());
    let steps = plan(&[("engineer", "fit", "use the data"); 3]);
    stage.control(&steps, json!({})).await.completed();
    assert_eq!(stage.scripts("control/codebase"), ["fit.py", "fit_2.py", "tools_2.py"]);
    assert!(stage.read("control/codebase/fit.py").contains("one()"));
    assert_eq!(std::fs::read_to_string(own).unwrap(), "theirs = 1\n");
}

#[tokio::test]
async fn a_script_without_a_name_is_called_after_its_step() {
    let stage = Stage::new();
    stage.say("engineer", "```python\nfit()\n```").ends(fine());
    stage.control(&one(), json!({})).await.completed();
    assert_eq!(stage.scripts("control"), ["codebase/step_1.py"]);
    let script = &stage.executed()[0].script;
    assert_eq!(script.cwd, stage.root().join("control"));
    assert_eq!(script.python_path, [stage.root().join("control/codebase")]);
}

#[tokio::test]
async fn failed_attempts_are_kept_apart_from_the_modules() {
    let stage = Stage::new();
    stage.engineer("fit.py", "bad()", raised("ValueError: no"));
    stage.engineer("fit.py", "good()", fine());
    stage.control(&one(), json!({})).await.completed();
    assert_eq!(stage.list("control/codebase"), ["fit.py"]);
    assert!(stage.read("control/codebase/fit.py").contains("good()"));
    assert_eq!(stage.list("control/attempts"), ["step_1_attempt_1.py"]);
    assert!(stage.read("control/attempts/step_1_attempt_1.py").contains("bad()"));
    assert_eq!(stage.list("control/logs"), ["step_1_turn_1.log", "step_1_turn_2.log"]);
}

#[tokio::test]
async fn a_script_stopped_at_its_limit_is_a_failure_that_names_the_limit() {
    let stage = Stage::new();
    stage.engineer("fit.py", "slow()", Scripted::ending(Exit::Timeout(60), "half way\n"));
    stage.engineer("fit.py", "fast()", fine());
    let config = json!({"params": {"script_timeout_seconds": 60.0, "env_passthrough": ["GRID"]}});
    stage.control(&one(), config).await.completed();
    let script = &stage.executed()[0].script;
    assert_eq!((script.timeout_seconds, script.env_passthrough.clone()), (Some(60.0), vec!["GRID".into()]));
    let prompts = stage.prompts("engineer");
    assert!(prompts[0].contains("A script may run 60 s."));
    assert!(prompts[1].contains("stopped at its limit of 60 s") && prompts[1].contains("half way"));
}

#[tokio::test]
async fn a_human_who_wants_a_step_again_gets_it_with_the_words_in_the_prompt() {
    let words = Answer::Given {
        resolution: "redo".into(),
        user_feedback: Some("use robust errors".into()),
        modifications: None,
    };
    let stage = Stage::asking([words, super::stage::given("continue")]);
    stage.engineer("fit.py", "one()", fine()).engineer("fit.py", "two()", fine());
    let ended = stage.control(&one(), json!({"hitl_after_each_step": true})).await;
    assert_eq!(*ended.status.as_ref().unwrap(), RunStatus::Completed);
    assert!(stage.prompts("engineer")[1].contains("A human asks for this step to be done again\nuse robust"));
    assert_eq!(stage.scripts("control"), ["codebase/fit.py", "codebase/fit.py"], "it replaces its own file");
    assert_eq!(ended.output("step_results").as_array().unwrap().len(), 1);
    assert_eq!(stage.calls("engineer").len(), 2);
}

#[tokio::test]
async fn files_that_cannot_be_listed_are_told_of() {
    let stage = Stage::new();
    let deep = format!("data/{}x.txt", "d/".repeat(30));
    stage.engineer("fit.py", "fit()", Scripted::success("slope = 2.5\n").writing(deep, "1"));
    stage.control(&one(), json!({})).await.completed();
    let warnings = stage.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("directories deep"), "{warnings:?}");
}

#[tokio::test]
async fn a_missing_package_is_installed_and_the_same_script_runs_again_without_a_call() {
    let stage = Stage::new();
    let missing = "ModuleNotFoundError: No module named 'sklearn'";
    stage.engineer("fit.py", "import sklearn", raised(missing));
    stage.ends(Scripted::success("installed scikit-learn==1.5")).ends(fine());
    let ended = stage.control(&one(), json!({})).await.completed();
    assert_eq!((attempts(&ended), stage.models.calls().len()), (json!(0), 1));
    assert_eq!(stage.scripts("control"), ["codebase/fit.py", "codebase/fit.py"]);
    let [package] = &stage.runner.installed()[..] else { panic!("{:?}", stage.runner.installed()) };
    assert_eq!((package.name.as_str(), package.sources), ("scikit-learn", false));
    assert_eq!(stage.heard.of("install_finished")[0]["success"], true);
}

#[tokio::test]
async fn a_package_that_cannot_be_had_is_tried_once_and_named_to_the_engineer() {
    let missing = || raised("ModuleNotFoundError: No module named 'emcee'");
    for allowed in [true, false] {
        let stage = Stage::new();
        stage.engineer("fit.py", "import emcee", missing());
        if allowed {
            stage.ends(Scripted::failure("ERROR: No matching distribution found for emcee"));
        }
        stage.engineer("fit.py", "import emcee as e", missing());
        stage.engineer("fit.py", "fit()", fine());
        let config = json!({"params": {"allow_install": allowed}});
        let ended = stage.control(&one(), config).await.completed();
        assert_eq!((attempts(&ended), stage.runner.installed().len()), (json!(2), usize::from(allowed)));
        let prompt = &stage.prompts("engineer")[1];
        assert!(prompt.contains("The package emcee is not installed."), "{prompt}");
        assert_eq!(prompt.contains("No matching distribution"), allowed, "{prompt}");
    }
}

#[tokio::test]
async fn the_sandbox_of_scripts_is_what_the_settings_say() {
    let stage = Stage::new();
    stage.engineer("fit.py", "fit()", fine());
    let params = json!({
        "sandbox": "strict", "network": true, "read_paths": ["/usr"], "script_memory_gb": 2.5,
        "script_processes": 7,
    });
    stage.control(&one(), json!({"params": params})).await.completed();
    let sandbox = stage.executed()[0].script.sandbox.clone();
    assert_eq!((sandbox.mode, sandbox.network()), (Mode::Strict, true));
    assert_eq!((sandbox.memory_bytes, sandbox.processes), (Some(2_500_000_000), Some(7)));
    assert_eq!(sandbox.work_dir, Some(stage.root()));
    assert!(stage.prompts("engineer")[0].contains("Network: yes"));
}
