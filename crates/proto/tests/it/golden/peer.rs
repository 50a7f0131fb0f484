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
            agreed_digest: None,
            pressure: 0,
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
            pressure: 0,
            polls: None,
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
    let request = ForwardRequest {
        header: header(),
        request_id: 9,
        term: 4,
        commands: vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")],
        may_wait: false,
    };
    golden("peer/forward_request", &request);
    let may_wait = ForwardRequest {
        may_wait: true,
        ..request
    };
    golden("peer/forward_request_that_may_wait", &may_wait);
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

#[test]
fn membership() {
    let disk_id: Bytes = (16..32).collect::<Vec<u8>>().into();
    golden(
        "peer/hello_request",
        &HelloRequest {
            header: header(),
            disk_id: disk_id.clone(),
            welcome_disk_id: disk_id.clone(),
            members: Vec::new(),
        },
    );
    golden(
        "peer/hello_request_welcome",
        &HelloRequest {
            header: header(),
            disk_id: disk_id.clone(),
            welcome_disk_id: disk_id.clone(),
            members: vec![MemberAddress {
                node_id: 3,
                peer_address: "c:7500".to_owned(),
            }],
        },
    );
    golden(
        "peer/hello_response",
        &HelloResponse {
            header: header(),
            disk_id: disk_id.clone(),
            stage: Stage::Member as i32,
            standing: Standing::OtherDisk as i32,
        },
    );
    golden(
        "peer/admit_request",
        &AdmitRequest {
            header: header(),
            disk_id,
        },
    );
    golden("peer/admit_response", &AdmitResponse { header: header() });
    golden(
        "peer/change_members_request",
        &ChangeMembersRequest {
            header: header(),
            timeout_ms: 15_000,
            change: Some(change_members_request::Change::Add(AddMember {
                node_id: 4,
                client_address: "d:7403".to_owned(),
                peer_address: "d:7503".to_owned(),
            })),
        },
    );
    golden(
        "peer/change_members_response",
        &ChangeMembersResponse {
            header: header(),
            unchanged: true,
            warnings: vec!["2 voters".to_owned()],
            leader_node_id: 2,
        },
    );
}

#[test]
fn digests_of_a_majority() {
    golden(
        "peer/append_entries_request_agreed",
        &AppendEntriesRequest {
            header: header(),
            vote: vote(),
            agreed_digest: digest(),
            ..Default::default()
        },
    );
}

#[test]
fn offering_snapshots() {
    golden(
        "peer/offer_snapshot_request",
        &OfferSnapshotRequest {
            header: header(),
            vote: vote(),
            last_log_id: log_id(),
        },
    );
    golden(
        "peer/offer_snapshot_response",
        &OfferSnapshotResponse {
            header: header(),
            outcome: OfferOutcome::Fetching.into(),
            vote: None,
            bytes_done: 1_000,
            bytes_total: 2_000,
            reason: String::new(),
        },
    );
    golden(
        "peer/offer_snapshot_response_failed",
        &OfferSnapshotResponse {
            header: header(),
            outcome: OfferOutcome::Failed.into(),
            vote: vote(),
            reason: "the disk is full".to_owned(),
            ..Default::default()
        },
    );
}

fn snapshot_refused() -> SnapshotRefused {
    SnapshotRefused {
        reason: "SNAPSHOT_GONE".to_owned(),
        message: "it was closed".to_owned(),
    }
}

#[test]
fn opening_and_closing_snapshots() {
    golden(
        "peer/open_snapshot_request",
        &OpenSnapshotRequest {
            header: header(),
            last_index_min: 77,
        },
    );
    let response = |result| OpenSnapshotResponse {
        header: header(),
        result: Some(result),
    };
    let opened = OpenedSnapshot {
        snapshot_id: 0x51de,
        last_log_id: log_id(),
        file_bytes: 4_096,
        body_bytes: 1 << 30,
    };
    use open_snapshot_response::Result::{Opened, Refused};
    golden("peer/open_snapshot_response", &response(Opened(opened)));
    golden(
        "peer/open_snapshot_response_refused",
        &response(Refused(snapshot_refused())),
    );
    golden(
        "peer/close_snapshot_request",
        &CloseSnapshotRequest {
            header: header(),
            snapshot_id: 0x51de,
        },
    );
    golden(
        "peer/close_snapshot_response",
        &CloseSnapshotResponse { header: header() },
    );
}

#[test]
fn reading_snapshots() {
    let request = |place| ReadSnapshotRequest {
        header: header(),
        snapshot_id: 0x51de,
        place: Some(place),
    };
    use read_snapshot_request::Place::{BodyIndex, FileOffset};
    golden("peer/read_snapshot_request", &request(FileOffset(1 << 20)));
    golden(
        "peer/read_snapshot_request_bodies",
        &request(BodyIndex(7_000)),
    );
    let response = |result| ReadSnapshotResponse {
        header: header(),
        result: Some(result),
    };
    use read_snapshot_response::Result::{Bodies, File, Refused};
    let file = FilePiece {
        offset: 1 << 20,
        data: Bytes::from_static(b"rows"),
        crc32c: 7,
        last: true,
    };
    golden("peer/read_snapshot_response", &response(File(file)));
    let body = |index| SnapshotBody {
        index,
        payload: samples::entry(),
    };
    let bodies = BodyPiece {
        bodies: vec![body(7_000), body(7_002)],
        crc32c: 8,
        next_index: 7_003,
        last: true,
    };
    golden(
        "peer/read_snapshot_response_bodies",
        &response(Bodies(bodies)),
    );
    golden(
        "peer/read_snapshot_response_refused",
        &response(Refused(snapshot_refused())),
    );
}
