//! `ticketrail bench` counts what the broker counts, through a leader's death too, and cleans up after itself.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use ticketrail_proto::v1::ListQueuesRequest;
use ticketrail_tests::cluster::checks::conserved;
use ticketrail_tests::cluster::{Cluster, Program, Refused, secs, until, within};
use tokio::process::{Child, Command};

/// Far above what any of these runs takes, with a lease that must end because its consumer was lost.
const PATIENCE: Duration = secs(120);

fn bench(cluster: &Cluster, line: &str) -> Command {
    let endpoints: Vec<_> = cluster
        .ids()
        .into_iter()
        .map(|id| cluster.address(id))
        .collect();
    let mut command = Command::new(Program::Product.path());
    command
        .args(["--output", "json", "bench"])
        .args(line.split_whitespace())
        .env("TICKETRAIL_ENDPOINTS", endpoints.join(","))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Waits for the end: its exit code, what it says in JSON, and what went wrong.
async fn ended(child: Child) -> (Option<i32>, Value, String) {
    let begun = Instant::now();
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output());
    let output = output.await.expect("an end in time").unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    println!(
        "{} after {:?}: {json} {errors}",
        output.status,
        begun.elapsed()
    );
    (output.status.code(), json, errors)
}

async fn done(cluster: &Cluster, line: &str) -> Value {
    let (code, json, errors) = ended(bench(cluster, line).spawn().unwrap()).await;
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{line}");
    json
}

async fn queues(cluster: &Cluster) -> Vec<String> {
    let listed = until("the queues", secs(20), async || {
        let mut clients = cluster.on(cluster.leader().await);
        let request = within(secs(5), ListQueuesRequest::default());
        let listed = clients.topology.list_queues(request).await;
        listed.map_err(|status| Refused::from(&status).to_string())
    });
    let listed = listed.await.into_inner().queues;
    listed.into_iter().map(|queue| queue.name).collect()
}

