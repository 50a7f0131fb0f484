//! The network: messages that take their time, get lost, come late or twice, and are cut off. A
//! message on its way outlives the life that sent it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ticketrail_broker::{Broker, Forward, LinkError};
use ticketrail_core::{BootId, NodeId};
use ticketrail_proto::peer;
use ticketrail_raft::{PeerRequest, PeerResponse, TransportError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::dice::Dice;
use super::history::History;
use super::planted::{self, Planted};
use super::runtime::Life;

/// From which node to which.
pub(crate) type Way = (u64, u64);

/// A node that can be reached.
#[derive(Clone)]
pub(crate) struct Reachable {
    pub(crate) id: u64,
    pub(crate) life: Arc<Life>,
    pub(crate) broker: Broker,
    pub(crate) wall: Arc<Wall>,
}

/// A node's wall clock.
pub(crate) struct Wall {
    start: Instant,
    offset_ms: AtomicI64,
}

impl Wall {
    const EPOCH_MS: u64 = 1_700_000_000_000;

    pub(crate) fn new() -> Self {
        Self {
            start: Instant::now(),
            offset_ms: AtomicI64::new(0),
        }
    }

    pub(crate) fn step_to(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    pub(crate) fn now_ms(&self) -> u64 {
        let passed = self.start.elapsed().as_millis() as u64;
        (Self::EPOCH_MS + passed).saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }
}

/// All links between the nodes.
pub(crate) struct Network {
    planted: Option<Planted>,
    history: Arc<History>,
    state: Mutex<State>,
}

struct State {
    dice: Dice,
    nodes: BTreeMap<u64, Reachable>,
    cut: BTreeSet<Way>,
    /// When the last message of a way arrives.
    arrival: BTreeMap<Way, Instant>,
    /// What is on a connection that keeps the order, and when its last message arrives.
    lanes: BTreeMap<Way, Lane>,
    weather: Weather,
    carried: Carried,
    /// Of whom a node last asked for a snapshot.
    senders: BTreeMap<u64, u64>,
}

#[derive(Default)]
struct Lane {
    waiting: VecDeque<Forwarded>,
    last: Option<Instant>,
}

struct Forwarded {
    forward: Forward,
    answer: oneshot::Sender<Result<(), LinkError>>,
}

/// What happened to messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Sent.
    pub sent: u64,
    /// Lost, or sent where the way was cut.
    pub lost: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Seconds late.
    pub late: u64,
}

/// How messages travel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Longest time on the way.
    pub(crate) delay_us_max: u64,
    /// So many of a hundred get lost.
    pub(crate) lost_percent: u64,
    /// So many of a hundred may overtake others.
    pub(crate) overtaking_percent: u64,
    /// So many of a hundred come twice.
    pub(crate) duplicated_percent: u64,
    /// So many of a hundred come seconds late.
    pub(crate) late_percent: u64,
}

/// Fair weather.
pub(crate) const FAIR: Weather = Weather {
    delay_us_max: 2_000,
    lost_percent: 0,
    overtaking_percent: 0,
    duplicated_percent: 0,
    late_percent: 0,
};

/// Longest delay of a late message.
const LATE_US_MAX: u64 = 30_000_000;

