//! From a Rust waker, on any thread, to a callback on an asyncio loop.

use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use pyo3::types::PyString;
use pyo3::{intern, prelude::*};

use super::aio::{Awaitable, keywords};
use super::bell::Post;

/// Runs on the loop when the engine can go on: ends the wait for our asyncio future, or, while a
/// coroutine is being driven, looks whether the engine still wants it.
#[pyclass(frozen, module = "cmbagent._core")]
pub(super) struct Wake {
    pub(super) awaitable: Py<Awaitable>,
    pub(super) future: Py<PyAny>,
}

#[pymethods]
impl Wake {
    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        let future = self.future.bind(py);
        if Awaitable::nudge(self.awaitable.bind(py))? {
            return Ok(());
        }
        if !future.call_method0(intern!(py, "done"))?.is_truthy()? {
            future.call_method1(intern!(py, "set_result"), (py.None(),))?;
        }
        Ok(())
    }
}

/// What one poll leaves to be woken: at most once.
pub(super) struct Waker {
    target: Mutex<Option<Target>>,
    /// Of a loop that watches files.
    post: Option<Arc<Post>>,
}

impl Waker {
    /// A waker for `target`.
    pub(super) fn of(target: Target, post: Option<Arc<Post>>) -> std::task::Waker {
        Arc::new(Self { target: Mutex::new(Some(target)), post }).into()
    }
}

/// Whom to wake, and where.
pub(super) struct Target {
    pub(super) event_loop: Py<PyAny>,
    pub(super) context: Py<PyAny>,
    pub(super) awaitable: Py<Awaitable>,
    pub(super) future: Py<PyAny>,
}

impl Target {
    /// Has the loop call it, from a callback of the loop's own; in the context variables of the run, for
    /// callbacks of the user's may be called from it.
    pub(super) fn wake_soon(self, py: Python<'_>) -> PyResult<()> {
        self.ring(py, intern!(py, "call_soon"))
    }

    fn ring(self, py: Python<'_>, how: &Bound<'_, PyString>) -> PyResult<()> {
        let Self { event_loop, context, awaitable, future } = self;
        let wake = Py::new(py, Wake { awaitable, future })?;
        let context = keywords(py, &[("context", context.into_bound(py))])?;
        event_loop.bind(py).getattr(how)?.call((wake,), Some(&context)).map(drop)
    }
}

impl std::task::Wake for Waker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let target = self.target.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (target, &self.post) {
            (Some(target), Some(post)) => post.ring(target),
            // A send fails only when the thread has ended, with the interpreter: nobody waits any more.
            (Some(target), None) => drop(alarm().send(target)),
            (None, _) => {}
        }
    }
}

/// The thread that takes wake-ups to loops that watch no files.
///
/// Whoever wakes may hold a lock that the polling thread wants while that thread holds the
/// interpreter. So a waker must not wait for the interpreter itself: it would deadlock.
fn alarm() -> &'static Sender<Target> {
    static ALARM: OnceLock<Sender<Target>> = OnceLock::new();
    ALARM.get_or_init(|| {
        let (sender, targets) = std::sync::mpsc::channel::<Target>();
        let serve = move || {
            for target in targets {
                let open = bell();
                if !*open {
                    break;
                }
                // A closed loop refuses: nobody waits any more.
                let rung =
                    Python::try_attach(|py| drop(target.ring(py, intern!(py, "call_soon_threadsafe"))));
                if rung.is_none() {
                    break;
                }
            }
        };
        // Without the thread nothing can be awaited, and the send above says so by failing.
        let _ = std::thread::Builder::new().name("cmbagent-alarm".into()).spawn(serve);
        sender
    })
}

/// Held while the interpreter is in use for a wake-up; whether it still may be.
fn bell() -> std::sync::MutexGuard<'static, bool> {
    static OPEN: Mutex<bool> = Mutex::new(true);
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends wake-ups for good: called before the interpreter ends, for a thread of ours that waits for
/// it then would be ended in the middle of our code.
#[pyfunction]
pub(super) fn end_wakeups(py: Python<'_>) {
    py.detach(|| *bell() = false);
}
