//! The connections: one HTTP/2 channel per endpoint, taken in turn, the failing ones left out for a while.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tonic::transport::{Channel, Endpoint};

use crate::error::{Error, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// How long an endpoint is left out after its first failure in a row; doubled by each further one.
const AVOID_FIRST: Duration = Duration::from_millis(250);
const AVOID_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Pool {
    nodes: Vec<Node>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Node {
    endpoint: String,
    channel: Channel,
    health: Mutex<Health>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Health {
    failures: u32,
    avoid_until: Option<Instant>,
}

/// One endpoint, chosen for one attempt.
#[derive(Debug, Clone)]
pub(crate) struct Pick {
    pub(crate) index: usize,
    pub(crate) endpoint: String,
    pub(crate) channel: Channel,
}

impl Pool {
    /// Connects when first used, and again whenever a connection was lost.
    pub(crate) fn new(endpoints: &[String]) -> Result<Self> {
        let nodes = endpoints
            .iter()
            .map(|endpoint| Node::new(endpoint))
            .collect::<Result<_>>()?;
        let turn = AtomicUsize::new(rand::random_range(0..endpoints.len().max(1)));
        Ok(Self { nodes, turn })
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.endpoint.as_str())
    }

    /// The next endpoint in turn that is not left out; if all are, the one whose time is over first.
    pub(crate) fn pick(&self, now: Instant) -> Pick {
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let order = (0..self.nodes.len()).map(|step| (start + step) % self.nodes.len());
        let index = order
            .min_by_key(|index| {
                self.nodes[*index]
                    .health()
                    .avoid_until
                    .filter(|until| *until > now)
            })
            .expect("a pool has at least one endpoint");
        let node = &self.nodes[index];
        Pick {
            index,
            endpoint: node.endpoint.clone(),
            channel: node.channel.clone(),
        }
    }

    pub(crate) fn failed(&self, index: usize, now: Instant) {
        let mut health = self.nodes[index]
            .health
            .lock()
            .expect("nothing panics under this lock");
        let avoid = AVOID_FIRST * (1 << health.failures.min(8));
        health.failures = health.failures.saturating_add(1);
        health.avoid_until = Some(now + avoid.min(AVOID_MAX));
    }

    pub(crate) fn succeeded(&self, index: usize) {
        let mut health = self.nodes[index]
            .health
            .lock()
            .expect("nothing panics under this lock");
        *health = Health::default();
    }
}

impl Node {
    fn new(endpoint: &str) -> Result<Self> {
        let transport = Endpoint::from_shared(endpoint.to_owned())
            .map_err(|error| {
                Error::invalid(
                    "INVALID_ENDPOINT",
                    format!("`{endpoint}` is no endpoint: {error}"),
                )
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .user_agent(concat!("ticketrail-rust/", env!("CARGO_PKG_VERSION")))
            .expect("a version is a valid header value");
        Ok(Self {
            endpoint: endpoint.to_owned(),
            channel: transport.connect_lazy(),
            health: Mutex::default(),
        })
    }

    fn health(&self) -> Health {
        *self.health.lock().expect("nothing panics under this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(count: u16) -> Pool {
        let endpoints: Vec<_> = (1..=count)
            .map(|port| format!("http://127.0.0.1:{port}"))
            .collect();
        Pool::new(&endpoints).unwrap()
    }

    #[tokio::test]
    async fn takes_turns() {
        let pool = pool(3);
        let now = Instant::now();
        let mut seen: Vec<_> = (0..3).map(|_| pool.pick(now).index).collect();
        seen.sort();
        assert_eq!(seen, [0, 1, 2]);
    }

    #[tokio::test]
    async fn leaves_out_what_failed_until_its_time_or_its_success() {
        let pool = pool(2);
        let now = Instant::now();
        pool.failed(0, now);
        assert!((0..4).all(|_| pool.pick(now).index == 1));
        let later = now + AVOID_FIRST + Duration::from_millis(1);
        assert!((0..4).any(|_| pool.pick(later).index == 0));
        pool.failed(1, now);
        pool.succeeded(0);
        assert!((0..4).all(|_| pool.pick(now).index == 0));
    }

    #[tokio::test]
    async fn when_all_failed_the_first_to_come_back_is_taken() {
        let pool = pool(2);
        let now = Instant::now();
        pool.failed(0, now);
        pool.failed(0, now);
        pool.failed(1, now);
        assert!((0..4).all(|_| pool.pick(now).index == 1));
    }
}
