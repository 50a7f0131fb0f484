//! Three nodes of NATS with JetStream.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::{Launch, NodePlan, Plan};

const CLIENTS: u16 = 27_300;
const PEERS: u16 = 27_310;

/// When a write reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    /// Before it is confirmed.
    Always,
    /// Every two minutes.
    Default,
}

pub(super) fn plan(folder: &Path, program: &Path, sync: Sync) -> Result<Plan> {
    let routes: Vec<_> = (1..=3)
        .map(|id| format!("nats://127.0.0.1:{}", PEERS + id))
        .collect();
    let sync = match sync {
        Sync::Always => "sync_interval: always",
        Sync::Default => "",
    };
    let node = |id: u16| {
        let config = folder.join(format!("node-{id}.conf"));
        let text = format!(
            "server_name: node-{id}\nlisten: 127.0.0.1:{}\n\
             jetstream {{ store_dir: \"{}\"\n max_file_store: 20GB\n max_memory_store: 1GB\n {sync} }}\n\
             cluster {{ name: ticketrail-bench\n listen: 127.0.0.1:{}\n routes: [{}] }}\n",
            CLIENTS + id,
            folder.join(format!("node-{id}")).display(),
            PEERS + id,
            routes.join(", ")
        );
        fs::write(&config, text)?;
        let launch = Launch::new(program, folder.join(format!("node-{id}.log")))
            .arguments(["--config", &config.display().to_string()]);
        let endpoint = Some(format!("127.0.0.1:{}", CLIENTS + id));
        Ok(NodePlan { launch, endpoint })
    };
    Ok(Plan {
        helpers: Vec::new(),
        nodes: (1..=3).map(node).collect::<Result<_>>()?,
    })
}
