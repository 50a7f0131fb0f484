use bytes::Bytes;
use prost::Message as _;
use ticketrail_core::command::{
    AdmitNode, AttachConsumer, Bootstrap, CreateNamespace, CreateQueue, DeleteNamespace,
    DeleteQueue, DetachConsumer, NodeBooted, OpenProducer, ProducerSequence, Publish, PublishRun,
    PurgeQueue, PurgeRest, Receive, RetireNode, SessionsLost, SetPrefetch, SetVersion, Settle,
    SettleKind, SettleRange, UpdateQueue,
};
use ticketrail_core::{
    BootId, Command, DiskId, Fence, NodeId, Offset, ProducerId, QueueId, SessionId,
};

use super::bodies::run_ends;
use super::error::{DecodeError, required};
use super::parts::{id128, id128_from, owner, owner_from};
use crate::store;
use crate::store::command::Kind;
use crate::store::settle_range::Kind as Fate;

/// Who waits for a command's outcome. The state machine never sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The node.
    pub node: NodeId,
    /// The run of its process.
    pub boot: BootId,
    /// Chosen by that process, never twice.
    pub correlation: u64,
}

/// A command with all that is stored of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCommand {
    /// Who waits for it, or nobody.
    pub origin: Option<Origin>,
    /// What the state machine sees.
    pub command: Command,
    /// For a publish: the encoded messages, as many as its runs count; else empty.
    pub messages: Vec<Bytes>,
}

/// Encodes a command. `messages` are the encoded messages of a publish, as many as its runs count, and
/// empty for any other command.
#[must_use]
pub fn encode_command(command: &Command, origin: Option<Origin>, messages: &[Bytes]) -> Bytes {
    let kind = kind_of(command, messages);
    store::Command {
        origin: origin.map(Into::into),
        kind: Some(kind),
    }
    .encode_to_vec()
    .into()
}

/// Decodes one command, such as a forwarded one before it is proposed: once committed it must decode
/// on every node.
///
/// # Errors
/// When the bytes are not a command that this program knows completely.
pub fn decode_command(encoded: Bytes) -> Result<StoredCommand, DecodeError> {
    let mut stored = store::Command::decode(encoded).map_err(DecodeError::malformed("Command"))?;
    let mut messages = Vec::new();
    if let Some(Kind::Publish(publish)) = &mut stored.kind {
        run_ends(publish)?;
        messages = std::mem::take(&mut publish.messages);
    }
    let origin = stored.origin.map(Into::into);
    Ok(StoredCommand {
        origin,
        command: command_from(stored)?,
        messages,
    })
}

impl From<Origin> for store::Origin {
    fn from(origin: Origin) -> Self {
        Self {
            node_id: origin.node.0,
            boot_id: origin.boot.0,
            correlation: origin.correlation,
        }
    }
}

impl From<store::Origin> for Origin {
    fn from(origin: store::Origin) -> Self {
        Self {
            node: NodeId(origin.node_id),
            boot: BootId(origin.boot_id),
            correlation: origin.correlation,
        }
    }
}

