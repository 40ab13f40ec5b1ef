//! A context agent's turn: it reads a library's documentation for the engineer.

use serde_json::json;

use super::step::{Done, Site};
use super::{tell_shortened, template};
use crate::agents::{ConsultCase, StepCase};
use crate::engine::Run;
use crate::error::{Error, Result};
use crate::library;

impl Site<'_> {
    /// Has the step's agent read the documentation of `library`; its answer is the step's notes.
    pub(super) async fn consult(
        &self,
        run: &Run,
        case: &StepCase,
        library: &str,
        done: &mut Done,
    ) -> Result<String> {
        let agent = done.record.agent.clone();
        let home = library::home(library).ok_or_else(|| {
            Error::Configuration(format!("{agent}: it is not known where the documentation of {library} is"))
        })?;
        let packages = &case.briefing.facts.packages;
        let installed =
            packages.iter().find(|(name, _)| name == library).map(|(_, version)| version.as_str());
        let logs = self.space.directory("logs")?;
        let document = run.documentation(home, installed, &logs).await?;
        if let Some(problem) = &document.problem {
            let instead = if document.text.is_empty() { "there is none" } else { document.source.as_str() };
            let message = format!("{problem}. The {agent} reads instead: {instead}");
            run.tell(&agent, "warning", json!({"message": message})).await?;
        }
        let about = json!({
            "library": library, "installed": installed, "source": document.source,
            "characters": document.text.chars().count(),
        });
        run.tell(&agent, "documentation_read", about).await?;
        let case = ConsultCase {
            step: case.clone(),
            library: library.into(),
            installed: installed.map(str::to_owned),
            source: document.source,
            text: document.text,
        };
        let prompt = self.templates.consultant(&agent, &case).map_err(template)?;
        tell_shortened(run, &agent, &prompt).await?;
        let answer = self.speaker(&agent).text(run, &prompt).await?;
        done.transcript.consultant(&agent, &answer);
        done.record.notes = Some(answer.clone());
        Ok(answer)
    }
}
