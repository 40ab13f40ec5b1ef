//! Prompts: typed cases rendered through the templates beside this file.
//!
//! The system prompt is what never changes within a run; the user prompt goes from what changes least to
//! what changes most, so that providers can reuse the beginning. Values are inserted as they are: braces,
//! backslashes and markup in a user's text pass unchanged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use minijinja::value::merge_maps;
use minijinja::{Environment, UndefinedBehavior, Value, context};

use super::judgement::Judgement;
use super::{
    Briefing, ConsultCase, IdeaCase, JudgeCase, PlanStep, PlannerCase, ReviewerCase, ScriptRecord, StepCase,
    carry, diagnosis, documents, excerpt, formats, roster,
};
use crate::exec::pictures::Picture;

/// What separates the two parts of a template: a line of its own.
const SEPARATOR: &str = "\n---user---\n";
/// The most characters of one script's output in a prompt about the present step.
const OUTPUT_LIMIT: usize = 20_000;

/// Agents with their templates, embedded.
const TEMPLATES: [(&str, &str); 10] = [
    ("engineer", include_str!("templates/engineer.md")),
    ("researcher", include_str!("templates/researcher.md")),
    ("idea_maker", include_str!("templates/idea_maker.md")),
    ("idea_hater", include_str!("templates/idea_hater.md")),
    ("planner", include_str!("templates/planner.md")),
    ("plan_reviewer", include_str!("templates/plan_reviewer.md")),
    ("second_opinion", include_str!("templates/second_opinion.md")),
    ("plot_judge", include_str!("templates/plot_judge.md")),
    ("camb_context", include_str!("templates/camb_context.md")),
    ("classy_context", include_str!("templates/classy_context.md")),
];
/// Parts that several templates include.
const PARTS: [(&str, &str); 5] = [
    ("briefing", include_str!("templates/briefing.md")),
    ("position", include_str!("templates/position.md")),
    ("ideas", include_str!("templates/ideas.md")),
    ("library_rules", include_str!("templates/library_rules.md")),
    ("library", include_str!("templates/library.md")),
];

/// What is sent to a model for one turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The part that stays the same within a run.
    pub system: String,
    /// The part of this turn.
    pub user: String,
    /// What of earlier steps was shortened to fit, for an event; mostly empty.
    pub shortened: Vec<String>,
    /// Pictures that go with it, each under its name.
    pub pictures: Vec<Picture>,
}

/// A template that cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("prompt template of {agent}: {problem}")]
pub struct TemplateError {
    /// The agent it was given for.
    pub agent: String,
    /// What is wrong, what was expected and what to do.
    pub problem: String,
}

/// The templates of all agents: the built-in ones, with those a user replaced.
#[derive(Debug, Clone)]
pub struct Templates {
    env: Environment<'static>,
    hashes: BTreeMap<String, String>,
}

impl Templates {
    /// The built-in templates, compiled once a process.
    pub fn builtin() -> Result<Self, TemplateError> {
        static BUILT_IN: LazyLock<Result<Templates, TemplateError>> = LazyLock::new(Templates::compile);
        BUILT_IN.clone()
    }

    fn compile() -> Result<Self, TemplateError> {
        let mut env = Environment::new();
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_undefined_behavior(UndefinedBehavior::Strict);
        env.set_trim_blocks(true);
        env.set_lstrip_blocks(true);
        let mut templates = Self { env, hashes: BTreeMap::new() };
        for (name, source) in PARTS {
            templates.env.add_template(name, source).map_err(|e| fault(name, &e))?;
        }
        for (agent, source) in TEMPLATES {
            templates.add(agent, source)?;
        }
        Ok(templates)
    }

