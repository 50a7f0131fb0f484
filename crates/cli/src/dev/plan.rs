//! Which nodes there are, where they listen, and where their files are.

use std::fs;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::args::Dev;
use crate::failure::{Failure, Result};

/// How far behind the clients' ports those of the peers are.
const PEER_PORTS: u16 = 100;
/// How far behind the clients' ports those of the metrics are.
const METRICS_PORTS: u16 = 200;
/// How much of a log is shown when a node does not start.
const TAIL_BYTES: u64 = 4 * 1024;
const TAIL_LINES: usize = 12;

#[derive(Debug)]
pub(super) struct Plan {
    nodes: u16,
    base_port: u16,
    data_dir: PathBuf,
    cluster_id: String,
}

impl Plan {
    /// Makes the data directory, or goes on with the cluster that is there; checks that the ports are free.
    pub(super) fn make(args: &Dev) -> Result<Self> {
        let data_dir = args.data_dir.clone();
        fs::create_dir_all(&data_dir).map_err(|error| Failure::local(data_dir.display(), error))?;
        let mut plan = Self {
            nodes: args.nodes,
            base_port: args.base_port,
            data_dir,
            cluster_id: String::new(),
        };
        plan.cluster_id = plan.remembered_id()?;
        for id in plan.ids() {
            plan.check_port(plan.client_port(id))?;
            plan.check_port(plan.peer_port(id))?;
            plan.check_port(plan.metrics_port(id))?;
        }
        Ok(plan)
    }

    pub(super) fn ids(&self) -> std::ops::RangeInclusive<u64> {
        1..=u64::from(self.nodes)
    }

    pub(super) fn has(&self, id: u64) -> bool {
        self.ids().contains(&id)
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(super) fn node_dir(&self, id: u64) -> PathBuf {
        self.data_dir.join(format!("node-{id}"))
    }

    pub(super) fn log_file(&self, id: u64) -> PathBuf {
        self.data_dir.join(format!("node-{id}.log"))
    }

    pub(super) fn client_address(&self, id: u64) -> String {
        format!("127.0.0.1:{}", self.client_port(id))
    }

    pub(super) fn peer_address(&self, id: u64) -> String {
        format!("127.0.0.1:{}", self.peer_port(id))
    }

    pub(super) fn metrics_address(&self, id: u64) -> String {
        format!("127.0.0.1:{}", self.metrics_port(id))
    }

    pub(super) fn endpoints(&self) -> Vec<String> {
        self.ids()
            .map(|id| format!("http://{}", self.client_address(id)))
            .collect()
    }

    /// The endpoints as people write them.
    pub(super) fn endpoints_short(&self) -> String {
        let ports: Vec<_> = self
            .ids()
            .map(|id| self.client_port(id).to_string())
            .collect();
        format!("http://127.0.0.1:{}", ports.join(","))
    }

    /// Verbs find the cluster without being told where it is.
    pub(super) fn is_default(&self) -> bool {
        self.nodes == 3 && self.base_port == 7400
    }

    pub(super) fn bootstrap(&self) -> String {
        let member = |id| format!("{id}={}@{}", self.peer_address(id), self.client_address(id));
        self.ids().map(member).collect::<Vec<_>>().join(",")
    }

    pub(super) fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// The last lines of a node's log.
    pub(super) fn log_tail(&self, id: u64) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = fs::File::open(self.log_file(id))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_else(|error| error.to_string());
        let lines: Vec<_> = text.lines().map(|line| format!("  {line}")).collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn metrics_port(&self, id: u64) -> u16 {
        self.client_port(id) + METRICS_PORTS
    }

    fn client_port(&self, id: u64) -> u16 {
        // At most nine nodes: see the arguments.
        self.base_port + u16::try_from(id - 1).unwrap_or(0)
    }

    fn peer_port(&self, id: u64) -> u16 {
        self.client_port(id) + PEER_PORTS
    }

    fn check_port(&self, port: u16) -> Result {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::AddrInUse => Err(Failure::Local(format!(
                "port {port} is taken: does `ticketrail dev` run already? choose others with --base-port \
                 (and another --data-dir)"
            ))),
            Err(error) => Err(Failure::local(format!("port {port}"), error)),
        }
    }

    /// The identity of the cluster in the data directory; a new random one where there is none, so that two
    /// clusters never take each other's nodes for their own, even on the same ports.
    fn remembered_id(&self) -> Result<String> {
        let path = self.data_dir.join("dev.json");
        let local = |error: &dyn std::fmt::Display| Failure::local(path.display(), error);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let value: Value = serde_json::from_str(&text).map_err(|error| local(&error))?;
                self.check_same(&value)?;
                let id = value["cluster_id"].as_str();
                id.map(str::to_owned)
                    .ok_or_else(|| local(&"it has no `cluster_id`"))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let id = format!("{:032x}", rand::random_range(1..=u128::MAX));
                let value =
                    json!({ "cluster_id": id, "nodes": self.nodes, "base_port": self.base_port });
                fs::write(&path, format!("{value}\n")).map_err(|error| local(&error))?;
                Ok(id)
            }
            Err(error) => Err(local(&error)),
        }
    }

    fn check_same(&self, value: &Value) -> Result {
        let (nodes, base_port) = (&value["nodes"], &value["base_port"]);
        if *nodes == self.nodes && *base_port == self.base_port {
            return Ok(());
        }
        Err(Failure::Usage(format!(
            "{} holds a cluster of --nodes {nodes} --base-port {base_port}: say the same, or choose another \
             --data-dir",
            self.data_dir.display()
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(data_dir: &Path, nodes: u16, base_port: u16) -> Dev {
        Dev {
            nodes,
            base_port,
            data_dir: data_dir.to_owned(),
            demo: false,
        }
    }

    /// A port that is free, with room for the others behind it.
    fn free_port() -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.local_addr().unwrap().port().clamp(10_000, 60_000)
    }

    #[test]
    fn a_second_start_goes_on_with_the_same_cluster_and_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let first = Plan::make(&args(folder.path(), 3, port)).unwrap();
        let second = Plan::make(&args(folder.path(), 3, port)).unwrap();
        assert_eq!(first.cluster_id(), second.cluster_id());
        assert_eq!(first.cluster_id().len(), 32);
        let other = Plan::make(&args(folder.path(), 5, port)).unwrap_err();
        assert!(other.lines()[0].contains("--nodes 3"), "{other:?}");
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        if port > 65_400 {
            return;
        }
        let failure = Plan::make(&args(folder.path(), 1, port)).unwrap_err();
        assert!(failure.lines()[0].contains(&format!("port {port} is taken")));
    }

    #[test]
    fn nodes_have_their_own_ports_and_one_list_of_members() {
        let plan = Plan {
            nodes: 2,
            base_port: 7400,
            data_dir: PathBuf::from("d"),
            cluster_id: String::new(),
        };
        let expected = "1=127.0.0.1:7500@127.0.0.1:7400,2=127.0.0.1:7501@127.0.0.1:7401";
        assert_eq!(plan.bootstrap(), expected);
        assert_eq!(plan.endpoints_short(), "http://127.0.0.1:7400,7401");
    }
}
