//! Why something was refused: one stable [`Reason`], and [`Problem`], which says it as a gRPC status or
//! as the [`Refusal`](crate::v1::Refusal) of one item.

mod problem;
mod reason;
mod rejection;

pub use problem::{Problem, reason_of, retry_after_of};
pub use reason::{DOMAIN, Reason};
