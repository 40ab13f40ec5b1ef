//! Configurations of the built-in phases. Python's dataclasses have the same fields and defaults;
//! a test compares them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::agents::roster::{self, GENERAL, REASONING};
use crate::agents::turn::Speaker;
use crate::error::{Error, Result};
use crate::exec::sandbox::{Mode, Sandbox};
use crate::llm::{CallOptions, Sampling};

/// Sampling of models that accept it: as near to deterministic as they come.
const TEMPERATURE: f64 = 0.00001;
const TOP_P: f64 = 0.05;

/// A configuration of this type from an object of fields.
pub(super) fn read<C: serde::de::DeserializeOwned>(fields: Value) -> Result<C> {
    serde_json::from_value(fields).map_err(unusable)
}

pub(super) fn unusable(error: serde_json::Error) -> Error {
    Error::Configuration(error.to_string())
}

/// A text argument; callers also pass `None` for "nothing".
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<String, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.unwrap_or_default())
}

macro_rules! config {
    (
        $(#[$doc:meta])* $name:ident {
            $($(#[$field_doc:meta])* $field:ident: $type:ty = $default:expr),+ $(,)?
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)+
            /// Agent name → model; outranks the model fields.
            #[serde(skip_serializing_if = "BTreeMap::is_empty")]
            pub model_overrides: BTreeMap<String, String>,
            /// Settings beyond the dataclass's fields.
            #[serde(skip_serializing)]
            pub params: Params,
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($field: $default,)+
                    model_overrides: BTreeMap::new(),
                    params: Params::default(),
                }
            }
        }
    };
}

config! {
    /// `PlanningPhaseConfig`.
    Planning {
        /// Most model calls of the phase.
        max_rounds: u32 = 50,
        /// Most steps of a plan.
        max_plan_steps: usize = 3,
        /// Rounds of review.
        n_plan_reviews: usize = 1,
        /// The planner's model.
        planner_model: String = GENERAL.into(),
        /// The reviewer's model.
        plan_reviewer_model: String = REASONING.into(),
        /// Binding instructions for the plan.
        #[serde(deserialize_with = "text")]
        plan_instructions: String = String::new(),
        /// What the hardware allows, in words.
        #[serde(deserialize_with = "text")]
        hardware_constraints: String = String::new(),
        /// Instructions for the engineer, carried to control.
        #[serde(deserialize_with = "text")]
        engineer_instructions: String = String::new(),
        /// Instructions for the researcher, carried to control.
        #[serde(deserialize_with = "text")]
        researcher_instructions: String = String::new(),
        /// Tries at a step beyond the first, told to the agents.
        max_n_attempts: usize = 3,
    }
}

config! {
    /// `ControlPhaseConfig`.
    Control {
        /// Most model calls of a step.
        max_rounds: u32 = 100,
        /// Tries at a step beyond the first.
        max_n_attempts: usize = 3,
        /// Whether to run all steps; else only `step_number`.
        execute_all_steps: bool = true,
        /// The one step to run, from 1.
        step_number: Option<usize> = None,
        /// Ask a human after each step and when one fails.
        hitl_enabled: bool = false,
        /// Ask a human after each step.
        hitl_after_each_step: bool = false,
        /// The engineer's model.
        engineer_model: String = GENERAL.into(),
        /// The researcher's model.
        researcher_model: String = GENERAL.into(),
        /// The idea maker's model.
        idea_maker_model: String = GENERAL.into(),
        /// The idea hater's model.
        idea_hater_model: String = REASONING.into(),
        /// The model of agents that read documentation.
        camb_context_model: String = GENERAL.into(),
        /// The plot judge's model.
        plot_judge_model: String = REASONING.into(),
        /// Whether new plots are judged.
        evaluate_plots: bool = false,
        /// At most this many judgements a step.
        max_n_plot_evals: usize = 1,
        /// Instructions for the engineer.
        #[serde(deserialize_with = "text")]
        engineer_instructions: String = String::new(),
        /// Instructions for the researcher.
        #[serde(deserialize_with = "text")]
        researcher_instructions: String = String::new(),
    }
}

config! {
    /// `OneShotPhaseConfig`.
    OneShot {
        /// Most model calls of the phase.
        max_rounds: u32 = 50,
        /// Tries beyond the first.
        max_n_attempts: usize = 3,
        /// The agent that does the task.
        agent: String = "engineer".into(),
        /// The engineer's model.
        engineer_model: String = GENERAL.into(),
        /// The researcher's model.
        researcher_model: String = GENERAL.into(),
        /// The model of agents that read documentation.
        camb_context_model: String = GENERAL.into(),
        /// The plot judge's model.
        plot_judge_model: String = REASONING.into(),
        /// Whether new plots are judged.
        evaluate_plots: bool = false,
        /// At most this many judgements.
        max_n_plot_evals: usize = 1,
        /// The model of agents without a setting of their own, unless `params` names one.
        default_llm_model: String = GENERAL.into(),
        /// The model that gives a second opinion, unless `params` names one.
        default_formatter_model: String = REASONING.into(),
        /// The notes' file name, or a sentence that leaves the choice to the researcher.
        #[serde(deserialize_with = "text")]
        researcher_filename: String = "researcher_output.md".into(),
        /// Whether to delete what is in the work directory first.
        clear_work_dir: bool = false,
    }
}

