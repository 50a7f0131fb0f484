//! The least that a replicated broker over gRPC does, to tell what of Ticketrail's figures is Ticketrail's
//! and what is the machine's, the kernel's and gRPC's.
//!
//! Three processes: node 1 serves `PublishStream` and `Consume`. It confirms a message, and delivers it to the
//! consumer whose turn it is, once its own file and that of one follower have it, fsynced; acknowledgements
//! are stored with the next messages. There is no election, no state, no checksum, no queue, no memory of what
//! was stored: files are written round and round. One batch is on its way at a time, with all that waits in it.

mod consumer;
mod follower;
mod leader;
mod publisher;
mod replicator;
mod store;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};

/// What a node of it is started with.
#[derive(clap::Args)]
pub(crate) struct Node {
    /// Where it listens: for clients where it has followers, and for the leader where it has none.
    #[arg(long)]
    listen: SocketAddr,
    /// The followers, where it leads.
    #[arg(long, value_delimiter = ',')]
    followers: Vec<SocketAddr>,
    /// Its file.
    #[arg(long)]
    file: PathBuf,
}

/// Runs until it is killed.
pub(crate) async fn serve(node: Node) -> Result<()> {
    let store =
        store::Store::create(&node.file).with_context(|| node.file.display().to_string())?;
    match node.followers.is_empty() {
        true => tokio::task::spawn_blocking(move || follower::serve(node.listen, store)).await?,
        false => leader::serve(node.listen, &node.followers, store).await,
    }
}
