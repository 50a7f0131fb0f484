//! Starting a process in a group of its own, and ending that group.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// A command that can be started again.
pub(super) struct Launch {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// Where its output goes.
    pub(super) log: PathBuf,
}

impl Launch {
    pub(super) fn new(program: impl AsRef<Path>, log: PathBuf) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            log,
        }
    }

    pub(super) fn arguments<T: ToString>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments
            .extend(arguments.into_iter().map(|one| one.to_string()));
        self
    }

    pub(super) fn variable(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.push((name.to_owned(), value.to_string()));
        self
    }

    pub(super) fn start(&self) -> Result<Process> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // So that what it starts is ended with it, and Ctrl-C reaches this program alone.
            .process_group(0)
            .spawn()
            .with_context(|| {
                format!(
                    "{}: see README.md for what to install",
                    self.program.display()
                )
            })?;
        Ok(Process { child })
    }
}

pub(super) struct Process {
    child: Child,
}

impl Process {
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("process {} ended: {status}", self.child.id()),
            None => Ok(()),
        }
    }

    /// SIGKILL for its group. Does nothing if it has been waited for: its number may be another's by now.
    pub(super) fn kill(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            let group = i32::try_from(self.child.id())?;
            // SAFETY: sends a signal to the group that this child leads; it is not waited for yet, so the
            // number is still its own.
            unsafe { libc::killpg(group, libc::SIGKILL) };
            self.child.wait()?;
        }
        Ok(())
    }
}
