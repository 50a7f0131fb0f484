//! The command line, as `--help` shows it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::failure::EXIT_CODES;
use crate::units::parse_duration;

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
    /// Look at the cluster
    #[command(subcommand)]
    Cluster(Cluster),
    /// Print the completion script of a shell
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// Run a whole cluster on this machine, to try things out.
///
/// Each node is a process of its own. Type `k 2` and Enter to kill node 2 (with SIGKILL), `r 2` to start it
/// again, `q` to stop everything. A second start on the same data directory goes on where the first stopped.
#[derive(Debug, Clone, Args)]
pub(crate) struct Dev {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: u16,
    /// Node i serves clients on this port + i - 1, and other nodes on this port + 100 + i - 1
    #[arg(long, default_value_t = 7400, value_parser = clap::value_parser!(u16).range(1024..=65_400))]
    pub(crate) base_port: u16,
    /// Where the nodes keep their data and their logs
    #[arg(long, value_name = "DIR", default_value = "./ticketrail-dev")]
    pub(crate) data_dir: PathBuf,
    /// Create the queues `orders`, `tasks` and `orders.dead`, with gentle traffic
    #[arg(long)]
    pub(crate) demo: bool,
}

/// Run one node of a cluster.
///
/// Every setting may also stand in the file of --config, under the name of its flag with underscores, or in
/// the environment; a flag wins over the environment, and the environment over the file.
#[derive(Debug, Clone, Args)]
pub(crate) struct Serve {
    /// The number of this node: from 1, never used again once its data is gone
    #[arg(long, env = "TICKETRAIL_NODE_ID", value_name = "N")]
    pub(crate) node_id: Option<u64>,
    /// Where to serve clients
    #[arg(long, env = "TICKETRAIL_LISTEN", value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Where to serve other nodes; keep it away from clients
    #[arg(long, env = "TICKETRAIL_PEER_LISTEN", value_name = "ADDR")]
    pub(crate) peer_listen: Option<String>,
    /// Where to keep the log and the state
    #[arg(long, env = "TICKETRAIL_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The first members, the same list on each of them: 1=peer-host:port@client-host:port,2=... Only
    /// the very first start uses it
    #[arg(long, env = "TICKETRAIL_BOOTSTRAP", value_name = "LIST")]
    pub(crate) bootstrap: Option<String>,
    /// The identity of the cluster, 32 hexadecimal digits, the same on all nodes; only the very first start
    /// uses it [default: made from --bootstrap]
    #[arg(long, env = "TICKETRAIL_CLUSTER_ID", value_name = "HEX")]
    pub(crate) cluster_id: Option<String>,
    /// Whether clients may ask the server for its protos [default: true]
    #[arg(long, env = "TICKETRAIL_REFLECTION", value_name = "BOOL")]
    pub(crate) reflection: Option<bool>,
    /// A TOML file with the same settings, and [limits]
    #[arg(long, env = "TICKETRAIL_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How log lines look [default: text]
    #[arg(long, env = "TICKETRAIL_LOG_FORMAT", value_name = "FORMAT", value_enum)]
    pub(crate) log_format: Option<LogFormat>,
    /// Which log lines to write: a level, or directives such as `info,ticketrail_raft=debug` [default:
    /// info,openraft=warn]
    #[arg(long, env = "TICKETRAIL_LOG", value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// Publish messages: one, or one for each line or stanza of a file.
///
/// One message: the BODY, or the whole of a file or of standard input. Many: --lines, --stanzas or
/// --separator. A message for a queue that does not exist is refused, and so is everything behind it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Publish {
    /// The queue
    pub(crate) queue: String,
    /// The body; `-` or nothing reads standard input
    #[arg(conflicts_with = "file")]
    pub(crate) body: Option<String>,
    /// Read this file instead; `-` is standard input
    #[arg(long, short, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) split: SplitBy,
    /// Make it safe to run again: message n of the input is message n of this producer name, and what
    /// is stored already is not stored again. Use one name for one input
    #[arg(long, value_name = "NAME")]
    pub(crate) idempotent: Option<String>,
    /// A header for every message, such as -H source=shop
    #[arg(long = "header", short = 'H', value_name = "KEY=VALUE", value_parser = parse_header)]
    pub(crate) headers: Vec<(String, String)>,
    /// What the bodies are, such as application/json
    #[arg(long, value_name = "TYPE")]
    pub(crate) content_type: Option<String>,
}

