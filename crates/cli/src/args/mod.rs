//! The command line, as `--help` shows it.

mod backup;
mod bench;
mod cluster;
mod health;
mod message;
mod node;
mod queue;
mod top;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::failure::EXIT_CODES;
use crate::units::parse_duration;

pub(crate) use backup::{Backup, BackupVerb, Restore};
pub(crate) use bench::{Bench, Load, Timed};
pub(crate) use cluster::Cluster;
pub(crate) use health::Health;
pub(crate) use message::{Consume, Publish, Receive, Settle, SettleHow};
pub(crate) use node::{Dev, Serve};
pub(crate) use queue::{Peek, Queue, QueueOptions, State};
pub(crate) use top::{SortBy, Top};

/// Ticketrail: a replicated message broker. Every confirmed message is on the disks of a majority.
#[derive(Debug, Parser)]
#[command(name = "ticketrail", max_term_width = 100, version, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb that talks to a cluster understands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Nodes to talk to: http://host:port, separated by commas; a bare port takes the host before it
    #[arg(
        long,
        global = true,
        env = "TICKETRAIL_ENDPOINTS",
        value_name = "LIST",
        default_value = "http://127.0.0.1:7400,7401,7402"
    )]
    pub(crate) endpoints: String,
    /// The namespace of the queues
    #[arg(
        long,
        global = true,
        env = "TICKETRAIL_NAMESPACE",
        default_value = "default"
    )]
    pub(crate) namespace: String,
    /// For people or for programs; JSON is one object per line
    #[arg(long, short, global = true, value_name = "FORMAT", value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// How long to try before giving up, with all retries
    #[arg(long, global = true, value_name = "DURATION", default_value = "15s",
          value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

/// What the output is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Dev(Dev),
    Serve(Serve),
    Publish(Publish),
    Receive(Receive),
    Settle(Settle),
    Consume(Consume),
    /// Create, show, change and delete queues
    #[command(subcommand)]
    Queue(Queue),
    /// Create, list and delete namespaces
    #[command(subcommand)]
    Namespace(Namespace),
    /// Look at the cluster, and change who belongs to it
    #[command(subcommand)]
    Cluster(Cluster),
    Health(Health),
    Top(Top),
    Backup(Backup),
    Restore(Restore),
    /// Measure a cluster: messages per second, latency, CPU
    #[command(subcommand)]
    Bench(Bench),
    /// Print the completion script of a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the manual pages to a folder
    Man {
        /// The folder; it is made if it is not there
        folder: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Namespace {
    /// Create a namespace; one that exists is left as it is
    Create {
        /// The name
        name: String,
    },
    /// List the namespaces
    #[command(alias = "ls")]
    List,
    /// Delete an empty namespace
    #[command(alias = "rm")]
    Delete {
        /// The name
        name: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn reads_the_documented_forms() {
        for line in [
            "ticketrail dev --nodes 3 --base-port 7400 --data-dir ./x --demo",
            "ticketrail serve --node-id 1 --listen 127.0.0.1:7400 --peer-listen 127.0.0.1:7500 --data-dir d",
            "ticketrail namespace create shop",
            "ticketrail queue create orders --lease 1m --max-deliveries 3 --dead-letter orders.dead",
            "ticketrail queue update orders --no-dead-letter",
            "ticketrail queue purge orders --include-delayed",
            "ticketrail queue peek orders -n 5 --state in-flight --state ready",
            "ticketrail publish orders hello -H a=b -H c=d=e",
            "ticketrail publish --file F --lines --idempotent import orders",
            "ticketrail publish --stanzas orders -",
            "ticketrail receive orders -n 10 --wait 5s --ack",
            "ticketrail settle orders AAAA --nack --delay 5s",
            "ticketrail consume orders --exec cat --count 5 --jobs 2",
            "ticketrail --output json cluster status --endpoints a:1 --timeout 2s",
            "ticketrail cluster status --watch",
            "ticketrail cluster add 4 --peer d:7500 --client d:7400 --wait",
            "ticketrail cluster promote 4 --wait --timeout 10m",
            "ticketrail cluster demote 4",
            "ticketrail cluster remove 4",
            "ticketrail cluster transfer",
            "ticketrail cluster transfer 2",
            "ticketrail serve --node-id 4 --join a:7400,b:7400 --learner",
            "ticketrail health --endpoints a:1",
            "ticketrail health --live",
            "ticketrail backup --to b",
            "ticketrail --output json backup verify b",
            "ticketrail restore --from b --config node.toml --node-id 1",
            "ticketrail top --output json --interval 5s",
            "ticketrail top --once --filter orders --sort in-flight",
            "ticketrail bench e2e -p 2 -c 2 --size 100 --duration 1s --warmup 0s --pids 1,2,3 --save a.json",
            "ticketrail bench publish --rate 1000 --queues 3 --keep --reuse",
            "ticketrail bench drain --count 1000",
            "ticketrail bench fanout --count 1000",
            "ticketrail --output json bench compare a.json b.json",
            "ticketrail man pages",
            "ticketrail completions bash",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn refuses_what_makes_no_sense() {
        for line in [
            "ticketrail publish orders body --file F",
            "ticketrail publish orders --lines --stanzas",
            "ticketrail publish orders x -H novalue",
            "ticketrail consume orders --ack --exec cat",
            "ticketrail settle orders AAAA",
            "ticketrail settle orders AAAA --ack --nack",
            "ticketrail settle orders AAAA --ack --delay 5s",
            "ticketrail queue create orders --lease soon",
            "ticketrail dev --nodes 0",
            "ticketrail backup",
            "ticketrail backup --to b verify b",
            "ticketrail restore --config node.toml",
            "ticketrail bench",
            "ticketrail bench e2e --size 8",
            "ticketrail bench e2e --count 5 --duration 1s",
            "ticketrail bench drain --duration 1s",
            "ticketrail bench e2e --window 2000",
            "ticketrail top --sort colour",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
