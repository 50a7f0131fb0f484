//! Publishes: with sequences, repeated until the outcome is known, by calls and streams; now and
//! then without.

use bytes::Bytes;
use ticketrail_broker::{Confirm, Problem, Producer, Published};
use ticketrail_core::Rejection;
use ticketrail_core::outcome::RefusedItem;
use ticketrail_proto::error::Reason;

use super::{Client, Told, WORK, new_messages};

/// More in the queue than this, and publishers pause: the model is naive.
const BACKLOG_MAX: u64 = 150;

struct Publisher {
    client: Client,
    /// Known by name, so that it can be opened again.
    name: Option<String>,
    producer: Option<Producer>,
    next_sequence: u64,
}

pub(super) async fn run(mut client: Client) {
    let name = client
        .dice
        .percent(70)
        .then(|| format!("producer-{}", client.id));
    let mut publisher = Publisher {
        client,
        name,
        producer: None,
        next_sequence: 1,
    };
    while !publisher.client.stopped() {
        publisher.client.pause(1, 40).await;
        if publisher.is_full() {
            publisher.client.pause(100, 500).await;
            continue;
        }
        match publisher.client.dice.below(20) {
            0 => publisher.once().await,
            1 if publisher.name.is_some() => publisher.producer = None,
            2..=5 => publisher.stream().await,
            _ => publisher.batch().await,
        }
    }
}

impl Publisher {
    fn is_full(&self) -> bool {
        self.client.network.running().first().is_some_and(|node| {
            let ready = |state: &ticketrail_core::State| {
                state.queue("default", WORK).map(|queue| queue.ready)
            };
            node.broker.replica().with_state(ready) > Some(BACKLOG_MAX)
        })
    }

    /// Without a producer: what is not known stays so.
    async fn once(&mut self) {
        let messages = self.client.messages(3);
        let new = new_messages(&messages);
        let told = self
            .client
            .call(|broker, deadline| async move { broker.publish("", None, new, deadline).await })
            .await;
        match told {
            Told::Done(published) => drop(self.confirmed(&published, &messages)),
            Told::Refused(_) => self.client.history.publish_refused(&messages),
            Told::Unknown => {}
        }
    }

    /// With sequences, until it is known what became of it.
    async fn batch(&mut self) {
        let messages = self.client.messages(5);
        while !self.client.stopped() {
            let Some(producer) = self.open().await else {
                continue;
            };
            let new = new_messages(&messages);
            let sequence = Some((producer, self.next_sequence));
            let told = self
                .client
                .call(|broker, deadline| async move {
                    broker.publish("", sequence, new, deadline).await
                })
                .await;
            match told {
                Told::Done(published) => {
                    if self.confirmed(&published, &messages) {
                        self.next_sequence += messages.len() as u64;
                        return;
                    }
                }
                Told::Refused(problem) => self.refused(&problem),
                Told::Unknown => {}
            }
            self.client.pause(5, 100).await;
        }
    }

    /// Some frames on a stream; where it breaks, all again.
    async fn stream(&mut self) {
        let frames: Vec<Vec<Bytes>> = (0..self.client.dice.between(2, 6))
            .map(|_| self.client.messages(4))
            .collect();
        while !self.client.stopped() {
            let Some(producer) = self.open().await else {
                continue;
            };
            let sending = frames.clone();
            let first_sequence = self.next_sequence;
            let told = self
                .client
                .call(|broker, deadline| async move {
                    let stream = broker.publish_stream("", Some(producer));
                    let sent = send_all(stream, first_sequence, sending);
                    let unknown = |_| Err(Problem::outcome_unknown(std::time::Duration::ZERO));
                    tokio::time::timeout_at(deadline, sent)
                        .await
                        .unwrap_or_else(unknown)
                })
                .await;
            match told {
                Told::Done(confirms) if confirms.len() == frames.len() => {
                    let all: Result<Vec<Published>, Problem> =
                        confirms.into_iter().map(|confirm| confirm.result).collect();
                    match all {
                        Ok(all) => {
                            let told = all.iter().zip(&frames);
                            if told.fold(true, |whole, (published, messages)| {
                                self.confirmed(published, messages) && whole
                            }) {
                                let sent: usize = frames.iter().map(Vec::len).sum();
                                self.next_sequence += sent as u64;
                                return;
                            }
                        }
                        Err(problem) => self.refused(&problem),
                    }
                }
                Told::Done(_) | Told::Unknown => {}
                Told::Refused(problem) => self.refused(&problem),
            }
            self.client.pause(5, 100).await;
        }
    }

    async fn open(&mut self) -> Option<Producer> {
        if self.producer.is_some() {
            return self.producer;
        }
        let name = self.name.clone();
        let told = self
            .client
            .call(|broker, deadline| async move { broker.open_producer("", name, deadline).await })
            .await;
        let Told::Done(opened) = told else {
            self.client.pause(5, 50).await;
            return None;
        };
        let (producer, last_sequence) = opened.value;
        // What was being sent when it was opened again keeps its sequence: stored already or not.
        if self.name.is_none() {
            self.next_sequence = last_sequence + 1;
        }
        self.producer = Some(producer);
        self.producer
    }

    fn refused(&mut self, problem: &Problem) {
        match problem.reason() {
            Reason::NoLeader | Reason::OutcomeUnknown => {}
            // Nothing was done, and it is asked again: a node that comes back has much to apply.
            Reason::Overloaded => {}
            // Its own opening, whose answer was lost, came later than the publish.
            Reason::ProducerFenced => self.producer = None,
            _ => self.client.history.violation(format!(
                "c{} cannot publish sequence {}: {problem}",
                self.client.id, self.next_sequence
            )),
        }
    }

    /// Notes what was confirmed; whether that is all.
    fn confirmed(&mut self, published: &Published, messages: &[Bytes]) -> bool {
        let fenced =
            |item: &RefusedItem| matches!(item.rejection, Rejection::ProducerFenced { .. });
        let whole = published.refused.is_empty();
        if published.refused.iter().any(fenced) {
            self.producer = None;
        } else if !whole {
            self.client.history.violation(format!(
                "c{}: items of a publish were refused: {:?}",
                self.client.id, published.refused
            ));
        }
        self.client
            .history
            .confirmed_entry(published.position.index);
        for range in &published.accepted {
            // 0: it was stored before, and nobody remembers as what.
            if range.first_message_id.0 == 0 {
                continue;
            }
            let items = messages.iter().skip(range.first_item as usize);
            let ids = super::super::history::ids(range.first_message_id, range.count);
            for (id, message) in ids.zip(items) {
                self.client.history.published(id, message.clone());
            }
        }
        whole
    }
}

async fn send_all(
    mut stream: ticketrail_broker::PublishStream,
    mut sequence: u64,
    frames: Vec<Vec<Bytes>>,
) -> Result<Vec<Confirm>, Problem> {
    for frame in frames {
        let count = frame.len() as u64;
        stream.send(sequence, new_messages(&frame));
        sequence += count;
    }
    let mut confirms = Vec::new();
    while let Some(confirm) = stream.next().await {
        confirms.push(confirm);
    }
    Ok(confirms)
}
