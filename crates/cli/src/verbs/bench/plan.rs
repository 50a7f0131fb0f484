//! What a run shall do: the command line, checked and with its gaps filled.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::args::{Bench, Load};
use crate::failure::{Failure, Result};
use crate::units::{show_bytes, show_count};

/// Bytes of bodies that producers, or consumers, may hold together.
const HELD_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// The same where the command line does not say how many messages.
const HELD_BYTES: u64 = 256 * 1024 * 1024;
const WINDOW: u32 = 500;
const PREFETCH: u32 = 1_000;
const BATCH: u32 = 50;
const QUEUES_OF_FANOUT: u16 = 10;
/// The longest run.
const DURATION_MAX: Duration = Duration::from_secs(24 * 3_600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Publish,
    E2e,
    Drain,
    Fanout,
}

impl Mode {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::E2e => "e2e",
            Self::Drain => "drain",
            Self::Fanout => "fanout",
        }
    }
}

/// How long the measured part is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    For {
        warmup: Duration,
        duration: Duration,
    },
    Messages(u64),
}

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) mode: Mode,
    pub(super) extent: Extent,
    pub(super) size: usize,
    pub(super) producers: usize,
    /// None where nothing is consumed.
    pub(super) consumers: usize,
    pub(super) queues: Vec<String>,
    /// Unconfirmed messages of one producer.
    pub(super) window: u32,
    /// Messages that a producer sends in one go.
    pub(super) batch: u32,
    /// Unsettled messages of one consumer.
    pub(super) prefetch: u32,
    /// Messages per second of all producers.
    pub(super) rate: Option<u32>,
    pub(super) keep: bool,
    pub(super) reuse: bool,
    pub(super) pids: Vec<u32>,
    pub(super) device: Option<String>,
    pub(super) save: Option<PathBuf>,
}

impl Plan {
    /// Nothing for what is no run.
    pub(super) fn of(verb: Bench) -> Result<Option<Self>> {
        let (mode, extent, load) = match verb {
            Bench::Compare { .. } => return Ok(None),
            Bench::Drain(args) => (Mode::Drain, Extent::Messages(args.count), args.load),
            Bench::Publish(args) | Bench::E2e(args) | Bench::Fanout(args)
                if args.duration > DURATION_MAX || args.warmup > DURATION_MAX =>
            {
                return Err(usage("a run lasts for 24h at most"));
            }
            Bench::Publish(args) | Bench::E2e(args) | Bench::Fanout(args)
                if args.count.is_none() && args.duration.is_zero() =>
            {
                return Err(usage("nothing to measure: --duration is 0s"));
            }
            Bench::Publish(args) => (Mode::Publish, extent(args.count, &args), args.load),
            Bench::E2e(args) => (Mode::E2e, extent(args.count, &args), args.load),
            Bench::Fanout(args) => (Mode::Fanout, extent(args.count, &args), args.load),
        };
        Self::checked(mode, extent, load).map(Some)
    }

    fn checked(mode: Mode, extent: Extent, load: Load) -> Result<Self> {
        let default_queues = match mode {
            Mode::Fanout => QUEUES_OF_FANOUT,
            _ => 1,
        };
        let queues = load.queues.unwrap_or(default_queues);
        let producers = u64::from(load.producers);
        let consumers = match mode {
            Mode::Publish => 0,
            _ => u64::from(load.consumers.max(queues)),
        };
        let size = u64::from(load.size);
        let window = held("--window", load.window, WINDOW, producers, size)?;
        let prefetch = held(
            "--prefetch",
            load.prefetch,
            PREFETCH,
            consumers.max(1),
            size,
        )?;
        let batch = match load.batch {
            Some(batch) if batch > window => {
                let text = format!("--batch {batch} does not fit into --window {window}");
                return Err(usage(&text));
            }
            Some(batch) => batch,
            None if load.rate.is_some() => 1,
            None => BATCH.min(window),
        };
        if let Some(parent) = load.save.as_deref().and_then(Path::parent)
            && !parent.as_os_str().is_empty()
            && !parent.is_dir()
        {
            let text = format!("--save: there is no folder {}", parent.display());
            return Err(usage(&text));
        }
        let prefix = &load.queue_prefix;
        Ok(Self {
            mode,
            extent,
            size: load.size as usize,
            producers: producers as usize,
            consumers: consumers as usize,
            queues: (1..=queues).map(|n| format!("{prefix}.{n}")).collect(),
            window,
            batch,
            prefetch,
            rate: load.rate,
            keep: load.keep,
            reuse: load.reuse,
            pids: load.pids,
            device: load.device,
            save: load.save,
        })
    }

