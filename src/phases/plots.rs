//! Plots before models that take pictures: the judge's verdict on new ones, and what the researcher sees.

use serde_json::json;

use super::step::{Done, Site};
use super::template;
use crate::agents::judgement::{Judgement, Verdict};
use crate::agents::turn::Speaker;
use crate::agents::{JudgeCase, ScriptRecord, StepCase, parse, plan};
use crate::engine::Run;
use crate::error::{Error, Result};
use crate::exec::pictures::{Gallery, Picture};
use crate::exec::products::{is_image, is_picture};
use crate::llm::{CallOptions, Sampling, Schema};

/// The most pictures in one request.
const MOST: usize = 8;
/// Models that judge when neither the setting's nor the engineer's takes pictures: one a provider, by
/// the keys there are.
const JUDGES: [&str; 3] = ["gpt-4.1-2025-04-14", "claude-sonnet-4-5", "gemini-2.5-pro"];

/// What was judged in a step.
#[derive(Debug, Clone, Default)]
pub(super) struct Judged {
    /// How many scripts' plots were judged.
    pub(super) rounds: usize,
    /// The last judgement.
    pub(super) last: Option<Judgement>,
}

impl Site<'_> {
    /// Has the plots among `files` (that `script` wrote or changed) judged. Gives the judgement when
    /// a plot is to be made again.
    pub(super) async fn judge(
        &self,
        run: &Run,
        case: &StepCase,
        script: &ScriptRecord,
        files: &[String],
        done: &mut Done,
    ) -> Result<Option<Judgement>> {
        let plots: Vec<String> =
            files.iter().filter(|path| path.starts_with("data/") && is_image(path)).cloned().collect();
        let Some(limit) = self.plot_evals.filter(|_| !plots.is_empty()) else { return Ok(None) };
        // Made anew under the same name, it is another plot.
        done.record.rejected.retain(|plot| !plots.contains(plot));
        if done.judged.rounds >= limit {
            let reason = format!("the limit max_n_plot_evals={limit} is reached");
            return accepted(run, &plots, &reason).await;
        }
        let names = plots.clone();
        let read = move |space: &super::workspace::Workspace| {
            Ok(Gallery::read(&space.root, names.iter().map(String::as_str)))
        };
        let gallery = self.space.look(run, "plots for the judge", read).await?;
        warn(run, "plot_judge", &gallery.unreadable).await?;
        if gallery.pictures.is_empty() {
            return accepted(run, &plots, "none of them can be shown to a model").await;
        }
        let Some(judge) = self.plot_judge(run).await? else {
            let reason = "there is no key for a model that takes pictures; name one by plot_judge_model";
            warn(run, "plot_judge", &[format!("plots are not judged: {reason}")]).await?;
            return accepted(run, &plots, reason).await;
        };
        done.judged.rounds += 1;
        let case = JudgeCase { step: case.clone(), script: script.clone() };
        let schema = Schema { name: "judgement".into(), schema: plan::judgement_schema() };
        let mut judgement =
            Judgement { file: script.file.clone(), code: script.code.clone(), verdicts: Vec::new() };
        let mut failed = None;
        for pictures in gallery.pictures.chunks(MOST) {
            let prompt = self.templates.plot_judge(&case, pictures).map_err(template)?;
            match judge.structured(&run.tolerant(), &prompt, &schema, parse::judgement).await {
                Ok((verdicts, _)) => {
                    let spelt =
                        |verdict: Verdict| Verdict { plot: spelt(&verdict.plot, pictures), ..verdict };
                    judgement.verdicts.extend(verdicts.into_iter().map(spelt));
                }
                // The plots are there and the step is done: a judge who cannot be asked undoes neither.
                Err(error @ (Error::Model { .. } | Error::Limit(_))) => failed = Some(error),
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = failed {
            warn(run, "plot_judge", &[format!("plots are accepted unjudged: {error}")]).await?;
            if judgement.verdicts.is_empty() {
                return accepted(run, &plots, "the judge failed").await;
            }
        }
        let about = json!({
            "plots": plots, "verdict": judgement.verdict(), "problems": judgement.problems(),
            "fixes": judgement.fixes(), "model": judge.model, "round": done.judged.rounds, "rounds": limit,
        });
        run.tell("plot_judge", "plots_judged", about).await?;
        done.transcript.said("plot_judge", &judgement.text());
        if judgement.retry() {
            let rejected = judgement.verdicts.iter().filter(|verdict| verdict.retry());
            done.record.rejected.extend(rejected.map(|verdict| verdict.plot.clone()));
            done.transcript.said("plot_debugger", &judgement.feedback());
        }
        done.judged.last = Some(judgement.clone());
        Ok(judgement.retry().then_some(judgement))
    }

    /// The plot judge: with the model it was given, unless that is known to take no pictures; then with
    /// the engineer's, or one of a provider that the user has a key for.
    async fn plot_judge(&self, run: &Run) -> Result<Option<Speaker>> {
        let own = self.speaker("plot_judge");
        let engineer = Speaker { agent: own.agent.clone(), ..self.speaker("engineer") };
        let other = |model: &&str| Speaker {
            model: (*model).to_owned(),
            sampling: Sampling { reasoning_effort: None, ..own.sampling.clone() },
            max_output_tokens: None,
            route: CallOptions { deadline_seconds: own.route.deadline_seconds, ..CallOptions::default() },
            ..own.clone()
        };
        let stand_ins: Vec<Speaker> = std::iter::once(engineer).chain(JUDGES.iter().map(other)).collect();
        let choose = || {
            let blind = run.vision(&own.model) == Some(false);
            let sees = |judge: &&Speaker| {
                run.vision(&judge.model) == Some(true) && run.reaches(&judge.model, &judge.route)
            };
            Ok(if blind { stand_ins.iter().find(sees) } else { Some(&own) }.map(|judge| judge.model.clone()))
        };
        let model: Option<String> = run.observe_here("the plot judge's model", choose).await?;
        let chosen = |model: String| {
            let known = std::iter::once(&own).chain(&stand_ins).find(|judge| judge.model == model);
            known.cloned().unwrap_or_else(|| other(&model.as_str()))
        };
        Ok(model.map(chosen))
    }

    /// The newest pictures of the run for the researcher; none where its model is not known to take them.
    pub(super) async fn pictures(
        &self,
        run: &Run,
        case: &StepCase,
        researcher: &Speaker,
    ) -> Result<Vec<Picture>> {
        let rejected: Vec<String> = case.records.iter().flat_map(|record| record.rejected.clone()).collect();
        let sees = run.vision(&researcher.model) == Some(true);
        let read = move |space: &super::workspace::Workspace| {
            let images = if sees { space.images()? } else { Vec::new() };
            let below = images.iter().filter_map(|path| path.strip_prefix(&space.root).ok()?.to_str());
            let names: Vec<&str> =
                below.filter(|name| is_picture(name) && !rejected.iter().any(|plot| plot == name)).collect();
            Ok(Gallery::read(&space.root, names[names.len().saturating_sub(MOST)..].iter().copied()))
        };
        let gallery = self.space.look(run, "pictures for the researcher", read).await?;
        warn(run, "researcher", &gallery.unreadable).await?;
        Ok(gallery.pictures)
    }
}

/// A plot's name as we gave it, where the judge gave it without its directory.
fn spelt(plot: &str, pictures: &[Picture]) -> String {
    let file = |name: &str| name.rsplit('/').next().unwrap_or(name).trim().to_owned();
    let known = pictures.iter().find(|picture| picture.name == plot || file(&picture.name) == file(plot));
    known.map_or(plot, |picture| &picture.name).to_owned()
}

/// Records that plots are taken as they are.
async fn accepted(run: &Run, plots: &[String], reason: &str) -> Result<Option<Judgement>> {
    let about = json!({"plots": plots, "verdict": "accepted", "reason": reason});
    run.tell("plot_judge", "plots_judged", about).await?;
    Ok(None)
}

async fn warn(run: &Run, agent: &str, messages: &[String]) -> Result<()> {
    for message in messages {
        run.tell(agent, "warning", json!({"message": message})).await?;
    }
    Ok(())
}
