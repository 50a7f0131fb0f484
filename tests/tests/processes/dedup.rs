//! Retries are free: whatever answers are lost, and wherever a client tries again, one message is
//! stored. What counts is the committed log.

use std::collections::BTreeMap;
use std::time::Duration;

use ticketrail_proto::v1::publish_exception::Kind;
use ticketrail_proto::v1::publish_stream_request::Frame as Ask;
use ticketrail_proto::v1::publish_stream_response::Frame as Answer;
use ticketrail_proto::v1::{
    PublishBatch, PublishConfirm, PublishItem, PublishOpen, PublishRequest, PublishStreamRequest,
};
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::producer::{item, publish};
use ticketrail_tests::cluster::{
    Behaviour, Clients, Cluster, CommittedLog, Link, Producer, Refused, invites_retry, millis,
    secs, within,
};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

use crate::leader_kills;

const BATCHES_PER_KILL: u64 = 60;
const BATCH: u64 = 3;

/// The ways in which an answer is lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// It came, and the client dies before it looks: the entry is committed for sure.
    Ignored,
    /// The client gives up a moment after it sent.
    Cancelled,
    /// The network swallows what the server sends.
    Swallowed,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_loses_every_third_answer_stores_each_message_once() {
    let cluster = Cluster::start().await;
    cluster.queue("orders").create().await;
    let mut links = BTreeMap::new();
    for id in cluster.ids() {
        links.insert(id, Link::open(cluster.address(id).to_owned()).await);
    }
    let nodes: Vec<_> = cluster
        .ids()
        .iter()
        .map(|id| (cluster.on(*id), &links[id]))
        .collect();
    let mut producer = Producer::open(&cluster, "careless").await;
    let mut known_committed = 0_u64;
    let kills = leader_kills();
    for kill in 0..kills {
        let mut victim = None;
        for round in 0..BATCHES_PER_KILL {
            if round == BATCHES_PER_KILL / 3 {
                victim = Some(cluster.kill_leader().await);
            }
            let items = (0..BATCH)
                .map(|k| item("orders", format!("{kill} {round} {k}")))
                .collect();
            let request = producer.batch(items);
            if round % 3 == 0 {
                let loss =
                    [Loss::Ignored, Loss::Cancelled, Loss::Swallowed][(round / 3 % 3) as usize];
                let at = usize::try_from(round).unwrap() % nodes.len();
                if lose(&nodes[at], &request, loss).await {
                    known_committed += BATCH;
                }
            }
            // Again, on the node after the one that was tried.
            let order: Vec<Clients> = (1..=nodes.len())
                .map(|k| nodes[(round as usize + k) % nodes.len()].0.clone())
                .collect();
            publish(&order, &request).await;
        }
        cluster.restart(victim.unwrap()).await;
    }

    let sent = producer.next - 1;
    let stats = cluster.stats("orders").await;
    assert_eq!(stats.published, sent, "the queue holds each message once");
    conserved("orders", &stats);
    let agreement = agreed(&cluster).await;
    cluster.stop().await;
    for id in cluster.ids() {
        let replay = CommittedLog::read(&cluster, id, agreement).replay();
        assert_eq!(
            replay.state.digest(),
            agreement.digest,
            "the log of node {id} leads to what it holds"
        );
    }
    let replay = CommittedLog::read(&cluster, 1, agreement).replay();
    assert_eq!(
        replay.stored, sent,
        "the committed log stores each message once"
    );
    let twice: Vec<_> = replay
        .sequences
        .iter()
        .filter(|(_, told)| told.stored != 1)
        .collect();
    assert!(twice.is_empty(), "stored not exactly once: {twice:?}");
    let again = replay
        .sequences
        .values()
        .filter(|told| told.proposed > 1)
        .count() as u64;
    println!(
        "{sent} messages over {kills} leader kills; {again} were committed more than once and stored once"
    );
    assert!(
        again >= known_committed && known_committed > 0,
        "retries of committed entries were seen"
    );
}

