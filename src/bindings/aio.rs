//! A Rust future as a Python awaitable, polled on the caller's asyncio loop.
//!
//! The run is polled where it is awaited, and a Python coroutine that the engine wants is driven
//! inline, as `await` would. So context variables, task groups and cancellation behave as in plain
//! Python, and a phase costs microseconds; tokio does only HTTP, processes and the journal.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use pyo3::exceptions::{PyException, PyRuntimeError, PyStopIteration};
use pyo3::types::PyDict;
use pyo3::{PyTraverseError, PyVisit, intern, prelude::*};

use super::bell::{Bell, Post};
use super::bridge::Bridge;
use super::wake::{Target, Waker};
use crate::engine::{Control, Why};

type Work = Pin<Box<dyn Future<Output = PyResult<Py<PyAny>>> + Send>>;

/// The awaitable that `_core` functions return. It is its own iterator.
#[pyclass(frozen, module = "cmbagent._core")]
pub(super) struct Awaitable {
    inner: Mutex<Inner>,
}

struct Inner {
    work: Option<Work>,
    bridge: Bridge,
    control: Control,
    /// The coroutine being driven, and the asyncio future it waits for.
    driven: Option<Py<PyAny>>,
    waits_for: Option<Py<PyAny>>,
    home: Option<Home>,
    /// Set once the abandoned coroutine was told: how often its task had been cancelled until then.
    told: Option<usize>,
    /// What the engine came to.
    ready: Option<PyResult<Py<PyAny>>>,
    /// Raised when the engine has ended what it was doing.
    pending: Option<PyErr>,
}

/// Where a run is awaited.
struct Home {
    event_loop: Py<PyAny>,
    context: Py<PyAny>,
    task: Py<PyAny>,
    post: Option<Arc<Post>>,
}

/// What the loop says to a waiting coroutine.
enum Resume {
    Send,
    Throw(PyErr),
}

impl Awaitable {
    /// Wraps the engine's future; `control` cancels it when the awaiting task is cancelled.
    pub(super) fn new(
        bridge: Bridge,
        control: Control,
        work: impl Future<Output = PyResult<Py<PyAny>>> + Send + 'static,
    ) -> Self {
        let work: Option<Work> = Some(Box::pin(work));
        let inner = Inner {
            work,
            bridge,
            control,
            driven: None,
            waits_for: None,
            home: None,
            told: None,
            ready: None,
            pending: None,
        };
        Self { inner: Mutex::new(inner) }
    }

    fn resume(slf: &Bound<'_, Self>, resume: Resume) -> PyResult<Py<PyAny>> {
        let mut inner = slf
            .get()
            .inner
            .try_lock()
            .map_err(|_| PyRuntimeError::new_err("this run is already being awaited elsewhere"))?;
        inner.step(slf, resume)
    }

    /// Polls the engine while a coroutine is being driven; whether one is.
    pub(super) fn nudge(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let Ok(mut inner) = slf.get().inner.try_lock() else { return Ok(false) };
        if inner.driven.is_none() || inner.work.is_none() {
            return Ok(false);
        }
        if inner.ready.is_none() {
            inner.poll(slf)?;
        }
        let abandoned = inner.bridge.slot().abandoned;
        if abandoned
            && inner.told.is_none()
            && let Some(future) = inner.waits_for.take()
        {
            let cancelled = inner.cancelled(py)?;
            // What `Task.cancel` does: the coroutine sees CancelledError where it waits.
            if future.call_method0(py, intern!(py, "cancel"))?.is_truthy(py)? {
                inner.told = Some(cancelled);
            }
        }
        Ok(true)
    }
}

