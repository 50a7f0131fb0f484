//! A cluster of real processes: `ticketrail dev` in a temporary folder.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ticketrail");
const PATIENCE: Duration = Duration::from_secs(40);

/// A running `ticketrail dev`.
pub(crate) struct Dev {
    pub(crate) process: Child,
    /// Closed by a test that wants the input to end.
    pub(crate) stdin: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    pub(crate) endpoints: String,
}

impl Dev {
    pub(crate) fn start(data_dir: &Path, base_port: u16) -> Self {
        let mut process = Command::new(PROGRAM)
            .args(["dev", "--base-port", &base_port.to_string(), "--data-dir"])
            .arg(data_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let ports: Vec<_> = (0..3).map(|n| (base_port + n).to_string()).collect();
        let endpoints = format!("http://127.0.0.1:{}", ports.join(","));
        let dev = Self {
            process,
            stdin,
            lines,
            endpoints,
        };
        dev.line("Here: ");
        dev
    }

    /// Waits for a line that holds this text.
    pub(crate) fn line(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.contains(text) => return line,
                Ok(line) => seen.push(line),
                Err(_) => panic!("no line with `{text}`, only:\n{}", seen.join("\n")),
            }
        }
    }

    pub(crate) fn press(&mut self, keys: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{keys}").unwrap();
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(PROGRAM);
        command
            .args(args)
            .env("TICKETRAIL_ENDPOINTS", &self.endpoints);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// Standard output of a verb that must succeed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn json(&self, args: &[&str]) -> Vec<Value> {
        let output = self.ok(&[&["--output", "json"], args].concat());
        output
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// Exit code and standard error of a verb that must fail.
    pub(crate) fn refused(&self, args: &[&str]) -> (i32, String) {
        let output = self.run(args);
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    }

    pub(crate) fn pids(&self) -> Vec<u32> {
        let children = format!("/proc/{0}/task/{0}/children", self.process.id());
        let children = std::fs::read_to_string(children).unwrap();
        children
            .split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .collect()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // A test that failed must not leave a cluster behind: the nodes stop with their parent.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A base port with room for three nodes, another one for each call.
pub(crate) fn base_port() -> u16 {
    static CALLS: AtomicU16 = AtomicU16::new(0);
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let all_free = |base: u16| (0..3).all(|n| free(base + n) && free(base + 100 + n));
    let process = u16::try_from(std::process::id() % 100).unwrap() * 200;
    let start = 10_000 + process + CALLS.fetch_add(1, Ordering::Relaxed) * 1_000;
    let found = (start..32_000).step_by(7).find(|base| all_free(*base));
    found.expect("three free ports below the ephemeral ones")
}
