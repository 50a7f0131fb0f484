//! What the people who run a cluster see: metrics, health, logs; in our own words first, then through a
//! real Prometheus with the rules and the dashboard that are shipped.

mod http;
mod prometheus;
mod streams;

use std::collections::BTreeMap;

use serde_json::Value;
use ticketrail_proto::v1::SettleKind;
use ticketrail_tests::cluster::checks::agreed;
use ticketrail_tests::cluster::consumer::{receive, settle};
use ticketrail_tests::cluster::producer::{batch, item};
use ticketrail_tests::cluster::{Builder, Cluster, ports, secs, until, within};

use self::http::Answer;
use self::prometheus::Prometheus;

/// Messages that the workload publishes, acknowledges, and rejects to `orders.dead`.
const PUBLISHED: u64 = 12;
const ACKNOWLEDGED: u64 = 5;
const DEAD: u64 = 2;

/// A cluster whose nodes tell of themselves, and where.
struct Watched {
    cluster: Cluster,
    addresses: BTreeMap<u64, String>,
}

impl Watched {
    async fn start() -> Self {
        Self::start_with(Cluster::builder()).await
    }

    async fn start_with(mut builder: Builder) -> Self {
        let mut addresses = BTreeMap::new();
        for id in 1..=3 {
            let address = format!("127.0.0.1:{}", ports::free());
            builder = builder
                .environment(id, "TICKETRAIL_METRICS_LISTEN", &address)
                .environment(id, "TICKETRAIL_LOG_FORMAT", "json");
            addresses.insert(id, address);
        }
        let cluster = builder.start().await;
        Self { cluster, addresses }
    }

    async fn get(&self, id: u64, path: &str) -> Result<Answer, String> {
        http::get(&self.addresses[&id], path).await
    }

    /// One value of a node's metrics, by its whole name with labels.
    async fn value(&self, id: u64, series: &str) -> Result<f64, String> {
        let text = self.get(id, "/metrics").await?.body;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = line.ok_or_else(|| format!("no {series} in {text}"))?;
        value.parse().map_err(|_| format!("{series} is {value}"))
    }

    async fn reaches(&self, id: u64, series: &str, expected: f64) {
        let found = self.reaches_at_least(id, series, expected).await;
        assert_eq!(found, expected, "{series} of node {id}");
    }

    async fn reaches_at_least(&self, id: u64, series: &str, least: f64) -> f64 {
        until(&format!("{series} >= {least}"), secs(10), async || {
            let found = self.value(id, series).await?;
            (found >= least).then_some(found).ok_or(found.to_string())
        })
        .await
    }

