//! A shell for the commands of one page: it keeps its folder and variables from block to block.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// No command of a page takes longer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Stands before the exit code, behind the output of each command.
const END: &str = "the-end-of-this-command";

/// A running `bash`.
pub(super) struct Shell {
    process: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    hangs: bool,
}

impl Shell {
    pub(super) fn start(folder: &Path, environment: &[(&str, String)]) -> Self {
        // It goes when the test does, however that ends.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "bash", "--norc", "--noprofile"])
            .current_dir(folder)
            .envs(environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // With all that it starts, so that it can be ended with all of them.
            .process_group(0)
            .kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let output = process.stdout.take().unwrap();
        Self {
            input: process.stdin.take().unwrap(),
            output: BufReader::new(output).lines(),
            hangs: false,
            process,
        }
    }

    /// Runs a command to its end: the exit code and all that it said. After a command that does not end, none
    /// does.
    pub(super) async fn run(&mut self, command: &str) -> Result<(i32, Vec<String>), String> {
        if self.hangs {
            return Err(format!("`{command}` cannot run: one before it did not end"));
        }
        let script = format!("{{ {command}\n}} </dev/null 2>&1\nprintf '\\n{END} %d\\n' $?\n");
        let sent = self.input.write_all(script.as_bytes()).await;
        sent.map_err(|error| format!("`{command}`: {error}"))?;
        let mut said = Vec::new();
        match timeout(PATIENCE, self.until_end(&mut said)).await {
            Ok(Some(code)) => Ok((code, said)),
            Ok(None) => Err(format!("`{command}` ended the shell: {said:#?}")),
            Err(_) => {
                self.hangs = true;
                Err(format!("`{command}` does not end: {said:#?}"))
            }
        }
    }

    /// The exit code; none where the shell ended.
    async fn until_end(&mut self, said: &mut Vec<String>) -> Option<i32> {
        while let Some(line) = self.output.next_line().await.unwrap() {
            match line.strip_prefix(END) {
                Some(code) => return Some(code.trim().parse().unwrap()),
                None => said.push(line),
            }
        }
        None
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let pid = self.process.id();
        if let Some(pid) = pid.and_then(|pid| libc::pid_t::try_from(pid).ok()) {
            // SAFETY: it touches no memory; the group is that of our own child, which was not waited for.
            unsafe { libc::kill(-pid, libc::SIGKILL) };
        }
    }
}