/// How the input is cut into messages.
#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
pub(crate) struct SplitBy {
    /// Each line is a message, empty ones too
    #[arg(long, short)]
    pub(crate) lines: bool,
    /// Blank lines stand between messages, as in the output of `apt-cache dumpavail`
    #[arg(long)]
    pub(crate) stanzas: bool,
    /// This text stands between messages; \n, \t, \0 and \\ are understood
    #[arg(long, value_name = "TEXT", value_parser = parse_separator)]
    pub(crate) separator: Option<Separator>,
}

/// The bytes between two messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Separator(pub(crate) Vec<u8>);

/// Take messages from a queue and print them with their receipts.
///
/// They are leased, not removed: settle them with `ticketrail settle`, or say --ack here, or they come back
/// when their lease ends.
#[derive(Debug, Clone, Args)]
pub(crate) struct Receive {
    /// The queue
    pub(crate) queue: String,
    /// At most so many messages
    #[arg(long, short = 'n', default_value_t = 1, value_name = "N")]
    pub(crate) count: u32,
    /// How long to wait for the first one, up to 20s
    #[arg(long, default_value = "0s", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) wait: Duration,
    /// How long the lease lasts instead of the queue's own duration; 0s looks without taking
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) lease: Option<Duration>,
    /// Acknowledge what was printed: remove it for good
    #[arg(long)]
    pub(crate) ack: bool,
    /// Print the bodies and nothing else
    #[arg(long, conflicts_with = "output")]
    pub(crate) raw: bool,
}

/// End or extend the leases of received messages, by their receipts.
#[derive(Debug, Clone, Args)]
pub(crate) struct Settle {
    /// The queue
    pub(crate) queue: String,
    /// The receipts, as `receive` prints them
    #[arg(required = true)]
    pub(crate) receipts: Vec<String>,
    #[command(flatten)]
    pub(crate) how: SettleHow,
    /// With --nack: how long until the message is ready again
    #[arg(long, conflicts_with_all = ["ack", "reject", "release", "extend"], value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) delay: Option<Duration>,
}

/// How leases end.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct SettleHow {
    /// Done: remove the message for good
    #[arg(long)]
    pub(crate) ack: bool,
    /// Failed: back to its place in the queue
    #[arg(long)]
    pub(crate) nack: bool,
    /// Hopeless: to the dead-letter queue
    #[arg(long)]
    pub(crate) reject: bool,
    /// Not started: back to its place, not counted
    #[arg(long)]
    pub(crate) release: bool,
    /// Not done yet: the lease lasts so long from now
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) extend: Option<Duration>,
}

/// Print messages as they come, or hand them to a command.
///
/// Without --ack and --exec the messages are only shown: they are held until the end and then given back,
/// not counted. Ctrl-C ends cleanly.
#[derive(Debug, Clone, Args)]
pub(crate) struct Consume {
    /// The queue
    pub(crate) queue: String,
    /// Acknowledge each message after it was printed
    #[arg(long, conflicts_with = "exec")]
    pub(crate) ack: bool,
    /// Run this shell command for each message, with the body on standard input. Exit 0 acknowledges,
    /// exit 65 rejects (to the dead-letter queue), anything else gives it back to be tried again. The
    /// lease is extended while it runs. Environment: TICKETRAIL_MESSAGE_ID, TICKETRAIL_DELIVERY_COUNT,
    /// TICKETRAIL_QUEUE, TICKETRAIL_HEADER_<KEY>
    #[arg(long, value_name = "COMMAND")]
    pub(crate) exec: Option<String>,
    /// Run so many commands at a time
    #[arg(long, default_value_t = 1, requires = "exec", value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) jobs: u16,
    /// Stop after so many messages
    #[arg(long, short = 'n', value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Stop when nothing came for so long
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) idle: Option<Duration>,
    /// The most unsettled messages to hold: 1..10000
    #[arg(long, value_name = "N")]
    pub(crate) prefetch: Option<u32>,
    /// Print the bodies and nothing else
    #[arg(long, conflicts_with = "output")]
    pub(crate) raw: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Queue {
    /// Create a queue; one that exists with the same settings is left as it is
    Create {
        /// The name
        name: String,
        #[command(flatten)]
        settings: QueueOptions,
    },
    /// List the queues with their counts
    #[command(alias = "ls")]
    List,
    /// Show the settings and counts of a queue
    Show {
        /// The name
        name: String,
    },
    /// Change settings of a queue; those that are not named stay
    Update {
        /// The name
        name: String,
        #[command(flatten)]
        settings: QueueOptions,
        /// No dead-letter queue any more
        #[arg(long, conflicts_with = "dead_letter")]
        no_dead_letter: bool,
        /// No wait before a failed message is ready again
        #[arg(long, conflicts_with_all = ["backoff", "backoff_factor", "backoff_max"])]
        no_backoff: bool,
    },
    /// Delete a queue and all its messages
    #[command(alias = "rm")]
    Delete {
        /// The name
        name: String,
    },
    /// Remove the ready messages of a queue for good
    Purge {
        /// The name
        name: String,
        /// Remove delayed messages, too
        #[arg(long)]
        include_delayed: bool,
    },
    Peek(Peek),
    /// Stop granting messages; publishing goes on
    Pause {
        /// The name
        name: String,
    },
    /// Grant messages again
    Resume {
        /// The name
        name: String,
    },
}

