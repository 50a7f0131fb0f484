//! openraft's types from and to our own formats: what is on disk and on the wire is never an image
//! of a library's types.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::EntryPayload;
use prost::Message;
use ticketrail_proto::{peer, store};
use ticketrail_storage::Record;

use crate::config::GROUP;
use crate::divergence::DigestAt;
use crate::types::{
    Entry, LogId, Membership, Payload, PeerAddress, SnapshotMeta, StoredMembership, Vote, log_id,
    term_of,
};

/// First byte of a record that is a blank, and its only one. An encoded message never starts with a
/// byte below 8 (its field number would be 0), so a proposer's payload needs no frame: its bytes are
/// written, sent and applied as the proposer made them.
const BLANK: u8 = 0;
/// First byte of a record that changes the members; an encoded `store.v1.Membership` follows.
const MEMBERSHIP: u8 = 1;

/// Version of [`store::CheckpointMeta`] that is written.
const META_VERSION: u32 = 1;

fn broken(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("{what} cannot be decoded"),
    )
}

/// A vote as it is on disk.
pub(crate) fn vote_to_disk(vote: &Vote) -> Bytes {
    let vote = store::Vote {
        term: vote.leader_id().term,
        node_id: vote.leader_id().voted_for,
        committed: vote.is_committed(),
    };
    vote.encode_to_vec().into()
}

/// A vote from disk.
pub(crate) fn vote_from_disk(bytes: &Bytes) -> io::Result<Vote> {
    let vote = store::Vote::decode(bytes.clone()).map_err(|_| broken("the vote"))?;
    Ok(make_vote(vote.term, vote.node_id, vote.committed))
}

fn make_vote(term: u64, node_id: u64, committed: bool) -> Vote {
    if committed {
        Vote::new_committed(term, node_id)
    } else {
        Vote::new(term, node_id)
    }
}

/// The record of an entry.
pub(crate) fn record_of(entry: Entry) -> Record {
    let payload = match entry.payload {
        EntryPayload::Blank => Bytes::from_static(&[BLANK]),
        EntryPayload::Normal(payload) => payload.0,
        EntryPayload::Membership(membership) => {
            let mut bytes = BytesMut::new();
            bytes.put_u8(MEMBERSHIP);
            bytes.extend_from_slice(&membership_to(&membership).encode_to_vec());
            bytes.freeze()
        }
    };
    Record {
        group: GROUP,
        term: term_of(&entry.log_id),
        index: entry.log_id.index,
        payload,
    }
}

/// The entry of a record.
pub(crate) fn entry_of(record: Record) -> io::Result<Entry> {
    let payload = match record.payload.first() {
        Some(&BLANK) => EntryPayload::Blank,
        Some(&MEMBERSHIP) => {
            let membership = store::Membership::decode(record.payload.slice(1..));
            let membership = membership.map_err(|_| broken("a membership"))?;
            EntryPayload::Membership(membership_from(&membership)?)
        }
        _ => EntryPayload::Normal(Payload(record.payload)),
    };
    Ok(Entry {
        log_id: log_id(record.term, record.index),
        payload,
    })
}

/// Whether these bytes, as a proposer's payload, would not read as another kind of record.
pub(crate) fn is_payload(bytes: &Bytes) -> bool {
    bytes.first().is_some_and(|first| *first > MEMBERSHIP)
}

fn membership_to(membership: &Membership) -> store::Membership {
    let configs = membership.get_joint_config().iter();
    store::Membership {
        configs: configs
            .map(|voters| store::VoterSet {
                node_ids: voters.iter().copied().collect(),
            })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, address)| store::Member {
                node_id: *id,
                client_address: address.client.clone(),
                peer_address: address.peer.clone(),
            })
            .collect(),
    }
}

fn membership_from(membership: &store::Membership) -> io::Result<Membership> {
    let configs = membership.configs.iter();
    let configs: Vec<BTreeSet<u64>> = configs
        .map(|voters| voters.node_ids.iter().copied().collect())
        .collect();
    let nodes: BTreeMap<u64, PeerAddress> = membership
        .members
        .iter()
        .map(|member| {
            let address = PeerAddress {
                peer: member.peer_address.clone(),
                client: member.client_address.clone(),
            };
            (member.node_id, address)
        })
        .collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| broken("a membership"))
}

/// What a checkpoint or a snapshot file covers, as it is stored beside the rows.
pub(crate) fn meta_to(last_applied: Option<LogId>, membership: &StoredMembership) -> Bytes {
    let meta = store::CheckpointMeta {
        version: META_VERSION,
        last_applied: last_applied.map(store_log_id),
        membership: Some(store::StoredMembership {
            log_id: membership.log_id().map(store_log_id),
            membership: Some(membership_to(membership.membership())),
        }),
    };
    meta.encode_to_vec().into()
}

