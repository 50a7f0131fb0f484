//! What nodes send each other.

use bytes::Bytes;
use ticketrail_proto::peer::*;

use super::golden;
use crate::samples;

fn header() -> Option<Header> {
    Some(Header {
        cluster_id: (0..16).collect::<Vec<u8>>().into(),
        sender_node_id: 1,
        target_node_id: 2,
        group_id: 5,
        boot_id: 0xb007,
    })
}

fn vote() -> Option<Vote> {
    Some(Vote {
        term: 4,
        node_id: 1,
        committed: true,
    })
}

fn log_id() -> Option<LogId> {
    Some(LogId {
        term: 3,
        index: 7_000,
    })
}

fn digest() -> Option<Digest> {
    Some(Digest {
        index: 6_999,
        low: 1,
        high: u64::MAX,
    })
}

fn refusal() -> NotProposed {
    NotProposed {
        reason: "NOT_LEADER".to_owned(),
        leader_node_id: 3,
        retry_after_ms: 50,
    }
}

#[test]
fn votes() {
    let last_log_id = log_id();
    golden(
        "peer/vote_request",
        &VoteRequest {
            header: header(),
            vote: vote(),
            last_log_id,
            leadership_transfer: true,
        },
    );
    golden(
        "peer/vote_response",
        &VoteResponse {
            header: header(),
            vote: vote(),
            granted: true,
            last_log_id,
        },
    );
    golden(
        "peer/pre_vote_request",
        &PreVoteRequest {
            header: header(),
            vote: vote(),
            last_log_id,
        },
    );
    golden(
        "peer/pre_vote_response",
        &PreVoteResponse {
            header: header(),
            vote: vote(),
            granted: true,
            last_log_id,
        },
    );
}

#[test]
fn replication() {
    let payloads = [
        entry::Payload::Blank(Blank {}),
        entry::Payload::Normal(samples::entry()),
        entry::Payload::Membership(Bytes::from_static(&[10, 2, 10, 0])),
    ];
    let entry = |payload| Entry {
        log_id: log_id(),
        payload: Some(payload),
    };
    golden(
        "peer/append_entries_request",
        &AppendEntriesRequest {
            header: header(),
            vote: vote(),
            prev_log_id: log_id(),
            entries: payloads.into_iter().map(entry).collect(),
            leader_commit: log_id(),
            digest: digest(),
            wall_clock_ms: 1_800_000_000_000,
        },
    );
    golden(
        "peer/append_entries_response",
        &AppendEntriesResponse {
            header: header(),
            outcome: AppendOutcome::HigherVote.into(),
            matched: log_id(),
            vote: vote(),
            digest: digest(),
            wall_clock_ms: 1_800_000_000_001,
        },
    );
}

#[test]
fn leadership() {
    golden(
        "peer/transfer_leader_request",
        &TransferLeaderRequest {
            header: header(),
            from_leader: vote(),
            to_node_id: 2,
            last_log_id: log_id(),
        },
    );
    golden(
        "peer/transfer_leader_response",
        &TransferLeaderResponse { header: header() },
    );
    golden(
        "peer/read_index_request",
        &ReadIndexRequest { header: header() },
    );
    golden(
        "peer/read_index_response",
        &ReadIndexResponse {
            header: header(),
            result: Some(read_index_response::Result::Index(7_001)),
        },
    );
    golden(
        "peer/read_index_response_refused",
        &ReadIndexResponse {
            header: header(),
            result: Some(read_index_response::Result::Refused(refusal())),
        },
    );
}

#[test]
fn forwarding() {
    golden(
        "peer/forward_request",
        &ForwardRequest {
            header: header(),
            request_id: 9,
            term: 4,
            commands: vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
        },
    );
    let response = |result| ForwardResponse {
        header: header(),
        request_id: 9,
        result,
    };
    golden(
        "peer/forward_response",
        &response(Some(forward_response::Result::Taken(Taken {}))),
    );
    golden(
        "peer/forward_response_not_proposed",
        &response(Some(forward_response::Result::NotProposed(refusal()))),
    );
}
