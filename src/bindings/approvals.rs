//! The approval-manager duck type: `create_approval_request` and `wait_for_approval_async`.

use futures_util::future::BoxFuture;
use pyo3::exceptions::PyTimeoutError;
use pyo3::{intern, prelude::*};

use super::aio::keywords;
use super::bridge::Bridge;
use super::{convert, errors};
use crate::engine::{Answer, Approvals, Question};
use crate::error::{Error, Meaning, Result};

/// The caller's approval manager, if there is one.
pub(super) struct PyApprovals {
    pub(super) manager: Option<Py<PyAny>>,
    pub(super) bridge: Bridge,
}

impl Approvals for PyApprovals {
    fn present(&self) -> bool {
        self.manager.is_some()
    }

    fn ask<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<Answer>> {
        Box::pin(async move {
            let failed = |error: PyErr| {
                Python::attach(|py| {
                    if error.is_instance_of::<PyTimeoutError>(py) {
                        return Ok(Answer::TimedOut);
                    }
                    match errors::foreign(py, error) {
                        Error::Foreign { text, meaning: Meaning::Failure, .. } => {
                            Ok(Answer::Failed { error: text })
                        }
                        ending => Err(ending),
                    }
                })
            };
            let waiting = match Python::attach(|py| self.request(py, question)) {
                Ok(waiting) => waiting,
                Err(error) => return failed(error),
            };
            let answered = self.bridge.drive(waiting).await;
            match answered.and_then(|answer| Python::attach(|py| given(answer.bind(py)))) {
                Ok(answer) => Ok(answer),
                Err(error) => failed(error),
            }
        })
    }
}

impl PyApprovals {
    /// Makes the request and returns what is to be awaited.
    fn request(&self, py: Python<'_>, question: &Question) -> PyResult<Py<PyAny>> {
        let manager = self.manager.as_ref().map_or_else(|| py.None(), |m| m.clone_ref(py)).into_bound(py);
        let asked = keywords(
            py,
            &[
                ("run_id", question.run_id.as_str().into_pyobject(py)?.into_any()),
                ("step_id", question.step_id.as_str().into_pyobject(py)?.into_any()),
                ("checkpoint_type", question.checkpoint_type.as_str().into_pyobject(py)?.into_any()),
                ("context_snapshot", convert::to_python(py, &question.context_snapshot)?),
                ("message", question.message.as_str().into_pyobject(py)?.into_any()),
                ("options", question.options.clone().into_pyobject(py)?.into_any()),
            ],
        )?;
        let request = manager.call_method(intern!(py, "create_approval_request"), (), Some(&asked))?;
        let id = request.getattr(intern!(py, "id"))?.str()?;
        let seconds = question.timeout_seconds.into_pyobject(py)?.into_any();
        let limit = keywords(py, &[("timeout_seconds", seconds)])?;
        let waiting = manager.call_method(intern!(py, "wait_for_approval_async"), (id,), Some(&limit))?;
        Ok(waiting.unbind())
    }
}

fn given(answer: &Bound<'_, PyAny>) -> PyResult<Answer> {
    let py = answer.py();
    let resolution = answer.getattr(intern!(py, "resolution"))?;
    // An enum member stands for its value.
    let resolution = resolution.getattr(intern!(py, "value")).unwrap_or(resolution);
    let optional = |name: &str| answer.getattr(name).ok().filter(|value| !value.is_none());
    Ok(Answer::Given {
        resolution: resolution.str()?.to_string(),
        user_feedback: optional("user_feedback").map(|v| v.to_string()).filter(|v| !v.is_empty()),
        modifications: optional("modifications").map(|v| convert::to_json(&v)),
    })
}