/// The other way.
pub(crate) fn meta_from(bytes: &Bytes) -> io::Result<SnapshotMeta> {
    let meta = store::CheckpointMeta::decode(bytes.clone());
    let meta = meta.map_err(|_| broken("the meta of a checkpoint"))?;
    if meta.version != META_VERSION {
        let text = format!(
            "checkpoint version {} is not known: upgrade first",
            meta.version
        );
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let stored = meta.membership.unwrap_or_default();
    let membership = membership_from(&stored.membership.unwrap_or_default())?;
    Ok(SnapshotMeta {
        last_log_id: meta.last_applied.map(|id| log_id(id.term, id.index)),
        last_membership: StoredMembership::new(
            stored.log_id.map(|id| log_id(id.term, id.index)),
            membership,
        ),
    })
}

fn store_log_id(id: LogId) -> store::LogId {
    store::LogId {
        term: term_of(&id),
        index: id.index,
    }
}

/// A vote on the wire.
pub(crate) fn vote_to_peer(vote: &Vote) -> peer::Vote {
    peer::Vote {
        term: vote.leader_id().term,
        node_id: vote.leader_id().voted_for,
        committed: vote.is_committed(),
    }
}

/// A vote from the wire.
pub(crate) fn vote_from_peer(vote: Option<peer::Vote>) -> Option<Vote> {
    vote.map(|vote| make_vote(vote.term, vote.node_id, vote.committed))
}

/// A log id on the wire. The leader's node id is not part of it here: a term has one leader.
pub(crate) fn id_to_peer(id: LogId) -> peer::LogId {
    peer::LogId {
        term: term_of(&id),
        index: id.index,
    }
}

/// A log id from the wire.
pub(crate) fn id_from_peer(id: peer::LogId) -> LogId {
    log_id(id.term, id.index)
}

/// A digest on the wire: ours have 64 bits.
pub(crate) fn digest_to_peer((index, digest): DigestAt) -> peer::Digest {
    peer::Digest {
        index,
        low: digest,
        high: 0,
    }
}

/// A digest from the wire; none of a kind that is not known here.
pub(crate) fn digest_from_peer(digest: peer::Digest) -> Option<DigestAt> {
    (digest.high == 0).then_some((digest.index, digest.low))
}

/// An entry on the wire; the payload is not copied.
pub(crate) fn entry_to_peer(entry: Entry) -> peer::Entry {
    use peer::entry::Payload as Wire;
    let payload = match entry.payload {
        EntryPayload::Blank => Wire::Blank(peer::Blank {}),
        EntryPayload::Normal(payload) => Wire::Normal(payload.0),
        EntryPayload::Membership(membership) => {
            Wire::Membership(membership_to(&membership).encode_to_vec().into())
        }
    };
    peer::Entry {
        log_id: Some(id_to_peer(entry.log_id)),
        payload: Some(payload),
    }
}

/// An entry from the wire.
pub(crate) fn entry_from_peer(entry: peer::Entry) -> io::Result<Entry> {
    use peer::entry::Payload as Wire;
    let log_id = entry
        .log_id
        .map(id_from_peer)
        .ok_or_else(|| broken("an entry"))?;
    let payload = match entry.payload.ok_or_else(|| broken("an entry"))? {
        Wire::Blank(_) => EntryPayload::Blank,
        Wire::Normal(bytes) if !is_payload(&bytes) => return Err(broken("an entry")),
        Wire::Normal(bytes) => EntryPayload::Normal(Payload(bytes)),
        Wire::Membership(bytes) => {
            let membership = store::Membership::decode(bytes).map_err(|_| broken("an entry"))?;
            EntryPayload::Membership(membership_from(&membership)?)
        }
    };
    Ok(Entry { log_id, payload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn membership() -> Membership {
        let address = |id: u64| PeerAddress {
            peer: format!("p{id}"),
            client: format!("c{id}"),
        };
        let nodes: BTreeMap<u64, PeerAddress> = (1..=3).map(|id| (id, address(id))).collect();
        Membership::new(vec![BTreeSet::from([1, 2]), BTreeSet::from([2, 3])], nodes).unwrap()
    }

    fn entries() -> Vec<Entry> {
        [
            EntryPayload::Blank,
            EntryPayload::Normal(Payload(Bytes::from_static(&[8, 1]))),
            EntryPayload::Membership(membership()),
        ]
        .into_iter()
        .map(|payload| Entry {
            log_id: log_id(3, 7),
            payload,
        })
        .collect()
    }

    #[test]
    fn an_entry_survives_the_log_and_the_wire() {
        for entry in entries() {
            assert_eq!(entry_of(record_of(entry.clone())).unwrap(), entry);
            assert_eq!(
                entry_from_peer(entry_to_peer(entry.clone())).unwrap(),
                entry
            );
        }
    }

    #[test]
    fn a_payload_that_would_read_as_another_kind_is_refused() {
        for payload in [&[][..], &[BLANK], &[MEMBERSHIP, 10, 0]] {
            let entry = peer::Entry {
                log_id: Some(id_to_peer(log_id(1, 1))),
                payload: Some(peer::entry::Payload::Normal(Bytes::from_static(payload))),
            };
            assert!(entry_from_peer(entry).is_err());
        }
    }

    #[test]
    fn a_vote_and_a_checkpoint_meta_survive_the_disk() {
        for vote in [Vote::new(4, 2), Vote::new_committed(4, 2)] {
            assert_eq!(vote_from_disk(&vote_to_disk(&vote)).unwrap(), vote);
        }
        let stored = StoredMembership::new(Some(log_id(1, 0)), membership());
        let meta = meta_from(&meta_to(Some(log_id(2, 9)), &stored)).unwrap();
        assert_eq!(
            meta,
            SnapshotMeta {
                last_log_id: Some(log_id(2, 9)),
                last_membership: stored
            }
        );
    }
}
