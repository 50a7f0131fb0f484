//! What `top` shows: asked of every node that is known, and of any of them for the queues.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{StreamExt, TryStreamExt, stream};
use ticketrail_client::proto::{DiskUse, Queue};
use ticketrail_client::{Client, ClientOptions, Error, QueueStats};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::failure::Result;
use crate::show;
use crate::verbs::Context;
use crate::verbs::cluster::status::{Answer, behind, newest, nodes};

/// How long one node may take: a node that hangs should be shown as such, soon.
const NODE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a call about queues may take, through an election.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(3);
/// How many queues are asked for their counts at a time.
const STATS_AT_ONCE: usize = 16;
/// How many pages of names are read in one look.
const PAGES_MAX: usize = 20;
/// How many nodes are asked.
const NODES_MAX: usize = 64;

/// All that one look saw.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    pub(super) cluster: String,
    pub(super) leader: Option<u64>,
    pub(super) term: u64,
    pub(super) nodes: Vec<NodeRow>,
    pub(super) queues: Vec<QueueRow>,
    /// There are more queues than were asked for.
    pub(super) more_queues: bool,
    /// No node answered, and this is why.
    pub(super) no_node: Option<Error>,
    /// The queues are those of an earlier look, so long ago, and this is why.
    pub(super) stale: Option<(Duration, Error)>,
    /// Nothing was looked at yet.
    pub(super) looked: bool,
}