impl Inner {
    fn step(&mut self, slf: &Bound<'_, Awaitable>, resume: Resume) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let mut resume = Some(resume);
        if self.work.is_none() {
            return Err(PyRuntimeError::new_err("cannot reuse a run that was already awaited"));
        }
        loop {
            if let Some(coroutine) = &self.driven {
                let coroutine = coroutine.clone_ref(py);
                let next = resume.take().unwrap_or(Resume::Send);
                self.waits_for = None;
                let next = self.overtaken(py, next)?;
                match drive(py, coroutine.bind(py), next) {
                    Step::Yielded(future) => {
                        if let Some(error) = self.bridge.slot().raised.take() {
                            resume = Some(Resume::Throw(error));
                            continue;
                        }
                        self.waits_for = (!future.is_none(py)).then(|| future.clone_ref(py));
                        return Ok(future);
                    }
                    Step::Returned(result) => {
                        self.driven = None;
                        self.keep(py, result)?;
                    }
                }
            } else if let Some(Resume::Throw(error)) = resume.take() {
                self.control.cancel(Why::Interrupted);
                self.pending.get_or_insert(error);
            }
            let future = self.poll(slf)?;
            if let Some(result) = self.ready.take() {
                self.work = None;
                return Err(match (self.pending.take(), result) {
                    (Some(error), _) | (None, Err(error)) => error,
                    (None, Ok(value)) => PyStopIteration::new_err((value,)),
                });
            }
            let raised = self.bridge.slot().raised.take();
            if let Some(error) = raised {
                resume = Some(Resume::Throw(error));
                continue;
            }
            let wanted = self.bridge.slot().wanted.take();
            if let Some(coroutine) = wanted {
                match iterator(py, coroutine.bind(py)) {
                    Ok(iterator) => self.driven = Some(iterator),
                    Err(error) => {
                        let mut slot = self.bridge.slot();
                        slot.busy = false;
                        slot.result = Some(Err(error));
                    }
                }
                continue;
            }
            future.setattr(py, intern!(py, "_asyncio_future_blocking"), true)?;
            return Ok(future);
        }
    }

    /// What to say to the coroutine that is driven: one that the engine no longer waits for is
    /// cancelled, also when it never waits for a future.
    fn overtaken(&mut self, py: Python<'_>, next: Resume) -> PyResult<Resume> {
        let abandoned = self.bridge.slot().abandoned;
        if !abandoned || self.told.is_some() || matches!(next, Resume::Throw(_)) {
            return Ok(next);
        }
        self.told = Some(self.cancelled(py)?);
        let error = py.import(intern!(py, "asyncio"))?.getattr(intern!(py, "CancelledError"))?.call0()?;
        Ok(Resume::Throw(PyErr::from_value(error)))
    }

    /// Keeps what a coroutine came to, unless its time was up: then only a cancellation from
    /// elsewhere counts.
    fn keep(&mut self, py: Python<'_>, result: PyResult<Py<PyAny>>) -> PyResult<()> {
        let told = self.told.take();
        let mut slot = self.bridge.slot();
        slot.busy = false;
        if !std::mem::take(&mut slot.abandoned) {
            slot.result = Some(result);
            return Ok(());
        }
        drop(slot);
        if let Err(error) = result
            && !error.is_instance_of::<PyException>(py)
        {
            let ours = error.get_type(py).name()? == "CancelledError"
                && told.is_some_and(|before| self.cancelled(py).is_ok_and(|now| now <= before));
            if !ours {
                self.control.cancel(Why::Interrupted);
                self.pending.get_or_insert(error);
            }
        }
        Ok(())
    }

    /// How often the awaiting task was asked to be cancelled.
    fn cancelled(&self, py: Python<'_>) -> PyResult<usize> {
        match self.home.as_ref().map(|home| home.task.bind(py)).filter(|task| !task.is_none()) {
            Some(task) => task.call_method0(intern!(py, "cancelling"))?.extract(),
            None => Ok(0),
        }
    }

    /// Polls the engine once; its result goes to `ready`. Returns the future that its waker ends.
    fn poll(&mut self, slf: &Bound<'_, Awaitable>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let home = self.home(py)?;
        let (event_loop, context, post) =
            (home.event_loop.clone_ref(py), home.context.clone_ref(py), home.post.clone());
        let future = event_loop.call_method0(py, intern!(py, "create_future"))?;
        if let (Some(work), None) = (self.work.as_mut(), &self.ready) {
            let awaitable = slf.clone().unbind();
            let target = Target { event_loop, context, awaitable, future: future.clone_ref(py) };
            let waker = Waker::of(target, post);
            let _runtime = pyo3_async_runtimes::tokio::get_runtime().enter();
            if let Poll::Ready(result) = work.as_mut().poll(&mut Context::from_waker(&waker)) {
                self.ready = Some(result);
            }
        }
        Ok(future)
    }

