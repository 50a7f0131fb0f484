//! `ticketrail top`: nodes and queues in the terminal, looked at again and again.
//!
//! One task looks (`watch`) and hands over what it saw; the other draws it (`draw`) as the keys want it
//! (`view`). So a node that hangs stops no key.
//!
//! Start reading at [`run`], then `view` and `watch`.

mod draw;
mod json;
mod view;
mod watch;

use std::io::IsTerminal;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::text::Span;
use tokio::sync::{mpsc, watch as channel};
use tokio::time::MissedTickBehavior;

use super::Context;
use crate::args::Top;
use crate::failure::{Effect, Failure, Result};
use crate::show::remark;
use crate::signals;
use view::{View, Wish};
use watch::{Seen, Watcher};

/// The shortest time between two looks.
const INTERVAL_MIN: Duration = Duration::from_millis(200);
/// The longest one.
const INTERVAL_MAX: Duration = Duration::from_secs(3_600);
/// How often the key reader looks whether anybody still waits for keys.
const KEYS_EVERY: Duration = Duration::from_millis(100);
/// How many keys may wait.
const KEYS_AHEAD: usize = 64;
/// The frame of --once where no terminal says otherwise.
const WIDTH: u16 = 120;

pub(super) async fn run(context: &Context, args: Top) -> Result {
    if args.interval < INTERVAL_MIN || args.interval > INTERVAL_MAX {
        let text = "--interval is 200ms at least and 1h at most";
        return Err(Failure::Usage(text.to_owned()));
    }
    let view = View::new(args.sort, args.filter.clone());
    let watcher = Watcher::new(context, args.filter.clone(), usize::from(args.queues))?;
    if args.once {
        return once(context, watcher, &view, args.interval).await;
    }
    if context.show.is_json() {
        return objects(context, watcher, &view, args.interval).await;
    }
    if !std::io::stdout().is_terminal() {
        let text = "top draws on a terminal; --once prints one frame, --output json an object for each look";
        return Err(Failure::Usage(text.to_owned()));
    }
    interactive(watcher, view, args.interval).await
}

/// Two looks, so that there are rates, and one frame of all there is.
async fn once(context: &Context, mut watcher: Watcher, view: &View, interval: Duration) -> Result {
    watcher.look().await;
    tokio::time::sleep(interval).await;
    let seen = watcher.look().await;
    let width = match std::io::stdout().is_terminal() {
        true => ratatui::crossterm::terminal::size().map_or(WIDTH, |(width, _)| width),
        false => WIDTH,
    };
    match context.show.is_json() {
        true => context.show.json(&json::object(&seen, view))?,
        false => context.show.line(&frame(&seen, view, width))?,
    }
    match seen.failure() {
        // It was only read.
        Some(error) => Err(Failure::from(error.clone()).with_effect(Effect::Incomplete)),
        None => Ok(()),
    }
}

/// One object for each look, until somebody ends it or nobody reads it.
async fn objects(
    context: &Context,
    mut watcher: Watcher,
    view: &View,
    interval: Duration,
) -> Result {
    let mut stop = std::pin::pin!(signals::to_stop());
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut stop => return Ok(()),
        }
        let seen = tokio::select! {
            seen = watcher.look() => seen,
            () = &mut stop => return Ok(()),
        };
        context.show.json(&json::object(&seen, view))?;
    }
}

/// One frame as text, as high as it must be.
fn frame(seen: &Seen, view: &View, width: u16) -> String {
    let height = draw::height(seen, view);
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width.max(1), height));
    let Ok(_) = terminal.draw(|frame| draw::all(frame, seen, &mut view.clone(), false));
    text(terminal.backend().buffer())
}

/// The lines of what was drawn, without the blanks at their ends and empty lines at the end.
fn text(buffer: &Buffer) -> String {
    let mut lines = Vec::new();
    for y in 0..buffer.area.height {
        let mut line = String::new();
        let mut x = 0;
        while x < buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            line.push_str(symbol);
            // A wide character takes the cells behind it.
            x += u16::try_from(Span::raw(symbol).width()).map_or(1, |width| width.max(1));
        }
        lines.push(line.trim_end().to_owned());
    }
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    lines.join("\n")
}

async fn interactive(mut watcher: Watcher, mut view: View, interval: Duration) -> Result {
    let mut stop = std::pin::pin!(signals::to_stop());
    let (filter, wanted) = channel::channel(view.filter().to_owned());
    let (told, mut seen) = channel::channel(Seen::default());
    let looking = tokio::spawn(async move { watcher.run(interval, wanted, told).await });
    let mut keys = read_keys();
    let mut screen = Screen::open()?;
    let result = async {
        loop {
            let now = seen.borrow_and_update().clone();
            let drawing = screen
                .terminal
                .draw(|frame| draw::all(frame, &now, &mut view, true));
            drawing.map_err(|error| Failure::local("drawing on the terminal", error))?;
            tokio::select! {
                changed = seen.changed() => if changed.is_err() {
                    return Err(Failure::Local("the looking ended".to_owned()));
                },
                key = keys.recv() => match key {
                    None => return Err(Failure::Local("the terminal gives no keys".to_owned())),
                    Some(Event::Key(key)) if key.kind != KeyEventKind::Release => {
                        match view.key(key) {
                            Wish::Quit => return Ok(()),
                            Wish::Filter => { filter.send_replace(view.filter().to_owned()); }
                            Wish::Nothing => {}
                        }
                    }
                    // Another size: it is drawn again.
                    Some(_) => {}
                },
                () = &mut stop => return Ok(()),
            }
        }
    }
    .await;
    looking.abort();
    drop(screen);
    result
}

/// The terminal while it is ours; given back at the end, after a panic as well.
struct Screen {
    terminal: ratatui::DefaultTerminal,
}

impl Screen {
    fn open() -> Result<Self> {
        let opened = ratatui::try_init();
        let terminal = opened.map_err(|error| Failure::local("the terminal", error))?;
        Ok(Self { terminal })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if let Err(error) = ratatui::try_restore() {
            remark(&format!("the terminal may need `reset`: {error}"));
        }
    }
}

/// Reads keys on a thread of its own, since that blocks; it ends with the receiver.
fn read_keys() -> mpsc::Receiver<Event> {
    let (sender, receiver) = mpsc::channel(KEYS_AHEAD);
    tokio::task::spawn_blocking(move || {
        while !sender.is_closed() {
            // An error of either is the end: whoever waits for keys sees it.
            let told = match event::poll(KEYS_EVERY) {
                Ok(false) => continue,
                Ok(true) => event::read(),
                Err(error) => Err(error),
            };
            let Ok(event) = told else { return };
            if sender.blocking_send(event).is_err() {
                return;
            }
        }
    });
    receiver
}
