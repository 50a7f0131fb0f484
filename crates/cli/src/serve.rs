//! `ticketrail serve`: gathers the configuration, sets up logging, and runs one node.

use ticketrail_server::WrittenConfig;
use tracing_subscriber::EnvFilter;

use crate::args::{LogFormat, Serve};
use crate::failure::{Failure, Result};

/// What is logged unless said otherwise: what happens to the node, and not each step of a vote.
const LOG_DEFAULT: &str = "info,openraft=warn";

pub(crate) async fn run(args: Serve) -> Result {
    start_logging(&args)?;
    let usage = |error: &dyn std::fmt::Display| Failure::Usage(error.to_string());
    let file = match &args.config {
        Some(path) => WrittenConfig::read(path).map_err(|error| usage(&error))?,
        None => WrittenConfig::default(),
    };
    let config = written(args)
        .or(file)
        .validate()
        .map_err(|error| usage(&error))?;
    let running = ticketrail_server::run(config, crate::signals::to_stop());
    running
        .await
        .map_err(|error| Failure::Local(error.to_string()))
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
        ..WrittenConfig::default()
    }
}

fn start_logging(args: &Serve) -> Result {
    let filter = EnvFilter::try_new(args.log.as_deref().unwrap_or(LOG_DEFAULT))
        .map_err(|error| Failure::Usage(format!("--log: {error}")))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match args.log_format.unwrap_or(LogFormat::Text) {
        LogFormat::Text => builder
            .with_ansi(crate::show::stderr_is_terminal())
            .try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| Failure::local("logging", error))
}