config! {
    /// `HITLCheckpointConfig`.
    HitlCheckpoint {
        /// Where in the workflow the checkpoint stands.
        checkpoint_type: String = "after_planning".into(),
        /// Whether a human must approve.
        require_approval: bool = true,
        /// Seconds to wait for an answer.
        timeout_seconds: u64 = 3600,
        /// `approve` or `reject` when nobody answers.
        default_on_timeout: String = "reject".into(),
        /// Whether the question shows the plan.
        show_plan: bool = true,
        /// The question's first lines.
        #[serde(deserialize_with = "text")]
        custom_message: String = String::new(),
        /// The words that answer it.
        options: Vec<String> = vec!["approve".into(), "reject".into(), "modify".into()],
        /// Whether the human sees the shared state.
        show_context: bool = false,
    }
}

config! {
    /// `IdeaGenerationPhaseConfig`.
    IdeaGeneration {
        /// Most model calls of the phase.
        max_rounds: u32 = 50,
        /// Ideas asked for.
        n_ideas: usize = 3,
        /// Rounds of critique.
        n_reviews: usize = 1,
        /// The idea maker's model.
        idea_maker_model: String = GENERAL.into(),
        /// The idea hater's model.
        idea_hater_model: String = REASONING.into(),
    }
}

/// `config.params`: settings beyond the dataclass's fields. Unknown keys are the user's own.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Params {
    /// A plan to execute instead of the context's.
    pub preloaded_plan: Option<Value>,
    /// The step to begin at, from 1 (restart).
    pub start_step: Option<usize>,
    /// The `final_context` that the step before `start_step` left.
    pub restored_context: Option<Value>,
    /// Set nothing aside at the start.
    pub keep_existing: bool,
    /// Agent name → model, provider, address, effort, ….
    pub agent_llm_configs: BTreeMap<String, AgentConfig>,
    /// The model of agents without a setting of their own.
    pub default_llm_model: Option<String>,
    /// The model that gives a second opinion.
    pub default_formatter_model: Option<String>,
    /// The model that judges plots; outranks `plot_judge_model`.
    pub vlm_model: Option<String>,
    /// Agent name → path of a template that replaces the built-in one.
    pub prompts: BTreeMap<String, PathBuf>,
    /// Agents a plan may use.
    pub allowed_agents: Option<Vec<String>>,
    /// The notes' file name.
    pub researcher_filename: Option<String>,
    /// Wall-clock limit of a script in seconds.
    pub script_timeout_seconds: Option<f64>,
    /// Environment variables passed to scripts besides the allow-listed ones.
    pub env_passthrough: Vec<String>,
    /// How much scripts are confined: `strict`, `default` or `off`.
    pub sandbox: Mode,
    /// What scripts may write besides the phase's directory.
    pub write_paths: Vec<PathBuf>,
    /// What scripts may read although the sandbox would not let them.
    pub read_paths: Vec<PathBuf>,
    /// Whether scripts reach the network; unset: unless the sandbox is strict.
    pub network: Option<bool>,
    /// Most memory of a script and all it starts, in GB (10⁹ bytes).
    pub script_memory_gb: Option<f64>,
    /// Most that a script may add to the disk, in GB (10⁹ bytes).
    pub script_disk_gb: Option<f64>,
    /// Most processes of a script at once.
    pub script_processes: Option<u64>,
    /// Whether packages that a script misses are installed for the run.
    pub allow_install: Install,
    /// Seconds a model call may take over all its tries.
    pub call_deadline_seconds: Option<f64>,
    /// Seconds an agent's turn may take: its call, continuations and repairs together.
    pub turn_deadline_seconds: Option<f64>,
    /// Models to ask in turn when one cannot be reached.
    pub model_fallbacks: Fallbacks,
    /// A step that exhausts its tries ends the phase with `status: "failed"` in its output, not as failed.
    pub fail_softly: bool,
    /// Which files a run leaves.
    pub files: Files,
}

/// Models to ask in turn when one cannot be reached: for each model its own, or the same for all.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Fallbacks {
    /// For every model.
    All(Vec<String>),
    /// Model → its fallbacks.
    Each(BTreeMap<String, Vec<String>>),
    /// None.
    None(()),
}

impl Default for Fallbacks {
    fn default() -> Self {
        Self::None(())
    }
}

impl Fallbacks {
    fn of(&self, model: &str) -> Vec<String> {
        let others = match self {
            Self::All(others) => others.as_slice(),
            Self::Each(each) => each.get(model).map_or(&[][..], Vec::as_slice),
            Self::None(()) => &[],
        };
        others.iter().filter(|other| *other != model).cloned().collect()
    }
}

