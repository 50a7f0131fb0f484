//! A cluster of real processes on this machine: real files, real sockets, real kills.
//!
//! [`Cluster::start`] gives three nodes that answer. A test then kills, stops and restarts them by
//! their number (1, 2, 3), talks to each through raw generated [`Clients`] or through the small
//! [`Producer`] and [`Consumer`], and checks in the end with [`checks`] and the [`CommittedLog`]. When
//! a test fails, the end of each node's log is printed. Everything goes with the [`Cluster`].
//!
//! Environment: `TICKETRAIL_BIN` tests another program, `TICKETRAIL_KEEP_DATA=1` keeps the folders.
//!
//! Start reading at [`Cluster`]; then [`program`] (what is started) and [`committed`] (what counts).

mod clients;
mod mesh;
mod process;
mod proxy;
mod small_disk;
mod spec;
mod start;
mod wait;

pub mod checks;
pub mod committed;
pub mod consumer;
pub mod members;
pub mod ports;
pub mod producer;
pub mod program;
pub mod traffic;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::time::Duration;

pub use clients::{Clients, Refused, invites_retry, within};
pub use committed::CommittedLog;
pub use consumer::Consumer;
pub use producer::Producer;
pub use program::Program;
pub use proxy::{Behaviour, Link};
pub use small_disk::SmallDisk;
pub use spec::QueueSpec;
pub use start::{Builder, Turn, turn};
pub use traffic::Traffic;
pub use wait::{duration, from_proto, millis, secs, until};

use mesh::Mesh;
use process::Process;
use tempfile::TempDir;
use ticketrail_proto::v1::{GetClusterRequest, GetClusterResponse, ListNamespacesRequest};

/// How long a cluster may take until it serves: far above what it takes, for busy machines.
pub const READY_WITHIN: Duration = secs(30);

/// Bytes of each node's log that a failing test prints.
const LOG_BYTES_SHOWN: usize = 6_000;

/// A node's number, from 1.
pub type NodeId = u64;

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    cluster_id: u128,
    program: Program,
    nodes: BTreeMap<NodeId, Node>,
    folder: Option<TempDir>,
    mesh: Option<Mesh>,
    client_links: BTreeMap<NodeId, Link>,
    _turn: Option<start::Turn>,
}

#[derive(Debug)]
struct Node {
    address: String,
    peer_address: String,
    folder: PathBuf,
    environment: Mutex<BTreeMap<String, String>>,
    disk: Option<SmallDisk>,
    process: Mutex<Option<Process>>,
}

impl Cluster {
    /// Three nodes that serve.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// To start another kind of cluster.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Identity of the cluster.
    #[must_use]
    pub fn cluster_id(&self) -> u128 {
        self.cluster_id
    }

    /// The numbers of all nodes.
    #[must_use]
    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// Where a node serves clients.
    #[must_use]
    pub fn address(&self, id: NodeId) -> &str {
        &self.node(id).address
    }

    /// Where a node serves its peers.
    #[must_use]
    pub fn peer_address(&self, id: NodeId) -> &str {
        &self.node(id).peer_address
    }

    /// The folder of a node's data.
    #[must_use]
    pub fn data_dir(&self, id: NodeId) -> PathBuf {
        self.node(id).folder.join("data")
    }

    /// New clients of a node, on a connection of their own.
    #[must_use]
    pub fn on(&self, id: NodeId) -> Clients {
        Clients::of(self.address(id))
    }