fn kind_of(command: &Command, messages: &[Bytes]) -> Kind {
    match command {
        Command::Bootstrap(c) => Kind::Bootstrap(store::Bootstrap {
            cluster_id: Some(id128(c.cluster_id)),
            hash_seed: c.hash_seed,
        }),
        Command::SetVersion(c) => Kind::SetVersion(store::SetVersion { version: c.version }),
        Command::CreateNamespace(c) => Kind::CreateNamespace(store::CreateNamespace {
            namespace: c.namespace.clone(),
        }),
        Command::DeleteNamespace(c) => Kind::DeleteNamespace(store::DeleteNamespace {
            namespace: c.namespace.clone(),
        }),
        Command::CreateQueue(c) => Kind::CreateQueue(store::CreateQueue {
            namespace: c.namespace.clone(),
            queue: c.queue.clone(),
            settings: Some((&c.settings).into()),
        }),
        Command::UpdateQueue(c) => Kind::UpdateQueue(store::UpdateQueue {
            namespace: c.namespace.clone(),
            queue: c.queue.clone(),
            changes: Some((&c.changes).into()),
            revision: c.revision,
        }),
        Command::DeleteQueue(c) => Kind::DeleteQueue(store::DeleteQueue {
            namespace: c.namespace.clone(),
            queue: c.queue.clone(),
            if_empty: c.if_empty,
        }),
        Command::PurgeQueue(c) => Kind::PurgeQueue(store::PurgeQueue {
            namespace: c.namespace.clone(),
            queue: c.queue.clone(),
            include_delayed: c.include_delayed,
            rest: c.rest.map(|rest| store::PurgeRest {
                queue_id: rest.queue.0,
                below: rest.below.0,
            }),
        }),
        Command::OpenProducer(c) => Kind::OpenProducer(store::OpenProducer {
            namespace: c.namespace.clone(),
            name: c.name.clone(),
            fresh_id: Some(id128(c.fresh_id.0)),
        }),
        Command::Publish(c) => Kind::Publish(publish(c, messages)),
        Command::Receive(c) => Kind::Receive(store::Receive {
            namespace: c.namespace.clone(),
            queue: c.queue.clone(),
            max_messages: c.max_messages,
            lease_ms: c.lease_ms,
            attempt: Bytes::copy_from_slice(&c.attempt),
        }),
        Command::AttachConsumer(c) => Kind::AttachConsumer(store::AttachConsumer {
            namespace: c.namespace.clone(),
            queue: c.queue.clone(),
            session: Some(id128(c.session.0)),
            owner: Some(owner(c.owner)),
            prefetch: c.prefetch,
            lease_ms: c.lease_ms,
        }),
        Command::SetPrefetch(c) => Kind::SetPrefetch(store::SetPrefetch {
            session: Some(id128(c.session.0)),
            owner: Some(owner(c.owner)),
            prefetch: c.prefetch,
        }),
        Command::DetachConsumer(c) => Kind::DetachConsumer(store::DetachConsumer {
            session: Some(id128(c.session.0)),
            owner: Some(owner(c.owner)),
            release: c.release,
        }),
        Command::Settle(c) => Kind::Settle(store::Settle {
            ranges: c.ranges.iter().map(settle_range).collect(),
        }),
        Command::NodeBooted(c) => Kind::NodeBooted(store::NodeBooted {
            node_id: c.node.0,
            boot_id: c.boot.0,
        }),
        Command::SessionsLost(c) => Kind::SessionsLost(store::SessionsLost {
            node_id: c.node.0,
            boot_id: c.boot.0,
        }),
        Command::AdmitNode(c) => Kind::AdmitNode(store::AdmitNode {
            node_id: c.node.0,
            disk_id: Some(id128(c.disk.0)),
        }),
        Command::RetireNode(c) => Kind::RetireNode(store::RetireNode { node_id: c.node.0 }),
    }
}

fn publish(publish: &Publish, messages: &[Bytes]) -> store::Publish {
    store::Publish {
        namespace: publish.namespace.clone(),
        producer: publish
            .producer
            .as_ref()
            .map(|producer| store::ProducerSequence {
                producer_id: Some(id128(producer.id.0)),
                epoch: producer.epoch,
                first_sequence: producer.first_sequence,
                digests: producer.digests.clone(),
            }),
        atomic: publish.atomic,
        runs: publish.runs.iter().map(publish_run).collect(),
        messages: messages.to_vec(),
    }
}

fn publish_run(run: &PublishRun) -> store::PublishRun {
    store::PublishRun {
        routing_key: run.routing_key.clone(),
        count: run.count,
        bytes: run.bytes,
        mandatory: run.mandatory,
    }
}

fn settle_range(range: &SettleRange) -> store::SettleRange {
    let kind = match range.kind {
        SettleKind::Ack => Fate::Ack(store::Ack {}),
        SettleKind::Nack { delay_ms } => Fate::Nack(store::Nack { delay_ms }),
        SettleKind::Reject => Fate::Reject(store::Reject {}),
        SettleKind::Release => Fate::Release(store::Release {}),
        SettleKind::Extend { lease_ms } => Fate::Extend(store::Extend { lease_ms }),
    };
    store::SettleRange {
        queue_id: range.queue.0,
        first_offset: range.first_offset.0,
        count: range.count,
        first_fence: range.first_fence.0,
        kind: Some(kind),
    }
}

