//! From the public types to those of the core and the broker, and back. Everything that a client
//! may get wrong in a message is found here, before anything is done, and named by its field.
//!
//! Fields that belong to a later release are refused by name, never ignored.

mod delivery;
mod held;
mod message;
mod names;
mod publish;
mod queue;
mod settle;
mod time;
mod trace;

pub(crate) use delivery::{Receipts, commit_position, deaths, message, timestamp};
pub(crate) use held::{Held, Run};
pub(crate) use names::{
    bad_token, id_to_proto, name, namespace, namespace_or_default, new_name, next_page_token,
    page_size, page_token, producer_id, queue, session_id,
};
pub(crate) use publish::{batch, confirm, item_results, producer};
pub(crate) use queue::{changes, etag, revision, settings, settings_to_proto};
pub(crate) use settle::{extension, kind, outcome};
pub(crate) use time::{duration, duration_to_proto, millis};
pub(crate) use trace::Trace;
#[cfg(feature = "otlp")]
pub(crate) use trace::{is_traceparent, traceparent_of};

use ticketrail_proto::error::Problem;

/// What every conversion gives.
pub(crate) type Checked<T> = Result<T, Problem>;

/// Refuses a field of a later release that is set.
pub(crate) fn not_yet(is_set: bool, field: &str) -> Checked<()> {
    if is_set {
        Err(Problem::not_yet(field))
    } else {
        Ok(())
    }
}

/// Refuses text that is too long.
pub(crate) fn at_most(bytes: usize, max: usize, field: &str) -> Checked<()> {
    if bytes > max {
        return Err(Problem::invalid_field(
            field,
            format!("up to {max} bytes, it has {bytes}"),
        ));
    }
    Ok(())
}
