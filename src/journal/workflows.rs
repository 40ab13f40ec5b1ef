//! Workflow definitions in the store, with all their versions.

use rusqlite::{Row, TransactionBehavior, params};
use serde::Serialize;

use super::{Store, lease};
use crate::error::Result;

/// One version of a definition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkflowRow {
    /// The workflow's id.
    pub id: String,
    /// Its version, from 1.
    pub version: u32,
    /// The definition, as whoever keeps it wrote it.
    pub body: String,
    /// Seconds since 1970.
    pub at: f64,
}

fn row(row: &Row<'_>) -> rusqlite::Result<WorkflowRow> {
    Ok(WorkflowRow { id: row.get(0)?, version: row.get(1)?, body: row.get(2)?, at: row.get(3)? })
}

impl Store {
    /// The newest version of every workflow, in the order in which they were made.
    ///
    /// # Errors
    /// [`Error::Journal`](crate::error::Error::Journal): the store cannot be read.
    pub fn workflows(&self) -> Result<Vec<WorkflowRow>> {
        self.read(|desk| {
            let sql = "SELECT id, version, body, at FROM workflows AS one WHERE version = \
                       (SELECT max(version) FROM workflows WHERE id = one.id) \
                       ORDER BY (SELECT min(rowid) FROM workflows WHERE id = one.id)";
            desk.prepare_cached(sql)?.query_map([], row)?.collect()
        })
    }

    /// All versions of a workflow, the newest first.
    ///
    /// # Errors
    /// [`Error::Journal`](crate::error::Error::Journal): the store cannot be read.
    pub fn workflow_versions(&self, id: &str) -> Result<Vec<WorkflowRow>> {
        self.read(|desk| {
            let sql = "SELECT id, version, body, at FROM workflows WHERE id = ?1 ORDER BY version DESC";
            desk.prepare_cached(sql)?.query_map([id], row)?.collect()
        })
    }

    /// Keeps a new version of a workflow; `before` is the newest one its writer knows, 0 for none.
    /// Returns whether it was kept: not when another one was newer.
    ///
    /// # Errors
    /// [`Error::Journal`](crate::error::Error::Journal): the store cannot be written.
    pub fn keep_workflow(&self, id: &str, before: u32, body: &str) -> Result<bool> {
        self.change_workflow(id, before, |desk| {
            let sql = "INSERT INTO workflows (id, version, body, at) VALUES (?1, ?2, ?3, ?4)";
            desk.execute(sql, params![id, before + 1, body, lease::now()]).map(drop)
        })
    }

    /// Deletes all versions of a workflow, the newest of which is `before`; `false` when another one is.
    ///
    /// # Errors
    /// [`Error::Journal`](crate::error::Error::Journal): the store cannot be written.
    pub fn drop_workflow(&self, id: &str, before: u32) -> Result<bool> {
        self.change_workflow(id, before, |desk| {
            desk.execute("DELETE FROM workflows WHERE id = ?1", [id]).map(drop)
        })
    }

    fn change_workflow(
        &self,
        id: &str,
        before: u32,
        change: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<()>,
    ) -> Result<bool> {
        self.write(|desk| {
            let transaction = desk.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let newest: u32 = transaction.query_row(
                "SELECT coalesce(max(version), 0) FROM workflows WHERE id = ?1",
                [id],
                |row| row.get(0),
            )?;
            if newest != before {
                return Ok(false);
            }
            change(&transaction)?;
            transaction.commit()?;
            Ok(true)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::journal::Store;

    #[test]
    fn versions_are_kept_and_a_stale_writer_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store.db")).unwrap();
        assert!(store.keep_workflow("b", 0, "b1").unwrap());
        assert!(store.keep_workflow("a", 0, "a1").unwrap());
        assert!(store.keep_workflow("b", 1, "b2").unwrap());
        assert!(!store.keep_workflow("b", 1, "late").unwrap());
        assert!(!store.keep_workflow("a", 0, "again").unwrap());
        let bodies = |rows: Vec<super::WorkflowRow>| rows.into_iter().map(|row| row.body).collect::<Vec<_>>();
        assert_eq!(bodies(store.workflows().unwrap()), ["b2", "a1"]);
        assert_eq!(bodies(store.workflow_versions("b").unwrap()), ["b2", "b1"]);
        assert!(!store.drop_workflow("b", 1).unwrap());
        assert!(store.drop_workflow("b", 2).unwrap());
        assert_eq!(bodies(store.workflows().unwrap()), ["a1"]);
    }
}
