//! What is measured on.

use std::fs;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::fsync_cost;
use crate::latencies::Quantiles;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cores: usize,
    pub(crate) cpu: String,
    pub(crate) memory_bytes: u64,
    pub(crate) kernel: String,
    /// Of the folder with the data.
    pub(crate) filesystem: String,
    /// Appending 4 KiB and fdatasync, nothing else running.
    pub(crate) fsync_ms: Quantiles,
}

impl Machine {
    pub(crate) fn look(data: &Path) -> Result<Self> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpus = read("/proc/cpuinfo");
        let cpu = field(&cpus, "model name").unwrap_or("unknown").to_owned();
        let memory = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0);
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            cpu,
            memory_bytes: memory * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            filesystem: filesystem(&read("/proc/mounts"), &data.canonicalize()?),
            fsync_ms: fsync_cost::measure(data)?,
        })
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim())
}

/// Kind and device of the mount with the longest name that the folder is below.
fn filesystem(mounts: &str, folder: &Path) -> String {
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (device, point, kind) = (fields.next()?, fields.next()?, fields.next()?);
        folder.starts_with(point).then_some((point, kind, device))
    });
    // Of two at one place the later one hides the other.
    match mounted.max_by_key(|(point, ..)| point.len()) {
        Some((_, kind, device)) => format!("{kind} on {device}"),
        None => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/b /tmp/disk xfs rw 0 0\n";
        let of = |folder| filesystem(mounts, Path::new(folder));
        assert_eq!(of("/home/x"), "ext4 on /dev/a");
        assert_eq!(of("/tmp/x"), "tmpfs on tmpfs");
        assert_eq!(of("/tmp/disk/x"), "xfs on /dev/b");
    }
}
