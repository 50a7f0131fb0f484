//! Three nodes of Debian's RabbitMQ, and the name server (epmd) that they find each other by.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Result;

use super::{Launch, NodePlan, Plan};

const CLIENTS: u16 = 27_200;
const PEERS: u16 = 27_210;
const NAMES: u16 = 27_220;
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
/// RabbitMQ's guide to its runtime: without this, three nodes that share cores spin while they are idle.
const NO_BUSY_WAIT: &str = "+sbwt none +sbwtdcpu none +sbwtdio none";

pub(super) fn plan(folder: &Path) -> Result<Plan> {
    let cookie = folder.join(".erlang.cookie");
    fs::write(&cookie, "only-for-this-benchmark")?;
    fs::set_permissions(&cookie, Permissions::from_mode(0o400))?;
    let names = Launch::new("epmd", folder.join("epmd.log")).arguments([
        "-port",
        &NAMES.to_string(),
        "-address",
        "127.0.0.1",
    ]);
    let nodes = (1..=3).map(|id| node(folder, id)).collect::<Result<_>>()?;
    Ok(Plan {
        helpers: vec![names],
        nodes,
    })
}

fn node(folder: &Path, id: u16) -> Result<NodePlan> {
    let own = folder.join(format!("node-{id}"));
    fs::create_dir_all(&own)?;
    let config = own.join("rabbitmq.conf");
    let mut lines = format!(
        "listeners.tcp.1 = 127.0.0.1:{}\ncluster_formation.peer_discovery_backend = classic_config\n",
        CLIENTS + id
    );
    for peer in 1..=3 {
        lines += &format!(
            "cluster_formation.classic_config.nodes.{peer} = {}\n",
            name(peer)
        );
    }
    fs::write(&config, lines)?;
    let plugins = own.join("enabled_plugins");
    fs::write(&plugins, "[].\n")?;
    let launch = Launch::new(PROGRAM, folder.join(format!("node-{id}.log")))
        .variable("HOME", folder.display())
        .variable("ERL_EPMD_PORT", NAMES)
        .variable("ERL_EPMD_ADDRESS", "127.0.0.1")
        .variable("RABBITMQ_CONF_ENV_FILE", "/dev/null")
        .variable("RABBITMQ_NODENAME", name(id))
        .variable("RABBITMQ_DIST_PORT", PEERS + id)
        .variable("RABBITMQ_CONFIG_FILE", config.display())
        .variable("RABBITMQ_ENABLED_PLUGINS_FILE", plugins.display())
        .variable("RABBITMQ_MNESIA_BASE", own.join("data").display())
        .variable("RABBITMQ_LOG_BASE", own.join("log").display())
        .variable(
            "RABBITMQ_GENERATED_CONFIG_DIR",
            own.join("generated").display(),
        )
        .variable("RABBITMQ_PID_FILE", own.join("pid").display())
        .variable("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", NO_BUSY_WAIT);
    Ok(NodePlan {
        launch,
        endpoint: Some(format!("127.0.0.1:{}", CLIENTS + id)),
    })
}

fn name(id: u16) -> String {
    format!("ticketrail-bench-{id}@localhost")
}
