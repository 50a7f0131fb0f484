//! Room `jepsen-like`.