    /// The built-in templates with files of the user's in place of some.
    ///
    /// `paths` maps agents to files. A file has two parts divided by a line `---user---` and begins with
    /// `You are the <agent> agent`; it may use the values and parts that the built-in one uses.
    pub fn with_overrides(paths: &BTreeMap<String, PathBuf>) -> Result<Self, TemplateError> {
        let mut templates = Self::builtin()?;
        for (agent, path) in paths {
            roster::find(agent).map_err(|problem| TemplateError { agent: agent.clone(), problem })?;
            let source = read(agent, path)?;
            let told = |problem: String| TemplateError {
                agent: agent.clone(),
                problem: format!("{}: {problem}", path.display()),
            };
            templates.add(agent, &source).map_err(|e| told(e.problem))?;
            templates.trial(agent).map_err(|e| told(e.problem))?;
        }
        Ok(templates)
    }

    /// Hash of an agent's template (BLAKE3, hexadecimal), for the record of a run.
    pub fn hash(&self, agent: &str) -> Option<&str> {
        self.hashes.get(agent).map(String::as_str)
    }

    /// Agents with the hashes of their templates, by name.
    pub fn hashes(&self) -> &BTreeMap<String, String> {
        &self.hashes
    }

    /// The planner's prompt: a first plan, or an update when `case.plan` is there.
    pub fn planner(&self, case: &PlannerCase) -> Result<Prompt, TemplateError> {
        let values = context! {
            roster => roster::describe(&case.agents),
            max_plan_steps => case.max_plan_steps,
            plan => case.plan.as_ref().map(|p| listing(p)),
            recommendations => case.recommendations,
            ..briefing(&case.briefing, "for the plan", &machine(&case.briefing, None))
        };
        self.render("planner", &values)
    }

    /// The plan reviewer's prompt.
    pub fn plan_reviewer(&self, case: &ReviewerCase) -> Result<Prompt, TemplateError> {
        let values = context! {
            roster => roster::describe(&case.agents),
            max_plan_steps => case.max_plan_steps,
            at_limit => case.plan.len() >= case.max_plan_steps,
            plan => listing(&case.plan),
            earlier => case.earlier,
            ..briefing(&case.briefing, "for the plan", &machine(&case.briefing, None))
        };
        self.render("plan_reviewer", &values)
    }

    /// The engineer's prompt: the first try, more work on the step, or a retry.
    pub fn engineer(&self, case: &StepCase) -> Result<Prompt, TemplateError> {
        let (values, shortened) = step(case, &machine(&case.briefing, Some(case)));
        let values = context! {
            done_here => case.done_here.iter().map(script).collect::<Vec<_>>().join("\n\n"),
            remaining => told(case.remaining.as_deref()),
            suspect => told(case.suspect.as_deref()),
            documents => case.documents,
            guidance => told(case.guidance.as_deref()),
            plots => case.plots.as_ref().map(|judgement| context! {
                file => judgement.file,
                code => carry::fenced("python", &judgement.code),
                problems => judgement.problems(),
                fixes => judgement.fixes(),
            }),
            second_opinion => told(case.second_opinion.as_deref()),
            attempt => case.failures.len() + 1,
            max_attempts => case.max_attempts,
            ..merge_maps([failures(case), values])
        };
        Ok(Prompt { shortened, ..self.render("engineer", &values)? })
    }

    /// The researcher's prompt; `pictures` go with it.
    pub fn researcher(&self, case: &StepCase, pictures: &[Picture]) -> Result<Prompt, TemplateError> {
        let (values, shortened) = step(case, "");
        let values = context! {
            pictures => pictures.iter().map(|picture| &picture.name).collect::<Vec<_>>(),
            last_step => case.plan.len() > 1 && case.step == case.plan.len(),
            notes_file => told(case.notes_file.as_deref()),
            taken_notes => case.taken_notes.join(", "),
            ..values
        };
        Ok(Prompt { shortened, pictures: pictures.to_vec(), ..self.render("researcher", &values)? })
    }

