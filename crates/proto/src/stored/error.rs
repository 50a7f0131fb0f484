/// Why stored bytes could not be read. The bytes passed a checksum, so it is either a program that is
/// too old, or a bug.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not protobuf of this message.
    #[error("{what} does not decode: {source}")]
    Malformed {
        /// The message.
        what: &'static str,
        /// What prost found.
        source: prost::DecodeError,
    },
    /// A field that every writer sets is not there.
    #[error("`{field}` is missing")]
    Missing {
        /// Message and field.
        field: &'static str,
    },
    /// A field has a value that no writer writes.
    #[error("`{field}` is out of range")]
    OutOfRange {
        /// Message and field.
        field: &'static str,
    },
    /// Written by a later release.
    #[error("{what} has version {found}, this program knows up to {known}: upgrade this node")]
    UnknownVersion {
        /// The message.
        what: &'static str,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// A command of a later release.
    #[error("the command is not known to this program: upgrade this node")]
    UnknownCommand,
    /// A message that is wanted is not in its entry.
    #[error("no message {item} in the command at place {place} of the entry")]
    MissingBody {
        /// The command.
        place: u32,
        /// The message.
        item: u32,
    },
    /// The runs of a publish do not add up to its messages.
    #[error("a publish holds {messages} messages, its runs count {counted}")]
    MessageCount {
        /// How many messages it holds.
        messages: usize,
        /// How many its runs count.
        counted: u64,
    },
}

impl DecodeError {
    /// Wraps what prost found.
    pub(crate) fn malformed(what: &'static str) -> impl FnOnce(prost::DecodeError) -> Self {
        move |source| Self::Malformed { what, source }
    }
}

/// A field that must be there.
pub(crate) fn required<T>(value: Option<T>, field: &'static str) -> Result<T, DecodeError> {
    value.ok_or(DecodeError::Missing { field })
}
