//! A primary of Debian's Redis, and replicas of it.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::{Launch, NodePlan, Plan};

const CLIENTS: u16 = 27_400;
const PROGRAM: &str = "redis-server";

pub(super) fn plan(folder: &Path, replicas: u16) -> Result<Plan> {
    let node = |id: u16| {
        let own = folder.join(format!("node-{id}"));
        fs::create_dir_all(&own)?;
        let mut launch = Launch::new(PROGRAM, folder.join(format!("node-{id}.log")))
            .arguments(["--bind", "127.0.0.1", "--port", &(CLIENTS + id).to_string()])
            .arguments(["--dir", &own.display().to_string(), "--save", ""])
            .arguments(["--appendonly", "yes", "--appendfsync", "always"]);
        if id > 1 {
            launch = launch.arguments(["--replicaof", &format!("127.0.0.1 {}", CLIENTS + 1)]);
        }
        let endpoint = (id == 1).then(|| format!("127.0.0.1:{}", CLIENTS + id));
        Ok(NodePlan { launch, endpoint })
    };
    Ok(Plan {
        helpers: Vec::new(),
        nodes: (1..=1 + replicas).map(node).collect::<Result<_>>()?,
    })
}
