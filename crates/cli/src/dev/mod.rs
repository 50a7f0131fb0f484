//! `ticketrail dev`: a whole cluster of real node processes on this machine, to try things out and to
//! break them.

mod banner;
mod demo;
mod keys;
mod node;
mod plan;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ticketrail_client::proto::GetClusterResponse;
use ticketrail_client::{Client, ClientOptions};
use tokio::sync::mpsc;

use crate::args::Dev;
use crate::failure::{Failure, Result};
use crate::signals;
use keys::Key;
use node::{Exit, Process};
use plan::Plan;

/// How long the nodes may take to elect a leader after the start.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the cluster is asked who leads.
const WATCH_EVERY: Duration = Duration::from_millis(500);
/// How long one question to the cluster may take.
const WATCH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long nodes may take to stop before they are killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

pub(crate) async fn run(args: Dev) -> Result {
    let plan = Plan::make(&args)?;
    let client = ClientOptions::new()
        .timeout(WATCH_TIMEOUT)
        .connect_lazy(plan.endpoints())?;
    let (exits, exited) = mpsc::channel(16);
    let mut cluster = Cluster {
        plan,
        client,
        exits,
        exited,
        running: BTreeMap::new(),
        leader: 0,
        term: 0,
    };
    let result = cluster.live(args.demo).await;
    cluster.stop().await;
    result
}

struct Cluster {
    plan: Plan,
    client: Client,
    exits: mpsc::Sender<Exit>,
    exited: mpsc::Receiver<Exit>,
    running: BTreeMap<u64, Process>,
    /// The leader that was told last, and its term; 0 where it is down.
    leader: u64,
    term: u64,
}

impl Cluster {
    async fn live(&mut self, demo: bool) -> Result {
        let mut stop = std::pin::pin!(signals::to_stop());
        for id in self.plan.ids() {
            self.start(id)?;
        }
        tokio::select! {
            ready = self.until_ready() => ready?,
            () = &mut stop => return Ok(()),
        }
        let demo = demo.then(|| demo::start(self.plan.endpoints()));
        let mut keys = keys::read();
        let mut watch = tokio::time::interval(WATCH_EVERY);
        loop {
            tokio::select! {
                Some(exit) = self.exited.recv() => self.exited(&exit)?,
                Some(key) = keys.recv() => match key {
                    Key::Quit => break,
                    key => self.press(key).await?,
                },
                _ = watch.tick() => self.watch().await?,
                () = &mut stop => break,
            }
        }
        if let Some(demo) = demo {
            demo.abort();
        }
        say("stopping")?;
        Ok(())
    }

    fn start(&mut self, id: u64) -> Result {
        let process = node::start(&self.plan, id, self.exits.clone())?;
        self.running.insert(id, process);
        Ok(())
    }

    /// Waits until the cluster has a leader that every node knows.
    async fn until_ready(&mut self) -> Result {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Ok(exit) = self.exited.try_recv() {
                self.running.remove(&exit.id);
                return Err(Failure::Local(format!(
                    "node {} {} at its start; the end of {}:\n{}",
                    exit.id,
                    exit.how,
                    self.plan.log_file(exit.id).display(),
                    self.plan.log_tail(exit.id)
                )));
            }
            if let Some(seen) = self.ask_all().await {
                (self.leader, self.term) = (seen.leader_node_id, seen.term);
                let pids = self
                    .running
                    .iter()
                    .map(|(id, process)| (*id, process.pid))
                    .collect();
                return Ok(say(&banner::text(&self.plan, &seen, &pids))?);
            }
            if Instant::now() >= deadline {
                return Err(Failure::Local(format!(
                    "no leader was elected within {} s: see the logs in {}",
                    START_TIMEOUT.as_secs(),
                    self.plan.data_dir().display()
                )));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What the last node says, once each of them knows the same leader.
    async fn ask_all(&self) -> Option<GetClusterResponse> {
        let mut seen: Option<GetClusterResponse> = None;
        for endpoint in self.plan.endpoints() {
            let client = ClientOptions::new()
                .timeout(WATCH_TIMEOUT)
                .connect_lazy([endpoint])
                .ok()?;
            let answer = client.cluster().await.ok()?;
            let agrees = seen
                .as_ref()
                .is_none_or(|one| one.leader_node_id == answer.leader_node_id);
            if answer.leader_node_id == 0 || !agrees {
                return None;
            }
            seen = Some(answer);
        }
        seen
    }

    fn exited(&mut self, exit: &Exit) -> Result {
        self.running.remove(&exit.id);
        let id = exit.id;
        say(&format!(
            "node {id} {}; start it again: r {id} and Enter",
            exit.how
        ))?;
        if self.leader == id {
            self.leader = 0;
        }
        Ok(())
    }

    async fn press(&mut self, key: Key) -> Result {
        match key {
            Key::Restart(id) if !self.plan.has(id) => say(&format!("there is no node {id}"))?,
            Key::Kill(id) if !self.plan.has(id) => say(&format!("there is no node {id}"))?,
            Key::Restart(id) => match self.running.get(&id) {
                Some(process) => say(&format!("node {id} runs, with pid {}", process.pid))?,
                None => {
                    self.start(id)?;
                    say(&format!(
                        "node {id} started, with pid {}",
                        self.running[&id].pid
                    ))?;
                }
            },
            Key::Kill(id) => match self.running.get(&id) {
                Some(process) => process.kill().await,
                None => say(&format!("node {id} does not run"))?,
            },
            Key::Status => self.status().await?,
            Key::Quit => {}
            Key::Unknown(text) => say(&format!("`{text}`? {}", banner::KEYS))?,
        }
        Ok(())
    }

    async fn status(&self) -> Result {
        match self.client.cluster().await {
            Ok(seen) => {
                let pids = self
                    .running
                    .iter()
                    .map(|(id, process)| (*id, process.pid))
                    .collect();
                say(&banner::table(&self.plan, &seen, &pids))?;
            }
            Err(error) => say(&format!("nobody answers: {error}"))?,
        }
        Ok(())
    }

    /// Says when another node leads.
    async fn watch(&mut self) -> Result {
        if self.running.is_empty() {
            return Ok(());
        }
        let Ok(seen) = self.client.cluster().await else {
            return Ok(());
        };
        let leader = seen.leader_node_id;
        // A node that was away may still name the leader of an older term.
        let is_news = leader != 0 && leader != self.leader && seen.term >= self.term;
        if is_news && self.running.contains_key(&leader) {
            (self.leader, self.term) = (leader, seen.term);
            say(&format!("node {leader} leads, in term {}", seen.term))?;
        }
        Ok(())
    }

    async fn stop(&mut self) {
        for process in self.running.values() {
            process.terminate().await;
        }
        let all = async {
            while !self.running.is_empty() {
                let Some(exit) = self.exited.recv().await else {
                    break;
                };
                self.running.remove(&exit.id);
            }
        };
        if tokio::time::timeout(STOP_TIMEOUT, all).await.is_err() {
            for process in self.running.values() {
                process.kill().await;
            }
            while !self.running.is_empty() {
                let Some(exit) = self.exited.recv().await else {
                    break;
                };
                self.running.remove(&exit.id);
            }
        }
    }
}

/// A line of our own. The cluster goes on when nobody reads it.
fn say(text: &str) -> std::io::Result<()> {
    use std::io::Write;
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
