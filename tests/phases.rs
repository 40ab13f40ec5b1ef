//! The built-in phases and the agents' turns over scripted models, scripts, humans and clocks.
#![allow(clippy::unwrap_used)]

#[path = "phases/checkpoint.rs"]
mod checkpoint;
#[path = "phases/consult.rs"]
mod consult;
#[path = "phases/control.rs"]
mod control;
#[path = "phases/engineer.rs"]
mod engineer;
#[path = "phases/ideas.rs"]
mod ideas;
#[path = "phases/kills.rs"]
mod kills;
#[path = "phases/limits.rs"]
mod limits;
#[path = "phases/one_shot.rs"]
mod one_shot;
#[path = "phases/planning.rs"]
mod planning;
#[path = "phases/plots.rs"]
mod plots;
#[path = "phases/replay.rs"]
mod replay;
#[path = "phases/stage.rs"]
mod stage;
#[path = "phases/steering.rs"]
mod steering;
#[path = "phases/tape.rs"]
mod tape;
#[path = "phases/turns.rs"]
mod turns;
