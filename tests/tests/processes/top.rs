//! `ticketrail top`: one frame as text, and in a terminal, through the death of the node that it came in by.

mod picture;
mod terminal;

use std::process::Stdio;

use serde_json::Value;
use ticketrail_tests::cluster::producer::{item, publish};
use ticketrail_tests::cluster::{Cluster, Producer, Program, secs};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use self::terminal::Terminal;

async fn once(endpoints: &str, line: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(Program::Product.path());
    command
        .args(["top", "--once", "--interval", "300ms"])
        .args(line.split_whitespace())
        .env("TICKETRAIL_ENDPOINTS", endpoints)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(secs(30), command.output());
    let output = output.await.expect("an end in time").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

async fn three_looks_are_three_objects(endpoints: &str) {
    let mut command = Command::new(Program::Product.path());
    command
        .args(["top", "--output", "json", "--interval", "200ms"])
        .env("TICKETRAIL_ENDPOINTS", endpoints)
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for _ in 0..3 {
        let line = tokio::time::timeout(secs(20), lines.next_line()).await;
        let line = line.expect("an object in time").unwrap().unwrap();
        let object: Value = serde_json::from_str(&line).unwrap();
        assert!(object["queues"].is_array(), "{object}");
    }
    // Nobody reads on: it ends by itself, and quietly.
    drop(lines);
    let status = tokio::time::timeout(secs(20), child.wait()).await;
    assert!(status.expect("an end in time").unwrap().success());
}

/// What a line of the screen says, without its blanks.
fn line<'a>(screen: &'a str, first: &str) -> Vec<&'a str> {
    let mut lines = screen
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines
        .find(|words| words.first() == Some(&first))
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_shows_nodes_and_queues_and_goes_on_when_its_node_dies() {
    let cluster = Cluster::start().await;
    cluster.queue("orders").create().await;
    cluster.queue("mail").create().await;
    let clients: Vec<_> = cluster.ids().into_iter().map(|id| cluster.on(id)).collect();
    let mut producer = Producer::open(&cluster, "").await;
    let batch = producer.batch(vec![item("orders", "one"), item("orders", "two")]);
    publish(&clients, &batch).await;

    // One frame, by way of one node: all the others are found.
    let leader = cluster.leader().await;
    let (code, frame, errors) = once(cluster.address(leader), "").await;
    println!("{frame}");
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert!(frame.contains("3 of 3 nodes up"), "{frame}");
    for id in cluster.ids() {
        let role = if id == leader { "leader" } else { "follower" };
        let words = line(&frame, &id.to_string());
        assert_eq!(words[1..3], [role, cluster.address(id)], "{frame}");
    }
    assert_eq!(line(&frame, "orders")[1..3], ["2", "0"], "{frame}");
    assert!(
        frame.find("orders") < frame.find("mail"),
        "deeper first: {frame}"
    );
    let (_, frame, _) = once(cluster.address(leader), "--filter ai").await;
    assert!(
        frame.contains("mail") && !frame.contains("orders"),
        "{frame}"
    );
    // For programs: one object, or one for each look.
    let (code, object, _) = once(cluster.address(leader), "--output json").await;
    let object: Value = serde_json::from_str(&object).unwrap();
    assert_eq!((code, &object["leader_node_id"]), (Some(0), &leader.into()));
    assert_eq!(object["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(
        (&object["queues"][0]["name"], &object["queues"][0]["ready"]),
        (&"orders".into(), &2.into())
    );
    three_looks_are_three_objects(cluster.address(leader)).await;
    // It draws on nothing but a terminal.
    let mut piped = Command::new(Program::Product.path());
    assert_eq!(
        piped.arg("top").output().await.unwrap().status.code(),
        Some(2)
    );

    // In a terminal: the node that it knows dies, and it goes on with the others.
    let mut terminal = Terminal::start(cluster.address(leader));
    let both = |screen: &str| {
        screen.contains("3 of 3 nodes up") && line(screen, "orders").get(1) == Some(&"2")
    };
    terminal.shows("nodes and queues", both).await;
    cluster.kill(leader);
    let gone = |screen: &str| {
        screen.contains("2 of 3 nodes up")
            && screen.contains(" leads")
            && !screen.contains(" as of ")
    };
    terminal.shows("that a node is gone", gone).await;
    let batch = producer.batch(vec![item("mail", "three"); 5]);
    let others: Vec<_> = cluster
        .running()
        .into_iter()
        .map(|id| cluster.on(id))
        .collect();
    publish(&others, &batch).await;
    terminal
        .shows("what came after", |screen| {
            line(screen, "mail").get(1) == Some(&"5")
        })
        .await;
    terminal.press("/ord\r");
    let filtered =
        |screen: &str| line(screen, "mail").is_empty() && !line(screen, "orders").is_empty();
    terminal.shows("only what fits", filtered).await;
    terminal.press("?");
    terminal
        .shows("the keys", |screen| screen.contains("sort by name"))
        .await;
    assert!(terminal.is_alternate());
    terminal.press("q");
    let status = tokio::time::timeout(secs(10), terminal.child.wait()).await;
    assert!(status.expect("an end in time").unwrap().success());
    terminal
        .shows("the shell again", |_| !terminal.is_alternate())
        .await;

    // With nobody left, it says so.
    cluster.kill_all();
    let (code, frame, errors) = once(cluster.address(leader), "").await;
    assert_eq!(code, Some(3), "{frame} {errors}");
    assert!(
        frame.contains("no node answers") && errors.contains("CONNECT_FAILED"),
        "{frame} {errors}"
    );
}
