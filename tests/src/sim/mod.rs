//! Whole nodes on one thread, from a seed: real openraft, real core, real log, real broker; network,
//! disk, clocks, randomness and crashes are simulated at the seams that `raft`, `storage` and
//! `broker` have for that. The same seed gives the same trace, byte for byte.
//!
//! Start reading at [`run`](run::run), then `world`, `faults`, `members` and `snapshots` for what goes wrong, `clients` for
//! who works meanwhile, [`invariants`] for what must be true, [`planted`] for how we know that it sees; then the seams: `runtime` (with
//! `watch`), `network` and `port`, `node`.

mod clients;
pub mod counts;
pub mod dice;
pub mod faults;
pub mod history;
mod instant;
pub mod invariants;
mod members;
mod network;
mod node;
pub mod planted;
mod port;
pub mod run;
mod runtime;
mod snapshots;
mod watch;
mod world;
