//! Configurations of the built-in phases. What is said of a setting here (type, default, range, text) is what
//! the server tells and what every configuration is held to. Python's dataclasses have the same fields and
//! defaults; a test compares them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use super::schema::Rule::{Above, AtLeast, OneOf};
use super::schema::{self, Kind, Settings, settings};
use crate::agents::roster::{self, GENERAL, REASONING};
use crate::agents::turn::Speaker;
use crate::error::{Error, Result};
use crate::exec::sandbox::{Mode, Sandbox};
use crate::llm::{CallOptions, Sampling};

/// Sampling of models that accept it: as near to deterministic as they come.
const TEMPERATURE: f64 = 0.00001;
const TOP_P: f64 = 0.05;

/// Where in a workflow a checkpoint may stand, or why it asks.
const CHECKPOINTS: [&str; 8] = [
    "after_planning",
    "during_planning",
    "before_step",
    "after_step",
    "on_error",
    "before_execution",
    "after_execution",
    "custom",
];

/// A configuration of this type from an object of fields.
pub(super) fn read<C: DeserializeOwned + Settings>(fields: Value) -> Result<C> {
    schema::check(C::schema(), &fields)?;
    serde_json::from_value(fields).map_err(unusable)
}

pub(super) fn unusable(error: serde_json::Error) -> Error {
    Error::Configuration(error.to_string())
}

/// A text argument; callers also pass `None` for "nothing".
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<String, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.unwrap_or_default())
}

