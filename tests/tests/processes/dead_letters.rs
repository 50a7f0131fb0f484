//! What a queue gives up on goes to its dead-letter queue in one step, or waits, parked; and what an
//! operator does to a queue: peek, purge, pause.

use std::time::Duration;

use bytes::Bytes;
use ticketrail_proto::v1::{
    DeathReason, GetQueueRequest, MessageState, PauseQueueRequest, PeekedMessage,
    PurgeQueueRequest, ReceiveRequest, ResumeQueueRequest, SettleKind, SettleOutcome,
};
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::consumer::{body, receive, settle};
use ticketrail_tests::cluster::producer::{batch, item};
use ticketrail_tests::cluster::{Clients, Cluster, duration, secs, until, within};

async fn publish(clients: &Clients, queue: &str, bodies: &[&str]) {
    let items = bodies
        .iter()
        .map(|body| item(queue, (*body).to_owned()))
        .collect();
    clients
        .publisher
        .clone()
        .publish(within(secs(10), batch(items)))
        .await
        .unwrap();
}

/// Takes so many messages at once and settles all of them in one way.
async fn take_and_settle(
    clients: &Clients,
    queue: &str,
    count: u32,
    kind: SettleKind,
) -> Vec<Bytes> {
    let taken = receive(clients, queue, count).await.unwrap();
    assert_eq!(taken.len() as u32, count);
    let receipts: Vec<Bytes> = taken
        .iter()
        .map(|delivery| delivery.receipt.clone())
        .collect();
    let outcomes = settle(clients, queue, &receipts, kind).await.unwrap();
    assert!(
        outcomes.iter().all(|outcome| *outcome == SettleOutcome::Ok),
        "{outcomes:?}"
    );
    taken.iter().map(body).collect()
}

