//! How it looks: a line about the cluster, the nodes, the queues, and a line about keys.
//!
//! Where a terminal is narrow, columns go in the order of how little they would be missed; a name keeps what is
//! left of the line.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Clear, Paragraph, Row, Table};

use super::view::View;
use super::watch::{NodeRow, QueueRow, Seen};
use crate::args::SortBy;
use crate::units::{show_about, show_bytes, show_count};

/// Blanks between columns.
const GAP: u16 = 2;
/// A name is never narrower, and never takes more than it needs.
const NAME_MIN: u16 = 8;

const HELP: [(&str, &str); 11] = [
    ("q", "quit"),
    ("/", "filter by name; Enter keeps it, Esc takes it back"),
    ("Esc", "no filter"),
    ("d", "sort by ready messages (depth)"),
    ("f", "sort by messages in flight"),
    ("p", "sort by published per second"),
    ("a", "sort by acknowledged per second"),
    ("o", "sort by the age of the oldest ready message"),
    ("n", "sort by name"),
    ("r", "the other way round"),
    ("arrows, PgUp, PgDn, Home, End", "move"),
];

/// A column: its title, and how much it would be missed (0 goes first).
struct Column {
    title: &'static str,
    worth: u8,
    kind: Kind,
    sort: Option<SortBy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    /// Whole, or not there: half an address is another one.
    Word,
    /// May be cut.
    Text,
}

use Kind::{Number, Text, Word};

const fn column(title: &'static str, worth: u8, kind: Kind, sort: Option<SortBy>) -> Column {
    Column {
        title,
        worth,
        kind,
        sort,
    }
}

const NODES: [Column; 9] = [
    column("NODE", 9, Number, None),
    column("ROLE", 8, Word, None),
    column("CLIENTS", 4, Word, None),
    column("VERSION", 2, Word, None),
    column("APPLIED", 5, Number, None),
    column("BEHIND", 6, Number, None),
    column("DISK", 3, Number, None),
    column("FREE", 1, Number, None),
    column("STATE", 7, Text, None),
];

const QUEUES: [Column; 8] = [
    column("QUEUE", 9, Text, Some(SortBy::Name)),
    column("READY", 8, Number, Some(SortBy::Depth)),
    column("IN FLIGHT", 5, Number, Some(SortBy::InFlight)),
    column("PUBLISHED/S", 7, Number, Some(SortBy::Published)),
    column("ACKED/S", 6, Number, Some(SortBy::Acked)),
    column("OLDEST", 4, Number, Some(SortBy::Age)),
    column("CONSUMERS", 3, Number, None),
    column("STATE", 2, Text, None),
];

/// The lines that show everything.
pub(super) fn height(seen: &Seen, view: &View) -> u16 {
    let nodes = seen.nodes.len() + 1;
    let queues = view.rows(&seen.queues).len() + 1;
    let lines = 3 + remarks(seen).len() + nodes + queues;
    // The nodes have half of it at most.
    u16::try_from(lines.max(2 * nodes)).unwrap_or(u16::MAX)
}

/// Draws all of it; `keys` says that there is somebody who presses them.
pub(super) fn all(frame: &mut Frame, seen: &Seen, view: &mut View, keys: bool) {
    let remarks = remarks(seen);
    let nodes = table(&NODES, None, seen.nodes.iter().map(node_cells).collect());
    let rows = view.rows(&seen.queues);
    let queues = table(
        &QUEUES,
        Some(view),
        rows.into_iter().map(queue_cells).collect(),
    );
    let area = frame.area();
    // The queues keep a line where the nodes are many.
    let nodes_height = (seen.nodes.len() as u16 + 1).min(area.height / 2);
    let areas = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(remarks.len() as u16),
        Constraint::Length(1),
        Constraint::Length(nodes_height),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(u16::from(keys)),
    ]);
    let [top, told, _, node_area, _, queue_area, bottom] = areas.areas(area);
    frame.render_widget(headline(seen), top);
    let warning = Style::new().fg(Color::Yellow);
    let told_lines: Vec<Line> = remarks
        .into_iter()
        .map(|text| Line::styled(text, warning))
        .collect();
    frame.render_widget(Paragraph::new(told_lines), told);
    nodes.draw(frame, node_area, 0);
    let shown = usize::from(queue_area.height.saturating_sub(1));
    view.first = view.first.min(queues.rows.len().saturating_sub(shown));
    queues.draw(frame, queue_area, view.first);
    if keys {
        frame.render_widget(keys_line(view), bottom);
    }
    if view.help {
        help(frame, area);
    }
}

