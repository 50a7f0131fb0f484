//! Room `tests`: what the proof of the whole is built from. Nothing of the product depends on it;
//! the integration tests beside it do.
//!
//! Start reading at [`model`] for the state machine, at [`cluster`] for real processes,
//! at [`sim`] for the simulation of a whole cluster.

pub mod cluster;
pub mod model;
pub mod sim;
