//! Waking an asyncio loop from any thread without the interpreter: what is to be woken lies in a queue, and
//! a byte in a pipe that the loop watches says so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

use super::wake::Target;

/// What a loop watches; called by it when something is to be woken.
#[pyclass(frozen, module = "cmbagent._core")]
pub(super) struct Bell {
    post: Arc<Post>,
    #[cfg(unix)]
    ear: std::os::unix::net::UnixStream,
}

/// The other end.
pub(super) struct Post {
    targets: Mutex<Vec<Target>>,
    #[cfg(unix)]
    voice: std::os::unix::net::UnixStream,
}

impl Post {
    fn targets(&self) -> MutexGuard<'_, Vec<Target>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the loop wake `target`. Never waits for the interpreter.
    pub(super) fn ring(&self, target: Target) {
        let mut targets = self.targets();
        targets.push(target);
        // Of several the first says that there are some.
        #[cfg(unix)]
        if targets.len() == 1 {
            use std::io::Write as _;
            // A pipe that is full says it already.
            let _ = (&self.voice).write(&[0]);
        }
    }
}

impl Bell {
    pub(super) fn post(&self) -> Arc<Post> {
        self.post.clone()
    }

    #[cfg(unix)]
    fn make() -> std::io::Result<Self> {
        let (ear, voice) = std::os::unix::net::UnixStream::pair()?;
        ear.set_nonblocking(true)?;
        voice.set_nonblocking(true)?;
        Ok(Self { post: Arc::new(Post { targets: Mutex::default(), voice }), ear })
    }
}

#[pymethods]
impl Bell {
    #[new]
    fn new() -> PyResult<Self> {
        #[cfg(unix)]
        return Self::make().map_err(Into::into);
        #[cfg(not(unix))]
        Err(pyo3::exceptions::PyNotImplementedError::new_err("loops of this system watch no pipes"))
    }

    /// The file to be watched.
    fn fileno(&self) -> i32 {
        #[cfg(unix)]
        return std::os::fd::AsRawFd::as_raw_fd(&self.ear);
        #[cfg(not(unix))]
        -1
    }

    fn __call__(&self, py: Python<'_>) -> PyResult<()> {
        #[cfg(unix)]
        {
            use std::io::Read as _;
            let mut bytes = [0; 16];
            // Before the queue is taken: who comes later rings again.
            while matches!((&self.ear).read(&mut bytes), Ok(count) if count == bytes.len()) {}
        }
        let targets = std::mem::take(&mut *self.post.targets());
        targets.into_iter().try_for_each(|target| target.wake_soon(py))
    }
}
