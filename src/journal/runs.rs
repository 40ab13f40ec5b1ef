//! The runs of a store: looked up, listed by page, counted.

use std::collections::BTreeMap;

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter, types};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::claim::living;
use super::lease::Owner;
use super::{Store, recovery};
use crate::error::Result;

/// A run as the store knows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunRow {
    /// Its id.
    pub id: String,
    /// The run whose phase made it.
    pub parent: Option<String>,
    /// What was said of it at its begin.
    pub about: Value,
    /// Its work directory.
    pub work_dir: String,
    /// As a word; `interrupted` when its process has gone.
    pub status: String,
    /// What it has spent, as far as it said.
    pub usage: Value,
    /// Seconds since 1970.
    pub created: f64,
    /// Seconds since 1970 of the last change of its status.
    pub updated: f64,
    /// The process that runs it now.
    pub owner: Option<Owner>,
}

/// Which runs are meant; what is not set does not matter.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wanted {
    /// Those in this directory.
    pub work_dir: Option<String>,
    /// Those of this workflow.
    pub workflow_id: Option<String>,
    /// Those that stand so, as [`RunRow::status`] has it.
    pub status: Option<String>,
    /// Only those that no phase of another run made.
    pub top_level: bool,
    /// Where runs stand that somebody knows better than the store: id → word.
    pub told: BTreeMap<String, String>,
    /// How many at most.
    pub limit: Option<u32>,
    /// How many are passed over.
    pub offset: u32,
}

/// What the runs that stand alike come to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tally {
    /// How they stand.
    pub status: String,
    /// How many there are.
    pub runs: u64,
    /// What they have spent, where they said.
    pub calls: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub completion_tokens: u64,
    /// Dollars, as far as prices are known.
    pub cost: f64,
}

/// The runs as they are seen: one that goes on without a living process is interrupted. A phase that waits or
/// pauses may end its run orderly: its process has let that one go.
const SEEN: &str = "SELECT no, id, parent, workflow, about, work_dir, usage, created, updated, \
     CASE WHEN living(owner, heartbeat) THEN status \
          WHEN status IN ('pending', 'running', 'stopping') THEN 'interrupted' \
          WHEN status IN ('waiting_approval', 'paused') AND owner IS NOT NULL THEN 'interrupted' \
          ELSE status END AS status, \
     CASE WHEN living(owner, heartbeat) THEN owner END AS owner FROM runs";

const COLUMNS: &str = "id, parent, about, work_dir, status, usage, created, updated, owner";

/// Teaches a connection to tell whether an owner may still be running.
pub(super) fn teach(connection: &Connection) -> rusqlite::Result<()> {
    connection.create_scalar_function("living", 2, FunctionFlags::SQLITE_UTF8, |context| {
        let owner: Option<String> = context.get(0)?;
        let heartbeat: f64 = context.get(1)?;
        Ok(owner.is_some_and(|owner| living(&owner, heartbeat).is_some()))
    })
}

impl Wanted {
    /// The condition that they fulfil, and its parameters.
    fn condition(&self) -> (String, Vec<types::Value>) {
        let mut parts = vec!["TRUE".to_owned()];
        let mut values: Vec<types::Value> = Vec::new();
        let mut put = |sql: &str, value: String| {
            values.push(value.into());
            parts.push(sql.to_owned());
        };
        if let Some(work_dir) = &self.work_dir {
            put("work_dir = ?", work_dir.clone());
        }
        if let Some(workflow) = &self.workflow_id {
            put("workflow = ?", workflow.clone());
        }
        if let Some(status) = &self.status {
            if self.told.is_empty() {
                put("status = ?", status.clone());
            } else {
                put(
                    "coalesce((SELECT value FROM json_each(?) WHERE key = seen.id), status) = ?",
                    json!(self.told).to_string(),
                );
                values.push(status.clone().into());
            }
        }
        if self.top_level {
            parts.push("parent IS NULL".into());
        }
        (parts.join(" AND "), values)
    }
}

impl Store {
    /// The runs that are meant, the newest first.
    pub fn runs(&self, wanted: &Wanted) -> Result<Vec<RunRow>> {
        let (condition, mut values) = wanted.condition();
        values.extend([wanted.limit.map_or(-1, i64::from).into(), i64::from(wanted.offset).into()]);
        self.read(|desk| {
            let sql = format!(
                "SELECT {COLUMNS} FROM ({SEEN}) AS seen WHERE {condition} ORDER BY created DESC, no DESC LIMIT ? OFFSET ?"
            );
            desk.prepare_cached(&sql)?.query_map(params_from_iter(values), run_row)?.collect()
        })
    }

    /// How many runs are meant, on all pages together.
    pub fn count_runs(&self, wanted: &Wanted) -> Result<u64> {
        let (condition, values) = wanted.condition();
        self.read(|desk| {
            let sql = format!("SELECT count(*) FROM ({SEEN}) AS seen WHERE {condition}");
            desk.prepare_cached(&sql)?.query_row(params_from_iter(values), |row| row.get(0))
        })
    }

    /// What the runs come to that no phase of another run made, by their status.
    pub fn tally(&self) -> Result<Vec<Tally>> {
        let sum = |name: &str| format!("coalesce(sum(usage ->> '$.{name}'), 0)");
        let sums = ["calls", "prompt_tokens", "completion_tokens"].map(sum).join(", ");
        self.read(|desk| {
            let sql = format!(
                "SELECT status, count(*), {sums}, total(usage ->> '$.cost') FROM ({SEEN}) AS seen WHERE parent IS NULL \
                 GROUP BY status ORDER BY status"
            );
            let row = |row: &Row<'_>| {
                Ok(Tally {
                    status: row.get(0)?,
                    runs: row.get(1)?,
                    calls: row.get(2)?,
                    prompt_tokens: row.get(3)?,
                    completion_tokens: row.get(4)?,
                    cost: row.get(5)?,
                })
            };
            desk.prepare_cached(&sql)?.query_map([], row)?.collect()
        })
    }

    /// The run with this id.
    pub fn run(&self, id: &str) -> Result<Option<RunRow>> {
        self.read(|desk| {
            let sql = format!("SELECT {COLUMNS} FROM ({SEEN}) AS seen WHERE id = ?1");
            desk.prepare_cached(&sql)?.query_row([id], run_row).optional()
        })
    }
}

fn run_row(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    let owner: Option<String> = row.get(8)?;
    Ok(RunRow {
        id: row.get(0)?,
        parent: row.get(1)?,
        about: json_of(row, 2)?,
        work_dir: row.get(3)?,
        status: row.get(4)?,
        usage: json_of(row, 5)?,
        created: row.get(6)?,
        updated: row.get(7)?,
        owner: owner.and_then(|owner| serde_json::from_str(&owner).ok()),
    })
}

pub(super) fn json_of(row: &Row<'_>, column: usize) -> rusqlite::Result<Value> {
    let text: String = row.get(column)?;
    recovery::parse(&text).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, types::Type::Text, Box::new(error))
    })
}

/// The workflow that a run says it is of.
pub(super) fn workflow(about: &Value) -> &str {
    about["workflow"]["id"].as_str().unwrap_or_default()
}
