//! The pages: every block of code in them is run as a reader would, on a cluster of `ticketrail dev`, and what it
//! prints is compared with what the page shows.
//!
//! `page` says how a page tells this test what it must know, `shape` what may vary. trycmd, which does such things
//! for programs without a server, runs each command without a shell and each file without a cluster, and its signs
//! for what varies would stand in the pages, where readers want to see what really comes.

pub(crate) mod dev;
mod facts;
mod links;
mod page;
mod session;
pub(crate) mod shape;
mod shell;

use std::fs;
use std::path::{Path, PathBuf};

use futures::future::join_all;

use self::page::{Block, blocks};
use self::session::Session;

/// Blocks that are not run. Each says why; this keeps them from growing in number unseen.
const SKIPPED_MAX: usize = 25;
/// Blocks that are run. A reader of pages that finds none must not pass.
const RUN_MIN: usize = 25;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_block_of_the_pages_does_what_they_say() {
    let pages: Vec<_> = pages()
        .into_iter()
        .map(|page| (blocks_of(&page), page))
        .collect();
    let skipped: Vec<String> = pages.iter().flat_map(skipped_blocks).collect();
    println!("not run:\n  {}", skipped.join("\n  "));
    assert!(skipped.len() <= SKIPPED_MAX, "{skipped:#?}");
    let runs = pages.iter().map(async |(blocks, page)| {
        let run: Vec<&Block> = blocks
            .iter()
            .filter(|block| block.notes.skip.is_none())
            .collect();
        if run.is_empty() {
            return Vec::new();
        }
        let mut session = Session::start(run.iter().copied()).await;
        let mut wrong = Vec::new();
        for block in &run {
            if let Err(why) = session.run(block).await {
                wrong.push(format!("{}:{}: {why}", name(page), block.line));
            }
        }
        wrong
    });
    let wrong = join_all(runs).await.concat();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n\n"));
    let all: usize = pages.iter().map(|(blocks, _)| blocks.len()).sum();
    assert!(all - skipped.len() >= RUN_MIN, "only {all} blocks");
}

fn blocks_of(page: &Path) -> Vec<Block> {
    let text = fs::read_to_string(page).unwrap();
    blocks(&text).unwrap_or_else(|why| panic!("{}: {why}", name(page)))
}

/// What is not run on a page, with the reasons.
fn skipped_blocks((blocks, page): &(Vec<Block>, PathBuf)) -> Vec<String> {
    let skipped = blocks.iter().filter_map(|block| {
        let why = block.notes.skip.as_ref()?;
        for path in why.split(' ').filter(|word| word.starts_with("tests/")) {
            assert!(root().join(path).exists(), "{}: no {path}", name(page));
        }
        Some(format!("{}:{}: {why}", name(page), block.line))
    });
    skipped.collect()
}

/// Every page of the project.
fn pages() -> Vec<PathBuf> {
    let mut pages = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let (path, name) = (
                entry.path(),
                entry.file_name().to_string_lossy().into_owned(),
            );
            // A link leads to a page that is found where it lies.
            if entry.file_type().unwrap().is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().unwrap()
}

/// As people call it.
fn name(page: &Path) -> String {
    let name = page.strip_prefix(root()).unwrap_or(page);
    name.display().to_string()
}
