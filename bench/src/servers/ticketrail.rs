//! Three nodes of Ticketrail, as `ticketrail serve` starts them.

use std::path::Path;

use anyhow::Result;

use super::{Launch, NodePlan, Plan};

const CLIENTS: u16 = 27_100;
const PEERS: u16 = 27_110;

pub(super) fn plan(folder: &Path, program: &Path) -> Result<Plan> {
    let members: Vec<_> = (1..=3)
        .map(|id| format!("{id}=127.0.0.1:{}@127.0.0.1:{}", PEERS + id, CLIENTS + id))
        .collect();
    let nodes = (1..=3).map(|id| {
        let data = folder.join(format!("node-{id}"));
        let launch = Launch::new(program, folder.join(format!("node-{id}.log")))
            .arguments(["serve", "--node-id", &id.to_string()])
            .arguments(["--listen", &format!("127.0.0.1:{}", CLIENTS + id)])
            .arguments(["--peer-listen", &format!("127.0.0.1:{}", PEERS + id)])
            .arguments(["--bootstrap", &members.join(",")])
            .arguments(["--data-dir", &data.display().to_string()]);
        NodePlan {
            launch,
            endpoint: Some(format!("http://127.0.0.1:{}", CLIENTS + id)),
        }
    });
    Ok(Plan {
        helpers: Vec::new(),
        nodes: nodes.collect(),
    })
}
