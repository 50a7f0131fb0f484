//! Room `raft`.
