//! Prompts, parsers and the transcript, as their readers meet them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use cmbagent::agents::ideas::{Critique, Idea};
use cmbagent::agents::judgement::{Judgement, Verdict};
use cmbagent::agents::prompts::{Prompt, Templates};
use cmbagent::agents::transcript::{At, Outcome, Transcript, nested};
use cmbagent::agents::{
    Briefing, ConsultCase, FailedAttempt, IdeaCase, JudgeCase, PlanStep, PlannerCase, Product, ReviewerCase,
    ScriptRecord, StepCase, StepRecord, extract, formats, parse, prompts, summary,
};
use cmbagent::exec::pictures::Picture;
use cmbagent::exec::{Check, Facts, Function};
use regex::Regex;

const TASK: &str = "Fit a power law to /data/counts.csv (columns: energy in keV, counts).\nKeep {{x}}, {% raw %}, $y$, a < b & c and \\frac{a}{b} as they are.";

fn step(agent: &str, sub_task: &str, bullets: &[&str]) -> PlanStep {
    PlanStep {
        bullet_points: bullets.iter().map(|b| (*b).to_owned()).collect(),
        sub_task: sub_task.into(),
        sub_task_agent: agent.into(),
    }
}

fn plan() -> Vec<PlanStep> {
    vec![
        step(
            "engineer",
            "Fit the power law",
            &["read /data/counts.csv", "print index and error", "save data/fit.csv"],
        ),
        step("researcher", "Interpret the fit", &["compare with the expected index 2.0"]),
        step("engineer", "Plot data and fit", &["log-log axes", "save one figure"]),
    ]
}

fn briefing() -> Briefing {
    Briefing {
        task: TASK.into(),
        facts: Facts {
            python: "3.12.4".into(),
            packages: vec![("numpy".into(), "2.1.0".into()), ("scipy".into(), "1.14.1".into())],
            cores: 8,
            memory_bytes: Some(32_000_000_000),
            ..Facts::default()
        },
        ..Briefing::default()
    }
}

fn agents() -> Vec<String> {
    vec!["engineer".into(), "researcher".into()]
}

fn script(number: usize, output: &str) -> ScriptRecord {
    ScriptRecord {
        file: format!("codebase/step_{number}.py"),
        code: format!(
            "\"\"\"Step {number}.\"\"\"\n\n\ndef f(x):\n    \"\"\"Twice x.\"\"\"\n    return 2 * x\n"
        ),
        output: output.into(),
        outline: Check {
            functions: vec![Function { signature: "f(x)".into(), doc: Some("Twice x.".into()) }],
            ..Check::default()
        },
        log: Some(format!("logs/step_{number}.log")),
    }
}

fn computed(number: usize, output: &str) -> StepRecord {
    StepRecord {
        number,
        agent: "engineer".into(),
        sub_task: "Fit the power law".into(),
        scripts: vec![script(number, output)],
        ..StepRecord::default()
    }
}

fn written(number: usize, notes: &str) -> StepRecord {
    StepRecord {
        number,
        agent: "researcher".into(),
        sub_task: "Interpret the fit".into(),
        notes: Some(notes.into()),
        notes_file: Some("fit.md".into()),
        ..StepRecord::default()
    }
}

fn at_step(number: usize) -> StepCase {
    let records =
        [computed(1, "index = 2.03 +/- 0.04 (dimensionless)"), written(2, "# Fit\n\nThe index is 2.03.")];
    StepCase {
        briefing: briefing(),
        plan: plan(),
        step: number,
        records: records[..number - 1].to_vec(),
        max_attempts: 4,
        writable: vec!["data".into()],
        network: Some(false),
        ..StepCase::default()
    }
}

fn failure(number: usize, error: &str) -> FailedAttempt {
    FailedAttempt {
        number,
        file: "codebase/step_1.py".into(),
        code: format!("raise Exception  # try {number}\n"),
        output: format!("Traceback (most recent call last):\n  File \"step_1.py\", line 1\n{error}\n"),
        ended: "exit status 1".into(),
        diagnosis: "Find the cause in the lines that the traceback names.".into(),
        modifications: (number > 1).then(|| format!("change {number}")),
    }
}

fn idea(title: &str) -> Idea {
    Idea {
        title: title.into(),
        description: format!("What {title} is."),
        data_needed: "counts.csv".into(),
        method: "a fit".into(),
        expected_result: "an index".into(),
        risk: "few counts".into(),
    }
}

fn shown(prompt: &Prompt) -> String {
    format!("{}\n\n---user---\n{}\n", prompt.system, prompt.user)
}

