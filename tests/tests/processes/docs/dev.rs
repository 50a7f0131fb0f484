//! The cluster of a page: `ticketrail dev`, as the pages tell their readers to start it.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use ticketrail_tests::cluster::{Program, ports};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Far above what it takes, for busy machines.
const PATIENCE: Duration = Duration::from_secs(40);
/// Ports of a cluster, from its first one: clients, peers and metrics of three nodes.
const PORTS: [u16; 9] = [0, 1, 2, 100, 101, 102, 200, 201, 202];
/// The first port that the pages show.
const SHOWN: u16 = 7400;

/// A running `ticketrail dev`; it stops its nodes when this is dropped.
pub(crate) struct Dev {
    _process: Child,
    keys: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    base_port: u16,
    /// What it said when it started.
    pub(crate) banner: Vec<String>,
}

impl Dev {
    pub(crate) async fn start(folder: &Path, more: &[&str]) -> Self {
        let base_port = base_port();
        // It goes when the test does, however that ends, and its nodes with it.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM"])
            .arg(Program::Product.path())
            .args(["dev", "--base-port", &base_port.to_string()])
            .args(more)
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut dev = Self {
            keys: process.stdin.take().unwrap(),
            _process: process,
            lines: output.lines(),
            base_port,
            banner: Vec::new(),
        };
        dev.banner = dev.until("Here: ").await;
        dev
    }

    /// Where a client finds it.
    pub(crate) fn endpoints(&self) -> String {
        let [first, second, third] = [0, 1, 2].map(|node| self.base_port + node);
        format!("http://127.0.0.1:{first},{second},{third}")
    }

    /// The same as a list of addresses.
    pub(crate) fn addresses(&self) -> String {
        [0, 1, 2].map(|node| local(self.base_port + node)).join(",")
    }

    /// Types `k 3` or `r 3`, for instance, and waits until it says that node 3 is killed, or started.
    pub(crate) async fn press(&mut self, keys: &str) {
        let (key, node) = keys.split_once(' ').expect("a key and a node");
        let said = match key {
            "k" => "was killed",
            "r" => "started",
            _ => panic!("the pages know no key `{key}`"),
        };
        let line = format!("{keys}\n");
        self.keys.write_all(line.as_bytes()).await.unwrap();
        self.until(&format!("node {node} {said}")).await;
    }

    /// With the addresses that the pages show.
    pub(crate) fn as_shown(&self, text: &str) -> String {
        PORTS.iter().fold(text.to_owned(), |text, port| {
            text.replace(&local(self.base_port + port), &local(SHOWN + port))
        })
    }

    /// The same, as long as it was: what follows an address stays where it is.
    pub(crate) fn as_shown_in_place(&self, text: &str) -> String {
        PORTS.iter().fold(text.to_owned(), |text, port| {
            let (real, shown) = (local(self.base_port + port), local(SHOWN + port));
            text.replace(&real, &format!("{shown:<0$}", real.len()))
        })
    }

    /// With the addresses that it has.
    pub(crate) fn as_it_is(&self, text: &str) -> String {
        PORTS.iter().fold(text.to_owned(), |text, port| {
            text.replace(&local(SHOWN + port), &local(self.base_port + port))
        })
    }

    async fn until(&mut self, text: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let line = timeout(PATIENCE, self.lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("no line `{text}`, only {seen:#?}"));
            let line = line.unwrap();
            seen.push(line.unwrap_or_else(|| panic!("it ended: {seen:#?}")));
            if seen.last().is_some_and(|line| line.contains(text)) {
                return seen;
            }
        }
    }
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn base_port() -> u16 {
    loop {
        let base = ports::free();
        let free = |port: &u16| TcpListener::bind(("127.0.0.1", base + port)).is_ok();
        if PORTS.iter().all(free) {
            return base;
        }
    }
}
