//! The network: messages that take their time, get lost, and are cut off. A message on its way
//! outlives the life that sent it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use ticketrail_core::NodeId;
use ticketrail_raft::{PeerRequest, PeerResponse, Replica, Transport, TransportError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::dice::Dice;
use super::runtime::Life;

/// A node that can be reached.
#[derive(Clone)]
pub(crate) struct Reachable {
    pub(crate) id: u64,
    pub(crate) life: Arc<Life>,
    pub(crate) replica: Replica,
}

/// All links between the nodes.
pub(crate) struct Network {
    state: Mutex<State>,
}

struct State {
    dice: Dice,
    nodes: BTreeMap<u64, Reachable>,
    cut: BTreeSet<(u64, u64)>,
    /// When the last message of a link arrives.
    arrival: BTreeMap<(u64, u64), Instant>,
    weather: Weather,
}

/// How messages travel.
#[derive(Clone, Copy)]
pub(crate) struct Weather {
    /// Longest time on the way.
    pub(crate) delay_us_max: u64,
    /// So many of a hundred get lost.
    pub(crate) lost_percent: u64,
    /// So many of a hundred may overtake others.
    pub(crate) overtaking_percent: u64,
}

/// Fair weather.
pub(crate) const FAIR: Weather = Weather {
    delay_us_max: 2_000,
    lost_percent: 0,
    overtaking_percent: 0,
};

impl Network {
    pub(crate) fn new(dice: Dice) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                dice,
                nodes: BTreeMap::new(),
                cut: BTreeSet::new(),
                arrival: BTreeMap::new(),
                weather: FAIR,
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    pub(crate) fn join(&self, node: Reachable) {
        self.lock().nodes.insert(node.id, node);
    }

    pub(crate) fn leave(&self, id: u64) {
        self.lock().nodes.remove(&id);
    }

    /// The nodes that run, by id.
    pub(crate) fn running(&self) -> Vec<Reachable> {
        self.lock().nodes.values().cloned().collect()
    }

    pub(crate) fn cut(&self, from: u64, to: u64) {
        self.lock().cut.insert((from, to));
    }

    pub(crate) fn heal(&self) {
        let mut state = self.lock();
        state.cut.clear();
        state.weather = FAIR;
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Carries a request to its target and the answer back. Nothing comes where either is lost.
    async fn carry(
        self: Arc<Self>,
        (from, to): (u64, u64),
        arrival: Instant,
        request: PeerRequest,
        answer: oneshot::Sender<Result<PeerResponse, TransportError>>,
    ) {
        let target = NodeId(to);
        tokio::time::sleep_until(arrival).await;
        let node = self.lock().nodes.get(&to).cloned();
        let result = match node {
            None => Err(TransportError::Unreachable {
                target,
                reason: "connection refused".to_owned(),
            }),
            Some(node) => {
                let (done, handled) = oneshot::channel();
                let handle = node.replica.handle(request);
                drop(
                    node.life
                        .spawn(async move { drop(done.send(handle.await)) }),
                );
                match handled.await {
                    Ok(handled) => handled.map_err(|refusal| TransportError::Refused {
                        target,
                        reason: refusal.to_string(),
                    }),
                    // It died before it answered.
                    Err(_) => return lose(answer).await,
                }
            }
        };
        match self.arrival(to, from) {
            Some(arrival) => {
                tokio::time::sleep_until(arrival).await;
                // An error: nobody waits any more.
                drop(answer.send(result));
            }
            None => lose(answer).await,
        }
    }

    /// When a message that is sent now arrives, if it does.
    fn arrival(&self, from: u64, to: u64) -> Option<Instant> {
        let mut state = self.lock();
        let weather = state.weather;
        let delay = state.dice.between(50, weather.delay_us_max);
        let lost = state.dice.percent(weather.lost_percent);
        let overtakes = state.dice.percent(weather.overtaking_percent);
        if lost || state.cut.contains(&(from, to)) {
            return None;
        }
        let at = Instant::now() + Duration::from_micros(delay);
        let last = state.arrival.entry((from, to)).or_insert(at);
        if overtakes {
            return Some(at);
        }
        *last = at.max(*last);
        Some(*last)
    }
}

/// No answer, not even an error: the caller's patience decides.
async fn lose(answer: oneshot::Sender<Result<PeerResponse, TransportError>>) {
    let mut answer = answer;
    answer.closed().await;
}

/// One life's way into the network.
pub(crate) struct Port {
    pub(crate) from: u64,
    pub(crate) network: Arc<Network>,
}

impl Transport for Port {
    fn call(
        &self,
        target: NodeId,
        request: PeerRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<PeerResponse, TransportError>> {
        let (answer, answered) = oneshot::channel();
        let link = (self.from, target.0);
        match self.network.arrival(link.0, link.1) {
            Some(arrival) => {
                let carry = self.network.clone().carry(link, arrival, request, answer);
                drop(tokio::spawn(carry));
            }
            None => drop(tokio::spawn(lose(answer))),
        }
        Box::pin(async move {
            match tokio::time::timeout(timeout, answered).await {
                Ok(Ok(result)) => result,
                _ => Err(TransportError::TimedOut { target }),
            }
        })
    }
}