fn number(json: &Value, pointer: &str) -> u64 {
    json.pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("{pointer} in {json}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_figures_are_the_brokers() {
    let cluster = Cluster::start().await;
    let folder = tempfile::tempdir().unwrap();
    let saved = |name: &str| folder.path().join(name).display().to_string();

    // For a time: whatever went through is what the broker counted.
    let pids: Vec<_> = cluster
        .ids()
        .into_iter()
        .map(|id| cluster.pid(id).to_string())
        .collect();
    let line = format!(
        "e2e --duration 1s --warmup 100ms -s 200 -p 3 -c 3 --keep --pids {} --save {}",
        pids.join(","),
        saved("a.json")
    );
    let run = done(&cluster, &line).await;
    let counts = cluster.stats("bench.1").await;
    conserved("bench.1", &counts);
    for pointer in [
        "/totals/published",
        "/totals/acknowledged",
        "/broker/published",
    ] {
        assert_eq!(number(&run, pointer), counts.published, "{pointer}");
    }
    assert_eq!(
        (counts.acknowledged, counts.ready + counts.in_flight),
        (counts.published, 0)
    );
    let measured = number(&run, "/measured/messages");
    assert!(measured > 0 && measured <= counts.published, "{measured}");
    let seconds = run["measured"]["seconds"].as_f64().unwrap();
    let rate = run["measured"]["messages_per_second"].as_f64().unwrap();
    assert!(seconds >= 1.0, "{seconds}");
    assert!(
        (rate * seconds / measured as f64 - 1.0).abs() < 0.01,
        "{rate} in {seconds}"
    );
    for latency in ["confirm_ms", "deliver_ms", "acknowledge_ms"] {
        let of = |name: &str| run["measured"][latency][name].as_f64().unwrap();
        assert!(of("samples") > 0.0 && of("p50") > 0.0, "{latency}");
        assert!(of("p50") <= of("p99") && of("p99") <= of("p999") && of("p999") <= of("max"));
    }
    assert!(
        run["measured"]["server_cpu_us_per_message"]
            .as_f64()
            .unwrap()
            > 0.0
    );

    // A queue that is there is not touched, unless it is said, and kept then.
    let (code, _, errors) = ended(bench(&cluster, "e2e -n 100").spawn().unwrap()).await;
    assert_eq!(code, Some(1));
    assert!(errors.contains("queue `bench.1` exists"), "{errors}");
    assert_eq!(cluster.stats("bench.1").await.published, counts.published);
    let line = format!(
        "e2e -n 1000 -s 200 -p 3 -c 3 --reuse --save {}",
        saved("b.json")
    );
    let again = done(&cluster, &line).await;
    assert_eq!(number(&again, "/broker/published"), 1_000);
    assert_eq!(
        cluster.stats("bench.1").await.published,
        counts.published + 1_000
    );
    // Nor what holds messages, even then.
    done(&cluster, "publish -n 10 -p 1 --reuse").await;
    let (code, _, errors) = ended(bench(&cluster, "e2e -n 10 --reuse").spawn().unwrap()).await;
    assert_eq!(code, Some(1));
    assert!(errors.contains("queue `bench.1` is in use"), "{errors}");
    assert_eq!(cluster.stats("bench.1").await.ready, 10);
    assert_eq!(queues(&cluster).await, ["bench.1"]);

    // So many messages: exactly those, in each mode, and no queue is left.
    for (mode, acknowledged) in [("publish", 0), ("drain", 777), ("fanout", 777)] {
        let run = done(
            &cluster,
            &format!("{mode} -n 777 -p 2 -c 2 --queue-prefix other"),
        )
        .await;
        let told = [
            "/measured/messages",
            "/totals/published",
            "/broker/published",
        ];
        assert!(
            told.iter().all(|pointer| number(&run, pointer) == 777),
            "{run}"
        );
        for pointer in ["/totals/acknowledged", "/broker/acknowledged"] {
            assert_eq!(number(&run, pointer), acknowledged, "{mode} {pointer}");
        }
    }
    assert_eq!(queues(&cluster).await, ["bench.1"]);

    let line = format!("compare {} {}", saved("a.json"), saved("b.json"));
    let compared = done(&cluster, &line).await;
    let first = &compared["figures"][0];
    assert_eq!(first["figure"], "measured.messages_per_second");
    assert_eq!(first["a"], run["measured"]["messages_per_second"]);
    assert_eq!(first["b"], again["measured"]["messages_per_second"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_outlives_the_leader_and_ctrl_c_leaves_no_queue() {
    let cluster = Cluster::start().await;
    let running = async |line: &str, acknowledged: u64| {
        let child = bench(&cluster, line).spawn().unwrap();
        until("acknowledgements", secs(30), async || {
            match cluster.stats("bench.1").await.acknowledged {
                few if few < acknowledged => Err(few),
                _ => Ok(()),
            }
        })
        .await;
        child
    };

    // Ctrl-C: what was measured so far is told, the queue goes.
    // So many that some of the answers to them must have come: 300 at most are under way.
    let child = running("e2e -d 10m --warmup 0s -p 3 -c 3 --prefetch 100", 1_000).await;
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    // SAFETY: signals a child of ours that was not waited for.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    let (code, run, _) = ended(child).await;
    assert_eq!((code, &run["interrupted"]), (Some(0), &Value::Bool(true)));
    assert!(number(&run, "/measured/messages") > 0);
    assert_eq!(
        number(&run, "/totals/published"),
        number(&run, "/broker/published")
    );
    assert_eq!(queues(&cluster).await, [""; 0]);

    // A node that dies costs time, and no message.
    let child = running("e2e -d 4s --warmup 0s -p 3 -c 3 --rate 300 --keep", 1).await;
    cluster.kill_leader().await;
    let (code, run, errors) = ended(child).await;
    assert_eq!(code, Some(0), "{errors}");
    let counts = cluster.stats("bench.1").await;
    assert_eq!(number(&run, "/totals/published"), counts.published);
    assert_eq!(number(&run, "/totals/acknowledged"), counts.published);
    assert_eq!(counts.acknowledged, counts.published);
    assert!(number(&run, "/totals/retried") > 0, "{run}");
}