/// Compares with the file under `tests/golden/prompts`; `UPDATE_GOLDEN=1` writes it.
fn golden(name: &str, prompt: &Prompt) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/prompts/{name}.md"));
    let text = shown(prompt);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(&path)
        .unwrap_or_else(|e| panic!("{}: {e}; UPDATE_GOLDEN=1 writes it", path.display()));
    assert_eq!(text, kept, "{name} differs from its golden file; UPDATE_GOLDEN=1 rewrites it");
}

#[test]
fn planning_prompts_are_the_golden_ones() {
    let templates = Templates::builtin().unwrap();
    let mut case =
        PlannerCase { briefing: briefing(), max_plan_steps: 3, agents: agents(), ..PlannerCase::default() };
    golden("planner_first", &templates.planner(&case).unwrap());
    case.plan = Some(plan());
    case.recommendations = vec!["Step 1: print chi2.".into(), "Step 3: add residuals.".into()];
    case.briefing.instructions = "The last step is a report by the researcher.".into();
    golden("planner_update", &templates.planner(&case).unwrap());
    case.recommendations.clear();
    case.briefing.feedback = vec!["Use fewer steps.".into(), "Two steps, no plot.".into()];
    case.briefing.hardware_constraints = "One laptop, 4 cores.".into();
    golden("planner_feedback", &templates.planner(&case).unwrap());

    let mut chosen = PlannerCase { max_plan_steps: 3, agents: agents(), ..PlannerCase::default() };
    chosen.briefing = Briefing { idea: idea("A").text(), ..briefing() };
    golden("planner_idea", &templates.planner(&chosen).unwrap());

    let mut case = ReviewerCase {
        briefing: briefing(),
        max_plan_steps: 4,
        agents: agents(),
        plan: plan(),
        ..ReviewerCase::default()
    };
    golden("plan_reviewer_first", &templates.plan_reviewer(&case).unwrap());
    case.max_plan_steps = 3;
    case.earlier = vec![vec!["Step 1: print chi2.".into()]];
    golden("plan_reviewer_second", &templates.plan_reviewer(&case).unwrap());
}

#[test]
fn step_prompts_are_the_golden_ones() {
    let templates = Templates::builtin().unwrap();
    golden("engineer_first", &templates.engineer(&at_step(1)).unwrap());
    let retry = StepCase {
        failures: vec![failure(1, "KeyError: 'energy'"), failure(2, "ValueError: x must be positive")],
        second_opinion: Some("Cause: the column has another name.\nFix: strip the header.".into()),
        timeout_seconds: Some(600.0),
        ..at_step(1)
    };
    golden("engineer_retry", &templates.engineer(&retry).unwrap());
    golden("second_opinion_retry", &templates.second_opinion(&retry).unwrap());
    let more = StepCase {
        done_here: vec![script(1, "read 400 rows")],
        remaining: Some("the fit itself".into()),
        suspect: Some("it wrote no .csv file, though the step asks: save data/fit.csv".into()),
        ..at_step(1)
    };
    golden("engineer_more", &templates.engineer(&more).unwrap());
    let last = StepCase {
        products: vec![Product {
            path: "data/fit.csv".into(),
            bytes: 1234,
            step: 1,
            columns: Some(vec!["index".into(), "error".into()]),
            rows: Some(1),
            ..Product::default()
        }],
        ..at_step(3)
    };
    golden("engineer_last", &templates.engineer(&last).unwrap());
    let mut asked = at_step(3);
    asked.briefing.feedback = vec!["Use base 10.".into()];
    asked.briefing.instructions = "Only numpy and scipy.".into();
    asked.redo = Some("The axes were linear.".into());
    golden("engineer_feedback", &templates.engineer(&asked).unwrap());
    let one_shot = StepCase { plan: vec![step("engineer", "solve the main task.", &[])], ..at_step(1) };
    golden("engineer_one_shot", &templates.engineer(&one_shot).unwrap());

    let first = StepCase { taken_notes: vec!["fit.md".into()], ..at_step(2) };
    golden("researcher_first", &templates.researcher(&first, &[]).unwrap());
    let mut last = StepCase { notes_file: Some("report.md".into()), ..at_step(2) };
    last.plan.truncate(2);
    last.products = vec![Product {
        path: "data/fit_1_20260101.png".into(),
        bytes: 80_000,
        step: 1,
        description: Some("counts and fit against energy".into()),
        ..Product::default()
    }];
    golden("researcher_last", &templates.researcher(&last, &[]).unwrap());
}

