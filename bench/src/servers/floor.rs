//! The three processes of [`crate::floor`], which are this very program.

use std::env;
use std::path::Path;

use anyhow::Result;

use super::{Launch, NodePlan, Plan};

const PORTS: u16 = 27_500;

pub(super) fn plan(folder: &Path) -> Result<Plan> {
    let program = env::current_exe()?;
    let address = |id: u16| format!("127.0.0.1:{}", PORTS + id);
    let node = |id: u16| {
        let launch = Launch::new(&program, folder.join(format!("node-{id}.log")))
            .arguments(["floor-node", "--listen", &address(id), "--file"])
            .arguments([folder.join(format!("node-{id}.data")).display()]);
        match id {
            1 => NodePlan {
                launch: launch.arguments(["--followers", &[address(2), address(3)].join(",")]),
                endpoint: Some(format!("http://{}", address(id))),
            },
            _ => NodePlan {
                launch,
                endpoint: None,
            },
        }
    };
    Ok(Plan {
        helpers: Vec::new(),
        nodes: (1..=3).map(node).collect(),
    })
}