/// Publishes and loses the answer; says whether it was committed for sure.
async fn lose((clients, link): &(Clients, &Link), request: &PublishRequest, loss: Loss) -> bool {
    match loss {
        Loss::Ignored => {
            let answer = clients
                .publisher
                .clone()
                .publish(within(secs(5), request.clone()))
                .await;
            if let Err(status) = &answer {
                assert!(invites_retry(status), "refused: {}", Refused::from(status));
            }
            answer.is_ok()
        }
        Loss::Cancelled => {
            let wait = Duration::from_micros(rand::random_range(100..5_000));
            let mut publisher = clients.publisher.clone();
            timeout(wait, publisher.publish(within(secs(5), request.clone())))
                .await
                .is_ok_and(|a| a.is_ok())
        }
        Loss::Swallowed => {
            let through_link = Clients::of(&link.address());
            link.behave(Behaviour {
                drop_answers: true,
                ..Behaviour::default()
            });
            let mut publisher = through_link.publisher.clone();
            let lost = publisher
                .publish(within(millis(300), request.clone()))
                .await;
            link.heal();
            assert!(lost.is_err(), "no answer gets through");
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_inside_a_pipeline_holds_the_order_and_is_healed_by_a_retry_after_failover() {
    let cluster = Cluster::start().await;
    cluster.queue("orders").create().await;
    let producer = Producer::open(&cluster, "pipeline").await;
    let items: Vec<PublishItem> = (1..=9)
        .map(|n| {
            item(
                if n == 5 { "not yet there" } else { "orders" },
                format!("message {n}"),
            )
        })
        .collect();

    // One frame each, all under way at once; the fifth reaches no queue.
    let leader = cluster.leader().await;
    let (asks, mut answers) = open(&cluster.on(leader), &producer).await;
    for (sequence, item) in (1..).zip(&items) {
        send(
            &asks,
            Ask::Batch(PublishBatch {
                first_sequence: sequence,
                items: vec![item.clone()],
            }),
        )
        .await;
    }
    let mut through = 0;
    let mut refused = BTreeMap::new();
    while through < 9 {
        if let Some(Answer::Confirm(confirm)) = answers.message().await.unwrap().unwrap().frame {
            through = confirm.through_sequence;
            take_refusals(&confirm, &mut refused);
        }
    }
    assert_eq!(refused.remove(&5).unwrap(), "UNROUTABLE");
    assert_eq!(
        refused.keys().copied().collect::<Vec<_>>(),
        [6, 7, 8, 9],
        "nothing overtakes"
    );
    assert!(
        refused.values().all(|reason| reason == "OUT_OF_SEQUENCE"),
        "{refused:?}"
    );
    assert_eq!(cluster.stats("orders").await.published, 4);
    drop((asks, answers));

    // The missing queue is made, the leader dies, and the client goes on elsewhere, from a bit earlier.
    cluster.queue("not yet there").create().await;
    cluster.kill(leader);
    let others: Vec<Clients> = cluster
        .running()
        .into_iter()
        .map(|id| cluster.on(id))
        .collect();
    let again = publish(&others, &producer.batch_at(3, items[2..].to_vec())).await;
    let duplicates: Vec<bool> = again
        .results
        .iter()
        .map(|result| result.duplicate)
        .collect();
    assert_eq!(duplicates, [true, true, false, false, false, false, false]);
    cluster.restart(leader).await;

    assert_eq!(cluster.stats("orders").await.published, 8);
    assert_eq!(cluster.stats("not yet there").await.published, 1);
    let order: Vec<_> = cluster
        .peek_all("orders")
        .await
        .into_iter()
        .map(|m| m.message.unwrap().body)
        .collect();
    let wanted: Vec<_> = [1, 2, 3, 4, 6, 7, 8, 9]
        .map(|n| format!("message {n}"))
        .into();
    assert_eq!(order, wanted, "stored in the order of the sequences");
    let agreement = agreed(&cluster).await;
    cluster.stop().await;
    let replay = CommittedLog::read(&cluster, 2, agreement).replay();
    assert_eq!(replay.stored, 9);
    assert!(
        replay.sequences.values().all(|told| told.stored == 1),
        "{:?}",
        replay.sequences
    );
}

async fn open(
    clients: &Clients,
    producer: &Producer,
) -> (
    mpsc::Sender<PublishStreamRequest>,
    tonic::Streaming<ticketrail_proto::v1::PublishStreamResponse>,
) {
    let (asks, requests) = mpsc::channel(32);
    let open = PublishOpen {
        producer_id: producer.id.clone(),
        epoch: producer.epoch,
        ..PublishOpen::default()
    };
    send(&asks, Ask::Open(open)).await;
    let mut client = clients.publisher.clone();
    (
        asks,
        client
            .publish_stream(ReceiverStream::new(requests))
            .await
            .unwrap()
            .into_inner(),
    )
}

async fn send(asks: &mpsc::Sender<PublishStreamRequest>, frame: Ask) {
    asks.send(PublishStreamRequest { frame: Some(frame) })
        .await
        .unwrap();
}

fn take_refusals(confirm: &PublishConfirm, refused: &mut BTreeMap<u64, String>) {
    for exception in &confirm.exceptions {
        match exception.kind.as_ref().unwrap() {
            Kind::Refusal(refusal) => {
                refused.insert(exception.sequence, refusal.reason.clone());
            }
            Kind::Result(result) => panic!("sequence {}: {result:?}", exception.sequence),
        }
    }
}
