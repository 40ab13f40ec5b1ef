//! What agents are told and what they answer: roster, prompts, plans, carry-over, transcript.
//!
//! Every function turns typed values into text or text into typed values; nothing here acts on the world,
//! but for reading the templates a user names.

pub mod carry;
pub mod context;
pub mod diagnosis;
pub mod documents;
pub mod excerpt;
pub mod extract;
pub mod formats;
pub mod ideas;
pub mod judgement;
pub mod notes;
pub mod numbers;
pub mod parse;
pub mod plan;
pub mod prompts;
pub mod restrict;
pub mod roster;
pub mod summary;
pub mod suspect;
pub mod transcript;
pub mod turn;

use serde::{Deserialize, Serialize};

/// One step of a plan, under the names that callers and files use.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanStep {
    /// What each sub-point of the step is about.
    #[serde(default)]
    pub bullet_points: Vec<String>,
    /// The sub-task.
    pub sub_task: String,
    /// The agent in charge of it.
    pub sub_task_agent: String,
}

/// The record of a finished step: all that later prompts, summaries and reports are made of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepRecord {
    /// 1-based number of the step.
    pub number: usize,
    /// The agent in charge.
    pub agent: String,
    /// The sub-task.
    pub sub_task: String,
    /// Scripts that ran with success, in order (an engineer's step; usually one).
    pub scripts: Vec<ScriptRecord>,
    /// Notes as Markdown, without the file name comment (a researcher's step); for an idea agent the whole
    /// rendered list, without `notes_file`.
    pub notes: Option<String>,
    /// The notes' file name, such as `results.md`.
    pub notes_file: Option<String>,
    /// The content of the step's block in `previous_steps_execution_summary`, when it came from a
    /// file of an earlier run and nothing finer is known.
    pub summary: Option<String>,
    /// Plots that the plot judge found fault with and that were made anew, relative to the phase's directory.
    pub rejected: Vec<String>,
}

/// A script that ran with success.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScriptRecord {
    /// Path relative to the phase's directory, such as `codebase/step_1.py`.
    pub file: String,
    /// The whole code.
    pub code: String,
    /// What it printed, cleaned for prompts.
    pub output: String,
    /// Functions with their docstrings, from the compile check.
    pub outline: crate::exec::Check,
    /// The file with its full output, relative to the phase's directory; named when a prompt shortens it.
    pub log: Option<String>,
}

/// A try at a step that did not succeed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailedAttempt {
    /// 1-based number of the try.
    pub number: usize,
    /// Path of the script, relative to the phase's directory.
    pub file: String,
    /// The whole code.
    pub code: String,
    /// What it printed, cleaned for prompts.
    pub output: String,
    /// How it ended, in words: `exit status 1`, `killed by signal 9`, `stopped after 60 s`, `syntax error`.
    pub ended: String,
    /// The diagnosis computed from exit state and traceback: cause and what to do.
    pub diagnosis: String,
    /// The engineer's own words on what this try changed.
    pub modifications: Option<String>,
}

/// A product under `data/`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Product {
    /// Path relative to the phase's directory, such as `data/result.csv`.
    pub path: String,
    /// Size in bytes.
    pub bytes: u64,
    /// The step that wrote it.
    pub step: usize,
    /// For tables: the columns.
    pub columns: Option<Vec<String>>,
    /// For tables: rows without the header.
    pub rows: Option<u64>,
    /// For plots: the line printed when it was saved.
    pub description: Option<String>,
}

/// What is common to every agent's prompt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Briefing {
    /// The user's task, verbatim.
    pub task: String,
    /// The research idea to carry out, as bullets; blank when none was selected.
    pub idea: String,
    /// The agent's own `*_instructions`, verbatim; blank drops the section.
    pub instructions: String,
    /// `hardware_constraints`, verbatim; blank means the facts are told instead.
    pub hardware_constraints: String,
    /// The machine as scripts see it.
    pub facts: crate::exec::Facts,
    /// Human feedback of all checkpoints so far, oldest first; the newest outranks the plan.
    pub feedback: Vec<String>,
}