    fn home(&mut self, py: Python<'_>) -> PyResult<&Home> {
        if self.home.is_none() {
            let asyncio = py.import(intern!(py, "asyncio"))?;
            let contextvars = py.import(intern!(py, "contextvars"))?;
            let event_loop = asyncio.call_method0(intern!(py, "get_running_loop"))?;
            let bell = py
                .import(intern!(py, "cmbagent._loop"))?
                .call_method1(intern!(py, "bell"), (&event_loop,))?;
            self.home = Some(Home {
                event_loop: event_loop.unbind(),
                post: bell.cast::<Bell>().ok().map(|bell| bell.get().post()),
                context: contextvars.call_method0(intern!(py, "copy_context"))?.unbind(),
                task: asyncio.call_method0(intern!(py, "current_task"))?.unbind(),
            });
        }
        self.home.as_ref().ok_or_else(|| PyRuntimeError::new_err("no running event loop"))
    }
}

enum Step {
    Yielded(Py<PyAny>),
    Returned(PyResult<Py<PyAny>>),
}

fn drive(py: Python<'_>, coroutine: &Bound<'_, PyAny>, resume: Resume) -> Step {
    let stepped = match resume {
        Resume::Send => coroutine.call_method1(intern!(py, "send"), (py.None(),)),
        Resume::Throw(error) => coroutine.call_method1(intern!(py, "throw"), (error.into_value(py),)),
    };
    match stepped {
        Ok(future) => Step::Yielded(future.unbind()),
        Err(error) if error.is_instance_of::<PyStopIteration>(py) => {
            Step::Returned(error.value(py).getattr(intern!(py, "value")).map(Bound::unbind))
        }
        Err(error) => Step::Returned(Err(error)),
    }
}

/// What `await` iterates over: a coroutine itself, else what `__await__` gives.
fn iterator(py: Python<'_>, awaitable: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
    if awaitable.hasattr(intern!(py, "send"))? {
        return Ok(awaitable.clone().unbind());
    }
    let iterator = awaitable.call_method0(intern!(py, "__await__"))?;
    if iterator.hasattr(intern!(py, "send"))? {
        return Ok(iterator.unbind());
    }
    // The iterator of an asyncio future in C has no `throw` that a coroutine lacks; a coroutine around it does.
    let wrapper = py.import(intern!(py, "cmbagent._loop"))?.getattr(intern!(py, "as_coroutine"))?;
    Ok(wrapper.call1((awaitable,))?.unbind())
}

#[pymethods]
impl Awaitable {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Self::resume(slf, Resume::Send)
    }

    fn send(slf: &Bound<'_, Self>, _value: Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        Self::resume(slf, Resume::Send)
    }

    #[pyo3(signature = (kind, value = None, traceback = None))]
    fn throw(
        slf: &Bound<'_, Self>,
        kind: Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let _ = traceback;
        let error = match value {
            Some(value) if value.is_instance_of::<pyo3::exceptions::PyBaseException>() => {
                PyErr::from_value(value)
            }
            Some(value) => PyErr::from_value(kind.call1((value,))?),
            None if kind.is_instance_of::<pyo3::types::PyType>() => PyErr::from_value(kind.call0()?),
            None => PyErr::from_value(kind),
        };
        Self::resume(slf, Resume::Throw(error))
    }

    /// Ends the run without waiting for it: the awaiting coroutine is being thrown away.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let Ok(mut inner) = self.inner.try_lock() else { return Ok(()) };
        inner.control.cancel(Why::Interrupted);
        let driven = inner.driven.take();
        let work = inner.work.take();
        drop(inner);
        drop(work);
        match driven {
            Some(driven) => driven.call_method0(py, intern!(py, "close")).map(drop),
            None => Ok(()),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Ok(inner) = self.inner.try_lock() {
            visit.call(&inner.driven)?;
            visit.call(&inner.waits_for)?;
            if let Some(home) = &inner.home {
                visit.call(&home.event_loop)?;
                visit.call(&home.context)?;
                visit.call(&home.task)?;
            }
        }
        Ok(())
    }
}

/// A dictionary of keyword arguments, for calls from Rust.
pub(super) fn keywords<'py>(
    py: Python<'py>,
    items: &[(&str, Bound<'py, PyAny>)],
) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (name, value) in items {
        dict.set_item(name, value)?;
    }
    Ok(dict)
}