impl Params {
    /// The sandbox of scripts in a run's directory.
    pub(super) fn sandbox(&self, work_dir: &Path) -> Result<Sandbox> {
        Ok(Sandbox {
            mode: self.sandbox,
            work_dir: Some(work_dir.to_owned()),
            write_paths: self.write_paths.clone(),
            read_paths: self.read_paths.clone(),
            network: self.network,
            memory_bytes: bytes("script_memory_gb", self.script_memory_gb)?,
            disk_bytes: bytes("script_disk_gb", self.script_disk_gb)?,
            processes: self.script_processes,
        })
    }
}

fn bytes(setting: &str, gb: Option<f64>) -> Result<Option<u64>> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // In range, and bytes are whole.
    match gb {
        Some(gb) if gb > 0.0 && gb < 1e9 => Ok(Some((gb * 1e9) as u64)),
        Some(gb) => Err(Error::Configuration(format!(
            "{setting}={gb}: expected a number of GB above 0, or None for the default"
        ))),
        None => Ok(None),
    }
}

/// What is done about a package that a script misses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Install {
    /// Nothing: the engineer uses another one.
    Never,
    /// It is installed for the run, if there is a wheel of it: nothing of it runs before the script does.
    #[default]
    Wheels,
    /// Also from source, which runs the package's own code.
    Sources,
}

impl<'de> Deserialize<'de> for Install {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Null | Value::Bool(true) => Ok(Self::Wheels),
            Value::Bool(false) => Ok(Self::Never),
            Value::String(word) if word == "sources" => Ok(Self::Sources),
            other => Err(serde::de::Error::custom(format!(
                "allow_install={other}: expected True (wheels), \"sources\" (packages may also be built) or False"
            ))),
        }
    }
}

/// Which files a run leaves beside its products.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Files {
    /// A context after planning and after each step, and reports of each step.
    #[default]
    Carryover,
    /// No contexts, and one report for all steps (`planning_and_control`, `control`).
    Plain,
}

impl Files {
    /// Whether reports are made for all steps together.
    pub fn is_plain(self) -> bool {
        self == Self::Plain
    }
}

/// One agent's entry of `agent_llm_configs`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct AgentConfig {
    /// Its model.
    pub model: Option<String>,
    /// A key of its own.
    pub api_key: Option<SecretString>,
    /// `openai`, `anthropic`, `google`.
    pub api_type: Option<String>,
    /// Its base URL.
    pub base_url: Option<String>,
    /// Effort of a reasoning model.
    pub reasoning_effort: Option<String>,
    /// Temperature.
    pub temperature: Option<f64>,
    /// Nucleus sampling.
    pub top_p: Option<f64>,
    /// Upper limit of an answer in tokens.
    pub max_tokens: Option<u32>,
    /// Whether to stream.
    pub stream: Option<bool>,
}

/// What every phase's configuration may say about models.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Common {
    model_overrides: BTreeMap<String, String>,
    params: Params,
}

/// The `params` of a phase's configuration.
pub(super) fn params(config: Value) -> Result<Params> {
    Ok(common(config)?.params)
}

fn common(config: Value) -> Result<Common> {
    if config.is_null() { Ok(Common::default()) } else { read(config) }
}

/// An agent as a phase of a user speaks through it; `model` is what the phase asks for.
pub fn speaker(config: Value, agent: &str, model: Option<&str>) -> Result<Speaker> {
    let Common { model_overrides, params } = common(config)?;
    Ok(Models { overrides: &model_overrides, params: &params }.speaker(agent, model.unwrap_or_default()))
}

/// Where an agent's model is looked up, in this order: `model_overrides`, `agent_llm_configs`, the field.
pub(super) struct Models<'a> {
    pub(super) overrides: &'a BTreeMap<String, String>,
    pub(super) params: &'a Params,
}

impl Models<'_> {
    /// The agent with its model; `field` is the configuration's.
    pub(super) fn speaker(&self, agent: &str, field: &str) -> Speaker {
        let own = self.params.agent_llm_configs.get(agent).cloned().unwrap_or_default();
        let field = if field.trim().is_empty() { None } else { Some(field.to_owned()) };
        let by_default = || {
            let own = roster::find(agent).map_or(GENERAL, |a| a.model);
            self.params.default_llm_model.clone().unwrap_or_else(|| own.to_owned())
        };
        let model = self.overrides.get(agent).cloned().or(own.model).or(field).unwrap_or_else(by_default);
        let fallbacks = self.params.model_fallbacks.of(&model);
        Speaker {
            agent: agent.into(),
            model,
            sampling: Sampling {
                temperature: own.temperature.or(Some(TEMPERATURE)),
                top_p: own.top_p.or(Some(TOP_P)),
                reasoning_effort: own.reasoning_effort,
            },
            max_output_tokens: own.max_tokens,
            route: CallOptions {
                api_type: own.api_type,
                base_url: own.base_url,
                api_key: own.api_key,
                stream: own.stream,
                deadline_seconds: self.params.call_deadline_seconds,
                fallbacks,
                fail_fast: false,
            },
            turn_seconds: self.params.turn_deadline_seconds,
        }
    }
}
