//! What the pages say about the sources: tests that they name, reasons of errors, limits.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ticketrail_proto::error::Reason;

use super::root;

const GUARANTEES: &str = "docs/guarantees.md";
const OPERATIONS: &str = "docs/operations.md";
/// Where the limits are.
const LIMITS: [&str; 2] = ["crates/core/src/limits.rs", "crates/server/src/limits.rs"];
/// Where tests are.
const TESTED: [&str; 3] = ["crates", "tests", "jepsen-like"];
/// A name of so many words is that of a test.
const WORDS_OF_A_TEST_MIN: usize = 4;

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The lines of a page between two comments, without the head of the table.
fn table(path: &str, name: &str) -> Vec<Vec<String>> {
    let text = text(path);
    let (_, rest) = text
        .split_once(&format!("<!-- {name}: begin -->\n"))
        .unwrap();
    let (table, _) = rest.split_once(&format!("<!-- {name}: end -->")).unwrap();
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect();
    table.lines().skip(2).map(cells).collect()
}

#[test]
fn every_reason_is_in_the_table_of_errors_with_its_code() {
    let told = table(GUARANTEES, "errors");
    let told: Vec<_> = told
        .iter()
        .map(|cells| (cells[1].as_str(), cells[2].as_str()))
        .collect();
    let real = Reason::ALL.iter().map(|reason| {
        let code = format!("{:?}", reason.code());
        (format!("`{reason}`"), code)
    });
    let real: Vec<_> = real.collect();
    let real: Vec<_> = real.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(told, real);
    for (cells, reason) in table(GUARANTEES, "errors").iter().zip(Reason::ALL) {
        if reason.invites_retry() {
            assert!(cells[3].starts_with("yes"), "{reason} invites a retry");
        }
    }
}

#[test]
fn the_limits_in_the_page_are_those_of_the_sources() {
    let sources: String = LIMITS.iter().map(|path| text(path)).collect();
    let constants = constants(&sources);
    let rows = table(GUARANTEES, "limits");
    for cells in &rows {
        let (shown, name) = cells[2]
            .split_once(" <!-- ")
            .expect("the name of a constant");
        let name = name.trim_end_matches(" -->");
        let source = constants
            .get(name)
            .unwrap_or_else(|| panic!("no constant {name}"));
        assert_eq!(
            number(shown),
            value(source, &constants),
            "{name} is `{source}`"
        );
    }
    assert!(rows.len() > 30);
}

/// The constants by name, as they are written; the first of two that are called alike.
fn constants(text: &str) -> BTreeMap<&str, &str> {
    let mut constants = BTreeMap::new();
    for rest in text.split("const ").skip(1) {
        let Some((name, rest)) = rest.split_once(": ") else {
            continue;
        };
        let found = rest
            .split_once(" = ")
            .and_then(|(_, rest)| rest.split_once(";\n"));
        if let Some((written, _)) = found {
            constants.entry(name).or_insert(written);
        }
    }
    constants
}

/// What a constant is, in bytes, milliseconds or as a number.
fn value(written: &str, constants: &BTreeMap<&str, &str>) -> u64 {
    let written = written.trim();
    // `if cfg!(test) { few } else { many }`
    if let Some((_, real)) = written.rsplit_once("else {") {
        return value(real.trim_end_matches('}'), constants);
    }
    if let Some(seconds) = written.strip_prefix("Duration::from_secs(") {
        return 1_000 * value(seconds.trim_end_matches(')'), constants);
    }
    if let Some((base, shift)) = written.split_once(" << ") {
        return value(base, constants) << value(shift, constants);
    }
    if let Some((left, right)) = written.split_once(" * ") {
        return value(left, constants) * value(right, constants);
    }
    let name = written
        .trim_start_matches("core::")
        .split(' ')
        .next()
        .unwrap_or_default();
    match constants.get(name) {
        Some(of) => value(of, constants),
        None => number(&written.replace('_', "")),
    }
}

/// A number as the page writes it.
fn number(shown: &str) -> u64 {
    let (digits, unit) = shown.split_once(' ').unwrap_or((shown, ""));
    let number: u64 = digits
        .replace(',', "")
        .parse()
        .unwrap_or_else(|_| panic!("`{shown}`"));
    let of_unit = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "days" => 86_400_000,
        _ => panic!("`{unit}` is no unit"),
    };
    number * of_unit
}

#[test]
fn the_tests_that_hold_the_promises_are_there() {
    let mut sources = String::new();
    for folder in TESTED {
        read_all(&root().join(folder), &mut sources);
    }
    let page = text(GUARANTEES);
    let words = page.split('`').skip(1).step_by(2);
    let named: Vec<&str> = words.filter(|word| is_a_test(word)).collect();
    for name in &named {
        assert!(sources.contains(&format!("fn {name}(")), "no test {name}");
    }
    assert!(named.len() > 20, "{named:?}");
}

#[test]
fn the_last_lines_of_nodes_are_those_of_the_sources() {
    let mut sources = String::new();
    read_all(&root().join("crates"), &mut sources);
    let rows = table(OPERATIONS, "endings");
    for cells in &rows {
        let line = cells[1].trim_matches('`');
        assert!(sources.contains(line), "no node says `{line}`");
    }
    assert!(rows.len() > 10);
}

fn is_a_test(name: &str) -> bool {
    let part_of_a_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    name.chars().all(part_of_a_word) && name.split('_').count() >= WORDS_OF_A_TEST_MIN
}

fn read_all(folder: &Path, all: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_all(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn every_alert_has_a_line_in_the_table_of_alerts() {
    let rules = text("deploy/prometheus/alerts.yml");
    let rules = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    let mut rules: Vec<_> = rules.map(str::to_owned).collect();
    let page = text(OPERATIONS);
    let (_, rest) = page.split_once("\n## Alerts\n").unwrap();
    let (table, _) = rest.split_once("\n## ").unwrap();
    let cells = table.lines().filter(|line| line.starts_with("| `"));
    let names = cells.flat_map(|line| {
        let first = line.split('|').nth(1).unwrap_or_default();
        first
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    let mut names: Vec<_> = names.collect();
    names.sort();
    rules.sort();
    assert_eq!(names, rules);
}
