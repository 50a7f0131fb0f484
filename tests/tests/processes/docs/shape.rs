//! Whether an output looks as a page says: what differs from run to run is made alike on both sides, so that the
//! pages can show what was really seen.
//!
//! Alike are, always: times and rates with their unit, receipts, identities of clusters, and how many blanks stand
//! between two words. Where the page's comment says so, all numbers and sizes, or who leads. A line `...` of a page
//! stands for any lines.

/// What may vary beside what always does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Varies {
    pub(crate) numbers: bool,
    pub(crate) roles: bool,
}

const TIME_UNITS: [&str; 6] = ["ns", "us", "ms", "s", "m", "h"];
const SIZE_UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
/// No shorter word is taken for a receipt.
const RECEIPT_CHARACTERS_MIN: usize = 40;

/// Compares line by line; the first difference on an error.
pub(crate) fn alike(page: &[String], real: &[String], varies: Varies) -> Result<(), String> {
    let shapes = |lines: &[String]| {
        let lines = lines.iter().map(|line| shape(line, varies));
        lines.collect::<Vec<_>>()
    };
    let (page, real) = (shapes(trimmed(page)), shapes(trimmed(real)));
    match fits(&page, &real) {
        true => Ok(()),
        false => Err(format!(
            "the page says, in shape:\n  {}\nbut it is:\n  {}",
            page.join("\n  "),
            real.join("\n  ")
        )),
    }
}

/// Without the empty lines at the end.
fn trimmed(lines: &[String]) -> &[String] {
    let filled = lines.iter().rposition(|line| !line.trim().is_empty());
    &lines[..filled.map_or(0, |last| last + 1)]
}

fn fits(page: &[String], real: &[String]) -> bool {
    match page.split_first() {
        None => real.is_empty(),
        Some((line, rest)) if line == "..." => {
            (0..=real.len()).any(|skipped| fits(rest, &real[skipped..]))
        }
        Some((line, rest)) => real.first() == Some(line) && fits(rest, &real[1..]),
    }
}

fn shape(line: &str, varies: Varies) -> String {
    let words = line.split_whitespace().map(|word| {
        let core = word.trim_matches(|c| "()[]`,;:.".contains(c));
        match core.is_empty() {
            true => word.to_owned(),
            false => word.replacen(core, &word_shape(core, varies), 1),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn word_shape(word: &str, varies: Varies) -> String {
    let shape = match word {
        _ if is_time(word) => "TIME",
        _ if word.strip_suffix("/s").is_some_and(is_number) => "RATE",
        _ if is_receipt(word) => "RECEIPT",
        _ if is_identity(word) => "IDENTITY",
        "leader" | "follower" if varies.roles => "ROLE",
        // A column in which a number may stand or not.
        "-" if varies.numbers => "NUMBER",
        _ if varies.numbers && is_number(word) => "NUMBER",
        _ if varies.numbers && SIZE_UNITS.contains(&word) => "UNIT",
        _ => return word.to_owned(),
    };
    // An age is a number like others where these vary.
    match shape {
        "TIME" if varies.numbers => "NUMBER".to_owned(),
        shape => shape.to_owned(),
    }
}

fn is_number(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit())
        && word.chars().all(|c| c.is_ascii_digit() || ",.".contains(c))
}

fn is_time(word: &str) -> bool {
    let digits = word.trim_end_matches(|c: char| c.is_ascii_lowercase());
    is_number(digits) && TIME_UNITS.contains(&&word[digits.len()..])
}

fn is_receipt(word: &str) -> bool {
    let of_alphabet = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    word.len() >= RECEIPT_CHARACTERS_MIN && word.chars().all(of_alphabet)
}

/// Of a cluster, or its first digits.
fn is_identity(word: &str) -> bool {
    let digits = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
    [8, 32].contains(&word.len()) && word.chars().all(digits)
}

#[test]
fn what_varies_is_alike_and_what_does_not_is_not() {
    let same = |page: &str, real: &str, varies: Varies| {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        alike(&lines(page), &lines(real), varies).is_ok()
    };
    let strict = Varies::default();
    assert!(same(
        "stored in 54ms (18,507/s)",
        "stored in 1.2s (7/s)",
        strict
    ));
    assert!(same("a   b\n\n", "a b", strict));
    assert!(same("a\n...\nd", "a\nb\nc\nd", strict));
    assert!(!same("a\n...\nd", "a\nb", strict));
    assert!(!same("message 7 stored", "message 8 stored", strict));
    assert!(!same("one", "one\ntwo", strict));
    assert!(!same("1 leader", "1 follower", strict));
    let numbers = Varies {
        numbers: true,
        ..strict
    };
    assert!(same("1 leader 57.2 GiB -", "2 leader 8 KiB 4.3s", numbers));
    assert!(!same("1 leader", "1 follower", numbers));
    let roles = Varies {
        roles: true,
        ..strict
    };
    assert!(same("1 leader", "1 follower", roles));
    assert!(!same("1 leader", "2 leader", roles));
}
