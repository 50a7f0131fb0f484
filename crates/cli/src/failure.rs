//! How a verb fails: the sentence, what to do next, and the exit code.

use std::io;
use std::process::ExitCode;

use ticketrail_client::Error;

/// What the exit codes mean, for `--help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused: the cluster answered, and nothing (or not everything) was done
  2  the command line is wrong
  3  no node could do it now; nothing was done; try again
  4  the outcome is unknown: it may or may not have been done
  5  a file, a pipe or a process of this machine failed";

const REFUSED: u8 = 1;
const USAGE: u8 = 2;
const UNAVAILABLE: u8 = 3;
const UNKNOWN: u8 = 4;
const LOCAL: u8 = 5;

pub(crate) type Result<T = (), E = Failure> = std::result::Result<T, E>;

/// Why a verb did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The cluster said no, or did not answer.
    Cluster {
        error: Error,
        hints: Vec<String>,
        effect: Effect,
    },
    /// The cluster answered, and part of the work was refused; the sentence says what.
    Refused(String),
    /// A node is not as well as was asked for; the sentence says which, and what to do.
    Unwell(String),
    /// The command line asks for something that makes no sense.
    Usage(String),
    /// This machine failed.
    Local(String),
    /// Whoever read our output has gone.
    BrokenPipe,
}

/// What an unknown outcome means for the user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Doing it twice is not doing it once.
    LookFirst,
    /// Doing it twice is doing it once.
    Repeatable,
    /// What is unknown is only a preparation.
    Nothing,
    /// What was read was not read to its end.
    Incomplete,
}

impl Failure {
    /// The exit code of a process that does not wait for its own end.
    pub(crate) const AT_ONCE: u8 = LOCAL;

    pub(crate) fn local(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self::Local(format!("{what}: {error}"))
    }

    /// Adds a line on what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Cluster { hints, .. } = &mut self {
            hints.push(hint.into());
        }
        self
    }

    /// Says what an unknown outcome means.
    pub(crate) fn with_effect(mut self, said: Effect) -> Self {
        if let Self::Cluster { effect, .. } = &mut self {
            *effect = said;
        }
        self
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Cluster {
                error,
                effect: Effect::Nothing | Effect::Incomplete,
                ..
            } if error.is_outcome_unknown() => UNAVAILABLE,
            Self::Cluster { error, .. } if error.is_outcome_unknown() => UNKNOWN,
            Self::Cluster { error, .. } if error.reason() == "INVALID_ENDPOINT" => USAGE,
            Self::Cluster { error, .. } if error.is_retryable() => UNAVAILABLE,
            Self::Unwell(_) => UNAVAILABLE,
            Self::Cluster { .. } | Self::Refused(_) => REFUSED,
            Self::Usage(_) => USAGE,
            Self::Local(_) => LOCAL,
            Self::BrokenPipe => 0,
        }
    }

    /// What goes to standard error, line by line.
    pub(crate) fn lines(&self) -> Vec<String> {
        match self {
            Self::Cluster {
                error,
                hints,
                effect,
            } => {
                let mut lines = vec![format!("error: {} ({})", error.message(), error.reason())];
                // A single violation often is the sentence itself.
                let violations = error.violations().iter();
                let violations =
                    violations.filter(|(_, text)| !error.message().contains(text.as_str()));
                lines.extend(violations.map(|(subject, text)| format!("  {subject}: {text}")));
                lines.extend(advice(error, *effect).map(|text| format!("  {text}")));
                lines.extend(hints.iter().map(|text| format!("  {text}")));
                lines
            }
            Self::Refused(text) | Self::Unwell(text) | Self::Local(text) => {
                vec![format!("error: {text}")]
            }
            Self::Usage(text) => {
                vec![
                    format!("error: {text}"),
                    "  see: ticketrail --help".to_owned(),
                ]
            }
            Self::BrokenPipe => Vec::new(),
        }
    }

    /// Writes the lines and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        use io::Write;
        let mut stderr = io::stderr().lock();
        for line in self.lines() {
            // Nobody is left to tell if even this fails.
            let _ = writeln!(stderr, "{line}");
        }
        ExitCode::from(self.exit_code())
    }
}

fn advice(error: &Error, effect: Effect) -> Option<&'static str> {
    if error.is_outcome_unknown() {
        return Some(match effect {
            Effect::Incomplete => return None,
            Effect::LookFirst => {
                "the outcome is unknown: it may or may not have been done; look before you repeat it"
            }
            Effect::Repeatable => {
                "the outcome is unknown; run the same command again: repeating it does no harm"
            }
            Effect::Nothing => "nothing was sent yet; run the same command again",
        });
    }
    match error.reason() {
        "CONNECT_FAILED" => Some(
            "is the cluster running? start one with `ticketrail dev`, or name its nodes with --endpoints",
        ),
        "NO_LEADER" => Some(
            "a majority of the nodes must be up: see `ticketrail cluster status`; nothing was done, try again",
        ),
        "UNIMPLEMENTED" => {
            Some("is this a Ticketrail server, of a version that fits this program?")
        }
        _ => None,
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Cluster {
            error,
            hints: Vec::new(),
            effect: Effect::LookFirst,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Local(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_exit_code_and_a_broken_pipe_is_quiet() {
        assert_eq!(Failure::Usage("x".into()).exit_code(), 2);
        assert_eq!(Failure::Refused("x".into()).exit_code(), 1);
        assert_eq!(Failure::Unwell("x".into()).exit_code(), 3);
        assert_eq!(Failure::Local("x".into()).exit_code(), 5);
        let broken = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(broken.exit_code(), 0);
        assert!(broken.lines().is_empty());
        let endpoint = ticketrail_client::parse_endpoints("nonsense").unwrap_err();
        assert_eq!(Failure::from(endpoint).exit_code(), 2);
    }
}
