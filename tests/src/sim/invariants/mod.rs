//! What must be true, one file each. Each is told what happened, in order, and says what is wrong
//! with it; none knows of the simulation.

mod conservation;
mod deliveries;
mod memberships;
mod payloads;
mod replay;
mod replicas;
mod time;
mod writes;

pub use conservation::conserved;
pub use deliveries::{Delivered, Deliveries};
pub use memberships::Memberships;
pub use payloads::Payloads;
pub use replay::Replay;
pub use replicas::Replicas;
pub use time::ReplicatedTime;
pub use writes::Writes;

/// What is wrong, in words.
pub type Violation = String;