    /// The plot judge's prompt; `pictures` are the plots.
    pub fn plot_judge(&self, case: &JudgeCase, pictures: &[Picture]) -> Result<Prompt, TemplateError> {
        let (values, _) = step(&StepCase { records: Vec::new(), ..case.step.clone() }, "");
        let script = &case.script;
        let log = script.log.as_deref().unwrap_or("its log");
        let values = context! {
            file => script.file,
            code => carry::fenced("python", &numbered(&script.code)),
            output => carry::fenced("", &excerpt::excerpt(&script.output, OUTPUT_LIMIT, log)),
            plots => pictures.iter().map(|picture| &picture.name).collect::<Vec<_>>(),
            before => case.step.plots.as_ref().map(Judgement::problems).unwrap_or_default(),
            ..values
        };
        Ok(Prompt { pictures: pictures.to_vec(), ..self.render("plot_judge", &values)? })
    }

    /// The prompt of an agent that reads a library's documentation, such as `camb_context`.
    pub fn consultant(&self, agent: &str, case: &ConsultCase) -> Result<Prompt, TemplateError> {
        let (values, mut shortened) = step(&case.step, &machine(&case.step.briefing, None));
        let now = case.step.step.checked_sub(1).and_then(|i| case.step.plan.get(i));
        let wanted = now.map(|step| format!("{}\n{}", step.sub_task, step.bullet_points.join("\n")));
        let wanted = format!("{}\n{}", case.step.briefing.task, wanted.unwrap_or_default());
        let text =
            documents::choose(&case.text, &wanted, case.step.carry_budget.unwrap_or(carry::MIN_BUDGET));
        if text.len() != case.text.trim().len() {
            shortened.push(format!("documentation ({})", case.source));
        }
        let values = context! {
            library => case.library,
            installed => told(case.installed.as_deref()),
            source => case.source,
            documentation => told(Some(&text)),
            ..values
        };
        Ok(Prompt { shortened, ..self.render(agent, &values)? })
    }

    /// The idea_maker's prompt: first ideas, an update by a critique, or a selection.
    pub fn idea_maker(&self, case: &IdeaCase) -> Result<Prompt, TemplateError> {
        let (values, shortened) = ideas(case);
        Ok(Prompt { shortened, ..self.render("idea_maker", &values)? })
    }

    /// The idea_hater's prompt.
    pub fn idea_hater(&self, case: &IdeaCase) -> Result<Prompt, TemplateError> {
        let (values, shortened) = ideas(case);
        Ok(Prompt { shortened, ..self.render("idea_hater", &values)? })
    }

    /// The prompt for a second opinion on attempts that failed alike; `case.failures` must not be empty.
    pub fn second_opinion(&self, case: &StepCase) -> Result<Prompt, TemplateError> {
        let (values, _) =
            step(&StepCase { records: Vec::new(), ..case.clone() }, &machine(&case.briefing, Some(case)));
        let values = merge_maps([failures(case), values]);
        self.render("second_opinion", &values)
    }

    fn add(&mut self, agent: &str, source: &str) -> Result<(), TemplateError> {
        let source = source.replace("\r\n", "\n");
        let wrong = |problem: String| TemplateError { agent: agent.to_owned(), problem };
        let opening = format!("You are the {agent} agent");
        if !source.starts_with(&opening) {
            return Err(wrong(format!(
                "expected it to begin with {opening:?}; gateways tell agents apart by it"
            )));
        }
        let (system, user) = source.split_once(SEPARATOR).ok_or_else(|| {
            wrong("expected a line `---user---` between the fixed part and the part of the turn".to_owned())
        })?;
        for (part, text) in [("system", system), ("user", user)] {
            let name = format!("{agent}.{part}");
            self.env.add_template_owned(name, text.to_owned()).map_err(|e| fault(agent, &e))?;
        }
        self.hashes.insert(agent.to_owned(), blake3::hash(source.as_bytes()).to_hex().to_string());
        Ok(())
    }

