//! The configuration: as written in a file or in flags ([`WrittenConfig`]), and as validated
//! ([`ServerConfig`]). Only the second one can start a node.

mod entrance;
mod overload;
mod snapshots;
mod tracing;
mod validated;
mod written;

pub use entrance::{Bootstrap, Entrance};
pub(crate) use entrance::{member_text, members};
pub use overload::OverloadLimits;
pub use snapshots::{Snapshots, WrittenSnapshots};
pub use tracing::WrittenTracing;
pub use validated::{
    ConfigError, LogConfig, LogFormat, MessageLimits, MetricsConfig, ServerConfig,
};
pub(crate) use validated::{is_address, is_reachable};
pub use written::{WrittenConfig, WrittenLimits, WrittenLog, WrittenMetrics, WrittenStop};
