//! How the engine's future has Python coroutines driven: it leaves them in a slot, and the awaitable
//! around it drives them inline and leaves their results there.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use pyo3::{intern, prelude::*};

/// Where the engine's future leaves a coroutine it wants to have driven, and finds its result.
#[derive(Default, Clone)]
pub(super) struct Bridge(Arc<Mutex<Slot>>);

/// What the two sides leave each other.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) wanted: Option<Py<PyAny>>,
    pub(super) result: Option<PyResult<Py<PyAny>>>,
    /// The engine no longer waits for the coroutine that is being driven.
    pub(super) abandoned: bool,
    pub(super) busy: bool,
    /// An interrupt or an exit that a watcher raised.
    pub(super) raised: Option<PyErr>,
}

impl Bridge {
    pub(super) fn slot(&self) -> std::sync::MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `coroutine` driven on the caller's loop; dropping the future cancels it.
    pub(super) fn drive(&self, coroutine: Py<PyAny>) -> Driven {
        Driven { bridge: self.clone(), coroutine: Some(coroutine), done: false }
    }

    /// Resolves when no coroutine is being driven; the end of one polls the engine.
    pub(super) fn idle(&self) -> impl Future<Output = ()> + Send + use<> {
        let bridge = self.clone();
        std::future::poll_fn(move |_| if bridge.slot().busy { Poll::Pending } else { Poll::Ready(()) })
    }

    /// Ends the run with an interrupt or an exit; the first one counts.
    pub(super) fn interrupt(&self, error: PyErr) {
        self.slot().raised.get_or_insert(error);
    }
}

/// The result of a coroutine that is driven inline.
pub(super) struct Driven {
    bridge: Bridge,
    coroutine: Option<Py<PyAny>>,
    done: bool,
}

impl Future for Driven {
    type Output = PyResult<Py<PyAny>>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let bridge = self.bridge.clone();
        let mut slot = bridge.slot();
        if let Some(coroutine) = self.coroutine.take() {
            if slot.busy {
                // An abandoned coroutine is still unwinding; its end polls us again.
                self.coroutine = Some(coroutine);
                return Poll::Pending;
            }
            slot.busy = true;
            slot.wanted = Some(coroutine);
            return Poll::Pending;
        }
        match slot.result.take() {
            Some(result) => {
                self.done = true;
                Poll::Ready(result)
            }
            None => Poll::Pending,
        }
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        if let Some(coroutine) = self.coroutine.take() {
            // Never begun: it must not warn that nobody awaited it.
            Python::try_attach(|py| coroutine.call_method0(py, intern!(py, "close")).map(drop).ok());
        } else if !self.done {
            self.bridge.slot().abandoned = true;
        }
    }
}
