//! Consumes on a stream: a session with credit, which comes back after its connection broke, on any
//! node.

use std::time::Duration;

use ticketrail_broker::{ConsumeRequest, Consumer, ConsumerEvent, ConsumerHandle, Delivery};
use ticketrail_core::SessionId;
use tokio::sync::mpsc;

use super::settling::Held;
use super::{Client, Told, WORK};

/// Events on their way to the client.
const ON_THE_WAY_MAX: usize = 64;

/// What comes over the connection.
enum News {
    Deliveries(Vec<Delivery>),
    Ended,
}

pub(super) async fn run(mut client: Client) {
    let mut session = None;
    while !client.stopped() {
        client.pause(1, 200).await;
        if client.dice.percent(40) {
            session = None;
        }
        session = client.consume(session).await;
    }
}

impl Client {
    /// One connection; the session to come back to.
    async fn consume(&mut self, session: Option<SessionId>) -> Option<SessionId> {
        let request = ConsumeRequest {
            namespace: String::new(),
            queue: WORK.to_owned(),
            prefetch: self.dice.between(1, 30) as u32,
            lease: None,
            session,
            auto_ack: false,
        };
        let told = self
            .call(|broker, deadline| async move {
                let consumer = broker.consume(request, deadline).await?;
                let handle = consumer.handle.clone();
                Ok((consumer, handle))
            })
            .await;
        let Told::Done((consumer, handle)) = told else {
            return None;
        };
        self.history.count(|counts| counts.consumers += 1);
        self.history.confirmed_entry(consumer.position.index);
        let session = handle.session();
        let (news, mut coming) = mpsc::channel(ON_THE_WAY_MAX);
        let node = self.node.and_then(|id| self.network.node(id));
        let Some(node) = node else {
            return Some(session);
        };
        drop(node.life.spawn(pump(consumer, news)));
        let mut held = Held::default();
        while !self.stopped() {
            let wait = Duration::from_millis(self.dice.between(1, 500));
            match tokio::time::timeout(wait, coming.recv()).await {
                Ok(Some(News::Deliveries(deliveries))) => {
                    self.history.delivered(&deliveries);
                    held.now.extend(deliveries);
                    self.pause(0, 50).await;
                }
                Ok(Some(News::Ended) | None) => return Some(session),
                Err(_) => {}
            }
            match self.dice.below(200) {
                // The connection breaks.
                0..=2 => return Some(session),
                3 => {
                    self.steer(&handle, None).await;
                    return None;
                }
                4..=6 => {
                    let prefetch = self.dice.between(1, 40) as u32;
                    self.steer(&handle, Some(prefetch)).await;
                }
                // It forgets what it holds: leases end.
                7..=8 => held.now.clear(),
                _ => {}
            }
            self.settle(&mut held).await;
        }
        None
    }

    /// Another prefetch, or the end of the session.
    async fn steer(&mut self, handle: &ConsumerHandle, prefetch: Option<u32>) {
        let handle = handle.clone();
        // What it is told does not matter: the model knows what is right.
        let _ = self
            .call(|_, deadline| async move {
                match prefetch {
                    Some(prefetch) => handle.set_prefetch(prefetch, deadline).await,
                    None => handle.close(deadline).await,
                }
            })
            .await;
    }
}

/// The node's end of the connection.
async fn pump(mut consumer: Consumer, news: mpsc::Sender<News>) {
    loop {
        let next = tokio::select! {
            biased;
            () = news.closed() => return,
            next = consumer.next() => next,
        };
        let (next, last) = match next {
            ConsumerEvent::Deliveries(deliveries) => (News::Deliveries(deliveries), false),
            ConsumerEvent::Ended(_) => (News::Ended, true),
            ConsumerEvent::LeasesLost { .. } => continue,
        };
        if news.send(next).await.is_err() || last {
            return;
        }
    }
}