/// What the planner is told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PlannerCase {
    /// Common part.
    pub briefing: Briefing,
    /// At most this many steps.
    pub max_plan_steps: usize,
    /// Agents that may appear, in roster order.
    pub agents: Vec<String>,
    /// Its own previous plan, when this is an update.
    pub plan: Option<Vec<PlanStep>>,
    /// The reviewer's recommendations on that plan.
    pub recommendations: Vec<String>,
}

/// What the plan reviewer is told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReviewerCase {
    /// Common part; `instructions` are the plan instructions.
    pub briefing: Briefing,
    /// At most this many steps.
    pub max_plan_steps: usize,
    /// Agents that may appear, in roster order.
    pub agents: Vec<String>,
    /// The plan under review.
    pub plan: Vec<PlanStep>,
    /// Earlier rounds' recommendations, oldest first.
    pub earlier: Vec<Vec<String>>,
}

/// What an agent in charge of a step (engineer, researcher, …) is told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepCase {
    /// Common part.
    pub briefing: Briefing,
    /// The full plan.
    pub plan: Vec<PlanStep>,
    /// 1-based number of this step.
    pub step: usize,
    /// Records of the finished steps, oldest first.
    pub records: Vec<StepRecord>,
    /// Scripts of this step that already succeeded while work remained.
    pub done_here: Vec<ScriptRecord>,
    /// What the engineer said remains.
    pub remaining: Option<String>,
    /// Products so far.
    pub products: Vec<Product>,
    /// Failed tries at this step, oldest first.
    pub failures: Vec<FailedAttempt>,
    /// Tries allowed in all (the first included).
    pub max_attempts: usize,
    /// The symptom of a suspect success (point 60).
    pub suspect: Option<String>,
    /// A second opinion on repeated failure (point 59).
    pub second_opinion: Option<String>,
    /// Wall-clock limit of a script in seconds.
    pub timeout_seconds: Option<f64>,
    /// Directories scripts may write to, for the prompt.
    pub writable: Vec<String>,
    /// `researcher_filename`, verbatim, when it names a file.
    pub notes_file: Option<String>,
    /// Names of notes that exist already.
    pub taken_notes: Vec<String>,
    /// Upper limit of the carry-over in characters; `None` is [`carry::MIN_BUDGET`].
    pub carry_budget: Option<usize>,
    /// Feedback by a human who asked for this step to be done again.
    pub redo: Option<String>,
    /// Docstrings or documentation of the library functions in the last traceback, when there are any.
    pub documents: Vec<String>,
    /// Whether scripts reach the network, where known.
    pub network: Option<bool>,
    /// What a library's documentation says on this step, where an agent read it for the engineer.
    pub guidance: Option<String>,
    /// What the plot judge wants mended.
    pub plots: Option<judgement::Judgement>,
}

/// What the plot judge is told; the pictures come beside it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JudgeCase {
    /// What the engineer was told.
    pub step: StepCase,
    /// The script that made the plots.
    pub script: ScriptRecord,
}

/// What an agent that reads a library's documentation is told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsultCase {
    /// What every agent in charge of a step is told.
    pub step: StepCase,
    /// The library, as it is imported.
    pub library: String,
    /// The version installed here, if it is.
    pub installed: Option<String>,
    /// Where the text is from, in words.
    pub source: String,
    /// The documentation, whole; blank when none could be had.
    pub text: String,
}

/// What an idea agent is told: a step of a plan, or a round of the idea phase (then `step.plan` is empty).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdeaCase {
    /// What every agent in charge of a step is told.
    pub step: StepCase,
    /// How many ideas to make; `None` leaves the number to the step's instruction.
    pub n_ideas: Option<usize>,
    /// The ideas so far.
    pub ideas: Vec<ideas::Idea>,
    /// The critique of them.
    pub critique: Vec<ideas::Critique>,
    /// Whether to select the best idea.
    pub select: bool,
}
