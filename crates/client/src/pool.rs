//! The connections: one HTTP/2 channel per endpoint, taken in turn, the failing ones left out for a while.
//! Nodes that stop tell of others, which are taken in turn as well.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

use crate::endpoints::parse_endpoints;
use crate::error::{Error, Result, SHUTTING_DOWN};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// How long an endpoint is left out after its first failure in a row; doubled by each further one.
const AVOID_FIRST: Duration = Duration::from_millis(250);
const AVOID_MAX: Duration = Duration::from_secs(5);

/// How long a node is left out that said that it stops.
const LEAVING: Duration = Duration::from_secs(1);
/// How long producers keep away from a leader that did not open a stream in time.
const HESITATES: Duration = Duration::from_secs(5);
/// How many publish streams go to the leader for being the leader. A connection has 1,024 streams, and calls need some.
const LEADER_STREAMS_MAX: usize = 256;
/// How many endpoints are known at most, the configured ones and those that nodes told of.
const NODES_MAX: usize = 64;

#[derive(Debug)]
pub(crate) struct Pool {
    configured: Vec<String>,
    /// Grows at the end only: an index stays what it is.
    nodes: RwLock<Vec<Arc<Node>>>,
    turn: AtomicUsize,
}

#[derive(Debug)]
struct Node {
    endpoint: String,
    channel: Channel,
    health: Mutex<Health>,
    /// Publish streams that this client has open there.
    streams: AtomicUsize,
}

#[derive(Debug, Default, Clone, Copy)]
struct Health {
    failures: u32,
    avoid_until: Option<Instant>,
    /// Until then it takes streams only in its turn, not for being the leader.
    hesitates_until: Option<Instant>,
}

/// One endpoint, chosen for one attempt.
#[derive(Debug, Clone)]
pub(crate) struct Pick {
    pub(crate) index: usize,
    pub(crate) endpoint: String,
    pub(crate) channel: Channel,
}

