//! Tests at the room's boundary: bytes that must never change, and conversions that must lose nothing.
#![allow(clippy::unwrap_used)]

mod arbitrary;
mod garbage;
mod golden;
mod message;
mod roundtrip;
mod samples;
mod schema;
