//! Clients: real commands, proposed through whoever leads, and what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ticketrail_core::command::{Publish, PublishRun, Receive, Settle, SettleKind, SettleRange};
use ticketrail_core::{BodyRef, Command, Grant, LeaseTime, MessageId, Outcome, Stamps, WallTime};
use ticketrail_proto::stored::{encode_command, encode_entry, encode_message};
use ticketrail_raft::{Committed, ProposeError};

use super::dice::Dice;
use super::history::History;
use super::network::{Network, Reachable};

const NAMESPACE: &str = "default";
const PATIENCE: Duration = Duration::from_secs(2);

/// The one queue.
pub(crate) const QUEUE: &str = "work";

/// A client.
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) network: Arc<Network>,
    pub(crate) history: Arc<History>,
    pub(crate) dice: Dice,
    pub(crate) made: u64,
    pub(crate) held: Vec<Grant>,
    /// Who was last proposed through.
    pub(crate) asked: Option<Reachable>,
}

impl Client {
    pub(crate) fn new(id: u64, network: Arc<Network>, history: Arc<History>, dice: Dice) -> Self {
        Self {
            id,
            network,
            history,
            dice,
            made: 0,
            held: Vec::new(),
            asked: None,
        }
    }

    /// Works until told to stop.
    pub(crate) async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            let pause = self.dice.between(1, 20);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            match self.dice.below(10) {
                0..=4 => self.publish().await,
                5..=6 => self.receive(8).await,
                7..=8 => self.settle().await,
                _ => self.read().await,
            }
        }
    }

    async fn publish(&mut self) {
        let count = self.dice.between(1, 5);
        let messages: Vec<Bytes> = (0..count).map(|_| self.message()).collect();
        let run = PublishRun {
            routing_key: QUEUE.to_owned(),
            count: count as u32,
            bytes: messages.iter().map(|message| message.len() as u64).sum(),
            mandatory: true,
        };
        let publish = Publish {
            namespace: NAMESPACE.to_owned(),
            producer: None,
            atomic: true,
            runs: vec![run],
        };
        let outcome = self.propose(Command::Publish(publish), &messages).await;
        let Some(Outcome::Published { accepted, refused }) = outcome else {
            return;
        };
        if !refused.is_empty() {
            self.history
                .violation(format!("a publish was refused: {refused:?}"));
        }
        for range in accepted {
            let items = messages.iter().skip(range.first_item as usize);
            for (id, message) in ids(range.first_message_id, range.count).zip(items) {
                self.history.published(id, message.clone());
            }
        }
    }

    fn message(&mut self) -> Bytes {
        self.made += 1;
        let filler = self.dice.between(1, 300) as usize;
        let body = format!("{}-{}-{}", self.id, self.made, "x".repeat(filler));
        let message = ticketrail_proto::v1::Message {
            body: body.into(),
            ..Default::default()
        };
        encode_message(&message)
    }

    pub(crate) async fn receive(&mut self, max_messages: u32) {
        self.made += 1;
        let receive = Receive {
            namespace: NAMESPACE.to_owned(),
            queue: QUEUE.to_owned(),
            max_messages,
            lease_ms: None,
            attempt: format!("{}-{}", self.id, self.made).into_bytes(),
        };
        let outcome = self.propose(Command::Receive(receive), &[]).await;
        if let Some(Outcome::Received { grants }) = outcome {
            for grant in &grants {
                for (item, id) in (grant.body.item..).zip(ids(grant.first_message_id, grant.count))
                {
                    self.history.delivered(id);
                    let body = BodyRef { item, ..grant.body };
                    if let Some(node) = self.asked.as_ref().filter(|node| !node.life.is_dead()) {
                        self.history.check_body(node, id, body);
                    }
                }
            }
            self.held.extend(grants);
        }
    }

    /// Settles all that it holds; most of it as done.
    pub(crate) async fn settle(&mut self) {
        let grants = std::mem::take(&mut self.held);
        if grants.is_empty() {
            return;
        }
        let mut ranges = Vec::new();
        for grant in &grants {
            let kind = match self.dice.below(10) {
                0 => SettleKind::Nack {
                    delay_ms: Some(self.dice.below(500)),
                },
                1 => SettleKind::Release,
                _ => SettleKind::Ack,
            };
            if kind == SettleKind::Ack {
                ids(grant.first_message_id, grant.count)
                    .for_each(|id| self.history.settle_tried(id));
            }
            ranges.push(SettleRange {
                queue: grant.queue,
                first_offset: grant.first_offset,
                count: grant.count,
                first_fence: grant.first_fence,
                kind,
            });
        }
        let kinds: Vec<SettleKind> = ranges.iter().map(|range| range.kind).collect();
        let outcome = self.propose(Command::Settle(Settle { ranges }), &[]).await;
        let Some(Outcome::Settled { exceptions }) = outcome else {
            return;
        };
        for (place, (grant, kind)) in grants.iter().zip(kinds).enumerate() {
            let refused = exceptions
                .iter()
                .any(|exception| exception.range as usize == place);
            if kind == SettleKind::Ack && !refused {
                ids(grant.first_message_id, grant.count).for_each(|id| self.history.acked(id));
            }
        }
    }

    /// A linearizable read on any node: it sees everything that was confirmed before.
    async fn read(&mut self) {
        let running = self.network.running();
        if running.is_empty() {
            return;
        }
        let place = self.dice.below(running.len() as u64) as usize;
        let Reachable { id, life, replica } = running[place].clone();
        let must_see = self.history.confirmed_index();
        let reading = replica.clone();
        let read = life.spawn(async move { reading.read_index().await });
        if !matches!(tokio::time::timeout(PATIENCE, read).await, Ok(Ok(Ok(())))) || life.is_dead() {
            return;
        }
        self.history.count(|counts| counts.reads += 1);
        let sees = replica.with_state(|state| state.applied_index());
        if sees < must_see {
            self.history.violation(format!(
                "a read on n{id} sees {sees}, but {must_see} was confirmed"
            ));
        }
    }

    /// Proposes through a node that thinks it leads; `None` where no outcome came.
    pub(crate) async fn propose(
        &mut self,
        command: Command,
        messages: &[Bytes],
    ) -> Option<Outcome> {
        let leaders: Vec<Reachable> = self
            .network
            .running()
            .into_iter()
            .filter(|node| node.replica.leadership().borrow().is_leader)
            .collect();
        if leaders.is_empty() {
            return None;
        }
        let leader = leaders[self.dice.below(leaders.len() as u64) as usize].clone();
        self.asked = Some(leader.clone());
        let term = leader.replica.leadership().borrow().term;
        let encoded = encode_command(&command, None, messages);
        let now = self.history.now_ms();
        let stamps = Stamps {
            lease_now: LeaseTime(now),
            wall_now: WallTime(1_700_000_000_000 + now),
        };
        let mut payload = BytesMut::new();
        encode_entry(stamps, &[encoded], &mut payload);
        let proposal = leader.replica.propose(term, payload.freeze());
        let result = tokio::time::timeout(PATIENCE, proposal).await;
        self.told(leader.id, result.unwrap_or(Err(ProposeError::Unknown)))
    }

    fn told(&self, node: u64, result: Result<Committed, ProposeError>) -> Option<Outcome> {
        match result {
            Ok(committed) => {
                let (client, index) = (self.id, committed.index);
                self.history
                    .note(format_args!("c{client} was told by n{node}: entry {index}"));
                self.history.confirmed(index);
                committed.outcomes.first().cloned()
            }
            Err(ProposeError::Unknown | ProposeError::Stopped) => {
                self.history.count(|counts| counts.unknown += 1);
                None
            }
            Err(ProposeError::NotLeader { .. }) => None,
            Err(ProposeError::Invalid) => {
                self.history
                    .violation("a proposal was called invalid".to_owned());
                None
            }
        }
    }
}

fn ids(first: MessageId, count: u32) -> impl Iterator<Item = MessageId> {
    (first.0..first.0 + u64::from(count)).map(MessageId)
}