#[test]
fn prompts_about_plots_are_the_golden_ones() {
    let templates = Templates::builtin().unwrap();
    let picture =
        |name: &str| Picture { name: name.into(), media_type: "image/png".into(), base64: "AA==".into() };
    let pictures = [picture("data/fit_1.png"), picture("data/residuals_1.png")];
    let case =
        JudgeCase { step: at_step(3), script: script(3, "data/fit_1.png: counts and fit against energy") };
    let prompt = templates.plot_judge(&case, &pictures).unwrap();
    golden("plot_judge_first", &prompt);
    assert_eq!(prompt.pictures, pictures);
    let verdict = |plot: &str, verdict: &str| Verdict {
        plot: plot.into(),
        criteria: vec!["a power law is a straight line here".into()],
        problems: vec!["the energy axis is linear".into()],
        fixes: vec!["line 6: loglog in place of plot".into()],
        verdict: verdict.into(),
    };
    let verdicts = vec![verdict("data/fit_1.png", "retry"), verdict("data/residuals_1.png", "continue")];
    let judgement = Judgement { file: "codebase/step_3.py".into(), code: script(3, "").code, verdicts };
    let mended = StepCase { plots: Some(judgement), ..at_step(3) };
    golden("engineer_plots", &templates.engineer(&mended).unwrap());
    let again =
        JudgeCase { step: mended, script: script(3, "data/fit_2.png: counts and fit against energy") };
    golden("plot_judge_again", &templates.plot_judge(&again, &[picture("data/fit_2.png")]).unwrap());
    let mut last = at_step(2);
    last.plan.truncate(2);
    golden("researcher_pictures", &templates.researcher(&last, &pictures).unwrap());
}

#[test]
fn prompts_about_documentation_are_the_golden_ones() {
    let templates = Templates::builtin().unwrap();
    let mut step = at_step(1);
    step.plan[0].sub_task_agent = "camb_context".into();
    step.carry_budget = Some(60_000);
    let mut case = ConsultCase {
        step,
        library: "camb".into(),
        installed: Some("1.6.0".into()),
        source: "version 1.6.0, https://camb.readthedocs.io".into(),
        text: "# CAMB\n\n## get_results(params)\n\nRuns {{it}}.".into(),
    };
    golden("camb_context_first", &templates.consultant("camb_context", &case).unwrap());
    (case.text, case.installed) = (String::new(), None);
    (case.library, case.source) = ("classy".into(), "the network is down".into());
    golden("classy_context_offline", &templates.consultant("classy_context", &case).unwrap());
    case.text = format!("# One\n{}# Two\nget_results\n", "words\n".repeat(20_000));
    let prompt = templates.consultant("camb_context", &case).unwrap();
    assert_eq!(prompt.shortened, ["documentation (the network is down)"]);
    let guided = StepCase {
        plan: vec![self::step("camb_context", "solve the main task.", &[])],
        guidance: Some("Call `get_results`.".into()),
        ..at_step(1)
    };
    golden("engineer_guided", &templates.engineer(&guided).unwrap());
}

#[test]
fn idea_prompts_are_the_golden_ones() {
    let templates = Templates::builtin().unwrap();
    let phase = IdeaCase {
        step: StepCase { briefing: briefing(), ..StepCase::default() },
        n_ideas: Some(3),
        ..IdeaCase::default()
    };
    golden("idea_maker_first", &templates.idea_maker(&phase).unwrap());
    let review = IdeaCase { ideas: vec![idea("A"), idea("B")], ..phase };
    golden("idea_hater_first", &templates.idea_hater(&review).unwrap());
    let critique =
        Critique { title: "A".into(), weaknesses: "thin".into(), discard: true, ..Critique::default() };
    let update = IdeaCase { critique: vec![critique], n_ideas: Some(2), ..review };
    golden("idea_maker_update", &templates.idea_maker(&update).unwrap());
    golden("idea_maker_select", &templates.idea_maker(&IdeaCase { select: true, ..update }).unwrap());
    let plan = vec![step("idea_maker", "Make five ideas", &["report one as a title and five sentences"])];
    let inside = IdeaCase { step: StepCase { plan, ..at_step(1) }, ..IdeaCase::default() };
    golden("idea_maker_step", &templates.idea_maker(&inside).unwrap());
}

