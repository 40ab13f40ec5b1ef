//! What a run knows of its models, and how it speaks of their errors.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::Value;

use super::Run;
use crate::error::{Error, Result};
use crate::journal::Position;
use crate::llm::place::Place;
use crate::llm::{self, CallOptions, LlmErrorKind, Provider, Quote, Request};

impl Run {
    /// What a call will take at most.
    pub fn quote(&self, request: &Request) -> Quote {
        self.shared.services.provider.quote(request)
    }

    /// The longest prompt a model takes in tokens, when known.
    pub fn window(&self, model: &str) -> Option<u32> {
        self.shared.services.provider.window(model)
    }

    /// Whether a model takes pictures, when known.
    pub fn vision(&self, model: &str) -> Option<bool> {
        self.shared.services.provider.vision(model)
    }

    /// Whether there is a key, or a server that needs none, for a model.
    pub fn reaches(&self, model: &str, options: &CallOptions) -> bool {
        self.shared.services.provider.reaches(model, options)
    }

    pub(super) fn provider(&self) -> &dyn Provider {
        self.shared.services.provider.as_ref()
    }

    /// The number of the next run that is made at this place.
    pub fn next_within(&self) -> u32 {
        self.nestings.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The models of the run with this number that is made at this place and would ask `own`.
    pub fn provider_within(&self, nested: u32, own: Arc<dyn Provider>) -> Arc<dyn Provider> {
        let place = Place { nested, ..self.place() };
        self.shared.services.provider.within(&place, own)
    }

    /// The place of this agent's next call here.
    pub(super) fn next_call(&self, agent: &str) -> Place {
        self.shared.spoken.next(Place { agent: agent.into(), ..self.place() })
    }

    /// The place of a document that is read now. A phase reads many at once, so they are counted in the order in
    /// which it begins with them, whatever else it does meanwhile.
    pub(super) fn next_reading(&self, agent: &str) -> Place {
        self.shared.spoken.next(Place { agent: agent.into(), nested: 0, ..self.place() })
    }

    fn place(&self) -> Place {
        let Position { attempt, phase, phase_try, nested, step, .. } = self.position;
        let phase_type = self.phase_type.to_string();
        Place { attempt, phase, phase_type, phase_try, nested, step, ..Place::default() }
    }

    pub(super) async fn warn_of(&self, agent: &str, differences: Vec<Value>) -> Result<()> {
        for difference in differences {
            self.tell(agent, "warning", difference).await?;
        }
        Ok(())
    }

    pub(super) fn model_error(&self, agent: &str, error: llm::LlmError) -> Error {
        if error.kind == LlmErrorKind::Cancelled {
            return self.control.error();
        }
        Error::Model {
            error,
            agent: agent.into(),
            phase: self.phase_type.to_string(),
            step: self.position.step,
        }
    }

    /// An error of a model's answer that no call made, such as one that stayed empty.
    pub fn answer_error(&self, agent: &str, model: &str, kind: LlmErrorKind, message: String) -> Error {
        self.model_error(agent, llm::LlmError { kind, message, status: None, model: model.into() })
    }
}