/// Look at messages without taking them.
#[derive(Debug, Clone, Args)]
pub(crate) struct Peek {
    /// The queue
    pub(crate) name: String,
    /// At most so many messages
    #[arg(long, short = 'n', default_value_t = 20, value_name = "N")]
    pub(crate) count: u32,
    /// Begin at this offset
    #[arg(long, default_value_t = 0, value_name = "OFFSET")]
    pub(crate) from: u64,
    /// Only messages in this state; may be given more than once
    #[arg(long, value_enum)]
    pub(crate) state: Vec<State>,
    /// Leave the bodies out
    #[arg(long)]
    pub(crate) no_bodies: bool,
}

/// What a message in a queue is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum State {
    Ready,
    InFlight,
    Delayed,
    Parked,
}

/// The settings of a queue.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct QueueOptions {
    /// How long a lease lasts [default for a new queue: 30s]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) lease: Option<Duration>,
    /// Dead-letter a message after so many deliveries; 0 is never [default for a new queue: 10]
    #[arg(long, value_name = "N")]
    pub(crate) max_deliveries: Option<u32>,
    /// Where messages go that the queue gives up on; without it they are dropped and counted
    #[arg(long, value_name = "QUEUE")]
    pub(crate) dead_letter: Option<String>,
    /// How long a failed message waits before it is ready again [default for a new queue: not at all]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) backoff: Option<Duration>,
    /// What each further wait is multiplied with [default: 2]
    #[arg(long, requires = "backoff", value_name = "FACTOR")]
    pub(crate) backoff_factor: Option<f64>,
    /// The longest wait [default: 12h]
    #[arg(long, requires = "backoff", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) backoff_max: Option<Duration>,
    /// How much of a wait may be taken off, so that failures do not come back together [default: 25]
    #[arg(long, requires = "backoff", value_name = "PERCENT",
          value_parser = clap::value_parser!(u32).range(0..=100))]
    pub(crate) backoff_jitter: Option<u32>,
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

#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    /// Show the nodes: who leads, who is up, how far each one is
    Status,
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not KEY=VALUE")),
    }
}

fn parse_separator(text: &str) -> Result<Separator, String> {
    let mut bytes = Vec::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        let character = match character {
            '\\' => match characters.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                Some('r') => '\r',
                Some('0') => '\0',
                Some('\\') => '\\',
                _ => {
                    return Err(format!(
                        "`{text}` has a backslash without n, t, r, 0 or \\ behind it"
                    ));
                }
            },
            plain => plain,
        };
        bytes.extend(character.to_string().bytes());
    }
    if bytes.is_empty() {
        Err("a separator cannot be empty".to_owned())
    } else {
        Ok(Separator(bytes))
    }
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
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn separators_have_escapes() {
        assert_eq!(
            parse_separator(r"\n--\0\\"),
            Ok(Separator(b"\n--\0\\".to_vec()))
        );
        assert!(parse_separator("").is_err());
        assert!(parse_separator(r"\x").is_err());
    }
}
