//! One step of a plan: an engineer's tries at a script, a researcher's notes, or ideas.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::config::{Models, Params};
use super::directory::write;
use super::install::Installer;
use super::plots::Judged;
use super::products::products;
use super::script::{Bench, Ran};
use super::workspace::Workspace;
use super::{fitted, reports, template};
use crate::agents::diagnosis::{self, Diagnosis, Kind, Limits};
use crate::agents::extract::{self, Answer, Status};
use crate::agents::prompts::Templates;
use crate::agents::transcript::{self, At, Transcript};
use crate::agents::turn::Speaker;
use crate::agents::{
    FailedAttempt, IdeaCase, ScriptRecord, StepCase, StepRecord, carry, formats, notes, numbers, parse, plan,
    roster, suspect,
};
use crate::engine::Run;
use crate::engine::ledger::Total;
use crate::error::{Error, Result};
use crate::exec::{Check, Execution, Exit, clean, confine};
use crate::llm::{LlmErrorKind, Schema};

/// Answers without a script that compiles that are sent back without costing a try, in a row.
const FREE_REPAIRS: usize = 2;
/// Scripts that may succeed one after the other in one step while the engineer says that work remains.
const MAX_SCRIPTS: usize = 12;

/// Where and with what a step is done.
pub(super) struct Site<'a> {
    pub(super) space: &'a Workspace,
    pub(super) templates: &'a Templates,
    pub(super) params: &'a Params,
    pub(super) models: Models<'a>,
    /// The configuration's models, by agent.
    pub(super) fields: [(&'a str, &'a str); 7],
    /// At most this many judgements of plots a step; `None` when they are not judged.
    pub(super) plot_evals: Option<usize>,
    /// `max_n_attempts`: tries beyond the first.
    pub(super) max_n_attempts: usize,
    /// Whether a human is asked before a package is installed.
    pub(super) asks: bool,
}

/// What a step came to.
pub(super) struct Done {
    pub(super) record: StepRecord,
    pub(super) transcript: Transcript,
    /// Nested chats of the engineer's tries, in order.
    pub(super) nested: Vec<Vec<Value>>,
    pub(super) failed_tries: usize,
    pub(super) judged: Judged,
    /// Why the step failed, when it did.
    pub(super) failure: Option<String>,
}

