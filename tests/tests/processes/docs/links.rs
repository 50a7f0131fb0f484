//! Links between the pages: what they point at is there, and every page of `docs/` is pointed at.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{name, pages, root};

/// The text of a page without its blocks of code, in which brackets mean other things.
fn prose(text: &str) -> String {
    let parts = text.split("```").step_by(2);
    parts.collect::<Vec<_>>().join("\n")
}

/// What the links and pictures of a page point at.
fn targets(text: &str) -> Vec<String> {
    let text = prose(text);
    let ends = |c: char| c == ')' || c == '"' || c.is_whitespace();
    let of = |before: &str| -> Vec<String> {
        let links = text.split(before).skip(1);
        links
            .map(|rest| rest.split(ends).next().unwrap_or_default().to_owned())
            .collect()
    };
    [of("]("), of("src=\""), of("srcset=\"")].concat()
}

/// The anchors of a page: its headings, as they are made into names of places.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = prose(text);
    let headings = headings.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| anchor(line.trim_start_matches('#').trim()))
        .collect()
}

fn anchor(heading: &str) -> String {
    let kept = heading
        .chars()
        .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_point_at_what_is_there() {
    let mut wrong = Vec::new();
    let mut checked = 0;
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for target in targets(&text)
            .iter()
            .filter(|target| !target.contains("://"))
        {
            checked += 1;
            let (path, place) = target.split_once('#').unwrap_or((target, ""));
            let file = match path {
                "" => page.clone(),
                path => page.parent().unwrap().join(path),
            };
            let found = match place {
                "" => file.exists(),
                place => fs::read_to_string(&file).is_ok_and(|text| anchors(&text).contains(place)),
            };
            if !found {
                wrong.push(format!("{}: {target}", name(&page)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(checked > 20, "only {checked} links");
}

#[test]
fn every_page_is_found_from_the_readme() {
    let mut found = BTreeSet::new();
    let mut open = vec![root().join("README.md")];
    while let Some(page) = open.pop() {
        let Ok(page) = page.canonicalize() else {
            continue;
        };
        let is_page = page.extension().is_some_and(|extension| extension == "md");
        if !is_page || !found.insert(name(&page)) {
            continue;
        }
        let text = fs::read_to_string(&page).unwrap();
        let folder: &Path = page.parent().unwrap();
        for target in targets(&text) {
            let path = target.split('#').next().unwrap_or_default();
            open.push(folder.join(path));
        }
    }
    let all: BTreeSet<_> = pages().iter().map(|page| name(page)).collect();
    let lost: Vec<_> = all
        .difference(&found)
        .filter(|page| page.starts_with("docs/"))
        .collect();
    assert!(lost.is_empty(), "no link leads to {lost:?}");
}

#[test]
fn headings_become_places() {
    assert_eq!(anchor("A node that differs"), "a-node-that-differs");
    assert_eq!(anchor("`[limits]`: bounds, 2nd"), "limits-bounds-2nd");
    assert_eq!(
        targets("a [b](c.md#d) ```\n[x](y)\n``` <img src=\"e.svg\">"),
        ["c.md#d", "e.svg"]
    );
}