    /// What two runs must have in common to be compared.
    pub(super) fn json(&self) -> Value {
        let (duration, warmup, messages) = match self.extent {
            Extent::For { warmup, duration } => (
                Some(duration.as_secs_f64()),
                Some(warmup.as_secs_f64()),
                None,
            ),
            Extent::Messages(count) => (None, None, Some(count)),
        };
        json!({
            "size_bytes": self.size,
            "producers": self.producers,
            "consumers": self.consumers,
            "queues": self.queues.len(),
            "window": self.window,
            "batch": self.batch,
            "prefetch": self.prefetch,
            "messages_per_second_max": self.rate,
            "duration_seconds": duration,
            "warmup_seconds": warmup,
            "messages": messages,
        })
    }

    /// The same for people.
    pub(super) fn sentence(&self) -> String {
        let plural = crate::units::plural;
        let mut text = format!(
            "{}: {} bodies, {} producer{}",
            self.mode.word(),
            show_bytes(self.size as u64),
            self.producers,
            plural(self.producers as u64)
        );
        if self.consumers > 0 {
            let consumers = self.consumers as u64;
            text.push_str(&format!(", {consumers} consumer{}", plural(consumers)));
        }
        let queues = self.queues.len() as u64;
        text.push_str(&format!(", {queues} queue{}", plural(queues)));
        if let Some(rate) = self.rate {
            text.push_str(&format!(", {} messages/s wanted", show_count(rate.into())));
        }
        text
    }
}

fn extent(count: Option<u64>, args: &crate::args::Timed) -> Extent {
    match count {
        Some(count) => Extent::Messages(count),
        None => Extent::For {
            warmup: args.warmup,
            duration: args.duration,
        },
    }
}

/// How many messages each of so many may hold.
fn held(name: &str, wanted: Option<u32>, otherwise: u32, holders: u64, size: u64) -> Result<u32> {
    let each = holders * size;
    match wanted {
        Some(wanted) if u64::from(wanted) * each > HELD_BYTES_MAX => Err(usage(&format!(
            "{name} {wanted} of {holders} with {} bodies would hold {}; at most {}",
            show_bytes(size),
            show_bytes(u64::from(wanted) * each),
            show_bytes(HELD_BYTES_MAX)
        ))),
        Some(wanted) => Ok(wanted),
        None if each > HELD_BYTES_MAX => Err(usage(&format!(
            "{holders} with {} bodies would hold {} with one message each; at most {}",
            show_bytes(size),
            show_bytes(each),
            show_bytes(HELD_BYTES_MAX)
        ))),
        None => {
            let fits = (HELD_BYTES / each).clamp(1, u64::from(otherwise));
            Ok(u32::try_from(fits).unwrap_or(otherwise))
        }
    }
}

fn usage(text: &str) -> Failure {
    Failure::Usage(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Arguments, Verb};
    use clap::Parser;

    fn plan(line: &str) -> Result<Plan> {
        let line = format!("ticketrail bench {line}");
        match Arguments::try_parse_from(line.split_whitespace())
            .unwrap()
            .verb
        {
            Verb::Bench(verb) => Plan::of(verb).map(Option::unwrap),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn gaps_are_filled_as_the_mode_wants() {
        let e2e = plan("e2e").unwrap();
        assert_eq!((e2e.window, e2e.batch, e2e.prefetch), (500, 50, 1_000));
        assert_eq!(e2e.queues, ["bench.1"]);
        assert_eq!(plan("publish").unwrap().consumers, 0);
        let fanout = plan("fanout -c 2 --queue-prefix x").unwrap();
        assert_eq!((fanout.queues.len(), fanout.consumers), (10, 10));
        assert_eq!(fanout.queues[9], "x.10");
        assert_eq!(plan("drain").unwrap().extent, Extent::Messages(200_000));
        assert_eq!(plan("e2e --count 7").unwrap().extent, Extent::Messages(7));
        assert_eq!(plan("e2e --rate 10").unwrap().batch, 1);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let large = plan("e2e --size 4194304").unwrap();
        assert_eq!((large.window, large.prefetch, large.batch), (8, 8, 8));
        assert_eq!(plan("e2e -p 1000 -c 1 -s 1048576").unwrap().window, 1);
        for line in [
            "e2e --size 4194304 --window 100",
            "publish -p 1000 --size 4194304",
            "e2e --batch 20 --window 10",
            "e2e --duration 0s",
            "e2e --duration 25h",
            "e2e --save nowhere/at/all.json",
        ] {
            assert_eq!(plan(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
