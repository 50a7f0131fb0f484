//! The servers of one system, started on this machine with ports and folders of their own. Only what was
//! started here is ended, by its process group, and all of it when [`Servers`] is dropped.

mod floor;
mod launch;
mod nats;
mod rabbitmq;
mod redis;
mod ticketrail;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::system::System;
use launch::{Launch, Process};

/// Where the servers' programs are; those of Debian are where Debian puts them.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    pub(crate) ticketrail: PathBuf,
    pub(crate) nats: PathBuf,
}

/// How the servers of a system are started.
struct Plan {
    /// What must run beside the nodes; not measured.
    helpers: Vec<Launch>,
    nodes: Vec<NodePlan>,
}

struct NodePlan {
    launch: Launch,
    /// Where its clients connect to; none for a node that serves no client.
    endpoint: Option<String>,
}

pub(crate) struct Servers {
    pub(crate) system: System,
    folder: PathBuf,
    plan: Plan,
    helpers: Vec<Process>,
    nodes: Vec<Process>,
}

impl Servers {
    /// Starts all of them in an empty folder; they are not yet ready then.
    pub(crate) fn start(system: System, programs: &Programs, data: &Path) -> Result<Self> {
        let folder = data.join("servers");
        remove(&folder)?;
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let folder = folder.canonicalize()?;
        let plan = match system {
            System::Ticketrail => ticketrail::plan(&folder, &programs.ticketrail)?,
            System::Rabbitmq => rabbitmq::plan(&folder)?,
            System::NatsSync => nats::plan(&folder, &programs.nats, nats::Sync::Always)?,
            System::Nats => nats::plan(&folder, &programs.nats, nats::Sync::Default)?,
            System::Floor => floor::plan(&folder)?,
            System::Redis => redis::plan(&folder, 0)?,
            System::RedisWait => redis::plan(&folder, 2)?,
        };
        let mut servers = Self {
            system,
            folder,
            plan,
            helpers: Vec::new(),
            nodes: Vec::new(),
        };
        for launch in &servers.plan.helpers {
            servers.helpers.push(launch.start()?);
        }
        for node in &servers.plan.nodes {
            servers.nodes.push(node.launch.start()?);
        }
        Ok(servers)
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        let nodes = self.plan.nodes.iter();
        nodes.filter_map(|node| node.endpoint.clone()).collect()
    }

    /// The first process of each node.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(Process::id).collect()
    }

    /// Where their data is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// SIGKILL, for the node and all that it started.
    pub(crate) fn kill(&mut self, node: usize) -> Result<()> {
        self.nodes[node].kill()
    }

    /// Starts a killed node with the data that it has.
    pub(crate) fn start_again(&mut self, node: usize) -> Result<()> {
        self.nodes[node] = self.plan.nodes[node].launch.start()?;
        Ok(())
    }

    /// Says so if a node ended by itself.
    pub(crate) fn check(&mut self) -> Result<()> {
        for (process, node) in self.nodes.iter_mut().zip(&self.plan.nodes) {
            process.check().with_context(|| {
                format!("{}; see {}", self.system.title(), node.launch.log.display())
            })?;
        }
        Ok(())
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for process in self.nodes.iter_mut().chain(&mut self.helpers) {
            if let Err(error) = process.kill() {
                eprintln!("process {} was not ended: {error:#}", process.id());
            }
        }
        if let Err(error) = remove(&self.folder) {
            eprintln!("{error:#}");
        }
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| folder.display().to_string())
        }
        _ => Ok(()),
    }
}
