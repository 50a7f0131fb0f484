//! How far a run is, for people who wait at a terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::show;
use crate::units::show_count;

/// How often it is drawn.
const DRAW_EVERY: Duration = Duration::from_millis(250);
const STEPS: u64 = 1_000;

#[derive(Debug)]
pub(super) struct Progress {
    /// None where nobody looks.
    bar: Option<ProgressBar>,
    drawn: Instant,
    drawn_count: u64,
}

impl Progress {
    pub(super) fn new() -> Self {
        let style = ProgressStyle::with_template("{prefix:>10} [{bar:30}] {msg}");
        let bar = match style {
            Ok(style) if show::stderr_is_terminal() => {
                Some(ProgressBar::new(STEPS).with_style(style.progress_chars("=> ")))
            }
            _ => None,
        };
        Self {
            bar,
            drawn: Instant::now(),
            drawn_count: 0,
        }
    }

    /// Another part of the run begins.
    pub(super) fn phase(&mut self, name: &'static str, count: u64) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(name);
            bar.set_position(0);
            bar.set_message("");
        }
        (self.drawn, self.drawn_count) = (Instant::now(), count);
    }

    /// So much of this part is done, with so many messages.
    pub(super) fn at(&mut self, share: f64, count: u64) {
        let elapsed = self.drawn.elapsed();
        let Some(bar) = self.bar.as_ref().filter(|_| elapsed >= DRAW_EVERY) else {
            return;
        };
        let rate = count.saturating_sub(self.drawn_count) as f64 / elapsed.as_secs_f64();
        bar.set_message(format!(
            "{} messages   {}/s",
            show_count(count),
            show_count(rate.round() as u64)
        ));
        bar.set_position((share.clamp(0.0, 1.0) * STEPS as f64) as u64);
        (self.drawn, self.drawn_count) = (Instant::now(), count);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
