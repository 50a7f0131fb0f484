//! End-to-end tests of the command line and of the client library, against real node processes.
#![allow(clippy::unwrap_used)]

mod client;
mod dev;
mod names;
mod verbs;