    /// A known number of everything.
    async fn work(&self) {
        let cluster = &self.cluster;
        let orders = cluster.queue("orders").dead_letters_to("orders.dead");
        orders.create().await;
        cluster.queue("orders.dead").create().await;
        let node = cluster.on(1);
        for k in 0..PUBLISHED {
            let request = within(secs(10), batch(vec![item("orders", format!("order {k}"))]));
            node.publisher.clone().publish(request).await.unwrap();
        }
        for (count, kind) in [(ACKNOWLEDGED, SettleKind::Ack), (DEAD, SettleKind::Reject)] {
            let taken = receive(&node, "orders", count as u32).await.unwrap();
            let receipts: Vec<_> = taken.iter().map(|taken| taken.receipt.clone()).collect();
            settle(&node, "orders", &receipts, kind).await.unwrap();
        }
        let mut refused = batch(vec![item("nowhere", "x".to_owned())]);
        refused.items[0].mandatory = true;
        let mut publisher = node.publisher.clone();
        let refused = publisher.publish(within(secs(10), refused));
        refused.await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_see_what_happens() {
    let watched = Watched::start().await;
    watched.work().await;
    every_node_tells_the_same_of_the_queues(&watched).await;
    every_node_tells_how_near_its_bounds_are(&watched).await;
    a_real_prometheus_reads_rules_and_dashboard(&watched).await;
    health_follows_the_majority(&watched).await;
    logs_are_one_json_object_a_line(&watched);
    agreed(&watched.cluster).await;
}

async fn every_node_tells_the_same_of_the_queues(watched: &Watched) {
    let orders = |metric: &str| format!("{metric}{{namespace=\"default\",queue=\"orders\"}}");
    let left = (PUBLISHED - ACKNOWLEDGED - DEAD) as f64;
    for id in watched.cluster.ids() {
        for (metric, expected) in [
            ("ticketrail_queue_published_total", PUBLISHED as f64),
            ("ticketrail_queue_acknowledged_total", ACKNOWLEDGED as f64),
            ("ticketrail_queue_dead_lettered_out_total", DEAD as f64),
            ("ticketrail_queue_ready", left),
            ("ticketrail_queue_in_flight", 0.0),
        ] {
            watched.reaches(id, &orders(metric), expected).await;
        }
        watched.reaches(id, "ticketrail_queues", 2.0).await;
        watched.reaches(id, "ticketrail_ready", 1.0).await;
        // Replicated time stands still in an idle cluster; the age does not.
        let age = orders("ticketrail_queue_oldest_ready_age_seconds");
        let first = watched.value(id, &age).await.unwrap();
        until("an older message", secs(10), async || {
            let now = watched.value(id, &age).await?;
            if now > first {
                Ok(())
            } else {
                Err(format!("{now}"))
            }
        })
        .await;
    }
    // Only the node that was asked knows of the calls.
    let calls = "ticketrail_calls_total{method=\"PublisherService/Publish\",code=\"Ok\"}";
    watched.reaches(1, calls, PUBLISHED as f64).await;
    let refused = "ticketrail_refusals_total{reason=\"UNROUTABLE\"}";
    watched.reaches(1, refused, 1.0).await;
    let confirms = "ticketrail_confirm_seconds_count";
    assert!(watched.value(1, confirms).await.unwrap() >= PUBLISHED as f64);
    assert_eq!(watched.value(2, confirms).await.unwrap(), 0.0);
}

/// What a node tells of its bounds, its disk and the others' states.
async fn every_node_tells_how_near_its_bounds_are(watched: &Watched) {
    for id in watched.cluster.ids() {
        for bound in [
            "publish_bytes",
            "reserved_bytes",
            "memory",
            "disk",
            "consumers",
        ] {
            let [used, max, refused] = ["used", "max", "refusals_total"]
                .map(|what| format!("ticketrail_bound_{what}{{bound=\"{bound}\"}}"));
            let (used, max) = (
                watched.value(id, &used).await.unwrap(),
                watched.value(id, &max).await.unwrap(),
            );
            assert!(0.0 <= used && used < max, "{bound}: {used} of {max}");
            watched.reaches(id, &refused, 0.0).await;
        }
        for series in [
            "ticketrail_short{bound=\"disk\"}",
            "ticketrail_publishes_blocked{bound=\"disk\"}",
            "ticketrail_digests_differ_total",
            "ticketrail_state_replaced{why=\"wrong\"}",
            "ticketrail_snapshot_failures_total",
        ] {
            watched.reaches(id, series, 0.0).await;
        }
        let log = "ticketrail_log_folder_bytes{use=\"log\"}";
        assert!(watched.value(id, log).await.unwrap() > 0.0);
        let view = watched.cluster.view(id).await.unwrap();
        assert!(view.disk.is_some_and(|disk| disk.log_bytes > 0), "{view:?}");
    }
}

async fn a_real_prometheus_reads_rules_and_dashboard(watched: &Watched) {
    let prometheus = match Prometheus::start(watched.addresses.values()).await {
        Ok(prometheus) => prometheus,
        // Where the gate runs, a Prometheus that is not there is a failure.
        Err(why) if std::env::var_os("CI").is_some() => panic!("no Prometheus: {why}"),
        Err(why) => return println!("SKIPPED, no Prometheus: {why}"),
    };
    prometheus.shipped_rules_pass_their_tests().await;
    let published = "max by (queue) (ticketrail_queue_published_total{queue=\"orders\"})";
    prometheus.reaches(published, PUBLISHED as f64).await;
    prometheus.reaches("count(up == 1)", 3.0).await;
    prometheus
        .reaches("sum(ticketrail_raft_is_leader)", 1.0)
        .await;
    let counted = "sum(ticketrail_confirm_seconds_count)";
    prometheus.reaches_at_least(counted, PUBLISHED as f64).await;
    prometheus
        .fires("TicketrailDeadLetters", "queue", "orders.dead")
        .await;
    prometheus.dashboard_shows_data_everywhere().await;
}

async fn health_follows_the_majority(watched: &Watched) {
    let is = async |id, path: &'static str, status: u16| {
        until(&format!("{path} = {status}"), secs(15), async || {
            let found = watched.get(id, path).await?;
            if found.status == status {
                Ok(())
            } else {
                Err(format!("{found:?}"))
            }
        })
        .await;
    };
    is(1, "/readyz", 200).await;
    is(1, "/healthz", 200).await;
    is(1, "/nothing", 404).await;
    watched.cluster.kill(2);
    watched.cluster.kill(3);
    is(1, "/readyz", 503).await;
    is(1, "/healthz", 200).await;
    assert_eq!(watched.value(1, "ticketrail_serving").await, Ok(0.0));
    watched.cluster.restart(2).await;
    watched.cluster.restart(3).await;
    is(1, "/readyz", 200).await;
}

fn logs_are_one_json_object_a_line(watched: &Watched) {
    for id in watched.cluster.ids() {
        let text = watched.cluster.log_text(id);
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
            .collect();
        for line in &lines {
            assert_eq!(line["node"], id, "{line}");
            for field in ["timestamp", "level", "target", "message"] {
                assert!(line[field].is_string(), "{line}");
            }
        }
        let start = lines.iter().find(|line| line["message"] == "starting");
        let start = start.expect("a line about the start");
        assert_eq!(start["listen"], watched.cluster.address(id));
        assert_eq!(
            start["cluster"],
            format!("{:032x}", watched.cluster.cluster_id())
        );
        // A bound for a whole life: nothing is logged for each message or call. Raft's own warnings are
        // as many as the machine is busy.
        let ours = |line: &&Value| line["target"].as_str().unwrap().starts_with("ticketrail");
        let count = lines.iter().filter(ours).count();
        assert!(count < 100, "{count} lines:\n{text}");
    }
}