impl Site<'_> {
    pub(super) fn speaker(&self, agent: &str) -> Speaker {
        let field = self.fields.iter().find(|(name, _)| *name == agent).map_or("", |(_, model)| *model);
        self.models.speaker(agent, field)
    }

    /// Does step `case.step` of `case.plan`.
    pub(super) async fn perform(
        &self,
        run: &Run,
        mut case: StepCase,
        task: &str,
        label: &str,
    ) -> Result<Done> {
        let step = case.plan.get(case.step - 1).cloned().unwrap_or_default();
        case.max_attempts = self.max_n_attempts + 1;
        case.carry_budget = Some(carry::budget(run.window(&self.speaker(&step.sub_task_agent).model)));
        case.network = Some(self.params.sandbox(&self.space.work_dir).network());
        let mut done = Done {
            record: StepRecord {
                number: case.step,
                agent: step.sub_task_agent.clone(),
                sub_task: step.sub_task.clone(),
                ..StepRecord::default()
            },
            transcript: Transcript::new(&format!("{label}_{}", case.step)),
            nested: Vec::new(),
            failed_tries: 0,
            judged: Judged::default(),
            failure: None,
        };
        done.transcript.task(task);
        let at = At { number: case.step, of: case.plan.len(), step: &step };
        done.transcript.step_begins(at);
        let (begun, mark) = (run.clock().now(), run.ledger().mark());
        let worked = match step.sub_task_agent.as_str() {
            "researcher" => self.research(run, &mut case, &mut done).await,
            "idea_maker" | "idea_hater" => self.ideas(run, &mut case, &mut done).await,
            _ => self.compute(run, case, at, &mut done).await,
        };
        match worked {
            Ok(()) => {}
            // What was cut short did not fail.
            Err(error) if error.is_ending() || run.control().cancelled() => return Err(error),
            Err(error) => {
                let about = json!({
                    "number": at.number, "total": at.of, "sub_task": step.sub_task,
                    "step_agent": step.sub_task_agent, "status": "failed",
                    "seconds": run.clock().now() - begun, "summary": "", "error": error.to_string(), "files": [],
                    "usage": Total::of(&run.ledger().since(mark)).to_json(),
                });
                run.tell("", "step_finished", about).await?;
                return Err(error);
            }
        }
        if done.failure.is_none() {
            done.transcript.control(at, "completed");
            done.transcript.terminator();
        }
        Ok(done)
    }

    /// An engineer's step, or one that reads for the engineer.
    async fn compute(&self, run: &Run, mut case: StepCase, at: At<'_>, done: &mut Done) -> Result<()> {
        if let Some(library) = roster::library(&at.step.sub_task_agent) {
            case.guidance = Some(self.consult(run, &case, library, done).await?);
            // What was read is for the engineer: at once, where the plan has no step of its own for that.
            let later = case.plan.get(case.step..).unwrap_or_default();
            if later.iter().any(|step| step.sub_task_agent == "engineer") {
                return Ok(());
            }
        }
        self.engineer(run, case, at, done).await
    }

    async fn engineer(&self, run: &Run, mut case: StepCase, at: At<'_>, done: &mut Done) -> Result<()> {
        let speaker = self.speaker("engineer");
        case.timeout_seconds = self.params.script_timeout_seconds;
        case.writable = vec!["the working directory".into()];
        case.writable.extend(self.params.write_paths.iter().map(|path| path.display().to_string()));
        let mut installer = Installer::new(self.asks);
        let bullets = at.step.bullet_points.clone();
        // Neither an earlier step's script nor a file of the user's is ever overwritten.
        let earlier = case.records.iter().flat_map(|r| r.scripts.iter().map(|s| PathBuf::from(&s.file)));
        let taken: Vec<PathBuf> = earlier.chain(self.space.foreign().map(PathBuf::from)).collect();
        let mut symptoms = 0;
        let mut advised = false;
        // A script whose plots are being mended: it has done the step's work.
        let mut kept: Option<ScriptRecord> = None;
        for turn in 1.. {
            let here = run.at_turn(turn);
            let prompt = fitted(&here, &speaker, &mut case, |case| self.templates.engineer(case)).await?;
            let mut talk = speaker.talk(&prompt);
            let mut repairs = 0;
            let (answer, attempt) = loop {
                let answer = talk.answer(&here, None).await?;
                let attempt = self.compile(&here, extract::answer(&answer), &case, &taken).await?;
                match &attempt.complaint {
                    Some(complaint) if repairs < FREE_REPAIRS => talk.object(complaint),
                    _ => break (answer, attempt),
                }
                repairs += 1;
            };
            let mut failure = FailedAttempt {
                number: case.failures.len() + 1,
                file: attempt.file.clone(),
                code: attempt.code.clone(),
                modifications: attempt.answer.modifications.clone(),
                ..FailedAttempt::default()
            };
            let Answer { explanation, modifications, status, .. } = attempt.answer;
            let formatted =
                formats::engineer(&explanation, modifications.as_deref(), &attempt.file, &attempt.code);
            let mut interrupted = false;
            if let Some(complaint) = attempt.complaint {
                done.transcript.engineer(
                    &answer,
                    &formatted,
                    &formats::executed(&attempt.file, &attempt.code, &formats::executor(false, &complaint)),
                );
                (failure.ended, failure.diagnosis) = ("it was not run".into(), complaint);
            } else {
                let (Ran { execution, files, log }, missing) = {
                    let about = json!({"attempt": case.failures.len() + 1, "attempts": case.max_attempts});
                    let bench = Bench { space: self.space, params: self.params, agent: "engineer" };
                    installer.run(&bench, &here, &attempt.file, &attempt.code, about).await?
                };
                let output = clean::clean(&execution.output);
                let success = execution.exit.success();
                interrupted = matches!(execution.exit, Exit::Timeout(_) | Exit::Limit(_) | Exit::Cancelled);
                let executor = formats::executor(success, &output);
                let executed = formats::executed(&attempt.file, &attempt.code, &executor);
                done.nested.push(transcript::nested(&formatted, &executor));
                done.transcript.engineer(&answer, &formatted, &executed);
                let symptom = success.then(|| suspect::suspect(&output, &bullets, &files)).flatten();
                // Only while tries are left: a script that exits with 0 never fails a step.
                let no_try_left = done.failed_tries >= self.max_n_attempts;
                if success && (symptom.is_none() || symptoms > 0 || no_try_left) {
                    if let Some(symptom) = &symptom {
                        let message = format!("{} is taken as it is, although {symptom}", attempt.file);
                        here.tell("engineer", "warning", json!({"message": message})).await?;
                    }
                    done.transcript.executor_response_formatter(at, transcript::Outcome::Success);
                    let script = ScriptRecord {
                        file: attempt.file,
                        code: attempt.code,
                        output,
                        log: Some(log),
                        outline: attempt.check,
                    };
                    done.record.scripts.retain(|s| s.file != script.file);
                    done.record.scripts.push(script.clone());
                    case.plots = self.judge(&here, &case, &script, &files, done).await?;
                    if case.plots.is_some() {
                        kept = (status == Status::Finished).then_some(script);
                        case.suspect = None;
                        case.second_opinion = None;
                        case.failures.clear();
                        case.max_attempts = self.max_n_attempts + 1 - done.failed_tries;
                        continue;
                    }
                    match status {
                        Status::Remaining(what) if case.done_here.len() + 1 < MAX_SCRIPTS => {
                            case.done_here.retain(|s| s.file != script.file);
                            case.done_here.push(script);
                            (case.remaining, case.suspect, case.second_opinion) = (Some(what), None, None);
                            case.failures.clear();
                            case.max_attempts = self.max_n_attempts + 1 - done.failed_tries;
                            case.products = products(&here, self.space, &case.products, &done.record).await?;
                            symptoms = 0;
                            continue;
                        }
                        Status::Remaining(what) => {
                            let message = format!(
                                "the step ends after {MAX_SCRIPTS} scripts, although the engineer says that work \
                                 remains: {what}"
                            );
                            return here.tell("engineer", "warning", json!({"message": message})).await;
                        }
                        Status::Finished => return Ok(()),
                    }
                }
                if let Some(symptom) = symptom {
                    symptoms += 1;
                    case.suspect = Some(symptom.clone());
                    let message = format!("{} ended well, but {symptom} It goes back once.", attempt.file);
                    here.tell("engineer", "warning", json!({"message": message})).await?;
                    (failure.ended, failure.diagnosis) = ("it ended well, but looked wrong".into(), symptom);
                } else {
                    case.suspect = None;
                    failure.ended = diagnosis::ended(&execution.exit);
                    let diagnosis = diagnose(&execution, &output, &case);
                    case.documents.clear();
                    if let Kind::Library(_) = diagnosis.kind {
                        let logs = self.space.directory("logs")?;
                        let told = here.docstrings(&execution.output, &logs).await?;
                        case.documents.extend((!told.is_empty()).then_some(told));
                    }
                    failure.diagnosis = diagnosis.to_string();
                    if let Some(why) = missing {
                        failure.diagnosis = format!("{} {why}", failure.diagnosis);
                    }
                }
                failure.output = output;
            }
            done.failed_tries += 1;
            let last = done.failed_tries > self.max_n_attempts;
            self.keep_failed(&here, at.number, done.failed_tries, &failure)?;
            let outcome = if last {
                transcript::Outcome::Exhausted(self.max_n_attempts)
            } else {
                transcript::Outcome::Failure(&failure.diagnosis)
            };
            done.transcript.executor_response_formatter(at, outcome);
            let alike = case.failures.last().is_some_and(|before| alike(before, &failure));
            // The traceback of a script that we interrupted says nothing of why.
            let error = diagnosis::error_line(&failure.output).filter(|_| !interrupted);
            let reason = error.map_or(failure.diagnosis.clone(), str::to_owned);
            case.failures.push(failure);
            if let Some(script) = kept.take_if(|_| last) {
                done.record.rejected.clear();
                let text = format!("# filename: {}\n{}", script.file, script.code);
                confine::write(&self.space.root, Path::new(&script.file), &text)?;
                let message =
                    format!("the plots of {} are accepted as they are: mending them failed", script.file);
                return here.tell("engineer", "warning", json!({"message": message})).await;
            }
            if last {
                done.transcript.control(at, "failed");
                done.failure = Some(reason);
                return Ok(());
            }
            case.second_opinion = None;
            if alike && !advised {
                advised = true;
                case.second_opinion = self.second_opinion(&here, &case).await?;
            }
        }
        Ok(())
    }

    /// Finds the file of an answer's script and whether it compiles, as it stands or normalised.
    async fn compile(
        &self,
        run: &Run,
        answer: Answer,
        case: &StepCase,
        taken: &[PathBuf],
    ) -> Result<Attempt> {
        let fallback = format!("step_{}.py", case.step);
        let mut attempt = Attempt { file: format!("codebase/{fallback}"), ..Attempt::default() };
        let Some(code) = answer.code.clone() else {
            attempt.complaint =
                Some("The answer held no Python block: give exactly one complete ```python block.".into());
            return Ok(Attempt { answer, ..attempt });
        };
        match confine::place(&self.space.root, answer.filename.as_deref(), &fallback, taken) {
            Ok(file) => attempt.file = file.to_string_lossy().into_owned(),
            Err(error) => attempt.complaint = Some(format!("{error}")),
        }
        attempt.code.clone_from(&code);
        if answer.unclosed {
            attempt.complaint =
                Some("The Python block has no closing fence: give the whole script again.".into());
        }
        attempt.check = run.check(&code, &attempt.file).await?;
        if attempt.check.error.is_some() {
            let normalised = extract::normalise(&code);
            if normalised != code {
                let check = run.check(&normalised, &attempt.file).await?;
                if check.error.is_none() {
                    (attempt.code, attempt.check) = (normalised, check);
                }
            }
        }
        if let Some(error) = &attempt.check.error {
            attempt.complaint = Some(format!("The script does not compile:\n{error}"));
        }
        Ok(Attempt { answer, ..attempt })
    }

    /// Keeps a failed try apart from the modules that later steps may import.
    fn keep_failed(&self, run: &Run, step: usize, number: usize, failure: &FailedAttempt) -> Result<()> {
        let path =
            self.space.directory("attempts")?.join(format!("step_{step}_attempt_{number}{}.py", run.again()));
        write(&path, format!("# {}: {}\n{}", failure.file, failure.ended, failure.code).as_bytes())?;
        self.space.record([path])
    }

    /// Advice of another model; `None`, with a warning, when that model cannot be reached: the
    /// engineer's own may well be.
    async fn second_opinion(&self, run: &Run, case: &StepCase) -> Result<Option<String>> {
        let field = self.params.default_formatter_model.clone().unwrap_or_default();
        let speaker = self.models.speaker("second_opinion", &field);
        let prompt = self.templates.second_opinion(case).map_err(template)?;
        match speaker.text(&run.tolerant(), &prompt).await {
            Ok(text) => Ok(Some(text)),
            Err(Error::Model { error, .. }) if error.kind != LlmErrorKind::Cancelled => {
                let message = format!("there is no second opinion on this failure: {error}");
                run.tell("second_opinion", "warning", json!({"message": message})).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn research(&self, run: &Run, case: &mut StepCase, done: &mut Done) -> Result<()> {
        let here = run.at_turn(1);
        let speaker = self.speaker("researcher");
        let pictures = self.pictures(&here, case, &speaker).await?;
        let prompt = fitted(&here, &speaker, case, |case| self.templates.researcher(case, &pictures)).await?;
        let answer = if pictures.is_empty() {
            speaker.text(&here, &prompt).await?
        } else {
            match speaker.text(&here.tolerant(), &prompt).await {
                Err(Error::Model { error, .. }) if error.kind == LlmErrorKind::BadRequest => {
                    let message = format!("the researcher is asked again without pictures: {error}");
                    here.tell("researcher", "warning", json!({"message": message})).await?;
                    let prompt = self.templates.researcher(case, &[]).map_err(template)?;
                    speaker.text(&here, &prompt).await?
                }
                answer => answer?,
            }
        };
        let foreign = self.space.foreign().map(str::to_owned);
        let taken: Vec<String> = case.taken_notes.iter().cloned().chain(foreign).collect();
        let (file, body) = notes::notes(&answer, case.notes_file.as_deref(), &taken);
        let sources: Vec<&str> = std::iter::once(case.briefing.task.as_str())
            .chain(case.plan.iter().flat_map(|s| s.bullet_points.iter().map(String::as_str)))
            .chain(case.records.iter().flat_map(|r| {
                let outputs = r.scripts.iter().map(|s| s.output.as_str());
                outputs.chain(r.notes.as_deref()).chain(r.summary.as_deref())
            }))
            .collect();
        let unsupported = numbers::unsupported(&body, &sources);
        if !unsupported.is_empty() {
            let message = format!(
                "{file} quotes numbers that no script printed: {}; check them before use",
                unsupported.join(", ")
            );
            run.tell("researcher", "warning", json!({"message": message})).await?;
        }
        let path = self.space.root.join(&file);
        write(&path, formats::note_file(&file, &body).as_bytes())?;
        self.space.record([path.clone()])?;
        run.tell("researcher", "file_written", json!({"path": path, "what": "notes"})).await?;
        done.transcript.researcher(&answer, &file, &body, &path.display().to_string());
        (done.record.notes, done.record.notes_file) = (Some(body), Some(file));
        Ok(())
    }

    /// An idea agent's step: a structured list, kept as the step's notes and as `ideas_*.json`.
    async fn ideas(&self, run: &Run, case: &mut StepCase, done: &mut Done) -> Result<()> {
        let here = run.at_turn(1);
        let agent = done.record.agent.clone();
        let speaker = self.speaker(&agent);
        let render = |case: &StepCase| {
            let ideas = IdeaCase { step: case.clone(), ..IdeaCase::default() };
            match agent.as_str() {
                "idea_maker" => self.templates.idea_maker(&ideas),
                _ => self.templates.idea_hater(&ideas),
            }
        };
        let prompt = fitted(&here, &speaker, case, render).await?;
        let text = if agent == "idea_maker" {
            let schema = Schema { name: "ideas".into(), schema: plan::ideas_schema() };
            let (ideas, _) = speaker.structured(&here, &prompt, &schema, parse::ideas).await?;
            let stamp = run.stamp(run.now().await?);
            let path = reports::fresh(run, &self.space.root, "ideas", &stamp).await?;
            reports::json(&path, &ideas, 2)?;
            self.space.record([path])?;
            done.transcript.idea_maker(&ideas);
            formats::ideas(&ideas)
        } else {
            let schema = Schema { name: "critique".into(), schema: plan::critique_schema() };
            let (critique, _) = speaker.structured(&here, &prompt, &schema, parse::critique).await?;
            done.transcript.idea_hater(&critique);
            formats::critique(&critique)
        };
        done.record.notes = Some(text);
        Ok(())
    }
}

/// An answer's script, ready to run unless there is a complaint.
#[derive(Default)]
struct Attempt {
    answer: Answer,
    file: String,
    code: String,
    check: Check,
    complaint: Option<String>,
}

/// Whether two tries failed alike; of those that were not run only the complaint can tell.
fn alike(before: &FailedAttempt, now: &FailedAttempt) -> bool {
    let silent = before.output.trim().is_empty() && now.output.trim().is_empty();
    diagnosis::same_failure(before, now) && (!silent || before.diagnosis == now.diagnosis)
}

fn diagnose(execution: &Execution, output: &str, case: &StepCase) -> Diagnosis {
    let limits = Limits {
        timeout_seconds: case.timeout_seconds,
        memory_bytes: case.briefing.facts.memory_bytes,
        writable: case.writable.clone(),
        elapsed_seconds: execution.seconds,
    };
    diagnosis::diagnose(&execution.exit, output, &limits)
}