    /// Renders an agent's template once, so that a misspelt value fails before the run and not within it.
    fn trial(&self, agent: &str) -> Result<Prompt, TemplateError> {
        let case = StepCase::default();
        match agent {
            "planner" => self.planner(&PlannerCase::default()),
            "plan_reviewer" => self.plan_reviewer(&ReviewerCase::default()),
            "engineer" => self.engineer(&case),
            "researcher" => self.researcher(&case, &[]),
            "second_opinion" => self.second_opinion(&case),
            "plot_judge" => self.plot_judge(&JudgeCase::default(), &[]),
            agent if roster::library(agent).is_some() => self.consultant(agent, &ConsultCase::default()),
            "idea_maker" => self.idea_maker(&IdeaCase::default()),
            _ => self.idea_hater(&IdeaCase::default()),
        }
    }

    fn render(&self, agent: &str, values: &Value) -> Result<Prompt, TemplateError> {
        let part = |part: &str| {
            let template = self.env.get_template(&format!("{agent}.{part}"));
            template.and_then(|t| t.render(values)).map_err(|e| fault(agent, &e))
        };
        let user = part("user")?.trim_end().to_owned();
        Ok(Prompt { system: part("system")?, user, ..Prompt::default() })
    }
}

/// The user turn that sends an unusable structured answer back, once.
pub fn repair(faults: &[String]) -> String {
    let list = faults.iter().map(|f| format!("- {f}")).collect::<Vec<_>>().join("\n");
    format!(
        "Your answer cannot be used:\n{list}\n\nAnswer again, whole, in the form asked for, with these points repaired."
    )
}

fn read(agent: &str, path: &Path) -> Result<String, TemplateError> {
    std::fs::read_to_string(path).map_err(|e| TemplateError {
        agent: agent.to_owned(),
        problem: format!("{} cannot be read: {e}", path.display()),
    })
}

fn fault(agent: &str, error: &minijinja::Error) -> TemplateError {
    let line = error.line().map(|l| format!(" (line {l} of {})", error.name().unwrap_or("its part")));
    TemplateError { agent: agent.to_owned(), problem: format!("{error}{}", line.unwrap_or_default()) }
}

/// `text` unless it is blank.
fn told(text: Option<&str>) -> Option<&str> {
    text.filter(|t| !t.trim().is_empty())
}

fn briefing(briefing: &Briefing, whom: &str, machine: &str) -> Value {
    context! {
        task => briefing.task,
        idea => told(Some(&briefing.idea)).map(str::trim),
        instructions => told(Some(&briefing.instructions)),
        instructions_for => whom,
        machine => machine,
        feedback => briefing.feedback.iter().filter(|f| !f.trim().is_empty()).collect::<Vec<_>>(),
    }
}

/// The machine: the user's constraints, else the facts; for the engineer also what a script may use.
fn machine(briefing: &Briefing, engineer: Option<&StepCase>) -> String {
    let facts = &briefing.facts;
    let mut lines: Vec<String> = Vec::new();
    if let Some(given) = told(Some(&briefing.hardware_constraints)) {
        lines.push(given.to_owned());
    } else if facts.cores > 0 {
        let mut parts = vec![format!("{} {}", facts.cores, if facts.cores == 1 { "core" } else { "cores" })];
        parts.extend(facts.memory_bytes.map(|b| format!("{} memory", carry::size(b))));
        parts.push(if facts.gpus.is_empty() { "no GPU".to_owned() } else { facts.gpus.join(", ") });
        parts.extend(facts.batch.clone());
        lines.push(parts.join("; "));
    }
    let Some(case) = engineer else { return lines.join("\n") };
    if !facts.python.is_empty() {
        let packages: Vec<String> = facts.packages.iter().map(|(n, v)| format!("{n} {v}")).collect();
        let with = if packages.is_empty() { String::new() } else { format!(" with {}", packages.join(", ")) };
        lines.push(format!("Python {}{with}", facts.python));
    }
    if let Some(seconds) = case.timeout_seconds {
        lines.push(format!("A script may run {seconds} s."));
    }
    if !case.writable.is_empty() {
        lines.push(format!("Writable: {}", case.writable.join(", ")));
    }
    if let Some(network) = case.network {
        lines.push(format!("Network: {}", if network { "yes" } else { "no" }));
    }
    lines.join("\n")
}

