//! Start and stop of a node.

mod enter;
mod join;
mod known_members;
mod measure;
mod members;
mod routes;
mod running;
mod standing;

use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use thiserror::Error;
use ticketrail_broker::WallClockSource;
use ticketrail_storage::{Disk, OsDisk, StorageError};
use tokio::net::TcpListener;

use self::running::Running;
use crate::config::ServerConfig;

/// Why a node did not start, or stopped by itself.
#[derive(Debug, Error)]
pub enum RunError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The data folder is empty and nothing says which cluster to make.
    #[error(
        "`{folder}` is empty: give `bootstrap` with the first members for the very first start of a cluster, `join` with \
         endpoints of members to come into one, or `cluster_id` to wait until this node is added"
    )]
    NotBootstrapped {
        /// Which.
        folder: String,
    },
    /// The data folder is another cluster's.
    #[error("`{folder}` belongs to cluster {found:032x}, `cluster_id` says {given:032x}")]
    OtherCluster {
        /// Which.
        folder: String,
        /// Whose it is.
        found: u128,
        /// What the configuration says.
        given: u128,
    },
    /// The cluster that is to be joined is another one.
    #[error("the members to join are of cluster {found:032x}, `cluster_id` says {given:032x}")]
    JoinsOther {
        /// Which they are of.
        found: u128,
        /// What the configuration says.
        given: u128,
    },
    /// What is on the disk cannot be used.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The node cannot go on from what is on the disk.
    #[error("{0}")]
    Start(String),
    /// The node had to stop: nothing that was not confirmed before was confirmed after.
    #[error("the node stopped: {0}")]
    Failed(String),
}

/// The sockets of a node, bound before anything else, so that a taken port is told at once.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub clients: TcpListener,
    /// For other nodes.
    pub peers: TcpListener,
}

impl Listeners {
    /// Binds the addresses of a configuration.
    ///
    /// # Errors
    /// [`RunError::Listen`].
    pub async fn bind(config: &ServerConfig) -> Result<Self, RunError> {
        Ok(Self {
            clients: bind(&config.listen).await?,
            peers: bind(&config.peer_listen).await?,
        })
    }
}

async fn bind(address: &str) -> Result<TcpListener, RunError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| RunError::Listen {
        address: address.to_owned(),
        source,
    })
}

/// Runs a node until `shutdown` resolves, then stops it: leadership is handed over, streams are sent
/// to other nodes, calls are answered; all within `stop.timeout_ms` and a moment.
///
/// # Errors
/// When the node cannot start, or must stop by itself; see [`RunError`].
pub async fn run(config: ServerConfig, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
    let listeners = Listeners::bind(&config).await?;
    run_on(config, listeners, shutdown).await
}

/// As [`run`], on sockets that are bound already.
///
/// # Errors
/// As [`run`].
pub async fn run_on(
    config: ServerConfig,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    run_with(config, listeners, Machine::default(), shutdown).await
}

/// Opens the disk of a folder.
pub type DiskOf = Arc<dyn Fn(&Path) -> io::Result<Arc<dyn Disk>> + Send + Sync>;

/// The machine under a node: the seam at which tests put a disk that fails, a clock that is wrong
/// and a state that goes wrong.
#[derive(Clone)]
pub struct Machine {
    /// Opens the disks of log and snapshots.
    pub disk_of: DiskOf,
    /// Reads the wall clock: UTC, milliseconds since 1970.
    pub wall_clock: WallClockSource,
    /// This entry of the log is applied otherwise than on other nodes: memory that flips a bit.
    pub planted_divergence: Option<u64>,
}

impl Default for Machine {
    /// The real one.
    fn default() -> Self {
        Self {
            disk_of: Arc::new(|folder| Ok(Arc::new(OsDisk::new(folder)?))),
            wall_clock: Arc::new(wall_ms),
            planted_divergence: None,
        }
    }
}

/// As [`run_on`], on a machine that is not the real one.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: ServerConfig,
    listeners: Listeners,
    machine: Machine,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let mut shutdown = pin!(shutdown);
    let running = tokio::select! {
        running = Running::start(config, listeners, machine) => running?,
        () = &mut shutdown => return Ok(()),
    };
    tokio::select! {
        () = shutdown => running.stop().await,
        reason = running.failed() => running.abort(reason).await,
    }
}

fn wall_ms() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