fn headline(seen: &Seen) -> Line<'static> {
    if seen.cluster.is_empty() {
        let text = if seen.looked {
            "no cluster"
        } else {
            "looking for the cluster"
        };
        return Line::from(text);
    }
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let leader = match seen.leader {
        Some(node) => Span::raw(format!("node {node} leads")),
        None => Span::styled("no leader", bold.fg(Color::Red)),
    };
    let short: String = seen.cluster.chars().take(8).collect();
    let nodes = seen.nodes.len();
    let up = seen.nodes.iter().filter(|node| node.up).count();
    Line::from(vec![
        Span::styled(format!("cluster {short}"), bold),
        Span::raw("   "),
        leader,
        Span::raw(format!("   {up} of {nodes} nodes up   term {}", seen.term)),
    ])
}

/// What must not be overlooked.
fn remarks(seen: &Seen) -> Vec<String> {
    let mut remarks = Vec::new();
    if let Some(error) = &seen.no_node {
        remarks.push(format!("no node answers: {}", error.message()));
    }
    if let Some((ago, error)) = &seen.stale {
        remarks.push(format!(
            "queues as of {} ago: {} ({})",
            show_about(*ago),
            error.message(),
            error.reason()
        ));
    }
    if seen.more_queues {
        remarks.push(format!(
            "only the first {} queues by name that fit: narrow it with a filter, or see more with --queues",
            show_count(seen.queues.len() as u64)
        ));
    }
    remarks
}

fn node_cells(node: &NodeRow) -> (Vec<String>, Style) {
    let count = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), show_count);
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), show_bytes);
    let cells = vec![
        node.id.to_string(),
        node.role.to_owned(),
        node.address.clone(),
        node.version.clone(),
        count(node.applied),
        count(node.lag),
        bytes(node.disk.map(|(taken, _)| taken)),
        bytes(node.disk.map(|(_, free)| free)),
        node.state.clone(),
    ];
    let style = match (node.up, node.role) {
        (false, _) => Style::new().fg(Color::Red),
        (true, "leader") => Style::new().add_modifier(Modifier::BOLD),
        (true, _) => Style::new(),
    };
    (cells, style)
}

fn queue_cells(queue: &QueueRow) -> (Vec<String>, Style) {
    let rate = |rate: Option<f64>| match rate {
        None => "-".to_owned(),
        Some(rate) if rate > 0.0 && rate < 10.0 => format!("{rate:.1}"),
        Some(rate) => show_count(rate.round() as u64),
    };
    let age = |age: Option<Duration>| age.map_or_else(|| "-".to_owned(), show_about);
    let cells = vec![
        queue.name.clone(),
        show_count(queue.ready),
        show_count(queue.in_flight),
        rate(queue.published),
        rate(queue.acked),
        age(queue.oldest),
        queue.consumers.to_string(),
        if queue.paused { "paused" } else { "" }.to_owned(),
    ];
    let style = match queue.paused {
        true => Style::new().fg(Color::Yellow),
        false => Style::new(),
    };
    (cells, style)
}

struct Drawn<'a> {
    columns: &'a [Column],
    view: Option<(SortBy, bool)>,
    rows: Vec<(Vec<String>, Style)>,
}

fn table<'a>(
    columns: &'a [Column],
    view: Option<&View>,
    rows: Vec<(Vec<String>, Style)>,
) -> Drawn<'a> {
    Drawn {
        columns,
        view: view.map(|view| (view.sort, view.reverse)),
        rows,
    }
}

