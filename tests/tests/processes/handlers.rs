//! Handlers of the Rust client on real nodes: leases that last as long as the work, failures that come back, a drain that
//! counts nothing that was not begun.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ticketrail_client::{Client, Failure, Job, Publication, Settlement, WorkSummary, Worker};
use ticketrail_proto::v1::QueueStats;
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::{Cluster, millis, secs, until};
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

const PATIENCE: Duration = secs(30);

async fn client(cluster: &Cluster) -> Client {
    let nodes = cluster.ids().into_iter().map(|id| cluster.address(id));
    Client::connect(nodes).await.unwrap()
}

async fn publish(client: &Client, queue: &str, count: usize) {
    let batch = (0..count).map(|n| Publication::to_queue(queue, n.to_string()));
    client.publish(batch).await.unwrap();
}

fn number(job: &Job) -> usize {
    std::str::from_utf8(job.body()).unwrap().parse().unwrap()
}

/// The delivery counts that handlers saw, by message.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<BTreeMap<usize, Vec<u32>>>>);

impl Seen {
    fn note(&self, job: &Job) {
        let mut seen = self.0.lock().unwrap();
        seen.entry(number(job))
            .or_default()
            .push(job.delivery_count());
    }

    fn counts(&self) -> Vec<Vec<u32>> {
        self.0.lock().unwrap().values().cloned().collect()
    }
}

async fn stats_when(
    cluster: &Cluster,
    queue: &str,
    what: &str,
    is_so: impl Fn(&QueueStats) -> bool,
) -> QueueStats {
    until(what, PATIENCE, async || {
        let stats = cluster.stats(queue).await;
        is_so(&stats).then_some(stats).ok_or(stats)
    })
    .await
}

async fn drained(worker: &mut Worker) -> WorkSummary {
    let drained = timeout(PATIENCE, worker.drain()).await;
    drained.expect("a drain ends in time").unwrap()
}