/// Three steps with one review are six calls; their prompts stay small.
#[test]
fn prompts_are_short() {
    let templates = Templates::builtin().unwrap();
    let first =
        PlannerCase { briefing: briefing(), max_plan_steps: 3, agents: agents(), ..PlannerCase::default() };
    let update = PlannerCase {
        plan: Some(plan()),
        recommendations: vec!["Step 1: print chi2.".into()],
        ..first.clone()
    };
    let review = ReviewerCase {
        briefing: briefing(),
        max_plan_steps: 3,
        agents: agents(),
        plan: plan(),
        ..ReviewerCase::default()
    };
    let all = [
        templates.planner(&first),
        templates.plan_reviewer(&review),
        templates.planner(&update),
        templates.engineer(&at_step(1)),
        templates.researcher(&at_step(2), &[]),
        templates.engineer(&at_step(3)),
    ];
    let mut total = 0;
    for prompt in all {
        let prompt = prompt.unwrap();
        let system = prompt.system.chars().count();
        assert!(system <= 3_500, "{system} characters: {}", &prompt.system[..40]);
        total += system + prompt.user.chars().count();
    }
    assert!(total <= 20_000, "{total} characters in six prompts");
}

#[test]
fn user_text_passes_unchanged() {
    let templates = Templates::builtin().unwrap();
    let case = StepCase { failures: vec![failure(1, "KeyError: '{{x}}'")], ..at_step(1) };
    for prompt in [templates.engineer(&case), templates.researcher(&at_step(2), &[])] {
        assert!(prompt.unwrap().user.contains(TASK));
    }
    let reviewed = ReviewerCase { briefing: briefing(), plan: plan(), ..ReviewerCase::default() };
    assert!(templates.plan_reviewer(&reviewed).unwrap().user.contains(TASK));
    assert!(templates.engineer(&case).unwrap().user.contains("KeyError: '{{x}}'"));
}

#[test]
fn blank_texts_leave_no_heading() {
    let templates = Templates::builtin().unwrap();
    let mut case = at_step(1);
    case.briefing.facts = Facts::default();
    case.briefing.instructions = " \n".into();
    case.briefing.feedback = vec![String::new()];
    case.writable.clear();
    case.network = None;
    let user = templates.engineer(&case).unwrap().user;
    for heading in
        ["# Instructions", "# Machine", "# Human", "# Finished", "# Files", "# Failed", "# A second"]
    {
        assert!(!user.contains(heading), "{heading} in\n{user}");
    }
}

#[test]
fn prompts_open_with_the_agent_and_keep_their_system_part() {
    let templates = Templates::builtin().unwrap();
    let early = templates.engineer(&at_step(1)).unwrap();
    let late = templates.engineer(&StepCase { failures: vec![failure(1, "E")], ..at_step(3) }).unwrap();
    assert!(early.system.starts_with("You are the engineer agent"));
    assert_eq!(early.system, late.system);
    // The turns of one step share everything up to their own news.
    let retry = templates.engineer(&StepCase { failures: vec![failure(1, "E")], ..at_step(1) }).unwrap();
    let common = early.user.bytes().zip(retry.user.bytes()).take_while(|(a, b)| a == b).count();
    assert!(early.user[common..].len() < 60, "{}", &early.user[common..]);
}

#[test]
fn a_number_of_step_one_reaches_step_six() {
    let deep = format!("{}\nomega = 0.31415\n{}", "x".repeat(5_000), "tail\n".repeat(400));
    let records: Vec<StepRecord> = (1..=5)
        .map(|n| if n == 1 { computed(1, &deep) } else { computed(n, &"step output\n".repeat(900)) })
        .collect();
    let plan: Vec<PlanStep> =
        (1..=6).map(|n| step(if n == 6 { "researcher" } else { "engineer" }, "part", &["b"])).collect();
    let case = StepCase { plan, records, step: 6, ..at_step(1) };
    let templates = Templates::builtin().unwrap();
    let prompt = templates.researcher(&case, &[]).unwrap();
    assert!(prompt.user.contains("omega = 0.31415"));
    assert!(prompt.shortened.is_empty(), "{:?}", prompt.shortened);

    // Also when five times the budget was printed, the line that states a value stays.
    let mut long = case;
    for record in &mut long.records {
        record.scripts[0].output = format!("{}{}", deep, "nothing to see here\n".repeat(3_500));
    }
    let prompt = templates.researcher(&long, &[]).unwrap();
    assert_eq!(prompt.user.matches("omega = 0.31415").count(), 5);
    assert!(prompt.shortened[0].contains("step 1"), "{:?}", prompt.shortened);
    assert!(prompt.user.contains("logs/step_1.log"));
    assert!(prompt.user.chars().count() < 66_000, "{}", prompt.user.chars().count());
}