impl Drawn<'_> {
    fn draw(&self, frame: &mut Frame, area: Rect, first: usize) {
        let height = usize::from(area.height.saturating_sub(1));
        let shown = self.rows.iter().skip(first).take(height);
        let widths = self.widths(area.width);
        let line = |cells: &[String]| {
            let kept = widths.iter().map(|(place, width)| {
                let text = Line::raw(fitted(&cells[*place], usize::from(*width)));
                text.alignment(match self.columns[*place].kind {
                    Number => Alignment::Right,
                    Word | Text => Alignment::Left,
                })
            });
            Row::new(kept.collect::<Vec<_>>())
        };
        let rows: Vec<Row> = shown
            .map(|(cells, style)| line(cells).style(*style))
            .collect();
        let header = line(&self.titles()).style(Style::new().add_modifier(Modifier::REVERSED));
        let constraints = widths.iter().map(|(_, width)| Constraint::Length(*width));
        let table = Table::new(rows, constraints)
            .header(header)
            .column_spacing(GAP);
        frame.render_widget(table, area);
    }

    fn titles(&self) -> Vec<String> {
        let title = |column: &Column| match self.view {
            Some((sort, reverse)) if column.sort == Some(sort) => {
                format!("{}{}", column.title, if reverse { '^' } else { '*' })
            }
            _ => column.title.to_owned(),
        };
        self.columns.iter().map(title).collect()
    }

    /// The columns that are shown, by place, with their widths.
    fn widths(&self, width: u16) -> Vec<(usize, u16)> {
        let titles = self.titles();
        let cells_wide = |place: usize| {
            let cells = self.rows.iter().map(|(cells, _)| cells[place].as_str());
            let widest = cells.chain([titles[place].as_str()]);
            let widest = widest.map(|text| Span::raw(text).width()).max();
            u16::try_from(widest.unwrap_or(0)).unwrap_or(u16::MAX)
        };
        // A column that says nothing is none, unless it is the first.
        let says = |place: usize| {
            let mut cells = self.rows.iter().map(|(cells, _)| &cells[place]);
            place == 0 || self.rows.is_empty() || cells.any(|cell| !cell.is_empty())
        };
        let mut kept: Vec<(usize, u16)> = (0..self.columns.len())
            .filter(|place| says(*place))
            .map(|place| (place, cells_wide(place)))
            .collect();
        let needed = |kept: &[(usize, u16)]| {
            let gaps = GAP * (kept.len() as u16 - 1);
            let name = |place: usize, wide: u16| match self.columns[place].kind {
                Number | Word => wide,
                Text => wide.min(NAME_MIN),
            };
            kept.iter()
                .map(|(place, wide)| u32::from(name(*place, *wide)))
                .sum::<u32>()
                + u32::from(gaps)
        };
        while kept.len() > 1 && needed(&kept) > u32::from(width) {
            let least = kept.iter().enumerate();
            let least = least.min_by_key(|(_, (place, _))| self.columns[*place].worth);
            let Some((at, _)) = least else {
                break;
            };
            kept.remove(at);
        }
        self.cut(kept, width)
    }

    /// Takes from the longest texts what is too much for the line.
    fn cut(&self, mut kept: Vec<(usize, u16)>, width: u16) -> Vec<(usize, u16)> {
        let gaps = u32::from(GAP) * (kept.len() as u32 - 1);
        loop {
            let all = kept.iter().map(|(_, wide)| u32::from(*wide)).sum::<u32>() + gaps;
            let over = all.saturating_sub(u32::from(width));
            let texts = kept
                .iter_mut()
                .filter(|(place, wide)| self.columns[*place].kind == Text && *wide > NAME_MIN);
            let Some((_, wide)) = texts.max_by_key(|(_, wide)| *wide).filter(|_| over > 0) else {
                return kept;
            };
            let less = u16::try_from(over)
                .unwrap_or(u16::MAX)
                .min(*wide - NAME_MIN);
            *wide -= less;
        }
    }
}

