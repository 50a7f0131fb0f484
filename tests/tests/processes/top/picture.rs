//! The picture of the README, `docs/top.svg`: what `ticketrail top` really drew in a terminal, cell by cell, on a
//! cluster of which a node was just killed.
//!
//! `TICKETRAIL_WRITE_FIXTURES=1 cargo test --workspace --test processes picture` draws it anew.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Stdio;

use tempfile::TempDir;
use ticketrail_tests::cluster::{Program, turn};
use tokio::process::{Child, Command};

use super::line;
use super::terminal::{Cell, Look, Terminal};
use crate::docs::dev::Dev;
use crate::docs::shape::{Varies, alike};

const PICTURE: &str = "../docs/top.svg";
/// What the picture is held to; all other lines are of the moment.
const LASTING: [&str; 4] = ["cluster", "NODE", "QUEUE", "q"];
const CELL_WIDTH: f64 = 8.4;
const LINE_HEIGHT: f64 = 18.0;
const MARGIN: f64 = 16.0;
/// Above the text: a bar with a title, as windows have.
const BAR_HEIGHT: f64 = 32.0;
/// For light and dark pages alike, it brings its own background.
const BACKGROUND: &str = "#0d1117";
const FRAME: &str = "#30363d";
const PLAIN: &str = "#e6edf3";
const DIM: &str = "#8b949e";

/// One of the queues with traffic, and where its acknowledgements per second stand.
const BUSY: &str = "mail.1";
const ACKED: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_picture_in_the_readme_is_what_it_draws() {
    let _turn = turn(false).await;
    let folder = TempDir::new().unwrap();
    let mut dev = Dev::start(folder.path(), &["--demo"]).await;
    let _traffic = traffic(&dev.endpoints());
    let terminal = Terminal::start(&dev.endpoints());
    let busy = |screen: &str| {
        let acked = line(screen, BUSY)
            .get(ACKED)
            .and_then(|rate| rate.parse::<f64>().ok());
        acked.is_some_and(|rate| rate > 10.0)
    };
    terminal
        .shows("traffic", |screen| {
            screen.contains("3 of 3 nodes up") && busy(screen)
        })
        .await;
    dev.press("k 2").await;
    let killed = |screen: &str| {
        let told = screen.contains("2 of 3 nodes up") && screen.contains(" leads");
        told && !screen.contains(" as of ") && busy(screen)
    };
    terminal.shows("a node that was killed", killed).await;
    let mut cells = terminal.cells();
    cells.iter_mut().for_each(|line| show_addresses(&dev, line));
    let drawn = svg(&cells);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PICTURE);
    if std::env::var_os("TICKETRAIL_WRITE_FIXTURES").is_some() {
        return fs::write(path, drawn).unwrap();
    }
    let kept = fs::read_to_string(path).unwrap();
    let varies = Varies {
        numbers: true,
        roles: true,
    };
    alike(&lasting(&kept), &lasting(&drawn), varies).unwrap();
    assert_eq!(lasting(&kept).len(), LASTING.len());
}

/// As much as is worth to be looked at, until it is dropped.
fn traffic(endpoints: &str) -> Child {
    let mut bench = Command::new(Program::Product.path());
    bench
        .args(["bench", "e2e", "--queue-prefix", "mail", "--queues", "3"])
        .args(["--rate", "900", "--producers", "2", "--duration", "2m"])
        .env("TICKETRAIL_ENDPOINTS", endpoints)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    bench.spawn().unwrap()
}

/// With the addresses that a reader's cluster has.
fn show_addresses(dev: &Dev, line: &mut [Cell]) {
    let text: String = line.iter().map(|cell| cell.character).collect();
    let shown = dev.as_shown_in_place(&text);
    for (cell, character) in line.iter_mut().zip(shown.chars()) {
        cell.character = character;
    }
}