/// The settings of a phase's own, and what all phases know of models and scripts.
macro_rules! config {
    ($(#[doc = $doc:literal])+ $name:ident { $($own:tt)* }) => {
        settings! {
            $(#[doc = $doc])+
            $name {
                /// Agent name → model, before any other choice of a model.
                model_overrides: BTreeMap<String, String> = BTreeMap::new(),
                /// Further settings; names that are not known are left alone.
                params: Params = Params::default(),
                $($own)*
            }
        }
    };
}

settings! {
    /// Settings that the executor acts upon, whatever the phase.
    Base {
        /// `false` skips the phase.
        enabled: bool = true,
        /// Limit for the phase in seconds. It acts only when it was set; time spent waiting for a human does not
        /// count.
        timeout_seconds: u64 [AtLeast(1)] = 3600,
        /// How often the phase is run again after it failed.
        max_retries: u32 = 0,
    }
}

config! {
    /// What every phase's configuration may say about models and scripts.
    Common {}
}

config! {
    /// Settings of the planning phase.
    Planning {
        /// Most model calls of the phase.
        max_rounds: u32 [AtLeast(1)] = 50,
        /// Most steps of a plan.
        max_plan_steps: usize [AtLeast(1)] = 3,
        /// Rounds of review.
        n_plan_reviews: usize = 1,
        /// The planner's model.
        planner_model: String = GENERAL.into(),
        /// The reviewer's model.
        plan_reviewer_model: String = REASONING.into(),
        /// Binding instructions for the plan.
        plan_instructions: String as "text" = String::new(),
        /// What the hardware allows, in words.
        hardware_constraints: String as "text" = String::new(),
        /// Instructions for the engineer, carried to control.
        engineer_instructions: String as "text" = String::new(),
        /// Instructions for the researcher, carried to control.
        researcher_instructions: String as "text" = String::new(),
        /// Tries at a step beyond the first, told to the agents.
        max_n_attempts: usize = 3,
    }
}

config! {
    /// Settings of the control phase.
    Control {
        /// Most model calls of a step.
        max_rounds: u32 [AtLeast(1)] = 100,
        /// Tries at a step beyond the first.
        max_n_attempts: usize = 3,
        /// Whether to run all steps; else only `step_number`.
        execute_all_steps: bool = true,
        /// The one step to run, from 1.
        step_number: Option<usize> [AtLeast(1)] = None,
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
        engineer_instructions: String as "text" = String::new(),
        /// Instructions for the researcher.
        researcher_instructions: String as "text" = String::new(),
    }
}

config! {
    /// Settings of the one-shot phase.
    OneShot {
        /// Most model calls of the phase.
        max_rounds: u32 [AtLeast(1)] = 50,
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
        researcher_filename: String as "text" = "researcher_output.md".into(),
        /// Whether to delete what is in the work directory first.
        clear_work_dir: bool = false,
    }
}

config! {
    /// Settings of the checkpoint.
    HitlCheckpoint {
        /// Where in the workflow the checkpoint stands.
        checkpoint_type: String [OneOf(&CHECKPOINTS)] = "after_planning".into(),
        /// Whether a human must approve.
        require_approval: bool = true,
        /// Seconds to wait for an answer.
        timeout_seconds: u64 = 3600,
        /// `approve` or `reject` when nobody answers.
        default_on_timeout: String [OneOf(&["approve", "reject"])] = "reject".into(),
        /// Whether the question shows the plan.
        show_plan: bool = true,
        /// The question's first lines.
        custom_message: String as "text" = String::new(),
        /// The words that answer it.
        options: Vec<String> = vec!["approve".into(), "reject".into(), "modify".into()],
        /// Whether the human sees the shared state.
        show_context: bool = false,
    }
}

config! {
    /// Settings of the idea phase.
    IdeaGeneration {
        /// Most model calls of the phase.
        max_rounds: u32 [AtLeast(1)] = 50,
        /// Ideas asked for.
        n_ideas: usize [AtLeast(1)] = 3,
        /// Rounds of critique.
        n_reviews: usize = 1,
        /// The idea maker's model.
        idea_maker_model: String = GENERAL.into(),
        /// The idea hater's model.
        idea_hater_model: String = REASONING.into(),
    }
}

settings! {
    /// `config.params`: settings beyond the dataclass's fields. Names that are not known are the user's own.
    Params {
        /// A plan to execute instead of the context's.
        preloaded_plan: Option<Value> = None,
        /// The step to begin at, from 1 (restart).
        start_step: Option<usize> = None,
        /// The `final_context` that the step before `start_step` left.
        restored_context: Option<Value> = None,
        /// Set nothing aside at the start.
        keep_existing: bool = false,
        /// Agent name → model, provider, address, effort, ….
        agent_llm_configs: BTreeMap<String, AgentConfig> = BTreeMap::new(),
        /// The model of agents without a setting of their own.
        default_llm_model: Option<String> = None,
        /// The model that gives a second opinion.
        default_formatter_model: Option<String> = None,
        /// The model that judges plots; outranks `plot_judge_model`.
        vlm_model: Option<String> = None,
        /// Agent name → path of a template that replaces the built-in one.
        prompts: BTreeMap<String, PathBuf> = BTreeMap::new(),
        /// Agents a plan may use.
        allowed_agents: Option<Vec<String>> = None,
        /// The notes' file name.
        researcher_filename: Option<String> = None,
        /// Wall-clock limit of a script in seconds.
        script_timeout_seconds: Option<f64> [Above(0)] = None,
        /// Environment variables passed to scripts besides the allow-listed ones.
        env_passthrough: Vec<String> = Vec::new(),
        /// How much scripts are confined: `strict`, `default` or `off`.
        sandbox: Mode = Mode::default(),
        /// What scripts may write besides the phase's directory.
        write_paths: Vec<PathBuf> = Vec::new(),
        /// What scripts may read although the sandbox would not let them.
        read_paths: Vec<PathBuf> = Vec::new(),
        /// Whether scripts reach the network; unset: unless the sandbox is strict.
        network: Option<bool> = None,
        /// Most memory of a script and all it starts, in GB (10⁹ bytes).
        script_memory_gb: Option<f64> [Above(0)] = None,
        /// Most that a script may add to the disk, in GB (10⁹ bytes).
        script_disk_gb: Option<f64> [Above(0)] = None,
        /// Most processes of a script at once.
        script_processes: Option<u64> [AtLeast(1)] = None,
        /// Whether packages that a script misses are installed for the run.
        allow_install: Install = Install::default(),
        /// Seconds a model call may take over all its tries.
        call_deadline_seconds: Option<f64> [Above(0)] = None,
        /// Seconds an agent's turn may take: its call, continuations and repairs together.
        turn_deadline_seconds: Option<f64> [Above(0)] = None,
        /// Models to ask in turn when one cannot be reached.
        model_fallbacks: Fallbacks = Fallbacks::default(),
        /// A step that exhausts its tries ends the phase with `status: "failed"` in its output, not as failed.
        fail_softly: bool = false,
        /// Which files a run leaves.
        files: Files = Files::default(),
    }
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

impl Kind for Fallbacks {
    fn schema() -> Value {
        json!({
            "type": ["array", "object", "null"], "items": {"type": "string"},
            "additionalProperties": Vec::<String>::schema(),
        })
    }

    fn plain(&self) -> Value {
        match self {
            Self::All(others) => json!(others),
            Self::Each(each) => json!(each),
            Self::None(()) => Value::Null,
        }
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
    pub(super) fn sandbox(&self, work_dir: &Path) -> Sandbox {
        Sandbox {
            mode: self.sandbox,
            work_dir: Some(work_dir.to_owned()),
            write_paths: self.write_paths.clone(),
            read_paths: self.read_paths.clone(),
            network: self.network,
            memory_bytes: self.script_memory_gb.map(bytes),
            disk_bytes: self.script_disk_gb.map(bytes),
            processes: self.script_processes,
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Above 0, and bytes are whole.
fn bytes(gb: f64) -> u64 {
    (gb * 1e9) as u64
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

impl Kind for Install {
    fn schema() -> Value {
        json!({"type": ["boolean", "string", "null"], "enum": [true, false, "sources", null]})
    }

    fn plain(&self) -> Value {
        match self {
            Self::Never => json!(false),
            Self::Wheels => json!(true),
            Self::Sources => json!("sources"),
        }
    }
}

/// Which files a run leaves beside its products.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Files {
    /// A context after planning and after each step, and reports of each step.
    #[default]
    Carryover,
    /// No contexts, and one report for all steps (`planning_and_control`, `control`).
    Plain,
}

impl Kind for Files {
    fn schema() -> Value {
        json!({"type": "string", "enum": ["carryover", "plain"]})
    }

    fn plain(&self) -> Value {
        json!(self)
    }
}

impl Files {
    /// Whether reports are made for all steps together.
    pub fn is_plain(self) -> bool {
        self == Self::Plain
    }
}

settings! {
    /// One agent's entry of `agent_llm_configs`.
    AgentConfig {
        /// Its model.
        model: Option<String> = None,
        /// A key of its own.
        api_key: Option<SecretString> = None,
        /// `openai`, `anthropic`, `google`.
        api_type: Option<String> = None,
        /// Its base URL.
        base_url: Option<String> = None,
        /// Effort of a reasoning model.
        reasoning_effort: Option<String> = None,
        /// Temperature.
        temperature: Option<f64> = None,
        /// Nucleus sampling.
        top_p: Option<f64> = None,
        /// Upper limit of an answer in tokens.
        max_tokens: Option<u32> = None,
        /// Whether to stream.
        stream: Option<bool> = None,
    }
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
