//! The table of consuming and settling: call, status, reason, field.

use bytes::Bytes;
use ticketrail_proto::v1::{
    ConsumeOpen, PeekRequest, ReceiveRequest, SettleItem, SettleKind, SettleRange, SettleRequest,
};
use ticketrail_tests::cluster::consumer::{self, range, receive, settle};
use ticketrail_tests::cluster::producer::{batch, item};
use ticketrail_tests::cluster::{Cluster, Consumer, Refused, duration, secs, within};
use tonic::{Code, Request, Response};

use super::watched::{Expected, Watched, invalid, not_found, not_yet};

fn soon<T>(request: T) -> Request<T> {
    within(secs(10), request)
}

fn negative() -> Option<prost_types::Duration> {
    Some(prost_types::Duration {
        seconds: -1,
        nanos: 0,
    })
}

fn thirteen_hours() -> Option<prost_types::Duration> {
    Some(duration(secs(13 * 3_600)))
}

pub(super) async fn consuming(cluster: &Cluster) {
    let watched = Watched::new(cluster).await;
    let mut node = cluster.on(2);
    let orders = || ReceiveRequest {
        queue: "orders".into(),
        ..ReceiveRequest::default()
    };
    let attempt = "x".repeat(129);
    #[rustfmt::skip]
    let rows: Vec<(&str, ReceiveRequest, Expected<'_>)> = vec![
        ("0 messages", ReceiveRequest { max_messages: Some(0), ..orders() }, invalid("max_messages")),
        ("1,001 messages", ReceiveRequest { max_messages: Some(1_001), ..orders() }, invalid("max_messages")),
        ("lease of -1 s", ReceiveRequest { lease_duration: negative(), ..orders() }, invalid("lease_duration")),
        ("lease of 13 h", ReceiveRequest { lease_duration: thirteen_hours(), ..orders() }, invalid("lease_duration")),
        ("a wait of 21 s", ReceiveRequest { wait: Some(duration(secs(21))), ..orders() }, invalid("wait")),
        ("a long attempt id", ReceiveRequest { receive_attempt_id: attempt, ..orders() }, invalid("receive_attempt_id")),
        ("an empty queue name", ReceiveRequest::default(), invalid("queue")),
        ("from nowhere", ReceiveRequest { queue: "nowhere".into(), ..orders() }, not_found("QUEUE_NOT_FOUND")),
        ("a group", ReceiveRequest { group: "g".into(), ..orders() }, not_yet("group")),
    ];
    for (what, request, expected) in rows {
        let answer = node.consumer.receive(soon(request)).await;
        watched.refused(what, answer, expected).await;
    }
    let orders = || PeekRequest {
        queue: "orders".into(),
        ..PeekRequest::default()
    };
    let answer = node
        .consumer
        .peek(soon(PeekRequest {
            states: vec![99],
            ..orders()
        }))
        .await;
    watched
        .refused("an unknown state", answer, invalid("states[0]"))
        .await;
    let answer = node
        .consumer
        .peek(soon(PeekRequest {
            page_size: Some(0),
            ..orders()
        }))
        .await;
    watched
        .refused("page of 0", answer, invalid("page_size"))
        .await;

    let orders = || consumer::open("orders");
    let (short, unknown) = (
        Bytes::from_static(b"8 bytes!"),
        Bytes::from_static(&[1; 16]),
    );
    #[rustfmt::skip]
    let rows: Vec<(&str, ConsumeOpen, Expected<'_>)> = vec![
        ("credit 0", ConsumeOpen { prefetch: Some(0), ..orders() }, invalid("open.prefetch")),
        ("credit 2^31", ConsumeOpen { prefetch: Some(1 << 31), ..orders() }, invalid("open.prefetch")),
        ("lease of -1 s", ConsumeOpen { lease_duration: negative(), ..orders() }, invalid("open.lease_duration")),
        ("lease of 13 h", ConsumeOpen { lease_duration: thirteen_hours(), ..orders() }, invalid("open.lease_duration")),
        ("half a session id", ConsumeOpen { session_id: short, ..orders() }, invalid("open.session_id")),
        ("an unknown session", ConsumeOpen { session_id: unknown, ..orders() }, not_found("SESSION_NOT_FOUND")),
        ("a queue that is not there", consumer::open("nowhere"), not_found("QUEUE_NOT_FOUND")),
        ("a group", ConsumeOpen { group: "g".into(), ..orders() }, not_yet("open.group")),
    ];
    for (what, open, expected) in rows {
        let answer = Consumer::open(&node, open).await;
        let answer = answer.map(|consumer| Response::new(consumer.opened));
        watched.refused(what, answer, expected).await;
    }
    watched.done();
}

