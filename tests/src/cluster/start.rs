//! How a cluster comes to be.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use tempfile::TempDir;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::mesh::Mesh;
use super::program::{self, Program};
use super::{Cluster, Link, Node, NodeId, SmallDisk, ports};

/// Clusters of one test program that run at the same time: this many fit two cores.
const CLUSTERS_MAX: u32 = 2;

/// A place among the clusters that run now.
pub type Turn = OwnedSemaphorePermit;

/// Describes a cluster to start.
#[derive(Clone, Debug)]
pub struct Builder {
    nodes: NodeId,
    program: Program,
    alone: bool,
    links: bool,
    client_links: bool,
    more: String,
    disk_bytes: Option<u64>,
    environment: BTreeMap<(NodeId, String), String>,
}

impl Default for Builder {
    fn default() -> Self {
        let environment = BTreeMap::new();
        Self {
            nodes: 3,
            program: Program::default(),
            alone: false,
            links: false,
            client_links: false,
            more: String::new(),
            disk_bytes: None,
            environment,
        }
    }
}

impl Builder {
    /// How many nodes; 3 where it is not said.
    #[must_use]
    pub fn nodes(mut self, nodes: NodeId) -> Self {
        self.nodes = nodes;
        self
    }

    /// What the nodes run.
    #[must_use]
    pub fn program(mut self, program: Program) -> Self {
        self.program = program;
        self
    }

    /// No other cluster of this test program at the same time: for what is measured in time.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// With a proxy on each link between the nodes, for [`Cluster::link`].
    #[must_use]
    pub fn links(mut self) -> Self {
        self.links = true;
        self
    }

    /// With a proxy before each node's client port, at the address that the node tells its clients, for
    /// [`Cluster::client_link`].
    #[must_use]
    pub fn client_links(mut self) -> Self {
        self.client_links = true;
        self
    }

    /// Each node on a file system of its own of so many bytes, for [`Cluster::disk`].
    #[must_use]
    pub fn small_disks(mut self, bytes: u64) -> Self {
        self.disk_bytes = Some(bytes);
        self
    }

    /// More top-level lines for the configuration file of each node.
    #[must_use]
    pub fn config(mut self, lines: &str) -> Self {
        self.more.push_str(lines);
        self.more.push('\n');
        self
    }

    /// A variable of one node's environment.
    #[must_use]
    pub fn environment(mut self, id: NodeId, name: &str, value: impl ToString) -> Self {
        self.environment
            .insert((id, name.to_owned()), value.to_string());
        self
    }

    /// Starts the nodes and waits until all of them serve.
    pub async fn start(self) -> Cluster {
        let turn = turn(self.alone).await;
        let cluster = self.prepare(turn).await;
        for id in cluster.ids() {
            cluster.spawn(id);
        }
        for id in cluster.ids() {
            cluster.serves(id).await;
        }
        cluster
    }

    /// The nodes with their folders; none is started.
    pub async fn prepared(self) -> Cluster {
        let turn = turn(self.alone).await;
        self.prepare(turn).await
    }

    async fn prepare(self, turn: Turn) -> Cluster {
        let home = program::profile_folder().join("clusters");
        fs::create_dir_all(&home).expect("a folder beside the programs");
        let folder = TempDir::new_in(home).expect("a folder for the cluster");
        let cluster_id = rand::random_range(1..=u128::MAX);
        let node = |id: NodeId| {
            let place = folder.path().join(format!("node-{id}"));
            let disk = self.disk_bytes.map(|bytes| {
                SmallDisk::mount(&place, bytes).expect("a machine on which it is possible")
            });
            let node = Node {
                address: format!("127.0.0.1:{}", ports::free()),
                peer_address: format!("127.0.0.1:{}", ports::free()),
                folder: place,
                disk,
                environment: Mutex::default(),
                process: Mutex::default(),
            };
            (id, node)
        };
        let nodes: BTreeMap<_, _> = (1..=self.nodes).map(node).collect();
        let real = nodes
            .iter()
            .map(|(id, node)| (*id, node.peer_address.clone()))
            .collect();
        let (mesh, peers) = match self.links {
            true => Some(Mesh::new(&real).await).unzip(),
            false => (None, None),
        };
        let mut client_links = BTreeMap::new();
        if self.client_links {
            for (id, node) in &nodes {
                client_links.insert(*id, Link::open(node.address.clone()).await);
            }
        }
        let members = members(&nodes, &peers.unwrap_or(real), &client_links);
        for (id, node) in &nodes {
            write_config(
                &node.folder,
                &config(*id, node, cluster_id, &members, &self.more),
            );
        }
        let program = self.program;
        let cluster = Cluster {
            cluster_id,
            program,
            nodes,
            folder: Some(folder),
            mesh,
            client_links,
            _turn: Some(turn),
        };
        for ((id, name), value) in self.environment {
            cluster.set_environment(id, &name, value);
        }
        cluster
    }
}

/// Waits for a place among the clusters of this test program; with `alone` for all of them.
///
/// # Panics
/// Never: the places are there as long as the program.
pub async fn turn(alone: bool) -> Turn {
    static TURNS: OnceLock<Arc<Semaphore>> = OnceLock::new();
    let turns = TURNS.get_or_init(|| Arc::new(Semaphore::new(CLUSTERS_MAX as usize)));
    let wanted = if alone { CLUSTERS_MAX } else { 1 };
    Arc::clone(turns)
        .acquire_many_owned(wanted)
        .await
        .expect("the turns are never closed")
}

pub(super) fn write_config(folder: &Path, text: &str) {
    fs::create_dir_all(folder).expect("a folder for the node");
    fs::write(folder.join("node.toml"), text).expect("a configuration file");
}

/// The first members, each with the addresses at which the others and clients reach it.
fn members(
    nodes: &BTreeMap<NodeId, Node>,
    peers: &BTreeMap<NodeId, String>,
    client_links: &BTreeMap<NodeId, Link>,
) -> String {
    let member = |(id, node): (&NodeId, &Node)| {
        let client = client_links.get(id).map(Link::address);
        format!(
            "{id}={}@{}",
            peers[id],
            client.unwrap_or(node.address.clone())
        )
    };
    nodes.iter().map(member).collect::<Vec<_>>().join(",")
}

fn config(id: NodeId, node: &Node, cluster_id: u128, members: &str, more: &str) -> String {
    format!(
        "{}cluster_id = \"{cluster_id:032x}\"\nbootstrap = \"{members}\"\n{more}",
        own(id, node)
    )
}

/// What every node's configuration says.
pub(super) fn own(id: NodeId, node: &Node) -> String {
    format!(
        "node_id = {id}\nlisten = \"{}\"\npeer_listen = \"{}\"\ndata_dir = \"{}\"\n",
        node.address,
        node.peer_address,
        node.folder.join("data").display(),
    )
}
