//! `ticketrail serve`: gathers the configuration, sets up logging, and runs one node.

use ticketrail_server::{ServerConfig, WrittenConfig, WrittenLog, WrittenMetrics};

use crate::args::Serve;
use crate::failure::{Failure, Result};
use crate::logging;

pub(crate) async fn run(args: Serve) -> Result {
    let config = config(args)?;
    logging::start(&config.log, config.node.0)?;
    let running = ticketrail_server::run(config, crate::signals::to_stop_or_end());
    running.await.map_err(|error| {
        tracing::error!(%error, "ended");
        Failure::Local(error.to_string())
    })
}

/// The configuration of a node, from flags, environment and file.
pub(crate) fn config(args: Serve) -> Result<ServerConfig> {
    let usage = |error: &dyn std::fmt::Display| Failure::Usage(error.to_string());
    let file = match &args.config {
        Some(path) => WrittenConfig::read(path).map_err(|error| usage(&error))?,
        None => WrittenConfig::default(),
    };
    let config = written(args).or(file).validate();
    config.map_err(|error| usage(&error))
}

/// What the flags and the environment say; clap has let the flags win.
fn written(args: Serve) -> WrittenConfig {
    WrittenConfig {
        node_id: args.node_id,
        listen: args.listen,
        peer_listen: args.peer_listen,
        data_dir: args.data_dir,
        reflection: args.reflection,
        bootstrap: args.bootstrap,
        cluster_id: args.cluster_id,
        join: args.join,
        learner: args.learner.then_some(true),
        advertise: args.advertise,
        peer_advertise: args.peer_advertise,
        metrics: WrittenMetrics {
            listen: args.metrics_listen,
            ..WrittenMetrics::default()
        },
        log: WrittenLog {
            format: args.log_format,
            filter: args.log,
        },
        ..WrittenConfig::default()
    }
}