/// What fits, with a sign where something is missing.
fn fitted(text: &str, width: usize) -> String {
    let wide = |text: &str| Span::raw(text).width();
    if wide(text) <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for character in text.chars() {
        kept.push(character);
        if wide(&kept) >= width {
            kept.pop();
            break;
        }
    }
    kept.push('…');
    kept
}

fn keys_line(view: &View) -> Line<'static> {
    if view.is_typing() {
        return Line::from(format!("filter: {}_", view.filter()));
    }
    let dim = Style::new().add_modifier(Modifier::DIM);
    match view.filter() {
        "" => Line::styled(
            "q quit   ? help   / filter   d f p a o n sort   r reverse",
            dim,
        ),
        filter => Line::from(format!(
            "filter: {filter}   Esc no filter   q quit   ? help"
        )),
    }
}

fn help(frame: &mut Frame, area: Rect) {
    let wide = HELP.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let lines: Vec<Line> = HELP
        .iter()
        .map(|(key, what)| Line::raw(format!("{key:>wide$}  {what}")))
        .collect();
    let width = lines.iter().map(Line::width).max().unwrap_or(0) as u16 + 4;
    let height = lines.len() as u16 + 2;
    let [middle] = Layout::horizontal([Constraint::Max(width)])
        .flex(ratatui::layout::Flex::Center)
        .areas(area);
    let [place] = Layout::vertical([Constraint::Max(height)])
        .flex(ratatui::layout::Flex::Center)
        .areas(middle);
    let block = Block::bordered()
        .title(" keys ")
        .title_bottom(" any key goes back ");
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(block), place);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verbs::top::text;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

    fn seen() -> Seen {
        let node = |id, role, up| NodeRow {
            id,
            role,
            address: format!("10.0.0.{id}:7400"),
            version: if up { "0.1.0" } else { "" }.to_owned(),
            applied: up.then_some(12_345),
            lag: Some(if up { 0 } else { 77 }),
            disk: up.then_some((64 << 20, 3 << 30)),
            up,
            state: if up { "up" } else { "down (connect_failed)" }.to_owned(),
        };
        let queue = |name: &str, ready, paused| QueueRow {
            name: name.to_owned(),
            ready,
            in_flight: 3,
            published: Some(1_234.4),
            acked: Some(0.5),
            oldest: (ready > 0).then(|| Duration::from_secs(125)),
            consumers: 2,
            paused,
        };
        Seen {
            cluster: "37093aad6410de21b6b57fd7d2e4d85b".to_owned(),
            leader: Some(1),
            term: 3,
            nodes: vec![node(1, "leader", true), node(2, "-", false)],
            queues: vec![queue("orders", 0, false), queue("mail", 1_500, true)],
            looked: true,
            ..Default::default()
        }
    }

    fn drawn(seen: &Seen, view: &mut View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| all(frame, seen, view, true)).unwrap();
        text(terminal.backend().buffer())
    }

    fn view() -> View {
        View::new(SortBy::Depth, String::new())
    }

    #[test]
    fn a_wide_terminal_shows_all_of_it() {
        let expected = "\
cluster 37093aad   node 1 leads   1 of 2 nodes up   term 3

NODE  ROLE    CLIENTS        VERSION  APPLIED  BEHIND      DISK     FREE  STATE
   1  leader  10.0.0.1:7400  0.1.0     12,345       0  64.0 MiB  3.0 GiB  up
   2  -       10.0.0.2:7400                 -      77         -        -  down (connect_failed)

QUEUE   READY*  IN FLIGHT  PUBLISHED/S  ACKED/S  OLDEST  CONSUMERS  STATE
mail     1,500          3        1,234      0.5   2m05s          2  paused
orders       0          3        1,234      0.5       -          2

q quit   ? help   / filter   d f p a o n sort   r reverse";
        assert_eq!(drawn(&seen(), &mut view(), 100, 11), expected);
    }

    #[test]
    fn a_narrow_one_leaves_out_what_is_missed_least() {
        let expected = "\
cluster 37093aad   node 1 leads   1 of 2

NODE  ROLE    APPLIED  BEHIND  STATE
   1  leader   12,345       0  up
   2  -             -      77  down (co…

QUEUE   READY*  PUBLISHED/S  ACKED/S
mail     1,500        1,234      0.5
orders       0        1,234      0.5

q quit   ? help   / filter   d f p a o n";
        assert_eq!(drawn(&seen(), &mut view(), 40, 11), expected);
        // However small, it draws.
        for width in 1..60 {
            for height in 1..16 {
                let mut small = view();
                small.help = height % 2 == 0;
                drawn(&seen(), &mut small, width, height);
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let mut seen = seen();
        seen.leader = None;
        seen.more_queues = true;
        let error = ticketrail_client::parse_endpoints("nonsense://").unwrap_err();
        seen.stale = Some((Duration::from_secs(12), error));
        let frame = drawn(&seen, &mut view(), 110, 20);
        assert!(frame.contains("no leader"), "{frame}");
        assert!(frame.contains("queues as of 12.0s ago: "), "{frame}");
        assert!(frame.contains("only the first 2 queues"), "{frame}");
        let nothing = drawn(&Seen::default(), &mut view(), 80, 10);
        assert!(nothing.starts_with("looking for the cluster"), "{nothing}");
    }

    #[test]
    fn keys_change_the_frame() {
        let mut view = view();
        let press = |view: &mut View, key| {
            view.key(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE));
        };
        press(&mut view, 'n');
        let frame = drawn(&seen(), &mut view, 80, 12);
        assert!(frame.contains("QUEUE*"), "{frame}");
        press(&mut view, 'r');
        let frame = drawn(&seen(), &mut view, 80, 12);
        assert!(frame.contains("QUEUE^"), "{frame}");
        assert!(frame.find("orders") < frame.find("mail"), "{frame}");
        for key in "/mai".chars() {
            press(&mut view, key);
        }
        let frame = drawn(&seen(), &mut view, 80, 12);
        assert!(
            frame.ends_with("filter: mai_") && !frame.contains("orders"),
            "{frame}"
        );
        view.key(KeyEvent::new(KeyCode::Enter, KeyModifiers::NONE));
        press(&mut view, '?');
        let frame = drawn(&seen(), &mut view, 80, 16);
        assert!(frame.contains("sort by messages in flight"), "{frame}");
    }

    #[test]
    fn long_lists_move_and_end_at_their_end() {
        let mut seen = seen();
        let queue = |n| QueueRow {
            name: format!("queue {n:02}"),
            ..Default::default()
        };
        seen.queues = (0..30).map(queue).collect();
        let mut view = View::new(SortBy::Name, String::new());
        view.key(KeyEvent::new(KeyCode::End, KeyModifiers::NONE));
        let frame = drawn(&seen, &mut view, 80, 14);
        assert!(
            frame.contains("queue 29") && frame.contains("queue 24"),
            "{frame}"
        );
        assert!(!frame.contains("queue 23"), "{frame}");
        assert_eq!(view.first, 24);
        view.key(KeyEvent::new(KeyCode::Up, KeyModifiers::NONE));
        assert!(drawn(&seen, &mut view, 80, 14).contains("queue 23"));
    }

    #[test]
    fn a_frame_as_text_shows_all_there_is() {
        let mut seen = seen();
        let queue = |n| QueueRow {
            name: format!("queue {n:04}"),
            ..Default::default()
        };
        for (nodes, queues) in [(9, 0), (1, 2_000), (3, 3)] {
            seen.nodes = vec![seen.nodes[0].clone(); nodes];
            seen.queues = (0..queues).map(queue).collect();
            let frame = crate::verbs::top::frame(&seen, &view(), 80);
            assert_eq!(frame.matches("leader").count(), nodes, "{frame}");
            assert_eq!(frame.matches("queue ").count(), queues, "{frame}");
        }
    }

    #[test]
    fn wide_characters_take_two_cells() {
        let mut seen = seen();
        seen.queues[0].name = "注文".to_owned();
        let frame = drawn(&seen, &mut view(), 100, 12);
        assert!(frame.contains("注文 "), "{frame}");
    }
}