/// Each delivery that was begun is in one count.
fn complete(summary: &WorkSummary) {
    let ended = [
        summary.acknowledged,
        summary.nacked,
        summary.rejected,
        summary.lost,
        summary.unanswered,
    ];
    assert_eq!(ended.iter().sum::<u64>(), summary.begun, "{summary:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_settle_by_what_they_do() {
    let cluster = Cluster::start().await;
    let client = client(&cluster).await;
    work_longer_than_its_lease_keeps_it(&cluster, &client).await;
    what_fails_comes_back_and_what_is_hopeless_does_not(&cluster, &client).await;
    no_more_run_than_may(&cluster, &client).await;
    a_drain_gives_back_what_was_not_begun(&cluster, &client).await;
    a_drain_does_not_wait_for_ever(&cluster, &client).await;
    a_deleted_queue_ends_the_worker(&cluster, &client).await;
    agreed(&cluster).await;
}

async fn work_longer_than_its_lease_keeps_it(cluster: &Cluster, client: &Client) {
    cluster.queue("slow").lease(secs(1)).create().await;
    publish(client, "slow", 4).await;
    let seen = Seen::default();
    let noted = seen.clone();
    let work = move |job: Job| {
        noted.note(&job);
        async move {
            // The work itself takes its time: over three leases.
            let lost = job.lease_lost();
            match timeout(millis(3_500), lost.cancelled()).await {
                Ok(()) => Err(Failure::new("the lease was lost")),
                Err(_) => Ok(()),
            }
        }
    };
    let mut worker = client
        .consumer("slow")
        .concurrency(2)
        .handle(work)
        .await
        .unwrap();
    let done = |stats: &QueueStats| stats.acknowledged == 4;
    let stats = stats_when(cluster, "slow", "slow work", done).await;
    let summary = drained(&mut worker).await;
    complete(&summary);
    // Two worked, two waited as long in reach.
    assert_eq!(seen.counts(), vec![vec![1]; 4]);
    assert_eq!((summary.begun, summary.acknowledged), (4, 4));
    assert_eq!((stats.granted, stats.redelivered), (4, 0));
    conserved("slow", &stats);
}

async fn what_fails_comes_back_and_what_is_hopeless_does_not(cluster: &Cluster, client: &Client) {
    cluster.queue("fails.dead").create().await;
    let queue = cluster.queue("fails").dead_letters_to("fails.dead");
    queue.create().await;
    publish(client, "fails", 5).await;
    let seen = Seen::default();
    let noted = seen.clone();
    // Some panic before they have made a future, some in it.
    let work = move |job: Job| {
        noted.note(&job);
        let (number, again) = (number(&job), job.delivery_count() > 1);
        assert!(again || number != 0, "{number} panics at once");
        async move {
            match number {
                _ if again => Ok(()),
                1 => panic!("{number} panics"),
                2 => Err(Failure::from(std::io::Error::other("it is broken"))),
                3 => Err(Failure::retry_after("it is too early", millis(200))),
                _ => Err(Failure::reject("nobody can do that")),
            }
        }
    };
    let worker = client.consumer("fails").concurrency(3).handle(work);
    let mut worker = worker.await.unwrap();
    let done = |stats: &QueueStats| stats.acknowledged == 4;
    let stats = stats_when(cluster, "fails", "what failed to come back", done).await;
    let summary = drained(&mut worker).await;
    complete(&summary);
    let twice = vec![1, 2];
    let expected = vec![twice.clone(), twice.clone(), twice.clone(), twice, vec![1]];
    assert_eq!(seen.counts(), expected);
    assert_eq!(
        (summary.nacked, summary.panicked, summary.rejected),
        (4, 2, 1)
    );
    let dead = cluster.peek_all("fails.dead").await;
    assert_eq!(dead[0].message.clone().unwrap().body, "4");
    conserved("fails", &stats);
}

async fn no_more_run_than_may(cluster: &Cluster, client: &Client) {
    cluster.queue("many").create().await;
    for _ in 0..5 {
        publish(client, "many", 100).await;
    }
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let counts = (running.clone(), most.clone());
    let work = move |_| {
        let (running, most) = counts.clone();
        async move {
            most.fetch_max(running.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::time::sleep(millis(2)).await;
            running.fetch_sub(1, SeqCst);
            Ok(())
        }
    };
    let worker = client.consumer("many").concurrency(7).prefetch(100);
    let mut worker = worker.handle(work).await.unwrap();
    stats_when(cluster, "many", "the work", |stats| {
        stats.acknowledged == 500
    })
    .await;
    assert_eq!(drained(&mut worker).await.acknowledged, 500);
    assert_eq!((running.load(SeqCst), most.load(SeqCst)), (0, 7));
}

async fn a_drain_gives_back_what_was_not_begun(cluster: &Cluster, client: &Client) {
    cluster.queue("drained").create().await;
    publish(client, "drained", 50).await;
    let (begun, may_end) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let signals = (begun.clone(), may_end.clone());
    let work = move |_| {
        let (begun, may_end) = signals.clone();
        async move {
            begun.add_permits(1);
            may_end.acquire().await?.forget();
            Ok(())
        }
    };
    let worker = client.consumer("drained").concurrency(3).prefetch(20);
    let mut worker = worker.handle(work).await.unwrap();
    begun.acquire_many(3).await.unwrap().forget();
    let in_reach = |stats: &QueueStats| stats.in_flight == 20;
    stats_when(cluster, "drained", "a full prefetch", in_reach).await;

    // What was not begun is back while the handlers still run.
    assert!(
        timeout(millis(1), worker.drain()).await.is_err(),
        "three run"
    );
    let back = |stats: &QueueStats| stats.ready == 47 && stats.in_flight == 3;
    stats_when(cluster, "drained", "what was not begun to be back", back).await;
    may_end.add_permits(3);
    let summary = drained(&mut worker).await;
    complete(&summary);
    assert_eq!((summary.begun, summary.acknowledged), (3, 3));
    assert!(summary.released >= 17, "{summary:?}");
    let stats = cluster.stats("drained").await;
    assert_eq!((stats.acknowledged, stats.ready), (3, 47));
    let left = cluster.peek_all("drained").await;
    assert!(
        left.iter().all(|message| message.delivery_count == 0),
        "none counts"
    );
    conserved("drained", &stats);
}

async fn a_drain_does_not_wait_for_ever(cluster: &Cluster, client: &Client) {
    cluster.queue("stuck").create().await;
    publish(client, "stuck", 2).await;
    let begun = Arc::new(Semaphore::new(0));
    let signal = begun.clone();
    let work = move |_| {
        signal.add_permits(1);
        pending()
    };
    let worker = client.consumer("stuck").concurrency(2);
    let mut worker = worker
        .drain_timeout(millis(200))
        .handle(work)
        .await
        .unwrap();
    begun.acquire_many(2).await.unwrap().forget();
    let summary = drained(&mut worker).await;
    complete(&summary);
    assert_eq!((summary.begun, summary.nacked), (2, 2));
    let left = cluster.peek_all("stuck").await;
    assert_eq!(left.len(), 2);
    assert!(
        left.iter().all(|message| message.delivery_count == 1),
        "begun counts"
    );
}

async fn a_deleted_queue_ends_the_worker(cluster: &Cluster, client: &Client) {
    cluster.queue("deleted").create().await;
    publish(client, "deleted", 1).await;
    let (begun, told) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let signals = (begun.clone(), told.clone());
    let work = move |job: Job| {
        let (begun, told) = signals.clone();
        async move {
            let lost = job.lease_lost();
            begun.notify_one();
            lost.cancelled().await;
            told.notify_one();
            Ok(())
        }
    };
    let mut worker = client.consumer("deleted").handle(work).await.unwrap();
    begun.notified().await;
    client.delete_queue("deleted").await.unwrap();
    let ended = timeout(PATIENCE, worker.run_until(pending::<()>()))
        .await
        .unwrap();
    assert_eq!(ended.unwrap_err().reason(), "QUEUE_NOT_FOUND");
    told.notified().await;
    let summary = worker.summary();
    complete(&summary);
    assert_eq!((summary.begun, summary.lost), (1, 1));
}

/// Handlers run, in reach are others, and the node that the worker is connected to dies; whichever that is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_outlive_their_node() {
    let cluster = Cluster::start().await;
    let client = client(&cluster).await;
    cluster.queue("orders").lease(secs(10)).create().await;
    publish(&client, "orders", 20).await;
    let (begun, may_end) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let signals = (begun.clone(), may_end.clone());
    let seen = Seen::default();
    let noted = seen.clone();
    let work = move |job: Job| {
        noted.note(&job);
        let (begun, may_end) = signals.clone();
        async move {
            begun.add_permits(1);
            let lost = job.lease_lost();
            let ends = lost.run_until_cancelled(may_end.acquire()).await;
            ends.ok_or("the lease was lost")??.forget();
            Ok(())
        }
    };
    let worker = client.consumer("orders").concurrency(4).prefetch(8);
    let mut worker = worker.handle(work).await.unwrap();
    begun.acquire_many(4).await.unwrap().forget();
    for id in cluster.ids() {
        cluster.kill(id);
        cluster.restart(id).await;
        cluster.leader().await;
    }
    may_end.add_permits(20);
    let done = |stats: &QueueStats| stats.acknowledged == 20;
    let stats = stats_when(&cluster, "orders", "all to be acknowledged", done).await;
    let summary = drained(&mut worker).await;
    complete(&summary);
    // Each once: neither work nor waiting was begun again.
    assert_eq!(seen.counts(), vec![vec![1]; 20]);
    assert_eq!((summary.acknowledged, summary.lost), (20, 0));
    conserved("orders", &stats);
    agreed(&cluster).await;
}

/// First somebody with its receipt gives the message back; then no node is there to extend its lease.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_tells_its_handler_and_settles_nothing() {
    let cluster = Cluster::start().await;
    let client = client(&cluster).await;
    cluster.queue("taken").lease(secs(2)).create().await;
    publish(&client, "taken", 1).await;
    let (begun, told) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let receipts = Arc::new(Mutex::new(Vec::new()));
    let signals = (begun.clone(), told.clone(), receipts.clone());
    let work = move |job: Job| {
        let (begun, told, receipts) = signals.clone();
        async move {
            let lost = job.lease_lost();
            receipts.lock().unwrap().push(job.receipt().clone());
            begun.add_permits(1);
            lost.cancelled().await;
            told.add_permits(1);
            Ok(())
        }
    };
    let worker = client.consumer("taken").drain_timeout(secs(1));
    let mut worker = worker.handle(work).await.unwrap();
    begun.acquire().await.unwrap().forget();
    let receipt = receipts.lock().unwrap()[0].clone();
    let given_back = [(receipt, Settlement::Nack(None))];
    client.settle("taken", given_back).await.unwrap();
    told.acquire().await.unwrap().forget();

    // It is begun again, and now every node is away for longer than the lease.
    begun.acquire().await.unwrap().forget();
    cluster.ids().into_iter().for_each(|id| cluster.pause(id));
    let heard = timeout(secs(20), told.acquire()).await;
    heard
        .expect("told while no node can say so")
        .unwrap()
        .forget();
    cluster.ids().into_iter().for_each(|id| cluster.resume(id));
    // What the handler returned counts if the cluster's time stood still as well.
    let done = |stats: &QueueStats| stats.acknowledged == 1 || stats.granted == 3;
    stats_when(&cluster, "taken", "the nodes to go on", done).await;
    let summary = drained(&mut worker).await;
    assert!(summary.lost >= 1, "{summary:?}");
    complete(&summary);
    conserved("taken", &cluster.stats("taken").await);
    agreed(&cluster).await;
}
