//! Names that are not there: whatever verb is told one says which may have been meant.

use crate::dev::{Dev, base_port};

/// Verbs that name a queue; `oders` where `orders` was meant.
const OF_A_QUEUE: [&str; 13] = [
    "publish oders x",
    "publish oders x --idempotent till",
    "receive oders",
    "consume oders --count 1",
    "settle oders RECEIPT --ack",
    "queue show oders",
    "queue update oders --lease 1m",
    "queue delete oders",
    "queue purge oders",
    "queue peek oders",
    "queue pause oders",
    "queue resume oders",
    "--output json queue show oders",
];

/// Verbs in a namespace; `shp` where `shop` was meant.
const IN_A_NAMESPACE: [&str; 16] = [
    "publish orders x",
    "publish orders x --idempotent till",
    "receive orders",
    "consume orders --count 1",
    "settle orders RECEIPT --ack",
    "queue list",
    "queue create orders",
    "queue show orders",
    "queue update orders --lease 1m",
    "queue delete orders",
    "queue purge orders",
    "queue peek orders",
    "queue pause orders",
    "queue resume orders",
    "top --once --interval 200ms",
    "bench publish --count 1",
];

/// Verbs that name a node; there is no node 9.
const OF_A_NODE: [&str; 3] = [
    "cluster promote 9",
    "cluster demote 9",
    "cluster transfer 9",
];

#[test]
fn every_verb_tells_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(folder.path(), base_port());
    for name in ["orders", "invoices"] {
        dev.ok(&["queue", "create", name]);
    }
    dev.ok(&["namespace", "create", "shop"]);
    dev.ok(&["publish", "orders", "x"]);
    let received = &dev.json(&["receive", "orders"])[0];
    let receipt = received["receipt"].as_str().unwrap();
    let says = |line: &str, code: i32, hint: &str| {
        let line = line.replace("RECEIPT", receipt);
        let words: Vec<&str> = line.split(' ').collect();
        let (found, text) = dev.refused(&words);
        assert_eq!(found, code, "{line}: {text}");
        assert!(text.contains(hint), "{line}: {text}");
        text
    };
    for line in OF_A_QUEUE {
        let text = says(line, 1, "did you mean `orders`?");
        let removes = line.contains("delete") || line.contains("purge");
        assert_eq!(
            text.contains("queue create oders"),
            !removes,
            "{line}: {text}"
        );
    }
    for line in IN_A_NAMESPACE {
        says(
            &format!("--namespace shp {line}"),
            1,
            "did you mean `shop`?",
        );
    }
    says("namespace delete shp", 1, "did you mean `shop`?");
    for line in OF_A_NODE {
        says(line, 1, "its members are 1, 2, 3");
    }
    // Far from every name: how to create it, and no guess.
    let text = says("receive xyz", 1, "ticketrail queue create xyz");
    assert!(!text.contains("did you mean"), "{text}");
    // Verbs are told by the command line itself.
    for (line, meant) in [("publsh orders x", "publish"), ("queue crate x", "create")] {
        says(line, 2, &format!("'{meant}'"));
    }
}
