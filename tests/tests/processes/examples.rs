//! The programs of `examples/`, in Python and in Go, made of generated stubs alone, and those of the Rust client: what
//! they say is confirmed is worked on and acknowledged, exactly that, though the leader dies in the middle.

use std::collections::BTreeSet;
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use ticketrail_tests::cluster::checks::{agreed, conserved};
use ticketrail_tests::cluster::producer::{batch, item};
use ticketrail_tests::cluster::program::{self, profile_folder};
use ticketrail_tests::cluster::{Cluster, secs, until, within};
use tokio::process::{Child, Command as AsyncCommand};

use crate::{python, skipped};

/// So many that the leader dies in the middle, whatever the machine.
const MESSAGES: usize = 3_000;
/// The same where many are under way at a time.
const MESSAGES_PIPELINED: usize = 15_000;

/// What the twelve lines of the README connect to.
const README_NODES: &str = "127.0.0.1:7400,127.0.0.1:7401,127.0.0.1:7402";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_examples_survive_a_leader_kill() {
    let Some(python) = prepared("the examples in python", python::prepare).await else {
        return;
    };
    let cluster = Cluster::start().await;
    let program = |name: &str| {
        let mut command = AsyncCommand::new(&python);
        command.arg(root().join(format!("examples/python/{name}.py")));
        command.env("PYTHONPATH", python::generated());
        command
    };
    survive(&cluster, &WORK, &program).await;
    survive(&cluster, &CONSUME, &program).await;
    the_readme_works(&cluster, &python).await;
    agreed(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_go_examples_survive_a_leader_kill() {
    let built = profile_folder().join("go");
    let build = move || {
        run(Command::new(root().join("examples/go/build")).arg(&built))?;
        Ok(built.join("bin"))
    };
    let Some(programs) = prepared("the examples in go", build).await else {
        return;
    };
    let cluster = Cluster::start().await;
    let program = |name: &str| {
        let mut command = AsyncCommand::new(programs.join(name));
        // On by itself in releases after Debian's.
        command.env("GRPC_GO_RETRY", "on");
        command
    };
    survive(&cluster, &WORK, &program).await;
    survive(&cluster, &CONSUME, &program).await;
    agreed(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rust_examples_survive_a_leader_kill() {
    let build = || {
        let built = ["publish", "work", "receive", "dead_letters"].map(program::example);
        Ok(built[0].with_file_name(""))
    };
    let Some(programs) = prepared("the examples in rust", build).await else {
        return;
    };
    let cluster = Cluster::start().await;
    let program = |name: &str| AsyncCommand::new(programs.join(name));
    survive(&cluster, &RUST_RECEIVE, &program).await;
    let mut worker = survive(&cluster, &RUST_WORK, &program).await;
    worker.interrupt().await;
    worker.succeeded().await;
    let acknowledged = worker.said("acknowledged ");
    let summary = acknowledged.first().expect("a summary at the end");
    let (count, failed) = summary.split_once(", ").unwrap();
    assert_eq!(failed, "given back 0, rejected 0, lost 0; not begun 0");
    assert_eq!(count, MESSAGES_PIPELINED.to_string());
    dead_letters_are_put_back(&cluster, &program).await;
    agreed(&cluster).await;
}

/// What is no text is rejected by one example, and put back by another.
async fn dead_letters_are_put_back(cluster: &Cluster, program: &impl Fn(&str) -> AsyncCommand) {
    cluster.queue("letters.dead").create().await;
    let letters = cluster.queue("letters").dead_letters_to("letters.dead");
    letters.create().await;
    let leader = cluster.leader().await;
    let bodies: [&[u8]; 3] = [b"text", b"no\xfftext", b"none\xff"];
    let items = bodies.map(|body| item("letters", body));
    let batch = within(secs(10), batch(items.into()));
    cluster.on(leader).publisher.publish(batch).await.unwrap();

    let nodes = addresses(cluster, leader);
    let start = |name: &str, queue: &str| {
        let mut command = program(name);
        command.arg(queue).env("TICKETRAIL_NODES", &nodes);
        Example::start(command, false)
    };
    let mut worker = start("work", "letters");
    until("dead letters", secs(20), async || {
        let (stats, dead) = (
            cluster.stats("letters").await,
            cluster.stats("letters.dead").await,
        );
        let done = stats.acknowledged == 1 && dead.ready == 2;
        done.then_some(()).ok_or((stats, dead, worker.errors()))
    })
    .await;
    worker.interrupt().await;
    worker.succeeded().await;
    assert!(
        worker.errors().contains("invalid utf-8 sequence"),
        "{}",
        worker.errors()
    );

    let mut program = start("dead_letters", "letters.dead");
    program.succeeded().await;
    let said = program.said("");
    let died = "no\u{fffd}text: Rejected in letters, 1 times";
    assert!(said.contains(died), "{said:?}");
    assert_eq!(said.len(), 4, "{said:?}");
    let (stats, dead) = (
        cluster.stats("letters").await,
        cluster.stats("letters.dead").await,
    );
    assert_eq!((stats.ready, dead.ready, dead.acknowledged), (2, 0, 2));
}

/// What a program that takes is called, and what is known of it.
struct Takes {
    program: &'static str,
    /// It says of each message that it is acknowledged.
    tells: bool,
    /// It is started again, once, where an answer was cut off.
    may_start_again: bool,
    messages: usize,
}

const WORK: Takes = Takes {
    program: "work",
    tells: true,
    may_start_again: true,
    messages: MESSAGES,
};
const CONSUME: Takes = Takes {
    program: "consume",
    tells: false,
    ..WORK
};
const RUST_RECEIVE: Takes = Takes {
    program: "receive",
    may_start_again: false,
    messages: MESSAGES_PIPELINED,
    ..WORK
};
const RUST_WORK: Takes = Takes {
    program: "work",
    tells: false,
    ..RUST_RECEIVE
};

/// Publishes with one program and takes with another, while the node that both talk to, the leader, dies. The one that
/// takes goes on.
async fn survive(
    cluster: &Cluster,
    takes: &Takes,
    program: &impl Fn(&str) -> AsyncCommand,
) -> Example {
    let (messages, tells) = (takes.messages, takes.tells);
    let queue = format!("numbers-{}", takes.program);
    cluster.queue(&queue).create().await;
    let victim = cluster.leader().await;
    let nodes = addresses(cluster, victim);
    let start = |name: &str, arguments: &[&str]| {
        let mut command = program(name);
        command.args(arguments).env("TICKETRAIL_NODES", &nodes);
        Example::start(command, takes.may_start_again)
    };
    // Both are connected before the load begins.
    let mut consumer = start(takes.program, &[&queue]);
    let mut publisher = start("publish", &[&queue, "10"]);
    publisher.succeeded().await;
    let mut confirmed = publisher.said("confirmed ");
    until("the first messages", secs(40), async || {
        let worked_on = consumer.said("worked on ");
        let all = worked_on == confirmed;
        all.then_some(()).ok_or((worked_on, consumer.errors()))
    })
    .await;

    // It goes on where the first run ended.
    let mut publisher = start("publish", &[&queue, &messages.to_string()]);
    until("a quarter of the messages", secs(40), async || {
        let said = publisher.said("confirmed ").len();
        let enough = said >= messages / 4;
        enough.then_some(()).ok_or((said, publisher.errors()))
    })
    .await;
    cluster.kill(victim);
    assert!(!publisher.has_ended(), "it was killed in the middle");
    assert!(publisher.said("confirmed ").len() < messages);
    cluster.restart(victim).await;

    until("the end of the publisher", secs(60), async || {
        let confirmed = publisher.said("confirmed ").len();
        publisher.has_ended().then_some(()).ok_or(confirmed)
    })
    .await;
    publisher.succeeded().await;
    confirmed.extend(publisher.said("confirmed "));
    let all: BTreeSet<_> = (1..=messages).map(|n| format!("message {n}")).collect();
    // What was cut off is stored and not said to be.
    assert!(confirmed == all || publisher.started_again && confirmed.is_subset(&all));

    // The lease of an answer that was lost may have to end first.
    until("all to be acknowledged", secs(60), async || {
        let stats = cluster.stats(&queue).await;
        assert!(!consumer.has_ended(), "{}", consumer.errors());
        let told = !tells || consumer.started_again || consumer.said("acknowledged ") == all;
        match stats.acknowledged == messages as u64 && told {
            true => Ok(()),
            false => Err((stats, consumer.errors())),
        }
    })
    .await;
    assert!(!consumer.has_ended(), "{}", consumer.errors());
    assert_eq!(consumer.said("worked on "), all);
    if takes.program == "consume" {
        // Its loop was needed.
        assert!(consumer.errors().contains("once more"));
    }
    let stats = cluster.stats(&queue).await;
    assert_eq!((stats.published, stats.ready), (messages as u64, 0));
    conserved(&queue, &stats);
    consumer
}

/// The first lines of Python in the README, as they stand but for where the nodes are.
async fn the_readme_works(cluster: &Cluster, python: &Path) {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (_, code) = readme.split_once("```python\n").unwrap();
    let (code, _) = code.split_once("```").unwrap();
    assert_eq!(code.lines().count(), 12, "{code}");
    assert!(code.contains(README_NODES), "{code}");
    let nodes = addresses(cluster, cluster.leader().await);
    cluster.queue("orders").create().await;
    let mut program = AsyncCommand::new(python);
    program
        .args(["-c", &code.replace(README_NODES, &nodes)])
        .env("PYTHONPATH", python::generated())
        .current_dir(root().join("examples/python"));
    let mut program = Example::start(program, true);
    program.succeeded().await;
    assert_eq!(program.said(""), ["two coffees".to_owned()].into());
    let stats = cluster.stats("orders").await;
    assert_eq!((stats.published, stats.acknowledged), (1, 1));
}

/// The addresses of all nodes, one of them first: that is where a channel connects.
fn addresses(cluster: &Cluster, first: u64) -> String {
    let mut ids = cluster.ids();
    ids.sort_by_key(|id| *id != first);
    let addresses: Vec<_> = ids.iter().map(|id| cluster.address(*id)).collect();
    addresses.join(",")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A program that runs, and what it said so far; killed when dropped.
struct Example {
    command: AsyncCommand,
    child: Child,
    may_start_again: bool,
    started_again: bool,
    folder: TempDir,
}

impl Example {
    fn start(mut command: AsyncCommand, may_start_again: bool) -> Self {
        let folder = TempDir::new().unwrap();
        let file = |name: &str| File::create(folder.path().join(name)).unwrap();
        command
            .stdout(file("out"))
            .stderr(file("err"))
            .kill_on_drop(true);
        if command.as_std().get_current_dir().is_none() {
            command.current_dir(root());
        }
        Self {
            child: command.spawn().unwrap(),
            command,
            may_start_again,
            started_again: false,
            folder,
        }
    }

    /// What follows this word in its finished lines.
    fn said(&self, word: &str) -> BTreeSet<String> {
        let out = fs::read_to_string(self.folder.path().join("out")).unwrap();
        let finished = out
            .split_inclusive('\n')
            .filter_map(|line| line.strip_suffix('\n'));
        let about = finished.filter_map(|line| line.strip_prefix(word));
        about.map(str::to_owned).collect()
    }

    fn errors(&self) -> String {
        fs::read_to_string(self.folder.path().join("err")).unwrap()
    }

    /// Whether it ended for good. gRPC repeats no call of which the headers of an answer came, and a node can
    /// die between these and the answer: a program that ends so is started again, once.
    fn has_ended(&mut self) -> bool {
        let Some(status) = self.child.try_wait().unwrap() else {
            return false;
        };
        let errors = self.errors().to_lowercase();
        let cut_off = self.may_start_again && errors.contains("unavailable");
        if status.success() || self.started_again || !cut_off {
            return true;
        }
        println!("started again, an answer was cut off: {errors}");
        self.started_again = true;
        self.child = self.command.spawn().unwrap();
        false
    }

    /// Ctrl-C.
    async fn interrupt(&self) {
        let pid = self.child.id().expect("a program that runs").to_string();
        let sent = AsyncCommand::new("kill").args(["-INT", &pid]).status();
        assert!(sent.await.unwrap().success());
    }

    async fn succeeded(&mut self) {
        let status = tokio::time::timeout(secs(30), self.child.wait()).await;
        let status = status.expect("the program ends").unwrap();
        assert!(status.success(), "{status}: {}", self.errors());
    }
}

/// Makes what a program in another language needs. None where this machine cannot, which is a failure
/// where the gate runs.
pub(crate) async fn prepared<T: Send + 'static>(
    what: &str,
    prepare: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Option<T> {
    match tokio::task::spawn_blocking(prepare).await.unwrap() {
        Ok(made) => Some(made),
        Err(why) => {
            skipped(what, &why);
            None
        }
    }
}

/// Runs a command to its end; what it said on an error.
pub(crate) fn run(command: &mut Command) -> Result<Output, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!(
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    ))
}
