//! Rows of a checkpoint: the values.

use prost::Message as _;
use ticketrail_core::row::{
    AttemptRange, AttemptRow, LeaseRow, MetaRow, NodeRow, ParkedRow, ProducerRow, QueueRow,
    Remembered, Row, RunRow, SessionRow, SettledRow, Span,
};
use ticketrail_core::{
    DiskId, Fence, LeaseTime, MessageId, Offset, ProducerId, QueueId, SessionId, WallTime,
};

use super::error::{DecodeError, required};
use super::parts::{id128, id128_from, owner, owner_from};
use super::row_columns::{runs, runs_from, spans, spans_from};
use super::row_parts::{
    body, body_from, counters, counters_from, death, death_from, reason, reason_from,
};
use crate::store;
use crate::store::row::Kind;

/// The row's bytes.
#[must_use]
pub fn encode_row(row: &Row) -> Vec<u8> {
    let kind = match row {
        Row::Meta(row) => Kind::Meta(meta(row)),
        Row::Namespace => Kind::Namespace(store::NamespaceRow {}),
        Row::Producer(row) => Kind::Producer(producer(row)),
        Row::ProducerChunk(messages) => {
            let messages = messages.iter().map(|message| store::RememberedMessage {
                digest: message.digest,
                message_id: message.message_id.0,
            });
            Kind::ProducerChunk(store::ProducerChunkRow {
                messages: messages.collect(),
            })
        }
        Row::Queue(row) => Kind::Queue(queue(row)),
        Row::Session(row) => Kind::Session(session(row)),
        Row::Run(row) => Kind::Run(store::RunRow {
            count: row.count,
            first_message_id: row.first_message_id.0,
            body: Some(body(row.body)),
            published_at_ms: row.published_at.0,
            bytes: row.bytes,
        }),
        Row::Ready(count) => Kind::Ready(store::ReadyRow { count: *count }),
        Row::Lease(row) => Kind::Lease(store::LeaseRow {
            count: row.count,
            first_fence: row.first_fence.0,
            session: row.session.map(|session| id128(session.0)),
            deadline_ms: row.deadline.0,
            delivery_count: row.delivery_count,
        }),
        Row::Returned(span) => Kind::Returned(store::ReturnedRow {
            delivery_count: span.value,
            more: span.count.saturating_sub(1),
        }),
        Row::Delayed(span) => Kind::Delayed(store::DelayedRow {
            ready_at_ms: span.value.0,
            more: span.count.saturating_sub(1),
        }),
        Row::Parked(row) => Kind::Parked(store::ParkedRow {
            reason: reason(row.reason) as i32,
            at_ms: row.at.0,
        }),
        Row::Deaths(deaths) => Kind::Deaths(store::DeathsRow {
            deaths: deaths.iter().map(death).collect(),
        }),
        Row::Settled(row) => Kind::Settled(store::SettledRow {
            count: row.count,
            first_fence: row.first_fence.0,
        }),
        Row::Attempt(row) => Kind::Attempt(attempt(row)),
        Row::Runs(all) => Kind::Runs(runs(all)),
        Row::Spans(all) => Kind::Spans(spans(all)),
        Row::Node(row) => Kind::Node(store::NodeRow {
            disk_id: Some(id128(row.disk.0)),
            retired: row.retired,
        }),
    };
    store::Row { kind: Some(kind) }.encode_to_vec()
}

fn meta(row: &MetaRow) -> store::MetaRow {
    store::MetaRow {
        applied_index: row.applied_index,
        lease_now_ms: row.lease_now.0,
        wall_now_ms: row.wall_now.0,
        digest: row.digest,
        version: row.version,
        bootstrap: row
            .bootstrap
            .map(|(cluster_id, hash_seed)| store::Bootstrap {
                cluster_id: Some(id128(cluster_id)),
                hash_seed,
            }),
        next_queue_id: row.next_queue.0,
        next_message_id: row.next_message_id.0,
        unroutable: row.unroutable,
    }
}

fn producer(row: &ProducerRow) -> store::ProducerRow {
    let openers = row
        .openers
        .iter()
        .map(|(fresh_id, epoch)| store::ProducerOpener {
            fresh_id: Some(id128(fresh_id.0)),
            epoch: *epoch,
        });
    store::ProducerRow {
        namespace: row.namespace.clone(),
        name: row.name.clone(),
        epoch: row.epoch,
        openers: openers.collect(),
        last_sequence: row.last_sequence,
        first_remembered: row.first_remembered,
        used_at_ms: row.used_at.0,
    }
}

fn queue(row: &QueueRow) -> store::QueueRow {
    store::QueueRow {
        namespace: row.namespace.clone(),
        name: row.name.clone(),
        revision: row.revision,
        settings: Some((&row.settings).into()),
        counters: Some(counters(&row.counters)),
        next_offset: row.next_offset.0,
        next_fence: row.next_fence.0,
        next_turn: row.next_turn,
        next_attempt: row.next_attempt,
    }
}

fn session(row: &SessionRow) -> store::SessionRow {
    store::SessionRow {
        queue_id: row.queue.0,
        owner: Some(owner(row.owner)),
        prefetch: row.prefetch,
        lease_ms: row.lease_ms,
        turn: row.turn,
        grace_until_ms: row.grace_until.map(|time| time.0),
    }
}

fn attempt(row: &AttemptRow) -> store::AttemptRow {
    let leases = row.leases.iter().map(|range| store::AttemptRange {
        first_offset: range.first_offset.0,
        count: range.count,
        first_fence: range.first_fence.0,
    });
    store::AttemptRow {
        id: row.id.clone().into(),
        answered_at_ms: row.answered_at.0,
        leases: leases.collect(),
    }
}