#[test]
fn the_third_retry_names_all_earlier_errors() {
    let errors =
        ["KeyError: 'energy'", "ValueError: x must be positive", "ZeroDivisionError: division by zero"];
    let failures = errors.iter().enumerate().map(|(i, e)| failure(i + 1, e)).collect();
    let user = Templates::builtin().unwrap().engineer(&StepCase { failures, ..at_step(1) }).unwrap().user;
    for error in errors {
        assert!(user.contains(error), "{error}");
    }
    assert!(user.contains("Attempt 4 of 4"));
    assert!(user.contains("# try 3") && !user.contains("# try 2"));
    assert!(user.contains("change 2"));
}

#[test]
fn users_may_replace_a_template() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        BTreeMap::from([("engineer".to_owned(), path)])
    };
    let good =
        write("good.md", "You are the engineer agent, mine.\n---user---\nTask: {{ task }} ({{ step }})\n");
    let templates = Templates::with_overrides(&good).unwrap();
    let prompt = templates.engineer(&at_step(1)).unwrap();
    assert_eq!(prompt.system, "You are the engineer agent, mine.");
    assert_eq!(prompt.user, format!("Task: {TASK} (1)"));
    let builtin = Templates::builtin().unwrap();
    assert_ne!(templates.hash("engineer"), builtin.hash("engineer"));
    assert_eq!(templates.hash("planner"), builtin.hash("planner"));
    assert_eq!(builtin.hashes().len(), 10);

    let problem = |text: &str| Templates::with_overrides(&write("bad.md", text)).unwrap_err().to_string();
    assert!(problem("Hello").contains("You are the engineer agent"));
    assert!(problem("You are the engineer agent").contains("---user---"));
    let typo = problem("You are the engineer agent\n---user---\n\n{{ tsak }}");
    assert!(typo.contains("bad.md") && typo.contains("line 2"), "{typo}");
    assert!(problem("You are the engineer agent\n---user---\n{% if %}").contains("bad.md"));
    let unknown = BTreeMap::from([("enginer".to_owned(), dir.path().join("good.md"))]);
    assert!(Templates::with_overrides(&unknown).unwrap_err().to_string().contains("engineer"));
    let absent = BTreeMap::from([("engineer".to_owned(), dir.path().join("none.md"))]);
    assert!(Templates::with_overrides(&absent).unwrap_err().to_string().contains("none.md"));
}

#[test]
fn plans_are_read_in_every_layout() {
    let expected = plan();
    let json = serde_json::to_string(&expected).unwrap();
    assert_eq!(
        parse::plan(&format!("Here:\n```json\n{{\"sub_tasks\": {json}}}\n```\nDone {{x}}.")).unwrap(),
        expected
    );
    assert_eq!(
        parse::plan(&format!("<think>{{\"steps\": []}}</think>{{\"steps\": {json}}}")).unwrap(),
        expected
    );
    assert_eq!(parse::plan(&format!("see [1] {{\"plan\": {{\"sub_tasks\": {json}}}}}")).unwrap(), expected);
    assert_eq!(parse::plan(&json).unwrap(), expected);
    assert_eq!(parse::plan(&formats::plan(&expected)).unwrap(), expected);

    let markdown = "**Plan:**\n\n- **Step 1:**\n    * **Sub-task:** Fit the power law\n    * **Agent:** Engineer\n    * **Bullet points:**\n        - read /data/counts.csv\n        - print index and error\n        - save data/fit.csv\n### STEP 2\n* sub-task: Interpret the fit\n* agent in charge: `researcher` agent\n* instructions:\n\t- compare with the expected index 2.0\n- Step 3: Plot data and fit\n * agent: engineer\n * bullet point:\n  - log-log axes\n  - save one figure\n";
    assert_eq!(parse::plan(markdown).unwrap(), expected);
}

#[test]
fn plan_text_that_looks_like_layout_survives() {
    let tricky = vec![
        step("engineer", "Do a\nand b", &["agent: is a column", "Step 2: of the recipe", "sub-task: no"]),
        step("idea_maker", "c", &[]),
        step("researcher", "d", &["e"]),
    ];
    assert_eq!(parse::plan(&formats::plan(&tricky)).unwrap(), tricky);
}

