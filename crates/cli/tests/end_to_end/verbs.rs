//! A new user's first minutes: start a cluster, use every verb, kill the leader, stop, and start again with
//! everything still there.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::dev::{Dev, base_port};

#[test]
fn the_first_minutes_of_a_new_user() {
    let folder = tempfile::tempdir().unwrap();
    let port = base_port();
    let mut dev = Dev::start(folder.path(), port);
    leases_and_dead_letters(&dev);
    real_input_is_stored_once(&dev, folder.path());
    mistakes_are_explained(&dev);
    a_killed_leader_is_told_and_comes_back(&mut dev);
    before_and_after_a_stop(dev, folder.path(), port);
}

fn leases_and_dead_letters(dev: &Dev) {
    dev.ok(&["queue", "create", "orders.dead"]);
    dev.ok(&[
        "queue",
        "create",
        "orders",
        "--dead-letter",
        "orders.dead",
        "--lease",
        "1m",
    ]);
    let stored = dev.json(&["publish", "orders", "one coffee", "-H", "table=7"]);
    let received = &dev.json(&["receive", "orders", "--wait", "5s"])[0];
    assert_eq!(received["message_id"], stored[0]["message_id"]);
    assert_eq!(
        (&received["body"], &received["headers"]["table"]),
        (&"one coffee".into(), &"7".into())
    );

    let receipt = received["receipt"].as_str().unwrap();
    assert_eq!(
        dev.json(&["settle", "orders", receipt, "--extend", "2m"])[0]["outcome"],
        "ok"
    );
    assert_eq!(
        dev.json(&["settle", "orders", receipt, "--nack"])[0]["outcome"],
        "ok"
    );
    let (code, _) = dev.refused(&["settle", "orders", receipt, "--ack"]);
    assert_eq!(code, 1, "that lease was over");

    // The second delivery goes to a command, which finds it hopeless.
    let seen = dev.ok(&[
        "consume",
        "orders",
        "-n",
        "1",
        "--exec",
        "cat; echo; env; exit 65",
    ]);
    assert!(seen.starts_with("one coffee\n"), "{seen}");
    assert!(
        seen.contains("TICKETRAIL_DELIVERY_COUNT=2") && seen.contains("TICKETRAIL_HEADER_TABLE=7")
    );
    let dead = &dev.json(&["queue", "peek", "orders.dead"])[0];
    assert_eq!(dead["deaths"][0]["reason"], "rejected");
    assert!(
        dev.ok(&["queue", "peek", "orders.dead"])
            .contains("rejected in orders")
    );
    assert_eq!(
        dev.ok(&["consume", "orders.dead", "-n", "1", "--ack", "--raw"]),
        "one coffee\n"
    );
}

fn real_input_is_stored_once(dev: &Dev, folder: &Path) {
    let input = folder.join("input");
    let text: String = (1..=2_000)
        .map(|n| format!("Package: p{n}\nSize: {n}\n\n"))
        .collect();
    std::fs::write(&input, text).unwrap();
    let input = input.to_str().unwrap();
    let publish = [
        "publish",
        "orders",
        "--file",
        input,
        "--stanzas",
        "--idempotent",
        "import",
    ];
    assert_eq!(dev.json(&publish)[0]["stored"], 2_000);
    let again = &dev.json(&publish)[0];
    assert_eq!(
        (&again["stored"], &again["stored_before"]),
        (&0.into(), &2_000.into())
    );
    let (code, text) = dev.refused(&[
        "publish",
        "orders",
        "--file",
        input,
        "--lines",
        "--idempotent",
        "import",
    ]);
    assert!(
        code == 1 && text.contains("SEQUENCE_REUSED") && text.contains("one input"),
        "{text}"
    );

    let bodies = dev.ok(&["consume", "orders", "--ack", "--raw", "-n", "1000"]);
    assert!(
        bodies.starts_with("Package: p1\nSize: 1\nPackage: p2\n"),
        "{bodies:.100}"
    );
    let stats = &dev.json(&["queue", "show", "orders"])[0]["stats"];
    assert_eq!(
        (&stats["ready"], &stats["acknowledged"]),
        (&1_000.into(), &1_000.into())
    );
    assert_eq!(
        (&stats["in_flight"], &stats["redelivered"]),
        (&0.into(), &1.into())
    );
}

fn mistakes_are_explained(dev: &Dev) {
    let (code, text) = dev.refused(&["publish", "oders", "x"]);
    assert!(
        code == 1 && text.contains("did you mean `orders`?"),
        "{text}"
    );
    let (code, text) = dev.refused(&["queue", "create", "orders", "--lease", "3m"]);
    assert!(code == 1 && text.contains("ALREADY_EXISTS"), "{text}");
    let (code, text) = dev.refused(&["--namespace", "shop", "queue", "list"]);
    assert!(
        code == 1 && text.contains("ticketrail namespace create shop"),
        "{text}"
    );
    let (code, _) = dev.refused(&["queue", "update", "orders"]);
    assert_eq!(code, 2);
    let (code, text) = dev.refused(&[
        "--endpoints",
        "127.0.0.1:1",
        "--timeout",
        "1s",
        "queue",
        "list",
    ]);
    assert!(code == 3 && text.contains("ticketrail dev"), "{text}");
}

fn a_killed_leader_is_told_and_comes_back(dev: &mut Dev) {
    let leader = dev.json(&["cluster", "status"])[0]["leader_node_id"].clone();
    assert_eq!(dev.ok(&["health"]).matches(" is ready\n").count(), 3);
    dev.press(&format!("k {leader}"));
    dev.line(&format!("node {leader} was killed by signal 9"));
    // Nothing is refused meanwhile: the client waits for the next leader.
    let stored = dev.json(&[
        "publish",
        "orders",
        "during an election",
        "--idempotent",
        "e",
    ]);
    assert_eq!(stored[0]["stored"], 1);
    let (code, text) = dev.refused(&["health", "--live"]);
    assert!(
        code == 3 && text.contains("error: not alive: http"),
        "{text}"
    );
    let down = |node: &&Value| node["up"] == false;
    let status = dev.json(&["cluster", "status"]);
    // Who answers tells what it takes of its disk.
    for node in status[0]["nodes"].as_array().unwrap() {
        let log_bytes = node["disk"]["log_bytes"].as_u64();
        assert_eq!(
            log_bytes.is_some_and(|bytes| bytes > 0),
            node["up"] == true,
            "{node}"
        );
    }
    assert_eq!(
        status[0]["nodes"]
            .as_array()
            .unwrap()
            .iter()
            .filter(down)
            .count(),
        1
    );
    dev.press(&format!("r {leader}"));
    dev.line(&format!("node {leader} started"));
    dev.press("x");
    dev.line("`x`?");
}

fn before_and_after_a_stop(mut dev: Dev, folder: &Path, port: u16) {
    let pids = dev.pids();
    assert_eq!(pids.len(), 3);
    // The end of its input ends nothing; a signal does, and takes the nodes along.
    drop(dev.stdin.take());
    dev.ok(&["cluster", "status"]);
    let own = dev.process.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &own])
            .status()
            .unwrap()
            .success()
    );
    assert!(dev.process.wait().unwrap().success());
    assert!(
        pids.iter()
            .all(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    );

    let again = Dev::start(folder, port);
    let stats = &again.json(&["queue", "show", "orders"])[0]["stats"];
    assert_eq!(
        (&stats["published"], &stats["ready"]),
        (&2_002.into(), &1_001.into())
    );
}
