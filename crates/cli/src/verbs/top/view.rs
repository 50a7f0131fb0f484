//! How it is looked at: sorting, filter, place, and the keys that change them.

use std::cmp::Ordering;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::watch::QueueRow;
use crate::args::SortBy;

/// The longest filter: the longest name.
const FILTER_CHARS_MAX: usize = 255;
/// How many rows a page is.
const PAGE: usize = 10;

#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) sort: SortBy,
    pub(super) reverse: bool,
    pub(super) help: bool,
    /// The first row that is shown; kept in bounds by whoever draws.
    pub(super) first: usize,
    filter: String,
    /// The filter as it was before it is being typed.
    typing: Option<String>,
}

/// What a key wants from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    Nothing,
    Quit,
    /// The filter is another one.
    Filter,
}

impl View {
    pub(super) fn new(sort: SortBy, filter: String) -> Self {
        Self {
            sort,
            reverse: false,
            help: false,
            first: 0,
            filter,
            typing: None,
        }
    }

    pub(super) fn filter(&self) -> &str {
        &self.filter
    }

    pub(super) fn is_typing(&self) -> bool {
        self.typing.is_some()
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Wish {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Wish::Quit,
                _ => Wish::Nothing,
            };
        }
        match self.typing.take() {
            Some(before) => self.typed(key.code, before),
            None => self.pressed(key.code),
        }
    }

    fn typed(&mut self, code: KeyCode, before: String) -> Wish {
        match code {
            KeyCode::Enter => return Wish::Nothing,
            KeyCode::Esc => {
                self.filter = before;
                return Wish::Filter;
            }
            KeyCode::Backspace => {
                self.filter.pop();
            }
            KeyCode::Char(character) if self.filter.chars().count() < FILTER_CHARS_MAX => {
                self.filter.push(character);
            }
            _ => {}
        }
        self.typing = Some(before);
        self.first = 0;
        Wish::Filter
    }

    fn pressed(&mut self, code: KeyCode) -> Wish {
        if self.help {
            self.help = false;
            return match code {
                KeyCode::Char('q') => Wish::Quit,
                _ => Wish::Nothing,
            };
        }
        match code {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('/') => self.typing = Some(self.filter.clone()),
            KeyCode::Esc if !self.filter.is_empty() => {
                self.filter.clear();
                self.first = 0;
                return Wish::Filter;
            }
            KeyCode::Char('d') => self.sort_by(SortBy::Depth),
            KeyCode::Char('f') => self.sort_by(SortBy::InFlight),
            KeyCode::Char('p') => self.sort_by(SortBy::Published),
            KeyCode::Char('a') => self.sort_by(SortBy::Acked),
            KeyCode::Char('o') => self.sort_by(SortBy::Age),
            KeyCode::Char('n') => self.sort_by(SortBy::Name),
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Down | KeyCode::Char('j') => self.first += 1,
            KeyCode::Up | KeyCode::Char('k') => self.first = self.first.saturating_sub(1),
            KeyCode::PageDown => self.first += PAGE,
            KeyCode::PageUp => self.first = self.first.saturating_sub(PAGE),
            KeyCode::Home => self.first = 0,
            KeyCode::End => self.first = usize::MAX / 2,
            _ => {}
        }
        Wish::Nothing
    }

    fn sort_by(&mut self, sort: SortBy) {
        (self.sort, self.reverse, self.first) = (sort, false, 0);
    }

    /// The queues to show, in their order.
    pub(super) fn rows<'a>(&self, queues: &'a [QueueRow]) -> Vec<&'a QueueRow> {
        let fitting = queues.iter().filter(|row| row.name.contains(&self.filter));
        let mut rows: Vec<_> = fitting.collect();
        // What is alike is in the order of the names, whichever way the rest is.
        rows.sort_by(|a, b| {
            let order = self.order(a, b);
            let order = if self.reverse { order.reverse() } else { order };
            order.then_with(|| a.name.cmp(&b.name))
        });
        rows
    }

    fn order(&self, a: &QueueRow, b: &QueueRow) -> Ordering {
        let rate = |rate: Option<f64>| rate.unwrap_or(-1.0);
        match self.sort {
            SortBy::Depth => b.ready.cmp(&a.ready),
            SortBy::InFlight => b.in_flight.cmp(&a.in_flight),
            SortBy::Published => rate(b.published).total_cmp(&rate(a.published)),
            SortBy::Acked => rate(b.acked).total_cmp(&rate(a.acked)),
            SortBy::Age => b.oldest.cmp(&a.oldest),
            SortBy::Name => a.name.cmp(&b.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn queue(name: &str, ready: u64, acked: f64, oldest: u64) -> QueueRow {
        QueueRow {
            name: name.to_owned(),
            ready,
            acked: Some(acked),
            oldest: (oldest > 0).then(|| Duration::from_secs(oldest)),
            ..Default::default()
        }
    }

    fn press(view: &mut View, keys: &str) -> Wish {
        let mut last = Wish::Nothing;
        for key in keys.chars() {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '<' => KeyCode::Backspace,
                other => KeyCode::Char(other),
            };
            last = view.key(KeyEvent::new(code, KeyModifiers::NONE));
        }
        last
    }

    fn names(view: &View) -> String {
        let queues = [
            queue("b", 5, 1.0, 0),
            queue("a", 5, 9.0, 7),
            queue("orders", 80, 0.0, 3),
        ];
        let rows = view.rows(&queues);
        let names: Vec<_> = rows.iter().map(|row| row.name.as_str()).collect();
        names.join(" ")
    }

    #[test]
    fn keys_sort() {
        let mut view = View::new(SortBy::Depth, String::new());
        assert_eq!(names(&view), "orders a b");
        for (key, expected) in [
            ("a", "a b orders"),
            ("o", "a orders b"),
            ("n", "a b orders"),
            ("r", "orders b a"),
            ("d", "orders a b"),
            ("r", "a b orders"),
            ("f", "a b orders"),
        ] {
            assert_eq!(press(&mut view, key), Wish::Nothing);
            assert_eq!(names(&view), expected, "{key}");
        }
    }

    #[test]
    fn a_filter_is_typed_kept_and_taken_back() {
        let mut view = View::new(SortBy::Name, String::new());
        assert_eq!(press(&mut view, "/q"), Wish::Filter);
        assert!(view.is_typing());
        assert_eq!(names(&view), "");
        assert_eq!(press(&mut view, "<orx<d\n"), Wish::Nothing);
        assert_eq!((view.filter(), names(&view).as_str()), ("ord", "orders"));
        assert_eq!(press(&mut view, "/s\x1b"), Wish::Filter);
        assert_eq!(view.filter(), "ord");
        assert_eq!(press(&mut view, "\x1b"), Wish::Filter);
        assert_eq!(view.filter(), "");
    }

    #[test]
    fn it_is_quit_by_q_and_control_c() {
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        let mut view = View::new(SortBy::Name, String::new());
        assert_eq!(press(&mut view, "?"), Wish::Nothing);
        assert!(view.help);
        assert_eq!(press(&mut view, "x"), Wish::Nothing);
        assert!(!view.help);
        assert_eq!(press(&mut view, "?q"), Wish::Quit);
        assert_eq!(press(&mut view, "q"), Wish::Quit);
        assert_eq!(press(&mut view, "/"), Wish::Nothing);
        assert_eq!(press(&mut view, "q"), Wish::Filter);
        assert_eq!(view.key(control_c), Wish::Quit);
    }

    #[test]
    fn places_stay_above_the_beginning() {
        let mut view = View::new(SortBy::Name, String::new());
        press(&mut view, "kjjjk");
        assert_eq!(view.first, 2);
        press(&mut view, "d");
        assert_eq!(view.first, 0);
    }
}