pub(super) async fn settling(cluster: &Cluster) {
    let mut node = cluster.on(1);
    // What was published before is still there; one of each queue is held from here on.
    let held = receive(&node, "orders", 1).await.unwrap().remove(0);
    let other = batch(vec![item("others", "foreign")]);
    node.publisher.publish(soon(other)).await.unwrap();
    let foreign = receive(&node, "others", 1).await.unwrap().remove(0);
    let watched = Watched::new(cluster).await;

    let receipt = held.receipt.clone();
    let ack = SettleItem {
        receipt,
        kind: SettleKind::Ack as i32,
        ..SettleItem::default()
    };
    let extend = SettleItem {
        kind: SettleKind::Extend as i32,
        ..ack.clone()
    };
    let good = || ack.clone();
    let with = |receipt: &[u8]| SettleItem {
        receipt: Bytes::copy_from_slice(receipt),
        ..good()
    };
    let mut flipped = held.receipt.to_vec();
    flipped[9] ^= 1;
    let second = Some(duration(secs(1)));
    #[rustfmt::skip]
    let rows: Vec<(&str, SettleItem, &str)> = vec![
        ("garbage", with(b"garbage"), "items[1].receipt"),
        ("no receipt", with(b""), "items[1].receipt"),
        ("a flipped bit", with(&flipped), "items[1].receipt"),
        ("of another queue", with(&foreign.receipt), "items[1].receipt"),
        ("unknown kind", SettleItem { kind: 99, ..good() }, "items[1].kind"),
        ("no kind", SettleItem { kind: 0, ..good() }, "items[1].kind"),
        ("an ack with a delay", SettleItem { delay: second, ..good() }, "items[1].delay"),
        ("an extension without end", extend.clone(), "items[1].lease_duration"),
        ("an extension of -1 s", SettleItem { lease_duration: negative(), ..extend.clone() }, "items[1].lease_duration"),
        ("an extension of 13 h", SettleItem { lease_duration: thirteen_hours(), ..extend }, "items[1].lease_duration"),
    ];
    let request = |items| {
        soon(SettleRequest {
            queue: "orders".into(),
            items,
            ..Default::default()
        })
    };
    for (what, wrong, field) in rows {
        // The good item before it is not settled either.
        let answer = node.consumer.settle(request(vec![good(), wrong])).await;
        watched.refused(what, answer, invalid(field)).await;
    }
    for (what, count) in [("no item", 0), ("1,001 items", 1_001)] {
        let answer = node.consumer.settle(request(vec![good(); count])).await;
        watched.refused(what, answer, invalid("items")).await;
    }
    watched.done();
    for (queue, receipt) in [("orders", held.receipt), ("others", foreign.receipt)] {
        settle(&node, queue, &[receipt], SettleKind::Ack)
            .await
            .unwrap();
    }
}

/// A bad frame in the middle of a stream ends the stream, which says why.
pub(super) async fn frames_of_a_stream(cluster: &Cluster) {
    let node = cluster.on(3);
    let unknown_kind = SettleRange {
        kind: 99,
        ..range(1, 0, SettleKind::Ack)
    };
    for (what, wrong, reason) in [
        ("unknown kind", unknown_kind, "INVALID_FIELD"),
        (
            "never sent",
            range(5, 0, SettleKind::Ack),
            "UNKNOWN_DELIVERY",
        ),
    ] {
        let mut stream = Consumer::open(&node, consumer::open("orders"))
            .await
            .unwrap();
        stream.settle(vec![wrong]).await.unwrap();
        ended(&mut stream, what, reason).await;
    }
    for credit in [0, 1 << 31] {
        let mut stream = Consumer::open(&node, consumer::open("orders"))
            .await
            .unwrap();
        stream.credit(credit).await.unwrap();
        let refused = ended(&mut stream, "credit", "INVALID_FIELD").await;
        assert_eq!(refused.field, "credit.prefetch");
    }
}

async fn ended(stream: &mut Consumer, what: &str, reason: &str) -> Refused {
    loop {
        match stream.frame().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("{what}: the stream ended with OK"),
            Err(status) => {
                let refused = Refused::from(&status);
                assert!(
                    refused.is(Code::InvalidArgument, reason),
                    "{what}: {refused}"
                );
                return refused;
            }
        }
    }
}
