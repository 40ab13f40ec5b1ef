//! The built-in phases. They act on the world only through the run handle.

mod chats;
pub mod config;
mod consult;
pub mod control;
pub mod directory;
mod hint;
pub mod hitl_checkpoint;
pub mod idea_generation;
mod install;
pub mod one_shot;
pub mod planning;
mod plots;
mod products;
mod progress;
pub mod rehearsal;
pub mod reports;
mod review;
mod schema;
pub mod script;
mod step;
pub mod workspace;

use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::agents::ideas::Idea;
use crate::agents::prompts::{self, Prompt, Templates};
use crate::agents::turn::Speaker;
use crate::agents::{StepCase, carry};
use crate::engine::registry::Registry;
use crate::engine::{Limits, Phase, Run, Section, State};
use crate::error::{Error, Result};

type Maker = fn(Value) -> Result<Box<dyn Phase>>;

/// How a built-in phase is made from its configuration, and what is to be said of that.
#[derive(Clone, Copy)]
struct BuiltIn {
    make: Maker,
    schema: fn() -> &'static Value,
}

fn built_in<C: schema::Settings>(make: Maker) -> BuiltIn {
    BuiltIn { make, schema: C::schema }
}

static BUILT_IN: LazyLock<Registry<BuiltIn>> = LazyLock::new(|| {
    let mut registry = Registry::default();
    registry
        .register("planning", built_in::<config::Planning>(|c| Ok(Box::new(planning::Planning::new(c)?))));
    registry.register("control", built_in::<config::Control>(|c| Ok(Box::new(control::Control::new(c)?))));
    registry.register("one_shot", built_in::<config::OneShot>(|c| Ok(Box::new(one_shot::OneShot::new(c)?))));
    registry.register(
        "hitl_checkpoint",
        built_in::<config::HitlCheckpoint>(|c| Ok(Box::new(hitl_checkpoint::HitlCheckpoint::new(c)?))),
    );
    registry.register(
        "idea_generation",
        built_in::<config::IdeaGeneration>(|c| Ok(Box::new(idea_generation::IdeaGeneration::new(c)?))),
    );
    registry
});

/// Whether a type is that of a built-in phase.
pub fn is_built_in(phase_type: &str) -> bool {
    BUILT_IN.get(phase_type).is_ok()
}

/// A built-in phase with this configuration (an object; missing fields take their defaults).
pub fn build(phase_type: &str, config: Value) -> Result<Box<dyn Phase>> {
    let make = BUILT_IN.get(phase_type)?.make;
    make(config.clone()).map_err(|error| {
        // serde does not name the field that does not fit; that one does not fit alone either.
        let fields = config.as_object().into_iter().flatten();
        let named = fields.filter_map(|(name, value)| {
            let error = make(Value::from_iter([(name.clone(), value.clone())])).err()?;
            Some(format!("{name}: {error}"))
        });
        let mut what = named.collect::<Vec<_>>().join("; ");
        if what.is_empty() {
            what = error.to_string();
        }
        for kind in ["u32", "u64", "usize"] {
            what = what.replace(&format!("expected {kind}"), "expected a whole number, 0 or more");
        }
        Error::Configuration(format!("configuration of phase {phase_type}: {what}"))
    })
}

/// The JSON Schema of a built-in phase's configuration; without a type, of what all phases' have.
///
/// # Errors
/// [`Error`]: there is no such type.
pub fn config_schema(phase_type: Option<&str>) -> Result<Value> {
    let mut schema = match phase_type {
        Some(phase_type) => (BUILT_IN.get(phase_type)?.schema)().clone(),
        None => <config::Common as schema::Settings>::schema().clone(),
    };
    let base = <config::Base as schema::Settings>::schema();
    let mut properties = base["properties"].as_object().cloned().unwrap_or_default();
    if let Some(own) = schema["properties"].as_object_mut() {
        properties.append(own);
        *own = properties;
    }
    // What limits a phase stands among its further settings, too.
    if let Some(params) = schema["properties"]["params"]["properties"].as_object_mut() {
        params.append(&mut Limits::schema());
    }
    Ok(schema)
}