/// The text of a picture, of those lines that stay as they are.
fn lasting(picture: &str) -> Vec<String> {
    let texts = picture.split("<text ").skip(1).map(|text| {
        let text = text.split("</text>").next().unwrap_or_default();
        // Behind the element's own attributes, between those of its parts.
        let parts = text
            .split('<')
            .map(|part| part.split_once('>').map_or("", |(_, text)| text));
        parts.collect::<String>()
    });
    let lasts = |text: &String| {
        let first = text.split_whitespace().next();
        first.is_some_and(|first| LASTING.contains(&first))
    };
    texts.filter(lasts).collect()
}

fn svg(lines: &[Vec<Cell>]) -> String {
    let lines = without_empty_lines(lines);
    let width = 2.0 * MARGIN + CELL_WIDTH * lines[0].len() as f64;
    let height = BAR_HEIGHT + MARGIN + LINE_HEIGHT * lines.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" aria-label=\"ticketrail top\" font-size=\"14\" \
         font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace\">\n\
         <rect x=\"0.5\" y=\"0.5\" width=\"{}\" height=\"{}\" rx=\"8\" fill=\"{BACKGROUND}\" stroke=\"{FRAME}\"/>\n",
        width - 1.0,
        height - 1.0
    );
    for (place, colour) in ["#ff5f57", "#febc2e", "#28c840"].iter().enumerate() {
        let x = MARGIN + 6.0 + 20.0 * place as f64;
        let _ = writeln!(
            svg,
            "<circle cx=\"{x}\" cy=\"17\" r=\"6\" fill=\"{colour}\"/>"
        );
    }
    for (place, line) in lines.iter().enumerate() {
        let baseline = BAR_HEIGHT + LINE_HEIGHT * (place as f64 + 0.9);
        draw(&mut svg, line, baseline);
    }
    svg.push_str("</svg>\n");
    svg
}

/// No more than one of the empty lines between the queues and the keys.
fn without_empty_lines(lines: &[Vec<Cell>]) -> Vec<&Vec<Cell>> {
    let empty = |line: &Vec<Cell>| line.iter().all(|cell| cell.character == ' ');
    let mut kept: Vec<&Vec<Cell>> = Vec::new();
    for line in lines {
        if !(empty(line) && kept.last().is_some_and(|last| empty(last))) {
            kept.push(line);
        }
    }
    kept
}

/// A line: the parts that look alike, each as wide as its cells whatever the font is.
fn draw(svg: &mut String, line: &[Cell], baseline: f64) {
    let filled = line
        .iter()
        .rposition(|cell| cell.character != ' ' || cell.look.reversed);
    let Some(last) = filled else { return };
    let mut text = String::new();
    let mut at = 0;
    for part in line[..=last].chunk_by(|a, b| a.look == b.look) {
        let (x, look) = (MARGIN + CELL_WIDTH * at as f64, part[0].look);
        let width = CELL_WIDTH * part.len() as f64;
        if look.reversed {
            let top = baseline - 13.0;
            let _ = writeln!(
                svg,
                "<rect x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{LINE_HEIGHT}\" fill=\"{PLAIN}\"/>"
            );
        }
        let characters: String = part.iter().map(|cell| cell.character).collect();
        let _ = write!(
            text,
            "<tspan x=\"{x:.1}\" textLength=\"{width:.1}\" lengthAdjust=\"spacingAndGlyphs\" fill=\"{}\"{}>{}</tspan>",
            colour(look),
            if look.bold {
                " font-weight=\"bold\""
            } else {
                ""
            },
            escaped(&characters)
        );
        at += part.len();
    }
    let _ = writeln!(
        svg,
        "<text y=\"{baseline:.1}\" xml:space=\"preserve\">{text}</text>"
    );
}

fn colour(look: Look) -> &'static str {
    match look {
        Look { reversed: true, .. } => BACKGROUND,
        Look { dim: true, .. } => DIM,
        Look {
            colour: Some(1), ..
        } => "#ff7b72",
        Look {
            colour: Some(3), ..
        } => "#d29922",
        _ => PLAIN,
    }
}

fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;");
    text.replace('<', "&lt;").replace('>', "&gt;")
}
