//! Bugs that the simulation must catch, or it proves nothing. All but the first are bugs of what is
//! simulated around the product; the product is as it is.

use prost::Message as _;
use ticketrail_proto::{peer, store};
use ticketrail_raft::{PeerRequest, PeerResponse};

use super::network::Letter;

/// Bugs that must be caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// A restarted leader goes on without an election.
    LeaderRestore,
    /// Entries are acknowledged before they are on the disk.
    AckBeforeSync,
    /// A vote is answered before it is on the disk.
    VoteUnsynced,
    /// The log's syncs do nothing.
    LogUnsynced,
    /// What is forwarded to the leader is handed over twice.
    ForwardTwice,
    /// One node leaves out the last command of an entry.
    HalfEntry,
    /// Reads see what a node happens to have applied.
    StaleReads,
}

/// The node that leaves something out.
const HALF_NODE: u64 = 2;

impl Planted {
    /// Files whose syncs do nothing.
    pub(crate) fn lies_about(self) -> Option<&'static str> {
        match self {
            Self::VoteUnsynced => Some("vote"),
            Self::LogUnsynced => Some("log-"),
            _ => None,
        }
    }
}

/// A request as a node gets it.
pub(crate) fn on_arrival(planted: Option<Planted>, node: u64, mut letter: Letter) -> Letter {
    if planted == Some(Planted::HalfEntry)
        && node == HALF_NODE
        && let PeerRequest::AppendEntries(request) = &mut letter.request
    {
        request.entries.iter_mut().for_each(halve);
    }
    letter
}

fn halve(entry: &mut peer::Entry) {
    if let Some(peer::entry::Payload::Normal(payload)) = &mut entry.payload
        && let Ok(mut stored) = store::Entry::decode(payload.clone())
        && stored.commands.len() > 1
    {
        stored.commands.pop();
        *payload = stored.encode_to_vec().into();
    }
}

/// The answer before the entries are on the disk.
pub(crate) fn hasty_answer(planted: Option<Planted>, letter: &Letter) -> Option<PeerResponse> {
    let PeerRequest::AppendEntries(request) = &letter.request else {
        return None;
    };
    if planted != Some(Planted::AckBeforeSync) || request.entries.is_empty() {
        return None;
    }
    let asked = request.header.clone()?;
    let mut answer = peer::AppendEntriesResponse {
        header: Some(peer::Header {
            sender_node_id: asked.target_node_id,
            target_node_id: asked.sender_node_id,
            ..asked
        }),
        ..Default::default()
    };
    answer.set_outcome(peer::AppendOutcome::Success);
    Some(PeerResponse::AppendEntries(answer))
}