/// The messages of validation for phases that need a task and a place to work.
fn require_task_and_work_dir(state: &dyn State, name: &str) -> Vec<String> {
    let mut messages = Vec::new();
    if state.task().is_empty() {
        messages.push(format!("Task is required for {name} phase"));
    }
    if state.work_dir().is_empty() {
        messages.push(format!("work_dir is required for {name} phase"));
    }
    messages
}

/// Human feedback of all checkpoints so far, oldest first.
fn feedback(state: &dyn State) -> Vec<String> {
    let words = |value: &Value| value.as_str().map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned);
    let mut all: Vec<String> = match state.read(Section::Shared, "all_hitl_feedback") {
        Some(Value::Array(items)) => items.iter().filter_map(words).collect(),
        _ => Vec::new(),
    };
    if let Some(latest) = state.read(Section::Shared, "hitl_feedback").as_ref().and_then(words)
        && !all.contains(&latest)
    {
        all.push(latest);
    }
    all
}

/// The research idea that was selected for the task, as text; blank when there is none.
fn idea(state: &dyn State) -> String {
    let selected = || {
        let input = state.read(Section::Input, "selected_idea").filter(|idea| !idea.is_null());
        input.or_else(|| state.read(Section::Shared, "selected_idea"))
    };
    match selected() {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text,
        // A phase of a user's may give ideas another shape: then the idea is told as it is.
        Some(value) => match serde_json::from_value::<Idea>(value.clone()) {
            Ok(idea) if !idea.title.trim().is_empty() => idea.text(),
            _ => value.to_string(),
        },
    }
}

/// The templates of a phase; those a user replaced are told of with their hashes.
async fn templates(run: &Run, params: &config::Params) -> Result<Templates> {
    let templates = Templates::with_overrides(&params.prompts).map_err(template)?;
    if !params.prompts.is_empty() {
        let replaced: serde_json::Map<String, Value> = params
            .prompts
            .iter()
            .map(|(agent, path)| (agent.clone(), json!({"path": path, "hash": templates.hash(agent)})))
            .collect();
        run.tell("", "templates_replaced", json!({"templates": replaced})).await?;
    }
    Ok(templates)
}

fn template(error: prompts::TemplateError) -> Error {
    Error::Configuration(error.to_string())
}

/// Tells listeners of transcript messages.
async fn tell_messages(run: &Run, messages: &[Value]) -> Result<()> {
    for message in messages {
        run.tell(message["name"].as_str().unwrap_or_default(), "message", message.clone()).await?;
    }
    Ok(())
}

/// A step's prompt that fits the window of the speaker's model: what is told of earlier steps shrinks, by the
/// rule of [`crate::agents::carry`], until it does. Listeners are told what was shortened.
async fn fitted(
    run: &Run,
    speaker: &Speaker,
    case: &mut StepCase,
    render: impl Fn(&StepCase) -> std::result::Result<Prompt, prompts::TemplateError>,
) -> Result<Prompt> {
    // A carry-over shorter than this says nothing any more.
    const LEAST: usize = 500;
    let mut prompt = render(case).map_err(template)?;
    let mut smaller = false;
    while speaker.excess(run, &prompt) > 0 && !case.records.is_empty() {
        let before = case.carry_budget.unwrap_or(carry::MIN_BUDGET).min(prompt.user.len());
        if before <= LEAST {
            break;
        }
        smaller = true;
        case.carry_budget = Some((before * 4 / 5).max(LEAST));
        prompt = render(case).map_err(template)?;
    }
    if smaller {
        let about = json!({"model": speaker.model, "shortened": prompt.shortened});
        run.tell(&speaker.agent, "prompt_shortened", about).await?;
    }
    tell_shortened(run, &speaker.agent, &prompt).await?;
    Ok(prompt)
}

/// Tells listeners what of earlier steps was shortened to fit a prompt.
async fn tell_shortened(run: &Run, agent: &str, prompt: &Prompt) -> Result<()> {
    if prompt.shortened.is_empty() {
        return Ok(());
    }
    let message = format!("shortened to fit the prompt of the {agent}: {}", prompt.shortened.join(", "));
    run.tell(agent, "warning", json!({"message": message})).await
}
