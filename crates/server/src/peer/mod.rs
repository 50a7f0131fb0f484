//! Node to node: one connection per peer, shared by everything that is said to it.
//!
//! [`Peers`] is this node's half that asks: it is the replica's [`ticketrail_raft::Transport`] and
//! the broker's [`ticketrail_broker::Link`]. [`PeerEndpoint`] is the half that answers. What is
//! ordered (entries, forwarded commands) goes through a [`lane`]; the rest is plain calls. What is
//! asked besides Raft is in `ask` and `answer`; a node with an empty disk stands before the [`Gate`].

mod answer;
mod ask;
mod endpoint;
mod gate;
mod header;
mod lane;
mod pause;
mod peers;

pub(crate) use endpoint::PeerEndpoint;
pub(crate) use header::Me;
pub(crate) use peers::Peers;