/// What every agent in charge of a step is told, and what was shortened for it.
fn step(case: &StepCase, machine: &str) -> (Value, Vec<String>) {
    let now = case.step.checked_sub(1).and_then(|i| case.plan.get(i));
    // The report at the end of a plan is made of what the scripts printed.
    let report = now.is_some_and(|s| s.sub_task_agent == "researcher") && case.step == case.plan.len();
    let carried = carry::carry(&case.records, case.carry_budget.unwrap_or(carry::MIN_BUDGET), report);
    let values = context! {
        plan => listing(&case.plan),
        step => case.step,
        n_steps => case.plan.len(),
        sub_task => now.map_or("", |s| s.sub_task.as_str()),
        bullets => now.map(|s| s.bullet_points.clone()).unwrap_or_default(),
        carried => carried.text,
        products => carry::manifest(&case.products),
        redo => told(case.redo.as_deref()),
        ..briefing(&case.briefing, "for you", machine)
    };
    (values, carried.shortened)
}

/// Failed tries: one line each, and the last one's code, output and diagnosis whole.
fn failures(case: &StepCase) -> Value {
    let lines: Vec<Value> = case
        .failures
        .iter()
        .map(|f| {
            context! {
                number => f.number,
                file => f.file,
                ended => f.ended,
                error => diagnosis::error_line(&f.output).unwrap_or_default(),
                modifications => told(f.modifications.as_deref()).map(str::trim),
            }
        })
        .collect();
    let last = case.failures.last();
    let output = last.map(|f| f.output.as_str()).filter(|o| !o.trim().is_empty());
    context! {
        failures => lines,
        last_code => last.map(|f| carry::fenced("python", &f.code)),
        last_output => output.map(|o| carry::fenced("", &excerpt::excerpt(o, OUTPUT_LIMIT, "its log"))),
        last_diagnosis => told(last.map(|f| f.diagnosis.as_str())),
    }
}

fn script(script: &ScriptRecord) -> String {
    let log = script.log.as_deref().unwrap_or("its log");
    format!(
        "`{}`:\n{}\nIts output:\n{}",
        script.file,
        carry::fenced("python", &script.code),
        carry::fenced("", &excerpt::excerpt(&script.output, OUTPUT_LIMIT, log))
    )
}

fn ideas(case: &IdeaCase) -> (Value, Vec<String>) {
    let (values, shortened) = step(&case.step, &machine(&case.step.briefing, None));
    let list = |empty: bool, text: String| if empty { String::new() } else { text.trim().to_owned() };
    let values = context! {
        ideas => list(case.ideas.is_empty(), formats::ideas(&case.ideas)),
        critique => list(case.critique.is_empty(), formats::critique(&case.critique)),
        n_ideas => case.n_ideas,
        select => case.select,
        ..values
    };
    (values, shortened)
}

/// Code with the number of each line before it.
fn numbered(code: &str) -> String {
    let lines: Vec<String> =
        code.lines().enumerate().map(|(i, line)| format!("{:>4}  {line}", i + 1)).collect();
    lines.join("\n")
}

/// A plan, numbered. It says nothing of progress, so that it stays the same from step to step.
fn listing(plan: &[PlanStep]) -> String {
    let mut lines = Vec::new();
    for (i, step) in plan.iter().enumerate() {
        lines.push(format!("{}. {}: {}", i + 1, step.sub_task_agent, step.sub_task));
        lines.extend(step.bullet_points.iter().map(|b| format!("   - {b}")));
    }
    lines.join("\n")
}
