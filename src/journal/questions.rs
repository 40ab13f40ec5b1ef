//! Questions that runs ask, and answers to them from elsewhere.

use rusqlite::params;
use serde::Serialize;
use serde_json::Value;

use super::runs::json_of;
use super::store::Store;
use crate::error::{Error, Result};

/// A question that a run has asked.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct QuestionRow {
    /// Its id within the run.
    pub id: String,
    /// Seconds since 1970.
    pub asked: f64,
    /// What was asked.
    pub question: Value,
    /// What was answered.
    pub answer: Option<Value>,
    /// Whether the run has taken an answer.
    pub settled: bool,
}

impl Store {
    /// The questions that a run has asked, in order.
    pub fn questions(&self, id: &str) -> Result<Vec<QuestionRow>> {
        self.read(|desk| {
            let sql = "SELECT id, asked, question, answer, settled FROM questions \
                       WHERE run = (SELECT no FROM runs WHERE id = ?1) ORDER BY asked, id";
            desk.prepare_cached(sql)?
                .query_map([id], |row| {
                    Ok(QuestionRow {
                        id: row.get(0)?,
                        asked: row.get(1)?,
                        question: json_of(row, 2)?,
                        answer: row.get::<_, Option<String>>(3)?.and_then(|t| serde_json::from_str(&t).ok()),
                        settled: row.get(4)?,
                    })
                })?
                .collect()
        })
    }

    /// Answers a question; a run that is not running finds the answer when it is resumed.
    ///
    /// # Errors
    /// [`Error::Journal`]: there is no such question, or it has been settled.
    pub fn answer(&self, id: &str, question: &str, answer: &Value) -> Result<()> {
        let changed = self.write(|desk| {
            let sql = "UPDATE questions SET answer = ?3 \
                       WHERE run = (SELECT no FROM runs WHERE id = ?1) AND id = ?2 AND NOT settled";
            desk.execute(sql, params![id, question, answer.to_string()])
        })?;
        if changed == 0 {
            return Err(Error::Journal(format!(
                "run {id} has no open question {question:?}: it was answered already, or never asked"
            )));
        }
        Ok(())
    }
}
