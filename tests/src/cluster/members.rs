//! Nodes that come and go while a cluster runs, and the program's own words for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;

use super::{Cluster, Node, NodeId, Program, ports, secs, start, until};

/// How a node with an empty disk comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// `--join` through the nodes that run now.
    Join,
    /// The same, as a learner.
    JoinAsLearner,
    /// It waits to be added.
    Wait,
}

impl Cluster {
    /// One more node with a folder of its own; it is not started.
    ///
    /// # Panics
    /// When there is one of this number.
    pub fn prepare_node(&mut self, id: NodeId, entrance: Entrance) {
        let root = self.folder.as_ref().expect("a cluster that lives").path();
        let node = Node {
            address: format!("127.0.0.1:{}", ports::free()),
            peer_address: format!("127.0.0.1:{}", ports::free()),
            folder: root.join(format!("node-{id}")),
            disk: None,
            environment: Mutex::default(),
            process: Mutex::default(),
        };
        let join = format!("join = \"{}\"\n", self.endpoints());
        let how = match entrance {
            Entrance::Join => join,
            Entrance::JoinAsLearner => format!("{join}learner = true\n"),
            Entrance::Wait => format!("cluster_id = \"{:032x}\"\n", self.cluster_id),
        };
        start::write_config(&node.folder, &format!("{}{how}", start::own(id, &node)));
        let before = self.nodes.insert(id, node);
        assert!(before.is_none(), "node {id} is there already");
    }

    /// Takes a node out of the test's sight; kills it if it runs.
    pub fn forget(&mut self, id: NodeId) {
        self.nodes.remove(&id);
    }

    /// Empties the disk of a node that does not run.
    ///
    /// # Panics
    /// When there is nothing to empty.
    pub fn wipe(&self, id: NodeId) {
        fs::remove_dir_all(self.data_dir(id)).expect("a node that has run has a folder");
    }

    /// Makes the cluster, none of whose nodes runs, another one out of a backup: node 1 is restored and
    /// started, the others come in with empty disks.
    ///
    /// # Panics
    /// When a node runs, or it fails.
    pub async fn restore(&mut self, backup: &Path) {
        assert_eq!(self.running(), [], "nodes that run");
        for id in self.ids() {
            self.wipe(id);
            let node = self.node(id);
            start::write_config(&node.folder, &start::own(id, node));
        }
        let config = self.node(1).folder.join("node.toml");
        let paths = [backup, &config].map(|path| path.display().to_string());
        let restore = ["restore", "--from", &paths[0], "--config", &paths[1]];
        let output = run(restore.map(str::to_owned).into()).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "restore: {error}");
        let said = String::from_utf8_lossy(&output.stdout);
        let id = said
            .split("the new cluster ")
            .nth(1)
            .and_then(|rest| rest.get(..32));
        let id = id.unwrap_or_else(|| panic!("no cluster in: {said}"));
        self.cluster_id = u128::from_str_radix(id, 16).expect("an id in hexadecimal digits");
        self.restart(1).await;
        let join = format!("join = \"{}\"\n", self.endpoints());
        for id in self.ids().into_iter().filter(|id| *id != 1) {
            let node = self.node(id);
            let text = format!("{}{join}", start::own(id, node));
            start::write_config(&node.folder, &text);
            self.spawn(id);
        }
        self.voters_are(&self.ids()).await;
        for id in self.ids() {
            self.serves(id).await;
        }
    }

    /// The nodes that run, as `--endpoints` takes them.
    #[must_use]
    pub fn endpoints(&self) -> String {
        let running = self.running();
        let addresses: Vec<_> = running.iter().map(|id| self.address(*id)).collect();
        addresses.join(",")
    }

    /// Runs a verb of the program against the nodes that run.
    ///
    /// # Panics
    /// When it does not end as it should.
    pub async fn ticketrail(&self, arguments: &[&str]) -> Output {
        let endpoints = ["--endpoints".to_owned(), self.endpoints()];
        let arguments = arguments.iter().map(|text| (*text).to_owned());
        run(endpoints.into_iter().chain(arguments).collect()).await
    }

    /// As [`Cluster::ticketrail`], for what must succeed; what it said.
    ///
    /// # Panics
    /// When it fails.
    pub async fn ok(&self, arguments: &[&str]) -> String {
        let output = self.ticketrail(arguments).await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        format!("{}{error}", String::from_utf8_lossy(&output.stdout))
    }

    /// As [`Cluster::ticketrail`], for what the cluster must refuse; the words of the refusal.
    ///
    /// # Panics
    /// When it is done, or fails otherwise.
    pub async fn refused(&self, arguments: &[&str]) -> String {
        let output = self.ticketrail(arguments).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {error}");
        error
    }

    /// The members as the leader sees them, and whether each votes.
    pub async fn members(&self) -> BTreeMap<NodeId, bool> {
        until("the members", secs(30), async || {
            let leader = self.leader().await;
            let view = self.view(leader).await.map_err(|why| why.to_string())?;
            let nodes = view.nodes.iter();
            Ok::<_, String>(nodes.map(|node| (node.node_id, node.voter)).collect())
        })
        .await
    }

    /// Waits until these nodes vote and no others do.
    pub async fn voters_are(&self, voters: &[NodeId]) {
        until(&format!("voters {voters:?}"), secs(60), async || {
            let members = self.members().await;
            let voting: Vec<_> = members.iter().filter(|(_, votes)| **votes).collect();
            let voting: Vec<_> = voting.into_iter().map(|(id, _)| *id).collect();
            if voting == voters {
                Ok(())
            } else {
                Err(members)
            }
        })
        .await;
    }
}

async fn run(arguments: Vec<String>) -> Output {
    let mut command = Command::new(Program::Product.path());
    command.args(arguments);
    let run = tokio::task::spawn_blocking(move || command.output());
    run.await.expect("no panic").expect("the program runs")
}
