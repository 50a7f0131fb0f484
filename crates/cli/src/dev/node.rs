//! One node process and the task that owns it.

use std::fs::OpenOptions;
use std::process::{ExitStatus, Stdio};

use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::plan::Plan;
use crate::failure::{Failure, Result};

/// A running node.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    orders: mpsc::Sender<Order>,
}

/// What the owner of the process is asked to do.
#[derive(Debug)]
enum Order {
    Terminate,
    Kill,
}

/// A node is gone.
#[derive(Debug)]
pub(super) struct Exit {
    pub(super) id: u64,
    /// `was killed by signal 9`.
    pub(super) how: String,
}

impl Process {
    /// Asks it to stop.
    pub(super) async fn terminate(&self) {
        // If the owner is gone, so is the process.
        let _ = self.orders.send(Order::Terminate).await;
    }

    /// Kills it at once.
    pub(super) async fn kill(&self) {
        let _ = self.orders.send(Order::Kill).await;
    }
}

/// Starts a node as a process of its own, running this very program.
pub(super) fn start(plan: &Plan, id: u64, exits: mpsc::Sender<Exit>) -> Result<Process> {
    let path = plan.log_file(id);
    let local = |error: std::io::Error| Failure::local(path.display(), error);
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(local)?;
    let program = std::env::current_exe().map_err(|error| Failure::local("this program", error))?;
    let mut command = Command::new(program);
    command
        .arg("serve")
        .args(["--node-id", &id.to_string()])
        .args(["--listen", &plan.client_address(id)])
        .args(["--peer-listen", &plan.peer_address(id)])
        .args(["--metrics-listen", &plan.metrics_address(id)])
        .arg("--data-dir")
        .arg(plan.node_dir(id))
        .args(["--bootstrap", &plan.bootstrap()])
        .args(["--cluster-id", plan.cluster_id()])
        .env_remove("TICKETRAIL_CONFIG")
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(local)?)
        .stderr(log)
        // Ctrl-C at the terminal is for us; we stop the nodes in our own time.
        .process_group(0)
        .kill_on_drop(true);
    stop_with_parent(&mut command);
    let child = command
        .spawn()
        .map_err(|error| Failure::local(format!("node {id}"), error))?;
    let pid = child.id().unwrap_or_default();
    let (orders, inbox) = mpsc::channel(4);
    tokio::spawn(own(id, child, inbox, exits));
    Ok(Process { pid, orders })
}

/// Waits for the process, and is the only one to signal it: its pid is its own until it was waited for.
async fn own(
    id: u64,
    mut child: Child,
    mut inbox: mpsc::Receiver<Order>,
    exits: mpsc::Sender<Exit>,
) {
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            Some(order) = inbox.recv() => match order {
                Order::Terminate => terminate(&child),
                // It may have died by itself in this moment: the wait tells.
                Order::Kill => drop(child.start_kill()),
            },
        }
    };
    let how = match status {
        Ok(status) => describe(status),
        Err(error) => format!("cannot be waited for: {error}"),
    };
    // At our own end nobody listens any more.
    let _ = exits.send(Exit { id, how }).await;
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

fn terminate(child: &Child) {
    let Some(pid) = child.id().and_then(|pid| libc::pid_t::try_from(pid).ok()) else {
        return;
    };
    // SAFETY: kill has no memory effects; the pid is that of our own child, which was not waited for.
    unsafe { libc::kill(pid, libc::SIGTERM) };
}

/// If this process dies without a word, its nodes stop, too.
#[cfg(target_os = "linux")]
fn stop_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and touches no memory of the parent.
    unsafe {
        command.pre_exec(
            || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            },
        );
    }
}

#[cfg(not(target_os = "linux"))]
fn stop_with_parent(_command: &mut Command) {}
