//! Receives by long polls, with attempt ids that are repeated on another node, and settles.

use std::time::Duration;

use ticketrail_broker::ReceiveRequest;

use super::settling::Held;
use super::{Client, DEAD, Told, WORK};

pub(super) async fn run(mut client: Client) {
    let mut held = Held::default();
    while !client.stopped() {
        client.pause(1, 100).await;
        let queue = if client.dice.percent(10) { DEAD } else { WORK };
        let most = client.dice.between(1, 20) as u32;
        client.receive(&mut held, queue, most).await;
        // One that forgets what it holds lets leases end.
        if client.dice.percent(5) {
            held.now.clear();
        }
        client.settle(&mut held).await;
    }
}

impl Client {
    async fn receive(&mut self, held: &mut Held, queue: &str, max_messages: u32) {
        self.made += 1;
        let request = ReceiveRequest {
            namespace: String::new(),
            queue: queue.to_owned(),
            max_messages,
            wait: Duration::from_millis(self.dice.below(400)),
            lease: (self.dice.percent(20))
                .then(|| Duration::from_millis(self.dice.between(200, 5_000))),
            attempt: format!("{}-{}", self.id, self.made).into_bytes(),
        };
        for _ in 0..3 {
            let again = request.clone();
            let told = self
                .call(|broker, deadline| async move { broker.receive(again, deadline).await })
                .await;
            if let Told::Done((position, deliveries)) = told {
                if let Some(position) = position {
                    self.history.confirmed_entry(position.index);
                }
                self.history.delivered(&deliveries);
                held.now.extend(deliveries);
                return;
            }
            self.pause(1, 100).await;
        }
    }

    /// Takes what it gets and acknowledges it all; for the end, when all is to be emptied.
    pub(crate) async fn empty(&mut self, queue: &str) {
        let mut held = Held::default();
        self.receive(&mut held, queue, 100).await;
        self.acknowledge(held.now).await;
    }
}