/// One open publish stream.
#[derive(Debug)]
pub(crate) struct StreamCount(Arc<Node>);

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pool {
    /// Connects when first used, and again whenever a connection was lost.
    pub(crate) fn new(endpoints: &[String]) -> Result<Self> {
        let nodes = endpoints
            .iter()
            .map(|endpoint| Node::new(endpoint).map(Arc::new))
            .collect::<Result<_>>()?;
        let turn = AtomicUsize::new(rand::random_range(0..endpoints.len().max(1)));
        Ok(Self {
            configured: endpoints.to_vec(),
            nodes: RwLock::new(nodes),
            turn,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.nodes().len()
    }

    /// The configured ones.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.configured.iter().map(String::as_str)
    }

    /// The next endpoint in turn that is not left out; if all are, the one whose time is over first.
    pub(crate) fn pick(&self, now: Instant) -> Pick {
        let nodes = self.nodes();
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let order = (0..nodes.len()).map(|step| start.wrapping_add(step) % nodes.len());
        let index = order
            .min_by_key(|index| {
                nodes[*index]
                    .health()
                    .avoid_until
                    .filter(|until| *until > now)
            })
            .expect("a pool has at least one endpoint");
        nodes[index].pick(index)
    }

    /// The configured endpoint of the leader's address, `host:port`, if one more publish stream should go there:
    /// where that is neither left out, nor hesitates, nor has [`LEADER_STREAMS_MAX`] of them.
    pub(crate) fn leader(&self, address: &str, now: Instant) -> Option<Pick> {
        let nodes = self.nodes();
        let is_it = |node: &Arc<Node>| {
            let authority = node.endpoint.strip_prefix("http://");
            authority.is_some_and(|authority| authority.eq_ignore_ascii_case(address))
        };
        let index = nodes[..self.configured.len()].iter().position(is_it)?;
        let node = &nodes[index];
        let health = node.health();
        let is_later = |until: Option<Instant>| until.is_some_and(|until| until > now);
        let takes_more = !is_later(health.avoid_until)
            && !is_later(health.hesitates_until)
            && node.streams.load(Ordering::Relaxed) < LEADER_STREAMS_MAX;
        takes_more.then(|| node.pick(index))
    }

    /// The leader did not open a stream that another node had opened already.
    pub(crate) fn hesitates(&self, index: usize, now: Instant) {
        self.change(index, |health| {
            health.hesitates_until = Some(now + HESITATES)
        });
    }

    /// Counts a publish stream of this endpoint for as long as it lives.
    pub(crate) fn count_stream(&self, index: usize) -> StreamCount {
        let node = Arc::clone(&self.nodes()[index]);
        node.streams.fetch_add(1, Ordering::Relaxed);
        StreamCount(node)
    }

    pub(crate) fn failed(&self, index: usize, now: Instant) {
        self.change(index, |health| {
            let avoid = AVOID_FIRST * (1 << health.failures.min(8));
            health.failures = health.failures.saturating_add(1);
            health.avoid_until = Some(now + avoid.min(AVOID_MAX));
        });
    }

    /// Learns from an attempt that failed.
    pub(crate) fn note(&self, index: usize, error: &Error, now: Instant) {
        if error.reason() == SHUTTING_DOWN || error.names_others() {
            self.leaves(index, error.other_nodes(), now);
        } else if error.is_connection() {
            self.failed(index, now);
        }
    }

    /// The node stops: it is left out, and those that it names (`host:port`) are asked as well.
    pub(crate) fn leaves<'a>(
        &self,
        index: usize,
        others: impl IntoIterator<Item = &'a str>,
        now: Instant,
    ) {
        self.change(index, |health| {
            let until = now + LEAVING;
            health.avoid_until = Some(health.avoid_until.map_or(until, |old| old.max(until)));
        });
        let mut nodes = self.nodes.write().expect("nothing panics under this lock");
        for address in others {
            let Ok(endpoint) = parse_endpoints(address) else {
                continue;
            };
            for endpoint in endpoint {
                let known = nodes.iter().any(|node| node.endpoint == endpoint);
                if !known
                    && nodes.len() < NODES_MAX
                    && let Ok(node) = Node::new(&endpoint)
                {
                    nodes.push(Arc::new(node));
                }
            }
        }
    }

    pub(crate) fn succeeded(&self, index: usize) {
        self.change(index, |health| {
            health.failures = 0;
            health.avoid_until = None;
        });
    }

    fn change(&self, index: usize, change: impl FnOnce(&mut Health)) {
        let nodes = self.nodes();
        let mut health = nodes[index]
            .health
            .lock()
            .expect("nothing panics under this lock");
        change(&mut health);
    }

    fn nodes(&self) -> RwLockReadGuard<'_, Vec<Arc<Node>>> {
        self.nodes.read().expect("nothing panics under this lock")
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
            streams: AtomicUsize::new(0),
        })
    }

    fn pick(&self, index: usize) -> Pick {
        Pick {
            index,
            endpoint: self.endpoint.clone(),
            channel: self.channel.clone(),
        }
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

    #[tokio::test]
    async fn a_leader_is_found_among_what_is_configured_unless_it_is_left_out_or_hesitates() {
        let pool = pool(2);
        let now = Instant::now();
        pool.leaves(0, ["127.0.0.1:3"], now);
        assert_eq!(pool.leader("127.0.0.1:2", now).unwrap().index, 1);
        for unknown in ["", "127.0.0.1:3", "localhost:2"] {
            assert!(pool.leader(unknown, now).is_none(), "{unknown}");
        }
        pool.failed(1, now);
        assert!(pool.leader("127.0.0.1:2", now).is_none());
        pool.succeeded(1);
        pool.hesitates(1, now);
        pool.succeeded(1);
        assert!(pool.leader("127.0.0.1:2", now).is_none());
        assert!((0..4).any(|_| pool.pick(now).index == 1), "in its turn");
        let later = now + HESITATES + Duration::from_millis(1);
        assert!(pool.leader("127.0.0.1:2", later).is_some());
    }

    #[tokio::test]
    async fn a_leader_is_found_by_a_name_in_any_case() {
        let pool = Pool::new(&["http://Node-1:7400".to_owned()]).unwrap();
        assert!(pool.leader("node-1:7400", Instant::now()).is_some());
    }

    #[tokio::test]
    async fn a_leader_has_so_many_streams_and_no_more() {
        let pool = pool(1);
        let is_found = || pool.leader("127.0.0.1:1", Instant::now()).is_some();
        let mut streams: Vec<_> = (1..LEADER_STREAMS_MAX)
            .map(|_| pool.count_stream(0))
            .collect();
        assert!(is_found());
        streams.push(pool.count_stream(0));
        assert!(!is_found());
        streams.pop();
        assert!(is_found());
    }

    #[tokio::test]
    async fn a_node_that_stops_tells_of_others() {
        let pool = pool(1);
        let now = Instant::now();
        pool.leaves(0, ["127.0.0.1:2", "127.0.0.1:1", "nonsense"], now);
        assert_eq!(pool.len(), 2);
        assert_eq!(pool.pick(now).endpoint, "http://127.0.0.1:2");
        assert_eq!(pool.endpoints().count(), 1, "what is configured stays");
        assert!((0..4).all(|_| pool.pick(now).index == 1));
    }
}
