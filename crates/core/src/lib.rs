//! What the broker is: its types and its pure state machine.
//!
//! Every node feeds the same committed log entries to [`State::apply`] and must come to the same
//! state, the same answers and the same digest. So this room has no IO, no clock, no randomness,
//! no threads and no hash maps with a random seed; it is `no_std`, and the compiler holds that
//! wall. Message bodies never come in: the state refers to them by their place in the log
//! ([`BodyRef`]).
//!
//! `apply` is total. A command that cannot be done is a [`Rejection`], a value, and changes
//! nothing; a panic here would take every replica down, again at every replay.
//!
//! Start reading at [`command`], then [`outcome`] and [`event`]; then [`State::apply`] in `state`,
//! one file per command in `apply`, what falls due in `due`, where a message can be in `queue`.
//! What is stored of it all is in [`row`].
#![no_std]
#![cfg_attr(test, allow(clippy::unwrap_used))]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod apply;
mod attempts;
pub mod command;
mod dead_letter;
pub mod digest;
mod due;
pub mod event;
mod few;
pub mod id;
mod lease;
pub mod limits;
pub mod live;
pub mod message;
pub mod outcome;
mod packed;
mod peek;
mod producer;
mod queue;
mod restore;
pub mod row;
mod rows;
mod runs;
#[cfg(test)]
mod script;
mod session;
pub mod settings;
mod settled;
mod shared;
mod spans;
pub mod state;
mod take_over;
mod tracked;
pub mod view;

pub use command::{Command, Entry, Stamps};
pub use event::Event;
pub use id::*;
pub use live::{LiveBodies, LiveRun, SurveyCursor};
pub use message::{BodyRef, Death, DeathReason, Grant};
pub use outcome::{Outcome, Rejection, SettleStatus};
pub use restore::{RestoreError, Restoring};
pub use row::{Counters, Row, RowKey};
pub use settings::{DeadLetter, QueueChanges, QueueSettings, RetryBackoff};
pub use state::{Applied, Halt, STATE_VERSION, State};
pub use view::{MessageState, Peeked, QueueView, SessionView};
