//! What this node tells those who watch it, over plain HTTP: `/metrics` for Prometheus, `/healthz` and
//! `/readyz` for whoever starts and stops processes.
//!
//! Numbers are counted where things happen (`ticketrail-storage`, `-raft`, `-broker`, and [`Calls`] and
//! [`Connections`] here) and read when someone asks. Every name, label and help text is in [`names`].
//!
//! Start reading at [`http`], then [`scrape`].

mod calls;
mod connections;
mod http;
pub(crate) mod names;
mod node;
mod process;
mod queues;
mod replica;
mod scrape;
mod text;

pub(crate) use calls::Calls;
pub(crate) use connections::{Connection, Connections};
pub(crate) use http::serve;
pub(crate) use scrape::Watched;
