//! The engine: a state machine that runs phases and knows neither models nor Python.

pub mod approval;
mod budget;
pub mod clock;
pub mod control;
pub mod estimate;
pub mod event;
pub mod executor;
pub mod ledger;
pub mod limits;
pub mod phase;
pub mod registry;
pub mod run;
pub mod state;
pub mod status;
mod waits;
pub mod workflow;

pub use approval::{Answer, Approvals, Question};
pub use control::{Control, Why};
pub use estimate::Estimate;
pub use event::{Event, Listener};
pub use limits::Limits;
pub use phase::{Kept, Outcome, Phase, Settings};
pub use run::Run;
pub use state::{MemoryState, Section, State};
pub use status::{PhaseStatus, RunStatus};
