//! Three whole replicas on one thread, from a seed: real openraft, real core, real log; network,
//! disk, clock, randomness and crashes are simulated at the seams that `raft` and `storage` have
//! for that. The same seed gives the same trace, byte for byte.
//!
//! Start reading at [`run`](run::run), then `faults` and `clients`, then the seams: `runtime` (with
//! `watch`), `network`, `node`. [`history`] holds what must be true.

mod clients;
pub mod dice;
mod faults;
pub mod history;
mod instant;
mod network;
mod node;
pub mod run;
mod runtime;
mod watch;
