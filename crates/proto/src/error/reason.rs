use std::fmt;

use tonic::Code;

/// The domain of every `google.rpc.ErrorInfo` of ours.
pub const DOMAIN: &str = "ticketrail";

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal => $code:ident,)*) => {
        /// A stable word for each way to be refused. Clients match on it: a reason is never renamed,
        /// and never moves to another gRPC code.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All of them.
            pub const ALL: &[Reason] = &[$(Reason::$name,)*];

            /// The word, as in `ErrorInfo.reason`.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            /// The reason of a word; none for a word that this release does not know.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Reason::$name),)* _ => None }
            }

            /// The gRPC code that it is sent with.
            #[must_use]
            pub const fn code(self) -> Code {
                match self { $(Reason::$name => Code::$code,)* }
            }
        }
    };
}

reasons! {
    /// A field is out of its bounds; `BadRequest` names it.
    InvalidField = "INVALID_FIELD" => InvalidArgument,
    /// A settlement names a `delivery_id` that was never sent on the stream.
    UnknownDelivery = "UNKNOWN_DELIVERY" => InvalidArgument,
    /// The field or call is of a later release.
    NotYet = "NOT_YET" => Unimplemented,
    /// No such namespace.
    NamespaceNotFound = "NAMESPACE_NOT_FOUND" => NotFound,
    /// No such queue, or deleted while it was used.
    QueueNotFound = "QUEUE_NOT_FOUND" => NotFound,
    /// The consumer session has ended.
    SessionNotFound = "SESSION_NOT_FOUND" => NotFound,
    /// There, with other settings; `PreconditionFailure` names them.
    AlreadyExists = "ALREADY_EXISTS" => AlreadyExists,
    /// A namespace that still has queues cannot be deleted.
    NamespaceNotEmpty = "NAMESPACE_NOT_EMPTY" => FailedPrecondition,
    /// A queue that still has messages was to be deleted only if it has none.
    QueueNotEmpty = "QUEUE_NOT_EMPTY" => FailedPrecondition,
    /// It was changed since it was read.
    EtagMismatch = "ETAG_MISMATCH" => Aborted,
    /// A mandatory message reached no queue.
    Unroutable = "UNROUTABLE" => FailedPrecondition,
    /// A newer epoch of the producer was opened.
    ProducerFenced = "PRODUCER_FENCED" => FailedPrecondition,
    /// The producer was never opened, or is forgotten.
    UnknownProducer = "UNKNOWN_PRODUCER" => FailedPrecondition,
    /// The sequence was stored with another content.
    SequenceReused = "SEQUENCE_REUSED" => FailedPrecondition,
    /// The sequence is not the next one; metadata `expected_sequence`.
    OutOfSequence = "OUT_OF_SEQUENCE" => FailedPrecondition,
    /// Not refused for itself: another item of an all-or-nothing batch was.
    BatchRefused = "BATCH_REFUSED" => Aborted,
    /// The lease is over; nothing changed.
    LeaseLost = "LEASE_LOST" => FailedPrecondition,
    /// Another stream took the session over.
    SessionMoved = "SESSION_MOVED" => Aborted,
    /// The queue is at its length limit.
    QueueFull = "QUEUE_FULL" => ResourceExhausted,
    /// The node is over its budget of bytes, memory or disk.
    Overloaded = "OVERLOADED" => ResourceExhausted,
    /// The cluster has as many namespaces as it may.
    TooManyNamespaces = "TOO_MANY_NAMESPACES" => ResourceExhausted,
    /// The cluster has as many queues as it may.
    TooManyQueues = "TOO_MANY_QUEUES" => ResourceExhausted,
    /// The cluster has as many producers as it may.
    TooManyProducers = "TOO_MANY_PRODUCERS" => ResourceExhausted,
    /// The cluster has as many attached consumers as it may.
    TooManySessions = "TOO_MANY_SESSIONS" => ResourceExhausted,
    /// There is no leader, or none that is known; nothing was done.
    NoLeader = "NO_LEADER" => Unavailable,
    /// It was proposed, and whether it is or will be committed is not known.
    OutcomeUnknown = "OUTCOME_UNKNOWN" => Unavailable,
    /// The node stops; nothing was done.
    ShuttingDown = "SHUTTING_DOWN" => Unavailable,
    /// Forwarding was turned off and this node does not lead; metadata `leader` where known.
    NotLeader = "NOT_LEADER" => FailedPrecondition,
    /// The deadline passed before anything was proposed: no effect, for sure.
    NotProposed = "NOT_PROPOSED" => DeadlineExceeded,
    /// The deadline passed; the outcome is not known.
    DeadlinePassed = "DEADLINE_PASSED" => DeadlineExceeded,
    /// A peer message of another cluster, or for another node.
    WrongCluster = "WRONG_CLUSTER" => FailedPrecondition,
    /// The cluster was not bootstrapped yet.
    NotBootstrapped = "NOT_BOOTSTRAPPED" => FailedPrecondition,
    /// The cluster was bootstrapped before, with other values.
    AlreadyBootstrapped = "ALREADY_BOOTSTRAPPED" => FailedPrecondition,
    /// The state machine is at a higher version already.
    VersionTooLow = "VERSION_TOO_LOW" => FailedPrecondition,
    /// The node id belongs to another disk, or to a node that was removed; take a new one.
    NodeIdUsed = "NODE_ID_USED" => FailedPrecondition,
    /// No member of the cluster has this node id.
    NodeNotFound = "NODE_NOT_FOUND" => NotFound,
    /// This node was removed from the cluster.
    NodeRemoved = "NODE_REMOVED" => FailedPrecondition,
    /// The node does not answer at its address.
    NodeUnreachable = "NODE_UNREACHABLE" => FailedPrecondition,
    /// The node is too far behind to vote or to lead; metadata `lag_entries` where known.
    NodeLags = "NODE_LAGS" => FailedPrecondition,
    /// The node does not vote, so it cannot lead.
    NotAVoter = "NOT_A_VOTER" => FailedPrecondition,
    /// The voters that are left would be no majority; metadata `missing` names who does not answer.
    NoMajority = "NO_MAJORITY" => FailedPrecondition,
    /// Another change of the members is under way; one at a time.
    ChangeInProgress = "CHANGE_IN_PROGRESS" => Aborted,
    /// The leadership was not taken over in time.
    TransferFailed = "TRANSFER_FAILED" => Aborted,
    /// The cluster remembers as many node ids as it may.
    TooManyNodes = "TOO_MANY_NODES" => ResourceExhausted,
    /// A backup was read so slowly that what it refers to is not kept any more.
    BackupTooSlow = "BACKUP_TOO_SLOW" => Aborted,
    /// Stored or sent bytes do not decode.
    Corrupt = "CORRUPT" => DataLoss,
    /// A broken invariant of ours.
    Internal = "INTERNAL" => Internal,
}

impl Reason {
    /// Whether the same call may be tried again as it is, after the `RetryInfo` where there is one.
    #[must_use]
    pub const fn invites_retry(self) -> bool {
        matches!(self.code(), Code::Unavailable)
            || matches!(self, Reason::QueueFull | Reason::Overloaded)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_upper_snake_unique_and_parse_back() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            let word = reason.as_str();
            assert!(
                word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'),
                "{word}"
            );
            assert_eq!(Reason::parse(word), Some(*reason));
            assert!(
                Reason::ALL[..place]
                    .iter()
                    .all(|other| other.as_str() != word),
                "{word} twice"
            );
        }
        assert_eq!(Reason::parse("SOMETHING_NEW"), None);
    }
}