/// The row of bytes.
///
/// # Errors
/// When they are not a row that this program knows.
pub fn decode_row(bytes: &[u8]) -> Result<Row, DecodeError> {
    let row = store::Row::decode(bytes).map_err(DecodeError::malformed("Row"))?;
    Ok(match required(row.kind, "Row.kind")? {
        Kind::Meta(row) => Row::Meta(meta_from(row)?),
        Kind::Namespace(_) => Row::Namespace,
        Kind::Producer(row) => Row::Producer(producer_from(row)?),
        Kind::ProducerChunk(row) => {
            let messages = row.messages.into_iter().map(|message| Remembered {
                digest: message.digest,
                message_id: MessageId(message.message_id),
            });
            Row::ProducerChunk(messages.collect())
        }
        Kind::Queue(row) => Row::Queue(Box::new(queue_from(row)?)),
        Kind::Session(row) => Row::Session(session_from(row)?),
        Kind::Run(row) => Row::Run(RunRow {
            count: row.count,
            first_message_id: MessageId(row.first_message_id),
            body: body_from(required(row.body, "RunRow.body")?),
            published_at: WallTime(row.published_at_ms),
            bytes: row.bytes,
        }),
        Kind::Ready(row) => Row::Ready(row.count),
        Kind::Lease(row) => Row::Lease(LeaseRow {
            count: row.count,
            first_fence: Fence(row.first_fence),
            session: row.session.map(|session| SessionId(id128_from(session))),
            deadline: LeaseTime(row.deadline_ms),
            delivery_count: row.delivery_count,
        }),
        Kind::Returned(row) => Row::Returned(span(row.more, row.delivery_count)?),
        Kind::Delayed(row) => Row::Delayed(span(row.more, LeaseTime(row.ready_at_ms))?),
        Kind::Parked(row) => Row::Parked(ParkedRow {
            reason: reason_from(row.reason)?,
            at: WallTime(row.at_ms),
        }),
        Kind::Deaths(row) => Row::Deaths(
            row.deaths
                .into_iter()
                .map(death_from)
                .collect::<Result<_, _>>()?,
        ),
        Kind::Settled(row) => Row::Settled(SettledRow {
            count: row.count,
            first_fence: Fence(row.first_fence),
        }),
        Kind::Attempt(row) => Row::Attempt(attempt_from(row)),
        Kind::Runs(row) => Row::Runs(runs_from(&row)?),
        Kind::Spans(row) => Row::Spans(spans_from(&row)?),
        Kind::Node(row) => Row::Node(NodeRow {
            disk: DiskId(id128_from(required(row.disk_id, "NodeRow.disk_id")?)),
            retired: row.retired,
        }),
    })
}

fn span<V>(more: u64, value: V) -> Result<Span<V>, DecodeError> {
    let count = more.checked_add(1);
    let count = count.ok_or(DecodeError::OutOfRange { field: "Row.more" })?;
    Ok(Span { count, value })
}

fn meta_from(row: store::MetaRow) -> Result<MetaRow, DecodeError> {
    let bootstrap = row.bootstrap.map(|bootstrap| {
        let cluster_id = required(bootstrap.cluster_id, "Bootstrap.cluster_id")?;
        Ok((id128_from(cluster_id), bootstrap.hash_seed))
    });
    Ok(MetaRow {
        applied_index: row.applied_index,
        lease_now: LeaseTime(row.lease_now_ms),
        wall_now: WallTime(row.wall_now_ms),
        digest: row.digest,
        version: row.version,
        bootstrap: bootstrap.transpose()?,
        next_queue: QueueId(row.next_queue_id),
        next_message_id: MessageId(row.next_message_id),
        unroutable: row.unroutable,
    })
}

fn producer_from(row: store::ProducerRow) -> Result<ProducerRow, DecodeError> {
    let openers = row.openers.into_iter().map(|opener| {
        let fresh_id = required(opener.fresh_id, "ProducerOpener.fresh_id")?;
        Ok((ProducerId(id128_from(fresh_id)), opener.epoch))
    });
    Ok(ProducerRow {
        namespace: row.namespace,
        name: row.name,
        epoch: row.epoch,
        openers: openers.collect::<Result<_, _>>()?,
        last_sequence: row.last_sequence,
        first_remembered: row.first_remembered,
        used_at: WallTime(row.used_at_ms),
    })
}

fn queue_from(row: store::QueueRow) -> Result<QueueRow, DecodeError> {
    Ok(QueueRow {
        namespace: row.namespace,
        name: row.name,
        revision: row.revision,
        settings: required(row.settings, "QueueRow.settings")?.into(),
        counters: counters_from(&required(row.counters, "QueueRow.counters")?),
        next_offset: Offset(row.next_offset),
        next_fence: Fence(row.next_fence),
        next_turn: row.next_turn,
        next_attempt: row.next_attempt,
    })
}

fn session_from(row: store::SessionRow) -> Result<SessionRow, DecodeError> {
    Ok(SessionRow {
        queue: QueueId(row.queue_id),
        owner: owner_from(required(row.owner, "SessionRow.owner")?),
        prefetch: row.prefetch,
        lease_ms: row.lease_ms,
        turn: row.turn,
        grace_until: row.grace_until_ms.map(LeaseTime),
    })
}

fn attempt_from(row: store::AttemptRow) -> AttemptRow {
    let leases = row.leases.into_iter().map(|range| AttemptRange {
        first_offset: Offset(range.first_offset),
        count: range.count,
        first_fence: Fence(range.first_fence),
    });
    AttemptRow {
        id: row.id.to_vec(),
        answered_at: LeaseTime(row.answered_at_ms),
        leases: leases.collect(),
    }
}
