//! The configuration: as written in a file or in flags ([`WrittenConfig`]), and as validated
//! ([`ServerConfig`]). Only the second one can start a node.

mod validated;
mod written;

pub use validated::{Bootstrap, ConfigError, Member, MessageLimits, ServerConfig};
pub use written::{WrittenConfig, WrittenLimits};