impl Network {
    pub(crate) fn new(dice: Dice, planted: Option<Planted>, history: Arc<History>) -> Arc<Self> {
        Arc::new(Self {
            planted,
            history,
            state: Mutex::new(State {
                dice,
                nodes: BTreeMap::new(),
                cut: BTreeSet::new(),
                arrival: BTreeMap::new(),
                lanes: BTreeMap::new(),
                weather: FAIR,
                carried: Carried::default(),
                senders: BTreeMap::new(),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under this lock")
    }

    pub(crate) fn join(&self, node: Reachable) {
        self.lock().nodes.insert(node.id, node);
    }

    /// The process is gone, and with it its connections.
    pub(crate) fn leave(&self, id: u64) {
        let mut state = self.lock();
        let gone = state.nodes.remove(&id);
        for ((from, to), lane) in &mut state.lanes {
            if *from == id || *to == id {
                lane.waiting.clear();
            }
        }
        drop(state);
        // What it drops may look at the network.
        drop(gone);
    }

    /// The nodes that run, by id.
    pub(crate) fn running(&self) -> Vec<Reachable> {
        self.lock().nodes.values().cloned().collect()
    }

    pub(crate) fn node(&self, id: u64) -> Option<Reachable> {
        self.lock().nodes.get(&id).cloned()
    }

    pub(crate) fn cut(&self, way: Way) {
        self.lock().cut.insert(way);
    }

    pub(crate) fn mend(&self, way: Way) {
        self.lock().cut.remove(&way);
    }

    pub(crate) fn heal(&self) {
        let mut state = self.lock();
        state.cut.clear();
        state.weather = FAIR;
    }

    pub(crate) fn set_weather(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    /// Of whom a node last asked for a snapshot.
    pub(crate) fn sender_to(&self, reader: u64) -> Option<u64> {
        self.lock().senders.get(&reader).copied()
    }

    /// What a node sends of a snapshot is what was committed.
    fn look_at(&self, way: Way, answer: &PeerResponse) {
        use peer::read_snapshot_response::Result;
        let PeerResponse::ReadSnapshot(answer) = answer else {
            return;
        };
        let node = way.1;
        match &answer.result {
            Some(Result::Bodies(piece)) => {
                let bodies = piece.bodies.iter();
                let bodies: Vec<_> = bodies
                    .map(|body| (body.index, body.payload.clone()))
                    .collect();
                self.history.bodies_sent(node, &bodies);
            }
            Some(Result::Refused(refused)) if is_damage(&refused.message) => {
                let what = &refused.message;
                self.history
                    .violation(format!("n{node} cannot read its snapshot: {what}"));
            }
            _ => {}
        }
    }

    pub(crate) fn carried(&self) -> Carried {
        self.lock().carried
    }

    /// When messages that are sent now arrive: none, one, or the same twice.
    pub(crate) fn arrivals(&self, way: Way) -> Vec<Instant> {
        let mut state = self.lock();
        let weather = state.weather;
        state.carried.sent += 1;
        let mut delay_us = state.dice.between(50, weather.delay_us_max);
        let lost = state.dice.percent(weather.lost_percent);
        let mut overtakes = state.dice.percent(weather.overtaking_percent);
        let twice = state.dice.percent(weather.duplicated_percent);
        if state.dice.percent(weather.late_percent) {
            delay_us = state.dice.between(1_000_000, LATE_US_MAX);
            overtakes = true;
            state.carried.late += 1;
        }
        if lost || state.cut.contains(&way) {
            state.carried.lost += 1;
            return Vec::new();
        }
        let at = Instant::now() + Duration::from_micros(delay_us);
        let mut arrivals = vec![at];
        if !overtakes {
            let last = state.arrival.entry(way).or_insert(at);
            *last = at.max(*last);
            arrivals[0] = *last;
        }
        if twice {
            let later = state.dice.between(1, 500);
            arrivals.push(arrivals[0] + Duration::from_millis(later));
            state.carried.duplicated += 1;
        }
        arrivals
    }

    /// Carries a request to its target and the answer back. Nothing comes where either is lost.
    pub(crate) async fn carry(
        self: Arc<Self>,
        way: Way,
        arrival: Instant,
        letter: Letter,
        answer: oneshot::Sender<Result<PeerResponse, TransportError>>,
    ) {
        tokio::time::sleep_until(arrival).await;
        let target = NodeId(way.1);
        if let PeerRequest::OpenSnapshot(_) = &letter.request {
            self.lock().senders.insert(way.0, way.1);
        }
        let result = match self.node(way.1) {
            None => Err(TransportError::Unreachable {
                target,
                reason: "connection refused".to_owned(),
            }),
            Some(node) => match node.receive(letter, self.planted).await {
                Some(handled) => {
                    if let Ok(answer) = &handled {
                        self.look_at(way, answer);
                    }
                    handled.map_err(|reason| TransportError::Refused { target, reason })
                }
                // It died before it answered.
                None => return lose(answer).await,
            },
        };
        match self.arrivals((way.1, way.0)).first() {
            Some(arrival) => {
                tokio::time::sleep_until(*arrival).await;
                // An error: nobody waits any more.
                drop(answer.send(result));
            }
            None => lose(answer).await,
        }
    }

    /// Puts commands on the connection to the leader, which keeps their order.
    pub(crate) fn forward(
        self: &Arc<Self>,
        way: Way,
        forward: Forward,
    ) -> oneshot::Receiver<Result<(), LinkError>> {
        let (answer, answered) = oneshot::channel();
        let mut state = self.lock();
        state.carried.sent += 1;
        let weather = state.weather;
        let delay_us = state.dice.between(50, weather.delay_us_max);
        // A connection loses nothing but itself, so a loss is rarer.
        let lost = state.dice.percent(weather.lost_percent / 3);
        if lost || state.cut.contains(&way) {
            state.carried.lost += 1;
            return answered;
        }
        let lane = state.lanes.entry(way).or_default();
        let at = Instant::now() + Duration::from_micros(delay_us);
        let at = lane.last.map_or(at, |last| last.max(at));
        lane.last = Some(at);
        lane.waiting.push_back(Forwarded { forward, answer });
        drop(state);
        drop(tokio::spawn(self.clone().arrive(way, at)));
        answered
    }

    /// The next of a lane arrives.
    async fn arrive(self: Arc<Self>, way: Way, at: Instant) {
        tokio::time::sleep_until(at).await;
        let (next, node) = {
            let mut state = self.lock();
            let next = state.lanes.entry(way).or_default().waiting.pop_front();
            (next, state.nodes.get(&way.1).cloned())
        };
        let Some(Forwarded { forward, answer }) = next else {
            return;
        };
        let result = match node {
            None => Err(LinkError::NotTaken),
            Some(Reachable { life, broker, .. }) => {
                let twice = self.planted == Some(Planted::ForwardTwice);
                let taken = life.spawn(async move {
                    if twice {
                        broker.accept_forward(forward.clone())?;
                    }
                    broker.accept_forward(forward)
                });
                taken.await.unwrap_or(Err(LinkError::Broken))
            }
        };
        if let Some(back) = self.arrivals((way.1, way.0)).first() {
            tokio::time::sleep_until(*back).await;
            // An error: nobody waits any more.
            let _ = answer.send(result);
        }
    }
}

/// Whether bytes are gone or others, and not only a disk that fails.
fn is_damage(message: &str) -> bool {
    ["DATA_LOSS", "no log entry"]
        .iter()
        .any(|sign| message.contains(sign))
}

/// A request and who sends it.
#[derive(Clone)]
pub(crate) struct Letter {
    pub(crate) request: PeerRequest,
    pub(crate) from: u64,
    pub(crate) wall_ms: u64,
}

impl Reachable {
    /// Handles a request in its life; none where that ended before the answer.
    async fn receive(
        &self,
        letter: Letter,
        planted: Option<Planted>,
    ) -> Option<Result<PeerResponse, String>> {
        let letter = planted::on_arrival(planted, self.id, letter);
        let hasty = planted::hasty_answer(planted, &letter);
        let (done, handled) = oneshot::channel();
        let broker = self.broker.clone();
        drop(self.life.spawn(async move {
            if let Some(header) = letter.request.header() {
                let boot = BootId(header.boot_id);
                broker.observe_peer(NodeId(letter.from), boot, letter.wall_ms);
            }
            let handled = broker.replica().handle(letter.request).await;
            // An error: nobody waits any more.
            drop(done.send(handled.map_err(|refusal| refusal.to_string())));
        }));
        match hasty {
            Some(answer) => Some(Ok(answer)),
            None => handled.await.ok(),
        }
    }
}

/// No answer, not even an error: the caller's patience decides.
pub(crate) async fn lose(answer: oneshot::Sender<Result<PeerResponse, TransportError>>) {
    let mut answer = answer;
    answer.closed().await;
}