/// The command for the state machine; messages that a publish holds are not part of it.
pub(crate) fn command_from(stored: store::Command) -> Result<Command, DecodeError> {
    Ok(match stored.kind.ok_or(DecodeError::UnknownCommand)? {
        Kind::Bootstrap(c) => Command::Bootstrap(Bootstrap {
            cluster_id: id128_from(required(c.cluster_id, "Bootstrap.cluster_id")?),
            hash_seed: c.hash_seed,
        }),
        Kind::SetVersion(c) => Command::SetVersion(SetVersion { version: c.version }),
        Kind::CreateNamespace(c) => Command::CreateNamespace(CreateNamespace {
            namespace: c.namespace,
        }),
        Kind::DeleteNamespace(c) => Command::DeleteNamespace(DeleteNamespace {
            namespace: c.namespace,
        }),
        Kind::CreateQueue(c) => Command::CreateQueue(CreateQueue {
            namespace: c.namespace,
            queue: c.queue,
            settings: required(c.settings, "CreateQueue.settings")?.into(),
        }),
        Kind::UpdateQueue(c) => Command::UpdateQueue(UpdateQueue {
            namespace: c.namespace,
            queue: c.queue,
            changes: required(c.changes, "UpdateQueue.changes")?.into(),
            revision: c.revision,
        }),
        Kind::DeleteQueue(c) => Command::DeleteQueue(DeleteQueue {
            namespace: c.namespace,
            queue: c.queue,
            if_empty: c.if_empty,
        }),
        Kind::PurgeQueue(c) => Command::PurgeQueue(PurgeQueue {
            namespace: c.namespace,
            queue: c.queue,
            include_delayed: c.include_delayed,
            rest: c.rest.map(|rest| PurgeRest {
                queue: QueueId(rest.queue_id),
                below: Offset(rest.below),
            }),
        }),
        Kind::OpenProducer(c) => Command::OpenProducer(OpenProducer {
            namespace: c.namespace,
            name: c.name,
            fresh_id: ProducerId(id128_from(required(c.fresh_id, "OpenProducer.fresh_id")?)),
        }),
        Kind::Publish(c) => Command::Publish(publish_from(c)?),
        Kind::Receive(c) => Command::Receive(Receive {
            namespace: c.namespace,
            queue: c.queue,
            max_messages: c.max_messages,
            lease_ms: c.lease_ms,
            attempt: c.attempt.to_vec(),
        }),
        Kind::AttachConsumer(c) => Command::AttachConsumer(AttachConsumer {
            namespace: c.namespace,
            queue: c.queue,
            session: session_from(c.session, "AttachConsumer.session")?,
            owner: owner_from(required(c.owner, "AttachConsumer.owner")?),
            prefetch: c.prefetch,
            lease_ms: c.lease_ms,
        }),
        Kind::SetPrefetch(c) => Command::SetPrefetch(SetPrefetch {
            session: session_from(c.session, "SetPrefetch.session")?,
            owner: owner_from(required(c.owner, "SetPrefetch.owner")?),
            prefetch: c.prefetch,
        }),
        Kind::DetachConsumer(c) => Command::DetachConsumer(DetachConsumer {
            session: session_from(c.session, "DetachConsumer.session")?,
            owner: owner_from(required(c.owner, "DetachConsumer.owner")?),
            release: c.release,
        }),
        Kind::Settle(c) => {
            let ranges = c.ranges.into_iter().map(settle_range_from);
            Command::Settle(Settle {
                ranges: ranges.collect::<Result<_, _>>()?,
            })
        }
        Kind::NodeBooted(c) => Command::NodeBooted(NodeBooted {
            node: NodeId(c.node_id),
            boot: BootId(c.boot_id),
        }),
        Kind::SessionsLost(c) => Command::SessionsLost(SessionsLost {
            node: NodeId(c.node_id),
            boot: BootId(c.boot_id),
        }),
        Kind::AdmitNode(c) => Command::AdmitNode(AdmitNode {
            node: NodeId(c.node_id),
            disk: DiskId(id128_from(required(c.disk_id, "AdmitNode.disk_id")?)),
        }),
        Kind::RetireNode(c) => Command::RetireNode(RetireNode {
            node: NodeId(c.node_id),
        }),
    })
}

fn session_from(
    session: Option<store::Id128>,
    field: &'static str,
) -> Result<SessionId, DecodeError> {
    Ok(SessionId(id128_from(required(session, field)?)))
}

fn publish_from(publish: store::Publish) -> Result<Publish, DecodeError> {
    let producer = publish.producer.map(producer_from).transpose()?;
    let runs = publish.runs.into_iter().map(|run| PublishRun {
        routing_key: run.routing_key,
        count: run.count,
        bytes: run.bytes,
        mandatory: run.mandatory,
    });
    Ok(Publish {
        namespace: publish.namespace,
        producer,
        atomic: publish.atomic,
        runs: runs.collect(),
    })
}

fn producer_from(producer: store::ProducerSequence) -> Result<ProducerSequence, DecodeError> {
    let id = required(producer.producer_id, "ProducerSequence.producer_id")?;
    Ok(ProducerSequence {
        id: ProducerId(id128_from(id)),
        epoch: producer.epoch,
        first_sequence: producer.first_sequence,
        digests: producer.digests,
    })
}

fn settle_range_from(range: store::SettleRange) -> Result<SettleRange, DecodeError> {
    let kind = match required(range.kind, "SettleRange.kind")? {
        Fate::Ack(_) => SettleKind::Ack,
        Fate::Nack(nack) => SettleKind::Nack {
            delay_ms: nack.delay_ms,
        },
        Fate::Reject(_) => SettleKind::Reject,
        Fate::Release(_) => SettleKind::Release,
        Fate::Extend(extend) => SettleKind::Extend {
            lease_ms: extend.lease_ms,
        },
    };
    Ok(SettleRange {
        queue: QueueId(range.queue_id),
        first_offset: Offset(range.first_offset),
        count: range.count,
        first_fence: Fence(range.first_fence),
        kind,
    })
}
