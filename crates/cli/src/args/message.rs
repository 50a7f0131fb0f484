//! Messages in and out: `publish`, `receive`, `settle`, `consume`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::units::parse_duration;

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
