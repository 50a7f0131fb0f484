//! The bounds that refuse, by name, and how often each did.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! bounds {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $what:literal, $setting:literal;)*) => {
        /// A bound of this node that refuses what goes beyond it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Bound {
            $($(#[$doc])* $name,)*
        }

        impl Bound {
            /// All of them.
            pub const ALL: &[Bound] = &[$(Bound::$name,)*];

            /// A stable word, for metrics and for the metadata of a refusal.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Bound::$name => $word,)* }
            }

            /// What there is too much, or too little, of; completes "this node is over its bound of".
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $(Bound::$name => $what,)* }
            }

            /// The setting that moves it.
            #[must_use]
            pub const fn setting(self) -> &'static str {
                match self { $(Bound::$name => $setting,)* }
            }
        }
    };
}

bounds! {
    /// Bytes of publishes under way on this node.
    PublishBytes = "publish_bytes", "bytes of publishes under way", "limits.publish_bytes_max";
    /// Bytes of publishes under way on one connection.
    ConnectionBytes = "connection_bytes", "bytes of publishes under way on one connection", "limits.connection_bytes_max";
    /// Bytes of all other requests under way on this node.
    ReservedBytes = "reserved_bytes", "bytes of requests under way", "limits.reserved_bytes_max";
    /// Memory, here or on a node that the entry would go to.
    Memory = "memory", "memory", "limits.memory_bytes_max";
    /// Free space on the disk, here or on a node that the entry would go to.
    Disk = "disk", "disk space", "limits.disk_free_bytes_min";
    /// Committed entries that are not applied here yet.
    ApplyLag = "apply_lag", "committed entries that are not applied yet", "limits.apply_lag_entries_max";
    /// Connections of clients.
    Connections = "connections", "connections", "limits.connections_max";
    /// Open publish streams.
    PublishStreams = "publish_streams", "publish streams", "limits.publish_streams_max";
    /// Open consume streams.
    Consumers = "consumers", "consume streams", "limits.consumers_max";
    /// Calls that wait for messages.
    LongPolls = "long_polls", "calls that wait for messages", "limits.long_polls_max";
}

impl Bound {
    /// It is measured, and refuses all publishes from where it is reached until it is left.
    #[must_use]
    pub const fn is_watermark(self) -> bool {
        matches!(self, Self::Memory | Self::Disk | Self::ApplyLag)
    }
}

/// How often each bound refused, since the start of the process.
#[derive(Debug, Default)]
pub struct RefusalCounts([AtomicU64; Bound::ALL.len()]);

impl RefusalCounts {
    /// So often.
    #[must_use]
    pub fn of(&self, bound: Bound) -> u64 {
        self.0[bound as usize].load(Ordering::Relaxed)
    }

    pub(super) fn count(&self, bound: Bound) {
        self.0[bound as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_is_counted_for_itself_and_has_its_own_words() {
        let counts = RefusalCounts::default();
        for (place, bound) in Bound::ALL.iter().enumerate() {
            (0..=place).for_each(|_| counts.count(*bound));
            assert!(
                Bound::ALL[..place]
                    .iter()
                    .all(|other| other.word() != bound.word() && other.what() != bound.what())
            );
        }
        for (place, bound) in Bound::ALL.iter().enumerate() {
            assert_eq!(counts.of(*bound), place as u64 + 1);
        }
    }
}
