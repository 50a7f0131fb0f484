//! A few connections, shared by many publishers or subscribers.

use std::future::Future;

use anyhow::Result;
use tokio::sync::OnceCell;

/// Connections of publishers, and as many again of subscribers.
const CONNECTIONS: usize = 8;

/// Each connection is made when it is first used, in turn to the nodes.
pub(super) struct Slots<C> {
    endpoints: Vec<String>,
    connections: [OnceCell<C>; CONNECTIONS],
}

impl<C> Slots<C> {
    pub(super) fn new(endpoints: &[String]) -> Self {
        Self {
            endpoints: endpoints.to_vec(),
            connections: [const { OnceCell::const_new() }; CONNECTIONS],
        }
    }

    /// The connection of the publisher or subscriber with this number.
    pub(super) async fn get<F>(&self, place: usize, connect: impl FnOnce(String) -> F) -> Result<&C>
    where
        F: Future<Output = Result<C>>,
    {
        let place = place % CONNECTIONS;
        let endpoint = self.endpoints[place % self.endpoints.len()].clone();
        self.connections[place]
            .get_or_try_init(|| connect(endpoint))
            .await
    }
}
