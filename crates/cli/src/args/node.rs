//! Running nodes: `dev` and `serve`.

use std::path::PathBuf;

use clap::Args;

/// Run a whole cluster on this machine, to try things out.
///
/// Each node is a process of its own. Type `k 2` and Enter to kill node 2 (with SIGKILL), `r 2` to start it
/// again, `q` to stop everything. A second start on the same data directory goes on where the first stopped.
#[derive(Debug, Clone, Args)]
pub(crate) struct Dev {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: u16,
    /// Node i serves clients on this port + i - 1, and other nodes on this port + 100 + i - 1, metrics on
    /// this port + 200 + i - 1
    #[arg(long, default_value_t = 7400, value_parser = clap::value_parser!(u16).range(1024..=65_300))]
    pub(crate) base_port: u16,
    /// Where the nodes keep their data and their logs
    #[arg(long, value_name = "DIR", default_value = "./ticketrail-dev")]
    pub(crate) data_dir: PathBuf,
    /// Create the queues `orders`, `tasks` and `orders.dead`, with gentle traffic
    #[arg(long)]
    pub(crate) demo: bool,
}

/// Run one node of a cluster.
///
/// Every setting may also stand in the file of --config, under the name of its flag with underscores, or in
/// the environment; a flag wins over the environment, and the environment over the file.
#[derive(Debug, Clone, Args)]
pub(crate) struct Serve {
    /// The number of this node: from 1, never used again once its data is gone
    #[arg(long, env = "TICKETRAIL_NODE_ID", value_name = "N")]
    pub(crate) node_id: Option<u64>,
    /// Where to serve clients
    #[arg(long, env = "TICKETRAIL_LISTEN", value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Where to serve other nodes; keep it away from clients
    #[arg(long, env = "TICKETRAIL_PEER_LISTEN", value_name = "ADDR")]
    pub(crate) peer_listen: Option<String>,
    /// Where to keep the log and the state
    #[arg(long, env = "TICKETRAIL_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The first members, the same list on each of them: 1=peer-host:port@client-host:port,2=... Only
    /// the very first start uses it
    #[arg(long, env = "TICKETRAIL_BOOTSTRAP", value_name = "LIST")]
    pub(crate) bootstrap: Option<String>,
    /// Come into a cluster through these members, host:port,..., as clients reach them: for a node with an
    /// empty disk and a number that was never used. It becomes a voter when it has caught up
    #[arg(
        long,
        env = "TICKETRAIL_JOIN",
        value_name = "LIST",
        conflicts_with = "bootstrap"
    )]
    pub(crate) join: Option<String>,
    /// With --join: follow, and never vote
    #[arg(long, env = "TICKETRAIL_LEARNER", requires = "join")]
    pub(crate) learner: bool,
    /// Where clients reach this node [default: as in --bootstrap, else --listen]
    #[arg(long, env = "TICKETRAIL_ADVERTISE", value_name = "ADDR")]
    pub(crate) advertise: Option<String>,
    /// Where other nodes reach this node [default: as in --bootstrap, else --peer-listen]
    #[arg(long, env = "TICKETRAIL_PEER_ADVERTISE", value_name = "ADDR")]
    pub(crate) peer_advertise: Option<String>,
    /// The identity of the cluster, 32 hexadecimal digits, the same on all nodes; only the very first start
    /// uses it [default: made from --bootstrap, or asked for by --join]. Alone, with an empty disk: wait
    /// until this node is added
    #[arg(long, env = "TICKETRAIL_CLUSTER_ID", value_name = "HEX")]
    pub(crate) cluster_id: Option<String>,
    /// Whether clients may ask the server for its protos [default: true]
    #[arg(long, env = "TICKETRAIL_REFLECTION", value_name = "BOOL")]
    pub(crate) reflection: Option<bool>,
    /// A TOML file with the same settings, and [limits], [metrics], [log]
    #[arg(long, env = "TICKETRAIL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where to serve metrics and health over plain HTTP [default: nowhere]
    #[arg(long, env = "TICKETRAIL_METRICS_LISTEN", value_name = "ADDR")]
    pub(crate) metrics_listen: Option<String>,
    /// How log lines look [default: text]
    #[arg(long, env = "TICKETRAIL_LOG_FORMAT", value_name = "FORMAT", value_parser = ["text", "json"])]
    pub(crate) log_format: Option<String>,
    /// Which log lines to write: a level, or directives such as `info,ticketrail_raft=debug` [default:
    /// info,openraft=warn]
    #[arg(
        long = "log-level",
        alias = "log",
        env = "TICKETRAIL_LOG",
        value_name = "FILTER"
    )]
    pub(crate) log: Option<String>,
}
