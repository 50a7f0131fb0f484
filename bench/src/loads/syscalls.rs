//! Strace, attached to all server processes for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::process_tree;
use crate::servers::Servers;

/// Each of them returns when data is durable.
const SYNCS: [&str; 5] = ["fsync", "fdatasync", "msync", "sync", "syncfs"];
/// So do these where the file was opened to be written synchronously.
const WRITES: [&str; 5] = ["write", "writev", "pwrite64", "pwritev", "pwritev2"];
const ATTACHED_WITHIN: Duration = Duration::from_secs(10);
const ENDED_WITHIN: Duration = Duration::from_secs(10);
/// The bits of `O_DSYNC`, which `O_SYNC` contains.
const SYNCHRONOUS: u32 = libc::O_DSYNC as u32;

/// What was seen between two moments.
pub(super) struct Seen {
    /// Calls of each node that make data durable.
    pub(super) syncs: Vec<u64>,
    pub(super) calls: BTreeMap<String, u64>,
    pub(super) synchronous_files: u64,
}

pub(super) struct Trace {
    tracers: Vec<(Child, PathBuf)>,
    pids: Vec<u32>,
    synchronous: BTreeSet<String>,
}

impl Trace {
    /// Returns when all processes are traced.
    pub(super) async fn start(servers: &Servers) -> Result<Self> {
        let mut tracers = Vec::new();
        let mut pids = Vec::new();
        for (node, root) in servers.pids().into_iter().enumerate() {
            let output = servers.folder().join(format!("strace-{node}"));
            let tree = process_tree::of(root);
            tracers.push((attach(&tree, &output)?, output));
            pids.extend(tree);
        }
        let attached = async {
            while !pids.iter().all(|pid| is_traced(*pid)) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(ATTACHED_WITHIN, attached)
            .await
            .context("strace does not attach: is it allowed to?")?;
        let synchronous = synchronous(&pids);
        Ok(Self {
            tracers,
            pids,
            synchronous,
        })
    }

    /// Lets go of the processes, and counts.
    pub(super) async fn end(mut self, from: SystemTime, until: SystemTime) -> Result<Seen> {
        self.synchronous.append(&mut synchronous(&self.pids));
        let mut texts = Vec::new();
        for (tracer, output) in &mut self.tracers {
            let pid = tracer.id().context("strace ended by itself")?;
            // SAFETY: signals a child of ours that was not waited for.
            unsafe { libc::kill(i32::try_from(pid)?, libc::SIGINT) };
            timeout(ENDED_WITHIN, tracer.wait()).await??;
            texts.push(String::from_utf8_lossy(&fs::read(&*output)?).into_owned());
            fs::remove_file(output)?;
        }
        for text in &texts {
            self.synchronous
                .extend(text.lines().filter_map(opened_synchronous));
        }
        let range = (seconds(from)?, seconds(until)?);
        let mut seen = Seen {
            syncs: Vec::new(),
            calls: BTreeMap::new(),
            synchronous_files: self.synchronous.len() as u64,
        };
        for text in &texts {
            seen.count(text, range, &self.synchronous);
        }
        Ok(seen)
    }
}

impl Seen {
    fn count(&mut self, text: &str, range: (f64, f64), synchronous: &BTreeSet<String>) {
        let mut syncs = 0;
        for call in text.lines().filter_map(Call::parse) {
            let is_write = WRITES.contains(&call.name) && synchronous.contains(call.path);
            let counts = SYNCS.contains(&call.name) || is_write;
            if counts && range.0 <= call.at && call.at < range.1 {
                syncs += 1;
                let name = if is_write {
                    "synchronous write"
                } else {
                    call.name
                };
                *self.calls.entry(name.to_owned()).or_default() += 1;
            }
        }
        self.syncs.push(syncs);
    }
}

fn attach(pids: &[u32], output: &Path) -> Result<Child> {
    let mut calls = Vec::from(SYNCS);
    calls.extend(WRITES);
    calls.push("openat");
    let mut command = Command::new("strace");
    command
        .args(["-f", "-qq", "-ttt", "-y", "-s", "0", "-e", "signal=none"])
        .args(["-e", &format!("trace={}", calls.join(","))])
        .arg("-o")
        .arg(output);
    for pid in pids {
        command.args(["-p", &pid.to_string()]);
    }
    command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("strace: see README.md for what to install")
}

fn is_traced(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    // A process that ended meanwhile needs no tracer.
    let tracer = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_none_or(|pid| pid.trim() != "0")
}

/// Files that are open now so that each write is synchronous.
fn synchronous(pids: &[u32]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for pid in pids {
        let listed = fs::read_dir(format!("/proc/{pid}/fdinfo"));
        for entry in listed.into_iter().flatten().flatten() {
            let info = fs::read_to_string(entry.path()).unwrap_or_default();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
            let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
            if flags.is_some_and(|flags| flags & SYNCHRONOUS != 0) {
                let link = PathBuf::from(format!("/proc/{pid}/fd")).join(entry.file_name());
                let path = fs::read_link(link).unwrap_or_default();
                found.insert(path.display().to_string());
            }
        }
    }
    found
}

/// The path of a line about such a file being opened.
fn opened_synchronous(line: &str) -> Option<String> {
    let is_one = line.contains("openat(") && (line.contains("O_SYNC") || line.contains("O_DSYNC"));
    // The descriptor that is returned is told with the whole path.
    let (_, returned) = line.rsplit_once(" = ").filter(|_| is_one)?;
    let (_, path) = returned.split_once('<')?;
    Some(path.strip_suffix('>')?.to_owned())
}

fn seconds(time: SystemTime) -> Result<f64> {
    let since = time.duration_since(UNIX_EPOCH);
    let since = since.context("a clock before 1970")?;
    ensure!(since.as_secs() > 0, "a clock at 1970");
    Ok(since.as_secs_f64())
}

/// A line that begins a call.
#[derive(Debug, PartialEq)]
struct Call<'a> {
    at: f64,
    name: &'a str,
    /// Of its first argument, if that is a descriptor.
    path: &'a str,
}

