//! The only code that names pyo3: conversion, loops, signals, exceptions.

mod agents;
mod aio;
mod approvals;
mod bell;
mod bridge;
mod convert;
mod door;
mod errors;
mod executor;
mod keys;
mod listener;
mod phase;
mod registry;
mod services;
mod snapshot;
mod state;
mod store;
mod tape;
mod wake;

use pyo3::prelude::*;

#[pymodule(gil_used = true)]
mod _core {
    #[pymodule_export]
    use super::agents::{agent_roster, initial_context};
    #[pymodule_export]
    use super::aio::Awaitable;
    #[pymodule_export]
    use super::bell::Bell;
    #[pymodule_export]
    use super::door::{RunHandle, open_run};
    #[pymodule_export]
    use super::executor::{
        Control, check_limits, limit_names, rehearse, run_workflow, set_rates, system_workflows,
    };
    #[pymodule_export]
    use super::phase::{config_schema, execute_builtin, validate_builtin};
    #[pymodule_export]
    use super::registry::Registry;
    #[pymodule_export]
    use super::services::{prompt_hashes, redact, route, sandbox_here, supervise_scripts};
    #[pymodule_export]
    use super::store::{PyJournal, PyStore};
    #[pymodule_export]
    use super::tape::tape_of;
    #[pymodule_export]
    use super::wake::{Wake, end_wakeups};

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
