//! Links between the nodes: one proxy before each node's peer port, and for each pair of nodes a
//! behaviour of its own. Who connects is found by the process that owns the other end.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::NodeId;
use super::proxy::{Behaviour, serve};

/// Looks for the process behind a connection so often: it may not be noted yet.
const LOOKS: u32 = 20;
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The process of each node, as the cluster starts them.
pub(super) type Processes = Arc<Mutex<BTreeMap<NodeId, u32>>>;

type Ways = Arc<BTreeMap<(NodeId, NodeId), watch::Sender<Behaviour>>>;

/// All links between the nodes of a cluster.
#[derive(Debug)]
pub(super) struct Mesh {
    ways: Ways,
    processes: Processes,
    _tasks: JoinSet<()>,
}

impl Mesh {
    /// Links to these nodes' real peer addresses; gives the address to be used for each instead.
    pub(super) async fn new(real: &BTreeMap<NodeId, String>) -> (Self, BTreeMap<NodeId, String>) {
        let pairs = real
            .keys()
            .flat_map(|from| real.keys().map(|to| (*from, *to)));
        let ways: Ways = Arc::new(pairs.map(|pair| (pair, watch::Sender::default())).collect());
        let processes = Processes::default();
        let (mut tasks, mut addresses) = (JoinSet::new(), BTreeMap::new());
        for (id, target) in real {
            let listener = TcpListener::bind("127.0.0.1:0")
                .await
                .expect("a port for a link");
            let address = listener
                .local_addr()
                .expect("a bound listener has an address");
            addresses.insert(*id, address.to_string());
            let (ways, processes) = (Arc::clone(&ways), Arc::clone(&processes));
            tasks.spawn(accept(*id, listener, target.clone(), ways, processes));
        }
        (
            Self {
                ways,
                processes,
                _tasks: tasks,
            },
            addresses,
        )
    }

    /// Notes the process of a node.
    pub(super) fn runs(&self, id: NodeId, pid: u32) {
        self.processes.lock().expect("not poisoned").insert(id, pid);
    }

    /// Changes how what one node says to another gets through, and the answers to it.
    pub(super) fn behave(&self, from: NodeId, to: NodeId, behaviour: Behaviour) {
        let way = self
            .ways
            .get(&(from, to))
            .expect("a test names nodes that exist");
        way.send_replace(behaviour);
    }
}

async fn accept(
    to: NodeId,
    listener: TcpListener,
    target: String,
    ways: Ways,
    processes: Processes,
) {
    while let Ok((stream, client)) = listener.accept().await {
        let (ways, processes, target) = (Arc::clone(&ways), Arc::clone(&processes), target.clone());
        tokio::spawn(
            async move { connection(stream, client, to, target, &ways, &processes).await },
        );
    }
}

async fn connection(
    stream: TcpStream,
    client: SocketAddr,
    to: NodeId,
    target: String,
    ways: &Ways,
    processes: &Processes,
) {
    for _ in 0..LOOKS {
        let known = processes.lock().expect("not poisoned").clone();
        if let Some(from) = owner(client.port(), &known) {
            let way = ways.get(&(from, to)).expect("all pairs are known");
            return serve(stream, target, way.subscribe()).await;
        }
        sleep(LOOK_EVERY).await;
    }
}

/// The node whose process has a connection from this local port.
fn owner(port: u16, processes: &BTreeMap<NodeId, u32>) -> Option<NodeId> {
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let local = format!(":{port:04X}");
    let inode = table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_it = columns
            .get(1)
            .is_some_and(|address| address.ends_with(&local));
        is_it
            .then(|| columns.get(9).map(|inode| format!("socket:[{inode}]")))
            .flatten()
    })?;
    let owns = |pid: u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        let mut links = files
            .filter_map(Result::ok)
            .filter_map(|file| fs::read_link(file.path()).ok());
        links.any(|link| link.as_os_str() == inode.as_str())
    };
    processes
        .iter()
        .find(|(_, pid)| owns(**pid))
        .map(|(id, _)| *id)
}