impl<'a> Call<'a> {
    /// Of `PID TIME NAME(FD<PATH>, ...`; nothing for the end of a call that another one interrupted.
    fn parse(line: &'a str) -> Option<Self> {
        let (_, line) = line.split_once(' ')?;
        let (at, line) = line.trim_start().split_once(' ')?;
        let (name, arguments) = line.split_once('(')?;
        let path = arguments
            .split_once('<')
            .filter(|(descriptor, _)| descriptor.parse::<u32>().is_ok())
            .and_then(|(_, after)| Some(after.split_once('>')?.0));
        Some(Self {
            at: at.parse().ok()?,
            name: name.trim(),
            path: path.unwrap_or(""),
        })
        .filter(|call| !call.name.contains(' '))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_data_durable_is_counted() {
        let text = "\
7 100.0 fdatasync(5</d/wal>) = 0
7 101.0 fdatasync(5</d/wal> <unfinished ...>
8 101.5 write(6</d/msgs>, \"\"..., 10) = 10
8 101.6 write(9<socket:[4]>, \"\"..., 10) = 10
7 101.7 <... fdatasync resumed>)     = 0
7 103.0 fsync(5</d/wal>) = 0
";
        let count = |range, files: &[&str]| {
            let files = files.iter().map(|file| (*file).to_owned()).collect();
            let mut seen = Seen {
                syncs: Vec::new(),
                calls: BTreeMap::new(),
                synchronous_files: 0,
            };
            seen.count(text, range, &files);
            seen.syncs[0]
        };
        assert_eq!(count((100.0, 200.0), &[]), 3);
        assert_eq!(count((100.0, 200.0), &["/d/msgs"]), 4);
        assert_eq!(count((100.5, 102.0), &["/d/msgs"]), 2);
    }

    #[test]
    fn files_that_are_opened_synchronously_are_found() {
        let line = "7 1.0 openat(AT_FDCWD</d>, \"\"..., O_RDWR|O_CREAT|O_SYNC|O_CLOEXEC, 0640) = 12</d/1.blk>";
        assert_eq!(opened_synchronous(line).as_deref(), Some("/d/1.blk"));
        assert_eq!(opened_synchronous(&line.replace("|O_SYNC", "")), None);
    }
}