#[test]
fn unusable_plans_say_what_is_wrong() {
    let error = |text: &str| parse::plan(text).unwrap_err();
    assert!(error("I cannot plan this.").contains("sub_tasks"));
    assert!(error(r#"{"sub_tasks": [{"sub_task": "x"}]}"#).contains("Step 1 has no `sub_task_agent`"));
    assert!(error(r#"{"sub_tasks": [{"sub_task": "x", "#).contains("cannot be read"));
    assert!(error("- Step 1:\n * sub-task: x\n").contains("no agent"));
    let text = prompts::repair(&[error("no")]);
    assert!(text.contains("sub_tasks"));
}

#[test]
fn reviews_and_ideas_are_read_and_rendered() {
    let review = vec!["Print chi2 in step 1.".to_owned(), "Merge steps 2 and 3.".to_owned()];
    assert_eq!(
        parse::review(r#"ok {"recommendations": ["Print chi2 in step 1.", "Merge steps 2 and 3."]}"#)
            .unwrap(),
        review
    );
    assert_eq!(parse::review(&formats::review(&review)).unwrap(), review);
    assert_eq!(
        parse::review(
            "**Recommendations:**\n    - Print chi2 in step 1.\n    - Merge steps 2\n      and 3.\n"
        )
        .unwrap(),
        ["Print chi2 in step 1.", "Merge steps 2\nand 3."]
    );
    let cut = "```json\n{\n  \"recommendations\": [\n    \"Print chi2\",\n    \"Merge";
    assert!(parse::review(cut).unwrap_err().contains("cannot be read"));
    assert!(parse::review("Nice plan!").unwrap_err().contains("recommendations"));

    let ideas = vec![idea("A"), idea("B")];
    let json = serde_json::json!({"ideas": ideas});
    assert_eq!(parse::ideas(&json.to_string()).unwrap(), ideas);
    let back = parse::ideas(&formats::ideas(&ideas)).unwrap();
    assert_eq!(back[1].title, "B");
    assert!(back[0].description.contains("Risk: few counts"));
    assert!(parse::ideas(r#"{"ideas": [{"description": "x"}]}"#).unwrap_err().contains("title"));
    let critique = parse::critique(r#"{"critiques": [{"title": "A", "discard": true}]}"#).unwrap();
    assert!(
        formats::critique(&critique)
            .starts_with("\n**IDEA CRITIQUE**\n\n- Idea 1:\n\t* A\n\t\t- Verdict: discard\n")
    );
}

#[test]
fn formats_are_those_callers_parse() {
    assert_eq!(
        formats::plan(&plan()[1..2]),
        "\n**PLAN**\n\n- Step 1:\n\t* sub-task: Interpret the fit\n\t* agent in charge: researcher\n\n\t* instructions:\n\t\t- compare with the expected index 2.0\n\n        "
    );
    assert_eq!(
        formats::review(&["r1".into(), "r2".into()]),
        "\n**Recommendations:**\n\nr1\n\nr2\n\n\n            "
    );
    let code = "# filename: x.py\nprint(1)\n";
    let executor = formats::executor(true, "1\n");
    assert_eq!(executor, "Execution results:\n\nExecution output: 1\n");
    assert_eq!(formats::executor(false, "E"), "execution results:\nExecution output: E");
    let nest = formats::executed("codebase/x.py", code, &executor);
    let rule = format!("{}    ", "=".repeat(48));
    assert_eq!(
        nest,
        format!(
            "\nThe executed code was:\n\n```python\n# filename: codebase/x.py\nprint(1)\n```\n\n{rule}\n\nThe output of the executed code was:\n\n{executor}\n\n{rule}\n{}",
            " ".repeat(24)
        )
    );
    assert_eq!(
        formats::engineer("e", None, "codebase/x.py", code),
        "**Code Explanation:**\n\ne\n\n**Python Code:**\n\n```python\n# filename: codebase/x.py\nprint(1)\n```"
    );
    assert!(
        formats::engineer("e", Some("m"), "x.py", code)
            .contains("\n\n**Modifications:**\n\nm\n\n**Python Code:**")
    );
    assert_eq!(
        formats::status(1, 3, &plan()[0], "in progress", "\n        "),
        "\n**Step number:** 1 out of 3.\n \n**Sub-task:** Fit the power law\n \n**Agent in charge of sub-task:** `engineer`\n \n**Instructions:**\n \n\t\t- read /data/counts.csv\n\t\t- print index and error\n\t\t- save data/fit.csv\n\n \n**Status:** in progress ⏳\n        "
    );
}

fn names(transcript: &Transcript) -> Vec<&str> {
    transcript.messages().iter().map(|m| m["name"].as_str().unwrap()).collect()
}

fn content<'a>(transcript: &'a Transcript, name: &str) -> &'a str {
    transcript.messages().iter().rev().find(|m| m["name"] == name).unwrap()["content"].as_str().unwrap()
}

/// A step by the engineer as control renders it.
fn engineer_step(transcript: &mut Transcript) {
    let plan = plan();
    let at = At { number: 3, of: 3, step: &plan[2] };
    transcript.step_begins(at);
    let answer = "Plots.\n```python\n# filename: p.py\nprint(1)\n```\nStatus: finished";
    let formatted = formats::engineer("Plots.", None, "codebase/p.py", "print(1)");
    transcript.engineer(
        answer,
        &formatted,
        &formats::executed("codebase/p.py", "print(1)", "Execution results:"),
    );
    transcript.executor_response_formatter(at, Outcome::Success);
    transcript.control(at, "completed");
    transcript.terminator();
}

#[test]
fn the_sequence_is_the_originals() {
    let mut transcript = Transcript::new("run.step_3");
    transcript.task(TASK);
    engineer_step(&mut transcript);
    let tool = "_Group_Tool_Executor";
    assert_eq!(
        names(&transcript),
        [
            "user",
            "control_starter",
            tool,
            "engineer",
            "engineer_response_formatter",
            "engineer_nest",
            "executor_response_formatter",
            tool,
            "control",
            tool,
            "terminator",
            tool
        ]
    );
    let first = &transcript.messages()[0];
    assert_eq!((&first["content"], &first["role"]), (&TASK.into(), &"assistant".into()));
    assert!(!content(&transcript, "engineer").contains("filename"));
    assert_eq!(transcript.messages().last().unwrap()["content"], "Session terminated.");
    assert!(
        content(&transcript, "executor_response_formatter") == "None"
            && transcript.messages()[7]["content"].as_str().unwrap().starts_with("Execution status: success. Transfer to control.\n\nxxxxxxxxxxxxxxxxxxxxxxxxxx\n\nWorkflow status:")
    );

    let mut first_step = Transcript::new("run.step_1");
    let plan = plan();
    first_step.step_begins(At { number: 1, of: 3, step: &plan[0] });
    assert_eq!(names(&first_step), ["control", tool]);
}

#[test]
fn calls_and_replies_belong_together() {
    let build = |scope: &str| {
        let mut transcript = Transcript::new(scope);
        engineer_step(&mut transcript);
        transcript.plan_setter(&agents());
        transcript.planner("raw", &plan(), 1);
        transcript.plan_reviewer("raw", &["r".into()], 0);
        transcript.planner("raw", &plan(), 0);
        transcript
    };
    let transcript = build("a");
    let mut ids = Vec::new();
    for message in transcript.messages() {
        let text = message["content"].as_str().unwrap();
        match message["role"].as_str().unwrap() {
            "assistant" => {
                assert_eq!(text, "None");
                let call = &message["tool_calls"][0];
                let arguments = call["function"]["arguments"].as_str().unwrap();
                assert!(serde_json::from_str::<serde_json::Value>(arguments).unwrap().is_object());
                ids.push(call["id"].as_str().unwrap().to_owned());
            }
            "tool" => {
                let reply = &message["tool_responses"][0];
                assert_eq!(reply["tool_call_id"].as_str(), ids.last().map(String::as_str));
                assert_eq!(reply["content"], message["content"]);
            }
            role => assert_eq!(role, "user"),
        }
    }
    let unique: std::collections::BTreeSet<&String> = ids.iter().collect();
    assert_eq!(unique.len(), ids.len());
    assert_eq!(transcript, build("a"));
    assert_ne!(transcript, build("b"));
    let texts: Vec<&str> = transcript.messages().iter().filter_map(|m| m["content"].as_str()).collect();
    assert!(texts.contains(&"Plan has been logged.") && texts.contains(&"Planning stage complete. Exiting."));
    assert!(texts.contains(&"\nRecommendations have been logged.  \nNumber of feedback rounds left: 0. \nNow, update the plan accordingly, planner!"));
}

#[test]
fn failures_are_told_as_the_original_does() {
    let plan = plan();
    let at = At { number: 1, of: 3, step: &plan[0] };
    let mut transcript = Transcript::new("s");
    transcript.executor_response_formatter(at, Outcome::Failure("add a column"));
    transcript.executor_response_formatter(at, Outcome::Exhausted(3));
    let replies: Vec<&str> = transcript
        .messages()
        .iter()
        .filter(|m| m["role"] == "tool")
        .filter_map(|m| m["content"].as_str())
        .collect();
    assert!(replies[0].starts_with("Execution status: failure. Transfer to engineer.\n"));
    assert!(replies[0].ends_with("\nFix suggestion: add a column\n"));
    assert_eq!(replies[1], "Max number of code execution attempts (3) reached. Exiting.");
    assert_eq!(nested("f", "e").len(), 2);
}

/// The patterns with which Denario reads the transcript (CONTRACT 3.3).
#[test]
fn denario_reads_notes_and_ideas() {
    let body = "# Results\n\n```python\nprint('a')\n```\n\nThe index is 2.03.";
    let mut transcript = Transcript::new("s");
    transcript.researcher(
        &format!("```markdown\n<!-- filename: old.md -->\n{body}\n```"),
        "results.md",
        &format!("```markdown\n<!-- filename: old.md -->\n{body}\n```"),
        "/w/control/results.md",
    );
    let text = content(&transcript, "researcher_response_formatter");
    let fence = Regex::new(r"(?s)```[ \t]*(?:markdown)[ \t]*\r?\n(.*)\r?\n[ \t]*```").unwrap();
    let found = fence.captures(text).unwrap();
    let comment = Regex::new(r"^<!--.*?-->\s*\n").unwrap();
    assert!(found[1].starts_with("<!-- filename: results.md -->\n"));
    assert_eq!(comment.replace(&found[1], ""), body);
    assert!(!text.contains("old.md"));
    assert_eq!(
        content(&transcript, "researcher_executor"),
        "Execution results:\n\nExecution output: Content saved to /w/control/results.md\n"
    );

    transcript.idea_maker(&[idea("A"), idea("B")]);
    let text = content(&transcript, "idea_maker_nest");
    let header = Regex::new(r"\*\*Ideas\*\*\s*\n- Idea 1:").unwrap();
    assert!(header.replace(text, "Project Idea:").contains("Project Idea:\n\t* A\n"));
    assert_eq!(content(&transcript, "idea_maker"), text);
    transcript.idea_hater(&[Critique { title: "A".into(), weaknesses: "w".into(), ..Critique::default() }]);
    assert!(content(&transcript, "idea_hater_nest").contains("**IDEA CRITIQUE**"));
}

#[test]
fn summaries_are_read_back() {
    let mut first = computed(1, "index = 2.03\n================\n### Step 7\nend");
    first.scripts[0].code = "s = '''\n```\n'''\nprint(s)".into();
    let second = written(2, "# Fit\n\n### Step 3\nwas not run.\n\n```python\nx\n```\nEnd.");
    let third = computed(3, "done");
    let text = summary::summary(&[first.clone(), second.clone(), third.clone()]);
    assert!(
        text.starts_with("### Step 1\nThe executed code was:")
            && text.contains("\n\n### Step 2\n**Markdown:**")
    );
    let back = summary::parse(&text, &plan());
    assert_eq!(back.iter().map(|r| r.number).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(back[0].scripts[0].code, first.scripts[0].code);
    assert_eq!(back[0].scripts[0].output, first.scripts[0].output);
    assert_eq!(back[0].scripts[0].file, "codebase/step_1.py");
    assert_eq!((&back[1].notes, &back[1].notes_file), (&second.notes, &second.notes_file));
    assert_eq!(back[2].scripts[0].output, "done");
    assert_eq!(back[2].sub_task, "Plot data and fit");
    // What is read back is written as before.
    assert_eq!(summary::summary(&back), text);
    assert_eq!(summary::summary(&[]), "\n");
    assert!(summary::parse("\n", &[]).is_empty());
}

/// A block in a shape of the original's: blanks after the rules, output over several lines.
#[test]
fn summaries_of_the_original_are_read() {
    let rule = "=".repeat(48);
    let text = format!(
        "\n### Step 1\nThe executed code was:\n\n```python\n# filename: codebase/a.py\nprint(2)\n```\n\n{rule}    \n\nThe output of the executed code was:\n\nExecution results:\n\nExecution output: 2\n\n\n{rule}\n\n### Step 2\nsome free text of another agent\n"
    );
    let back = summary::parse(&text, &[]);
    assert_eq!(back.len(), 2);
    assert_eq!((back[0].agent.as_str(), back[0].scripts[0].output.trim()), ("engineer", "2"));
    assert_eq!(back[1].summary.as_deref(), Some("some free text of another agent"));
}

#[test]
fn the_engineers_own_form_is_understood() {
    let formatted = formats::engineer("It fits.", Some("new sign"), "codebase/x.py", "print(1)");
    let answer = extract::answer(&formatted);
    assert_eq!(answer.explanation, "It fits.");
    assert_eq!(answer.modifications.as_deref(), Some("new sign"));
    assert_eq!(answer.status, extract::Status::Finished);
}