impl Seen {
    pub(super) fn failure(&self) -> Option<&Error> {
        let stale = self.stale.as_ref().map(|(_, error)| error);
        self.no_node.as_ref().or(stale)
    }
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct NodeRow {
    pub(super) id: u64,
    pub(super) role: &'static str,
    pub(super) address: String,
    pub(super) version: String,
    pub(super) applied: Option<u64>,
    pub(super) lag: Option<u64>,
    /// What it takes of its disk, and what is free, in bytes.
    pub(super) disk: Option<(u64, u64)>,
    pub(super) up: bool,
    pub(super) state: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct QueueRow {
    pub(super) name: String,
    pub(super) ready: u64,
    pub(super) in_flight: u64,
    /// Per second, since the last look; none at the first.
    pub(super) published: Option<f64>,
    pub(super) acked: Option<f64>,
    pub(super) oldest: Option<Duration>,
    pub(super) consumers: u32,
    pub(super) paused: bool,
}

/// Looks, and remembers what is needed for rates.
pub(super) struct Watcher {
    namespace: String,
    configured: Vec<String>,
    /// One client for each node, by its endpoint.
    nodes: Vec<(String, Client)>,
    /// One client of all nodes.
    queues: Client,
    filter: String,
    queues_max: usize,
    /// Counts of the last look, by name and incarnation.
    before: HashMap<(String, u64), Counted>,
    last: Seen,
    queues_seen: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Counted {
    at: Instant,
    published: u64,
    acknowledged: u64,
}

impl Watcher {
    pub(super) fn new(context: &Context, filter: String, queues_max: usize) -> Result<Self> {
        let configured: Vec<String> = context.client.endpoints().map(str::to_owned).collect();
        let namespace = context.global.namespace.clone();
        let mut watcher = Self {
            queues: client(&namespace, &configured, QUEUE_TIMEOUT)?,
            namespace,
            nodes: Vec::new(),
            configured,
            filter,
            queues_max,
            before: HashMap::new(),
            last: Seen::default(),
            queues_seen: Instant::now(),
        };
        watcher.know(BTreeSet::new());
        Ok(watcher)
    }

    /// Looks again and again, and tells what it saw, until nobody listens.
    pub(super) async fn run(
        &mut self,
        interval: Duration,
        filter: watch::Receiver<String>,
        told: watch::Sender<Seen>,
    ) {
        let mut filter = filter;
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !told.is_closed() {
            tokio::select! {
                _ = ticks.tick() => {}
                changed = filter.changed() => if changed.is_err() {
                    return;
                },
            }
            self.filter.clone_from(&filter.borrow_and_update());
            let seen = self.look().await;
            told.send_replace(seen);
        }
    }

    /// Looks once.
    pub(super) async fn look(&mut self) -> Seen {
        let (answers, queues) = tokio::join!(self.ask_nodes(), self.ask_queues());
        let mut seen = std::mem::take(&mut self.last);
        seen.looked = true;
        if self.note_nodes(&mut seen, answers) {
            // There are nodes that were not asked.
            let answers = self.ask_nodes().await;
            self.note_nodes(&mut seen, answers);
        }
        self.note_queues(&mut seen, queues);
        self.last = seen.clone();
        seen
    }

    async fn ask_nodes(&self) -> Vec<Answer> {
        let asked = self.nodes.iter().map(async |(endpoint, client)| Answer {
            endpoint: endpoint.clone(),
            answer: client.cluster().await,
        });
        join_all(asked).await
    }

    /// Says whether other nodes are known now.
    fn note_nodes(&mut self, seen: &mut Seen, answers: Vec<Answer>) -> bool {
        let Some(newest) = newest(&answers) else {
            seen.no_node = answers.into_iter().find_map(|one| one.answer.err());
            seen.leader = None;
            for node in &mut seen.nodes {
                (node.up, node.state, node.role) = (false, "does not answer".to_owned(), "-");
            }
            return false;
        };
        seen.no_node = None;
        seen.cluster = show::hex(&newest.cluster_id);
        seen.leader = (newest.leader_node_id != 0).then_some(newest.leader_node_id);
        seen.term = newest.term;
        let rows = nodes(newest, &answers);
        let rows = rows.iter().map(|(id, row)| NodeRow {
            id: *id,
            role: match row.error {
                Some(_) => "-",
                None => row.role(*id),
            },
            address: row
                .node
                .map(|node| node.client_address.clone())
                .unwrap_or_default(),
            version: row
                .own
                .map(|own| own.server_version.clone())
                .unwrap_or_default(),
            applied: row.own.map(|own| own.applied_index),
            lag: behind(&answers, *id),
            disk: row
                .own
                .and_then(|own| own.disk.as_ref())
                .map(|disk| (taken(disk), disk.free_bytes)),
            up: row.own.is_some(),
            state: row.state(),
        });
        seen.nodes = rows.collect();
        let addresses = newest
            .nodes
            .iter()
            .map(|node| format!("http://{}", node.client_address));
        self.know(addresses.collect())
    }

    /// Asks these nodes, too, from now on, and none that was told of and is no member any more. Says whether
    /// that changes anything.
    fn know(&mut self, told: BTreeSet<String>) -> bool {
        let told = told
            .iter()
            .filter(|endpoint| !self.configured.contains(endpoint));
        let wanted: Vec<String> = self
            .configured
            .iter()
            .chain(told)
            .take(NODES_MAX)
            .cloned()
            .collect();
        if self.nodes.iter().map(|(endpoint, _)| endpoint).eq(&wanted) {
            return false;
        }
        let mut known: HashMap<String, Client> = self.nodes.drain(..).collect();
        for endpoint in wanted {
            let client = match known.remove(&endpoint) {
                Some(client) => Ok(client),
                None => client(
                    &self.namespace,
                    std::slice::from_ref(&endpoint),
                    NODE_TIMEOUT,
                ),
            };
            // A node may tell an address that is none for us.
            if let Ok(client) = client {
                self.nodes.push((endpoint, client));
            }
        }
        let all: Vec<String> = self
            .nodes
            .iter()
            .map(|(endpoint, _)| endpoint.clone())
            .collect();
        if let Ok(client) = client(&self.namespace, &all, QUEUE_TIMEOUT) {
            self.queues = client;
        }
        true
    }

    /// The first queues by name that fit the filter with their counts, and whether there are more.
    async fn ask_queues(&self) -> Result<(Vec<(Queue, QueueStats)>, bool), Error> {
        let mut fitting = Vec::new();
        let mut page_token = String::new();
        let mut more = true;
        for _ in 0..PAGES_MAX {
            let page = self.queues.list_queues_page(page_token).await?;
            let fits = |queue: &Queue| queue.name.contains(&self.filter);
            fitting.extend(page.queues.into_iter().filter(fits));
            page_token = page.next_page_token;
            more = !page_token.is_empty() || fitting.len() > self.queues_max;
            if page_token.is_empty() || fitting.len() >= self.queues_max {
                break;
            }
        }
        fitting.truncate(self.queues_max);
        let client = &self.queues;
        let counted: Vec<Option<(Queue, QueueStats)>> = stream::iter(fitting)
            .map(|queue| async move {
                match client.queue_stats(&queue.name).await {
                    Ok(stats) => Ok(Some((queue, stats))),
                    // Deleted since it was listed.
                    Err(error) if error.reason() == "QUEUE_NOT_FOUND" => Ok(None),
                    Err(error) => Err(error),
                }
            })
            .buffered(STATS_AT_ONCE)
            .try_collect()
            .await?;
        Ok((counted.into_iter().flatten().collect(), more))
    }

    fn note_queues(
        &mut self,
        seen: &mut Seen,
        queues: Result<(Vec<(Queue, QueueStats)>, bool), Error>,
    ) {
        let now = Instant::now();
        let (queues, more) = match queues {
            Ok(queues) => queues,
            Err(error) => {
                seen.stale = Some((self.queues_seen.elapsed(), error));
                return;
            }
        };
        let before = std::mem::take(&mut self.before);
        seen.queues.clear();
        for (queue, stats) in queues {
            let key = (queue.name.clone(), queue.incarnation);
            let counted = Counted {
                at: now,
                published: stats.published + stats.dead_lettered_in,
                acknowledged: stats.acknowledged,
            };
            seen.queues
                .push(row(queue, &stats, before.get(&key), &counted));
            self.before.insert(key, counted);
        }
        (seen.more_queues, seen.stale) = (more, None);
        self.queues_seen = now;
    }
}

fn row(queue: Queue, stats: &QueueStats, before: Option<&Counted>, now: &Counted) -> QueueRow {
    let rate = |count: fn(&Counted) -> u64| {
        let before = before?;
        let seconds = (now.at - before.at).as_secs_f64();
        (seconds > 0.0).then(|| count(now).saturating_sub(count(before)) as f64 / seconds)
    };
    QueueRow {
        name: queue.name,
        ready: stats.ready,
        in_flight: stats.in_flight,
        published: rate(|counted| counted.published),
        acked: rate(|counted| counted.acknowledged),
        oldest: show::duration(stats.oldest_ready_age.as_ref()),
        consumers: stats.consumers,
        paused: queue.paused,
    }
}

fn taken(disk: &DiskUse) -> u64 {
    disk.log_bytes
        + disk.live_body_bytes
        + disk.dead_body_bytes
        + disk.spare_bytes
        + disk.checkpoint_bytes
        + disk.snapshot_bytes
}

fn client(namespace: &str, endpoints: &[String], timeout: Duration) -> Result<Client, Error> {
    ClientOptions::new()
        .namespace(namespace)
        .timeout(timeout)
        .connect_lazy(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_time_between_two_looks() {
        let at = Instant::now();
        let counted = |seconds, published, acknowledged| Counted {
            at: at + Duration::from_secs(seconds),
            published,
            acknowledged,
        };
        let queue = || Queue {
            name: "orders".to_owned(),
            ..Default::default()
        };
        let stats = QueueStats::default();
        let first = row(queue(), &stats, None, &counted(0, 100, 50));
        assert_eq!((first.published, first.acked), (None, None));
        let before = counted(0, 100, 50);
        let second = row(queue(), &stats, Some(&before), &counted(2, 300, 50));
        assert_eq!((second.published, second.acked), (Some(100.0), Some(0.0)));
    }
}
