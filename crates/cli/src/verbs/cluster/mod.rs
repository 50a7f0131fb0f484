//! `ticketrail cluster`: look at the nodes, change who belongs to them.

mod members;
pub(super) mod status;

use super::Context;
use crate::args::Cluster;
use crate::failure::Result;

pub(super) use status::by_role;

pub(super) async fn run(context: &Context, verb: Cluster) -> Result {
    match verb {
        Cluster::Status { watch: false } => status::show(context).await,
        Cluster::Status { watch: true } => status::watch(context).await,
        Cluster::Add {
            node,
            peer,
            client,
            wait,
        } => members::add(context, node, &client, &peer, wait).await,
        Cluster::Promote { node, wait } => members::promote(context, node, wait).await,
        Cluster::Demote { node } => members::demote(context, node).await,
        Cluster::Remove { node } => members::remove(context, node).await,
        Cluster::Transfer { node } => members::transfer(context, node).await,
    }
}
