//! The files a phase leaves: plan, chats, times, costs, contexts — under the names and in the
//! shapes that existing readers know.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::directory::write;
use crate::engine::Run;
use crate::engine::ledger::{Line, Total, report};
use crate::error::{Error, Result};

fn encode(value: &impl serde::Serialize, indent: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    value
        .serialize(&mut serializer)
        .map_err(|e| Error::WorkDir(format!("a report cannot be written: {e}")))?;
    Ok(bytes)
}

/// Writes JSON with the indentation that the original uses for this kind of file.
pub fn json(path: &Path, value: &impl serde::Serialize, indent: usize) -> Result<()> {
    write(path, &encode(value, &b"    "[..indent.min(4)])?)
}

/// A path that does not exist yet: `stem_stamp.json`, with a number when the second is taken.
fn free(directory: &Path, stem: &str, stamp: &str) -> PathBuf {
    let first = directory.join(format!("{stem}_{stamp}.json"));
    let numbered = (2..).map(|n| directory.join(format!("{stem}_{stamp}_{n}.json")));
    std::iter::once(first).chain(numbered).find(|path| !path.exists()).unwrap_or_default()
}

/// A path that did not exist yet when this run first asked for it.
pub(super) async fn fresh(run: &Run, directory: &Path, stem: &str, stamp: &str) -> Result<PathBuf> {
    let (directory, stem, stamp) = (directory.to_owned(), stem.to_owned(), stamp.to_owned());
    run.observe("a free file name", move || Ok(free(&directory, &stem, &stamp))).await
}

/// Writes a timing report and returns its path.
pub async fn times(run: &Run, directory: &Path, stem: &str, fields: &[(&str, f64)]) -> Result<PathBuf> {
    let stamp = run.stamp(run.now().await?);
    let total: f64 = fields.iter().map(|(_, seconds)| seconds).sum();
    let mut map: Map<String, Value> = fields.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
    map.insert("total_time".into(), json!(total));
    let path = fresh(run, directory, stem, &stamp).await?;
    self::json(&path, &map, 2)?;
    Ok(path)
}

/// Writes what holds for scripts, and what could not be enforced; gives the path, unless nothing ran yet.
pub fn sandbox(run: &Run, directory: &Path) -> Result<Option<PathBuf>> {
    let confinement = run.confinement();
    if confinement.mode.is_empty() {
        return Ok(None);
    }
    let path = directory.join("sandbox.json");
    json(&path, &confinement, 2)?;
    Ok(Some(path))
}

/// What a cost report says, and where it is.
pub struct Costs {
    /// The report's file.
    pub path: PathBuf,
    /// Its rows, the total's included.
    pub rows: Vec<Value>,
}

/// Writes the cost report of some calls, and tells of it.
pub async fn costs(run: &Run, directory: &Path, stem: &str, lines: &[Line]) -> Result<Costs> {
    let stamp = run.stamp(run.now().await?);
    let rows = report(lines);
    let path = fresh(run, directory, stem, &stamp).await?;
    self::json(&path, &rows, 2)?;
    run.ledger().enter_as_reported(lines);
    run.tell("", "cost", told(&path, &rows, lines)).await?;
    Ok(Costs { path, rows })
}

/// Writes what no report of a run says: what failed phases, calls without a known end and phases that write no
/// reports have cost. Every life of the run writes it anew; the last one leaves none when nothing is left over.
///
/// Gives what is to be told of it.
pub fn rest(work_dir: &Path, run_id: &str, lines: &[Line]) -> Result<Option<Value>> {
    let path =
        work_dir.join("cost").join(format!("cost_report_rest_{}.json", run_id.get(..8).unwrap_or(run_id)));
    if lines.is_empty() {
        return match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::WorkDir(format!(
                "{} is out of date and cannot be removed: {error}",
                path.display()
            ))),
            _ => Ok(None),
        };
    }
    let rows = report(lines);
    json(&path, &rows, 2)?;
    Ok(Some(told(&path, &rows, lines)))
}

fn told(path: &Path, rows: &[Value], lines: &[Line]) -> Value {
    let total = Total::of(lines);
    let tokens = total.usage.prompt_tokens + total.usage.completion_tokens;
    json!({
        "cost_json_path": path, "total_cost": total.usage.cost.unwrap_or(0.0), "total_tokens": tokens,
        "records": &rows[..rows.len() - 1], "unpriced_models": total.unpriced_models,
    })
}

/// Writes a context as a pickle of plain Python values, readable without this package.
pub fn pickle(path: &Path, context: &Map<String, Value>) -> Result<()> {
    let options = serde_pickle::SerOptions::new();
    let bytes = serde_pickle::to_vec(context, options)
        .map_err(|e| Error::WorkDir(format!("{} cannot be written: {e}", path.display())))?;
    write(path, &bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn two_reports_of_one_second_are_two_files() {
        let temp = tempfile::tempdir().unwrap();
        let first = free(temp.path(), "cost_report", "20260101_000000");
        json(&first, &json!([1]), 2).unwrap();
        let second = free(temp.path(), "cost_report", "20260101_000000");
        assert_eq!(second.file_name().unwrap(), "cost_report_20260101_000000_2.json");
    }
}
