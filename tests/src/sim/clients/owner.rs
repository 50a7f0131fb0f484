//! Whom the queues belong to: declares, changes and removes them, and reads.

use ticketrail_core::{QueueChanges, QueueSettings};

use super::{Client, PATIENCE, Told, WORK};

pub(super) async fn run(mut client: Client) {
    let mut paused = false;
    while !client.stopped() {
        client.pause(20, 400).await;
        match client.dice.below(10) {
            0 => {
                paused = !paused;
                client.set_paused(paused).await;
            }
            1 => client.declare_and_remove().await,
            _ => client.read().await,
        }
        // Not for long: others wait for messages.
        if paused && client.dice.percent(50) {
            paused = false;
            client.set_paused(false).await;
        }
    }
}

impl Client {
    /// Stops or starts granting; whether it is known to have come through.
    pub(crate) async fn set_paused(&mut self, paused: bool) -> bool {
        let changes = QueueChanges {
            paused: Some(paused),
            ..QueueChanges::default()
        };
        let told = self
            .call(|broker, deadline| async move {
                broker.update_queue("", WORK, changes, None, deadline).await
            })
            .await;
        matches!(told, Told::Done(_))
    }

    async fn declare_and_remove(&mut self) {
        let name = format!("for-a-while-{}", self.dice.below(3));
        let queue = name.clone();
        let settings = QueueSettings::default();
        let told = self
            .call(|broker, deadline| async move {
                broker.create_queue("", &queue, settings, deadline).await
            })
            .await;
        if let Told::Done(written) = told
            && let Some(position) = written.position
        {
            self.history.confirmed_entry(position.index);
        }
        // Whatever comes of it.
        let _ =
            self.call(|broker, deadline| async move {
                broker.delete_queue("", &name, true, deadline).await
            })
            .await;
    }

    /// A linearizable read on any node: it sees everything that was confirmed before.
    async fn read(&mut self) {
        let Some(node) = self.connection() else {
            return;
        };
        let must_see = self.history.confirmed_index();
        let replica = node.broker.replica().clone();
        let stale = self.stale_reads;
        let read = node.life.spawn(async move {
            match stale {
                true => Ok(()),
                false => replica.read_index().await,
            }
        });
        if !matches!(tokio::time::timeout(PATIENCE, read).await, Ok(Ok(Ok(())))) {
            return;
        }
        self.history.count(|counts| counts.reads += 1);
        let replica = node.broker.replica();
        let sees = replica.with_state(|state| state.applied_index());
        if sees < must_see {
            self.history.violation(format!(
                "a read on n{} sees {sees}, but {must_see} was confirmed",
                node.id
            ));
        }
    }
}