    /// Describes a queue to create.
    pub fn queue(&self, name: &str) -> QueueSpec<'_> {
        QueueSpec::new(self, name)
    }

    /// The file system of a node of a cluster that was built with small disks.
    #[must_use]
    pub fn disk(&self, id: NodeId) -> &SmallDisk {
        let disk = &self.node(id).disk;
        disk.as_ref().expect("a cluster built with small disks")
    }

    fn node(&self, id: NodeId) -> &Node {
        self.nodes.get(&id).expect("a test names nodes that exist")
    }

    // --- processes ---------------------------------------------------------------------------

    /// Starts a node's process; does not wait until it serves.
    pub fn spawn(&self, id: NodeId) {
        let node = self.node(id);
        let mut command = Command::new(self.program.path());
        command
            .args(self.program.arguments())
            .arg("--config")
            .arg(node.folder.join("node.toml"));
        command.env("TICKETRAIL_FAULTS", node.faults());
        command.envs(node.environment.lock().expect("not poisoned").iter());
        let process = Process::start(command, &node.log()).expect("the program starts");
        if let Some(mesh) = &self.mesh {
            mesh.runs(id, process.pid());
        }
        *node.process.lock().expect("not poisoned") = Some(process);
    }

    /// Starts a node again and waits until it serves.
    pub async fn restart(&self, id: NodeId) {
        self.spawn(id);
        self.serves(id).await;
    }

    /// kill -9.
    pub fn kill(&self, id: NodeId) {
        let process = self.node(id).process.lock().expect("not poisoned").take();
        process
            .expect("a running node is killed")
            .kill()
            .expect("a child can be killed");
    }

    /// kill -9 of all nodes that run.
    pub fn kill_all(&self) {
        let running = self.running();
        running.into_iter().for_each(|id| self.kill(id));
    }

    /// Kills the leader and says who it was.
    pub async fn kill_leader(&self) -> NodeId {
        let leader = self.leader().await;
        self.kill(leader);
        leader
    }

    /// SIGSTOP: the process keeps its sockets and does nothing.
    pub fn pause(&self, id: NodeId) {
        self.signal(id, "STOP");
    }

    /// SIGCONT.
    pub fn resume(&self, id: NodeId) {
        self.signal(id, "CONT");
    }

    fn signal(&self, id: NodeId, name: &str) {
        let process = self.node(id).process.lock().expect("not poisoned");
        process
            .as_ref()
            .expect("a running node")
            .signal(name)
            .expect("a child can be signalled");
    }

    /// SIGTERM: asks a node to stop; see [`Cluster::ended`].
    pub fn terminate(&self, id: NodeId) {
        self.signal(id, "TERM");
    }

    /// SIGTERM to all nodes at once, and waits until they ended.
    pub async fn stop(&self) {
        let running = self.running();
        running.iter().for_each(|id| self.signal(*id, "TERM"));
        for id in running {
            self.ended(id, secs(20)).await;
            self.node(id).process.lock().expect("not poisoned").take();
        }
    }

    /// Waits for the end of a node's process.
    pub async fn ended(&self, id: NodeId, within: Duration) -> ExitStatus {
        until(&format!("the end of node {id}"), within, async || {
            let mut process = self.node(id).process.lock().expect("not poisoned");
            let process = process.as_mut().expect("a node that was started");
            process
                .ended()
                .expect("a child can be asked")
                .ok_or("it runs")
        })
        .await
    }

    /// How a node's process ended, if it did by itself.
    #[must_use]
    pub fn has_ended(&self, id: NodeId) -> Option<ExitStatus> {
        let mut process = self.node(id).process.lock().expect("not poisoned");
        process.as_mut()?.ended().expect("a child can be asked")
    }

    /// The nodes whose process was started and not killed.
    #[must_use]
    pub fn running(&self) -> Vec<NodeId> {
        let runs = |node: &Node| node.process.lock().expect("not poisoned").is_some();
        self.nodes
            .iter()
            .filter(|(_, node)| runs(node))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Sets a variable of a node's environment, from its next start on.
    pub fn set_environment(&self, id: NodeId, name: &str, value: impl ToString) {
        let mut environment = self.node(id).environment.lock().expect("not poisoned");
        environment.insert(name.to_owned(), value.to_string());
    }

    /// Turns a fault of a [`Program::Faulty`] node on, at once; `value` is what its file says.
    pub fn set_fault(&self, id: NodeId, fault: &str, value: impl ToString) {
        let folder = self.node(id).faults();
        // Renamed into place, so that the node never reads half of it.
        let unfinished = folder.join("unfinished");
        fs::create_dir_all(&folder).expect("a folder for faults");
        fs::write(&unfinished, value.to_string()).expect("a fault can be written");
        fs::rename(unfinished, folder.join(fault)).expect("a fault can be turned on");
    }

    /// Turns a fault off.
    pub fn clear_fault(&self, id: NodeId, fault: &str) {
        fs::remove_file(self.node(id).faults().join(fault)).expect("a fault that is on");
    }

    /// The number of a node's process.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self, id: NodeId) -> u32 {
        let process = self.node(id).process.lock().expect("not poisoned");
        process.as_ref().expect("a running node").pid()
    }

    /// Resident memory of a node's process in bytes.
    #[must_use]
    pub fn resident_bytes(&self, id: NodeId) -> u64 {
        self.measured(id, Process::resident_bytes)
    }

    /// The most resident memory that a node's process ever had, in bytes.
    #[must_use]
    pub fn resident_bytes_peak(&self, id: NodeId) -> u64 {
        self.measured(id, Process::resident_bytes_peak)
    }

    /// CPU time of a node's process since it started, user and system.
    #[must_use]
    pub fn cpu_time(&self, id: NodeId) -> Duration {
        self.measured(id, Process::cpu_time)
    }

    /// CPU time of all nodes, and of this process, which makes the load on the same machine.
    ///
    /// # Panics
    /// When `/proc` cannot be read.
    #[must_use]
    pub fn cpu_times(&self) -> [Duration; 2] {
        let nodes = self.ids().into_iter().map(|id| self.cpu_time(id));
        let own = process::own_cpu_time().expect("/proc can be read");
        [nodes.sum(), own]
    }

    fn measured<T>(&self, id: NodeId, what: impl Fn(&Process) -> std::io::Result<T>) -> T {
        let process = self.node(id).process.lock().expect("not poisoned");
        what(process.as_ref().expect("a running node")).expect("/proc can be read")
    }

    /// What a node wrote to its output so far.
    #[must_use]
    pub fn log_text(&self, id: NodeId) -> String {
        let bytes = fs::read(self.node(id).log()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    // --- links between the nodes, of a cluster that was built with them ------------------------

    /// Changes how what one node says to another gets through, and the answers to it.
    pub fn link(&self, from: NodeId, to: NodeId, behaviour: Behaviour) {
        let mesh = self.mesh.as_ref().expect("a cluster built with links");
        mesh.behave(from, to, behaviour);
    }

    /// Sets all links from and to a node.
    pub fn links_of(&self, id: NodeId, behaviour: Behaviour) {
        for other in self.ids().into_iter().filter(|other| *other != id) {
            self.link(id, other, behaviour);
            self.link(other, id, behaviour);
        }
    }

    /// The proxy before a node's client port, of a cluster with [`Builder::client_links`].
    ///
    /// # Panics
    /// Without them.
    #[must_use]
    pub fn client_link(&self, id: NodeId) -> &Link {
        &self.client_links[&id]
    }

    // --- what the nodes say ------------------------------------------------------------------

    /// The cluster as a node sees it now.
    pub async fn view(&self, id: NodeId) -> Result<GetClusterResponse, Refused> {
        let mut clients = self.on(id);
        let answer = clients
            .cluster
            .get_cluster(within(secs(2), GetClusterRequest {}))
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| Refused::from(&status))
    }

    /// The node that says of itself that it leads, as soon as one does.
    pub async fn leader(&self) -> NodeId {
        until("a leader", READY_WITHIN, async || {
            let mut seen = Vec::new();
            for id in self.running() {
                match self.view(id).await {
                    Ok(view) if view.leader_node_id == id => return Ok(id),
                    other => seen.push((id, other.map(|view| (view.leader_node_id, view.term)))),
                }
            }
            Err(seen)
        })
        .await
    }

    /// A node that runs and does not lead.
    pub async fn follower(&self) -> NodeId {
        let leader = self.leader().await;
        let mut others = self.running().into_iter().filter(|id| *id != leader);
        others.next().expect("a cluster with followers")
    }

    /// Waits until a node answers a linearizable read.
    pub async fn serves(&self, id: NodeId) {
        let mut clients = self.on(id);
        until(&format!("node {id} to serve"), READY_WITHIN, async || {
            let request = within(secs(2), ListNamespacesRequest::default());
            let answer = clients.topology.list_namespaces(request).await;
            answer
                .map(drop)
                .map_err(|status| Refused::from(&status).to_string())
        })
        .await;
    }
}

impl Node {
    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn faults(&self) -> PathBuf {
        self.folder.join("faults")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        for (id, node) in &self.nodes {
            if let Ok(mut process) = node.process.lock() {
                process.take();
            }
            if failed {
                print_end(*id, &node.log());
            }
        }
        let keeps = std::env::var_os("TICKETRAIL_KEEP_DATA").is_some();
        // Otherwise it goes after the nodes, whose disks are mounted in it.
        if keeps && let Some(folder) = self.folder.take() {
            eprintln!("data kept in {}", folder.keep().display());
        }
    }
}

fn print_end(id: NodeId, log: &Path) {
    let bytes = fs::read(log).unwrap_or_default();
    let end = &bytes[bytes.len().saturating_sub(LOG_BYTES_SHOWN)..];
    eprintln!(
        "--- end of the log of node {id} ---\n{}",
        String::from_utf8_lossy(end)
    );
}
