//! Spans of messages for a collector of traces: `publish` with `commit` in it, `deliver`, `settle`, all in
//! the trace that the message's header `traceparent` names, wherever it goes.
//!
//! Only messages whose `traceparent` says that they are sampled have any, and only where this program was
//! built with the feature `otlp` and `[tracing] otlp_endpoint` says where a collector is. Without the
//! feature nothing of this is left in the program.

#[cfg(not(feature = "otlp"))]
mod off;
#[cfg(feature = "otlp")]
mod otlp;

#[cfg(not(feature = "otlp"))]
pub(crate) use off::{Delivered, Publishing, Settling, Spans};
#[cfg(feature = "otlp")]
pub(crate) use otlp::{Delivered, Publishing, Settling, Spans};
