//! What a run has made under `data/`, and which step made it.

use super::workspace::Workspace;
use crate::agents::{Product, StepRecord};
use crate::engine::Run;
use crate::error::Result;
use crate::exec::products::{FileFacts, table};

/// Products so far: those known keep their step, new ones belong to the step of `record`.
pub(super) async fn products(
    run: &Run,
    space: &Workspace,
    known: &[Product],
    record: &StepRecord,
) -> Result<Vec<Product>> {
    let (known, record) = (known.to_vec(), record.clone());
    let step = move |file: &FileFacts| {
        let before = known.iter().find(|product| product.path == file.path);
        let description = if record.rejected.contains(&file.path) {
            Some("rejected by the plot judge, and made anew".to_owned())
        } else {
            before.and_then(|product| product.description.clone())
        };
        (
            before.map_or(record.number, |product| product.step),
            description.or_else(|| described(&file.path, &record)),
        )
    };
    space.look(run, "products", move |space| list(space, step)).await
}

/// Products that an earlier run left: each belongs to the first step whose scripts name it, else to
/// the last one.
pub(super) async fn inherited(run: &Run, space: &Workspace, records: &[StepRecord]) -> Result<Vec<Product>> {
    let records = records.to_vec();
    let step = move |file: &FileFacts| {
        let name = file.path.rsplit('/').next().unwrap_or(&file.path);
        let names = |record: &&StepRecord| {
            record.scripts.iter().any(|script| script.code.contains(name) || script.output.contains(name))
        };
        let record = records.iter().find(names).or(records.last());
        (record.map_or(1, |record| record.number), record.and_then(|record| described(&file.path, record)))
    };
    space.look(run, "products of the earlier run", move |space| list(space, step)).await
}

/// The files under `data/`; `step` gives a file's step and what is known of it.
fn list(space: &Workspace, step: impl Fn(&FileFacts) -> (usize, Option<String>)) -> Result<Vec<Product>> {
    let now = space.inventory()?;
    let data = now.files.into_values().filter(|file| file.path.starts_with("data/"));
    data.map(|file| {
        let table = table(&space.root, &file.path)?.unwrap_or_default();
        let (step, description) = step(&file);
        Ok(Product {
            bytes: file.bytes,
            step,
            columns: table.columns,
            rows: table.rows,
            description,
            path: file.path,
        })
    })
    .collect()
}

/// The printed line that names a plot: it says what the plot shows.
fn described(path: &str, record: &StepRecord) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let lines = record.scripts.iter().flat_map(|script| script.output.lines());
    lines.map(str::trim).filter(|line| line.contains(name)).map(str::to_owned).next_back()
}