fn bodies(messages: &[PeekedMessage]) -> Vec<Bytes> {
    messages
        .iter()
        .map(|message| message.message.clone().unwrap().body)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_queue_gives_up_on_is_never_lost_and_never_twice() {
    let cluster = Cluster::start().await;
    rejected_and_worn_out_messages_move_with_their_history(&cluster).await;
    without_its_target_a_dead_letter_is_parked_until_the_target_is_made(&cluster).await;
    without_any_target_it_is_dropped_and_counted(&cluster).await;
    purge_takes_what_is_ready_and_on_request_what_is_delayed(&cluster).await;
    a_paused_queue_grants_nothing_over_a_restart_of_all(&cluster).await;
    agreed(&cluster).await;
}

async fn rejected_and_worn_out_messages_move_with_their_history(cluster: &Cluster) {
    cluster
        .queue("work")
        .max_deliveries(2)
        .dead_letters_to("graveyard")
        .create()
        .await;
    cluster.queue("graveyard").create().await;
    let (a, b) = (cluster.on(1), cluster.on(2));
    publish(&a, "work", &["rejected", "worn out"]).await;
    let rejected = take_and_settle(&a, "work", 1, SettleKind::Reject).await;
    assert_eq!(rejected, ["rejected"]);
    for _ in 0..2 {
        assert_eq!(
            take_and_settle(&b, "work", 1, SettleKind::Nack).await,
            ["worn out"]
        );
    }
    let dead = cluster.peek_all("graveyard").await;
    assert_eq!(bodies(&dead), ["rejected", "worn out"]);
    let reasons = [DeathReason::Rejected, DeathReason::MaxDeliveries];
    for (message, reason) in dead.iter().zip(reasons) {
        let [death] = &message.deaths[..] else {
            panic!("one death: {:?}", message.deaths)
        };
        assert_eq!((death.reason(), death.count), (reason, 1));
        assert_eq!(
            (&*death.queue, &*death.original_routing_key),
            ("work", "work")
        );
        assert!(death.first_time.is_some() && death.first_time == death.last_time);
        assert_eq!(message.state(), MessageState::Ready);
    }
    let (work, graveyard) = (
        cluster.stats("work").await,
        cluster.stats("graveyard").await,
    );
    assert_eq!((work.published, work.dead_lettered_out), (2, 2));
    assert_eq!((graveyard.dead_lettered_in, graveyard.ready), (2, 2));
    conserved("work", &work);
    conserved("graveyard", &graveyard);

    // Delivered from there, the history comes along and the count begins anew.
    let delivery = receive(&b, "graveyard", 1).await.unwrap().remove(0);
    assert_eq!((delivery.deaths.len(), delivery.delivery_count), (1, 1));
    assert_eq!(body(&delivery), "rejected");
}

async fn without_its_target_a_dead_letter_is_parked_until_the_target_is_made(cluster: &Cluster) {
    cluster
        .queue("early")
        .dead_letters_to("later")
        .create()
        .await;
    let mut a = cluster.on(3);
    publish(&a, "early", &["first", "second", "third"]).await;
    take_and_settle(&a, "early", 2, SettleKind::Reject).await;
    let stats = cluster.stats("early").await;
    assert_eq!(
        (stats.parked, stats.ready, stats.dead_lettered_out),
        (2, 1, 0)
    );
    conserved("early", &stats);
    assert!(
        queue_is_blocked(&mut a, "early").await,
        "the queue is flagged"
    );
    let parked = cluster.peek_all("early").await;
    let states: Vec<_> = parked.iter().map(PeekedMessage::state).collect();
    assert_eq!(
        states,
        [
            MessageState::Parked,
            MessageState::Parked,
            MessageState::Ready
        ]
    );

    cluster.queue("later").create().await;
    until("parked messages to move", secs(10), async || {
        let stats = cluster.stats("early").await;
        if stats.parked == 0 {
            Ok(())
        } else {
            Err(stats)
        }
    })
    .await;
    assert_eq!(
        bodies(&cluster.peek_all("later").await),
        ["first", "second"]
    );
    assert!(!queue_is_blocked(&mut a, "early").await);
    conserved("early", &cluster.stats("early").await);
    conserved("later", &cluster.stats("later").await);
}

async fn queue_is_blocked(clients: &mut Clients, name: &str) -> bool {
    let request = GetQueueRequest {
        name: name.to_owned(),
        ..GetQueueRequest::default()
    };
    let answer = clients
        .topology
        .get_queue(within(secs(10), request))
        .await
        .unwrap();
    answer.into_inner().queue.unwrap().dead_letter_blocked
}

async fn without_any_target_it_is_dropped_and_counted(cluster: &Cluster) {
    cluster.queue("lossy").max_deliveries(1).create().await;
    let a = cluster.on(1);
    publish(&a, "lossy", &["rejected", "worn out"]).await;
    take_and_settle(&a, "lossy", 1, SettleKind::Reject).await;
    take_and_settle(&a, "lossy", 1, SettleKind::Nack).await;
    let stats = cluster.stats("lossy").await;
    assert_eq!((stats.dropped, stats.ready), (2, 0));
    conserved("lossy", &stats);
}

async fn purge_takes_what_is_ready_and_on_request_what_is_delayed(cluster: &Cluster) {
    cluster
        .queue("purged")
        .retry_after(secs(3_600))
        .create()
        .await;
    let mut a = cluster.on(2);
    publish(&a, "purged", &["held", "delayed", "ready", "ready too"]).await;
    let held = receive(&a, "purged", 1).await.unwrap().remove(0);
    take_and_settle(&a, "purged", 1, SettleKind::Nack).await;
    let purge = |include_delayed| {
        let queue = "purged".to_owned();
        within(
            secs(10),
            PurgeQueueRequest {
                queue,
                include_delayed,
                ..PurgeQueueRequest::default()
            },
        )
    };
    assert_eq!(
        a.admin
            .purge_queue(purge(false))
            .await
            .unwrap()
            .into_inner()
            .purged,
        2
    );
    let left: Vec<_> = cluster
        .peek_all("purged")
        .await
        .iter()
        .map(PeekedMessage::state)
        .collect();
    assert_eq!(left, [MessageState::InFlight, MessageState::Delayed]);
    assert_eq!(
        a.admin
            .purge_queue(purge(true))
            .await
            .unwrap()
            .into_inner()
            .purged,
        1
    );
    let acked = settle(&a, "purged", &[held.receipt], SettleKind::Ack)
        .await
        .unwrap();
    assert_eq!(acked, [SettleOutcome::Ok], "a purge leaves leases alone");
    let stats = cluster.stats("purged").await;
    assert_eq!((stats.purged, stats.acknowledged, stats.ready), (3, 1, 0));
    conserved("purged", &stats);
}

async fn a_paused_queue_grants_nothing_over_a_restart_of_all(cluster: &Cluster) {
    cluster.queue("paused").create().await;
    let mut a = cluster.on(1);
    publish(&a, "paused", &["one"]).await;
    let queue = "paused".to_owned();
    let pause = PauseQueueRequest {
        queue: queue.clone(),
        ..PauseQueueRequest::default()
    };
    a.admin.pause_queue(within(secs(10), pause)).await.unwrap();
    publish(&a, "paused", &["two"]).await;
    cluster.kill_all();
    for id in cluster.ids() {
        cluster.spawn(id);
    }
    for id in cluster.ids() {
        cluster.serves(id).await;
    }
    let b = cluster.on(2);
    assert_eq!(
        take_within(&b, "paused", Duration::from_millis(500)).await,
        Vec::<Bytes>::new()
    );
    let stats = cluster.stats("paused").await;
    assert!(stats.paused && stats.ready == 2, "{stats:?}");

    // Somebody waits already; resuming wakes him.
    let (taken, ()) = tokio::join!(take_within(&b, "paused", secs(10)), async {
        let resume = ResumeQueueRequest {
            queue,
            ..ResumeQueueRequest::default()
        };
        cluster
            .on(3)
            .admin
            .resume_queue(within(secs(10), resume))
            .await
            .unwrap();
    });
    assert_eq!(taken.first().unwrap(), "one");
    assert!(!cluster.stats("paused").await.paused);
}

async fn take_within(clients: &Clients, queue: &str, wait: Duration) -> Vec<Bytes> {
    let request = ReceiveRequest {
        queue: queue.to_owned(),
        max_messages: Some(10),
        wait: Some(duration(wait)),
        ..ReceiveRequest::default()
    };
    let answer = clients
        .consumer
        .clone()
        .receive(within(secs(20), request))
        .await
        .unwrap();
    answer.into_inner().deliveries.iter().map(body).collect()
}
