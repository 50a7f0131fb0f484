//! What processes of this machine use, from /proc.

use std::fs;

use serde_json::{Value, json};

use crate::failure::{Failure, Result};

/// Bytes of a sector in /proc/diskstats, whatever the disk.
const SECTOR_BYTES: u64 = 512;

/// What was used up to a moment.
#[derive(Debug, Clone)]
pub(super) struct Usage {
    /// None where no process was named, or one of them is gone.
    server_cpu_us: Option<f64>,
    own_cpu_us: Option<f64>,
    /// Of each process, as long as it is there.
    resident_mib: Vec<u64>,
    written_bytes: Option<u64>,
}

impl Usage {
    pub(super) fn now(pids: &[u32], device: Option<&str>) -> Self {
        let cpu: Option<Vec<f64>> = pids.iter().map(|pid| cpu_us(&pid.to_string())).collect();
        Self {
            server_cpu_us: cpu
                .filter(|each| !each.is_empty())
                .map(|each| each.iter().sum()),
            own_cpu_us: cpu_us("self"),
            resident_mib: pids.iter().filter_map(|pid| resident_mib(*pid)).collect(),
            written_bytes: device.and_then(written_bytes),
        }
    }

    /// Refuses what cannot be measured, before anything is done.
    pub(super) fn check(pids: &[u32], device: Option<&str>) -> Result {
        for pid in pids {
            if cpu_us(&pid.to_string()).is_none() {
                let text = format!("--pids: there is no process {pid} on this machine");
                return Err(Failure::Usage(text));
            }
        }
        match device {
            Some(device) if written_bytes(device).is_none() => Err(Failure::Usage(format!(
                "--device: there is no `{device}` in /proc/diskstats"
            ))),
            _ => Ok(()),
        }
    }

    /// The figures of so many messages, `bytes` of bodies together.
    pub(super) fn since(&self, before: &Self, seconds: f64, messages: u64, bytes: u64) -> Value {
        let server = difference(self.server_cpu_us, before.server_cpu_us);
        let own = difference(self.own_cpu_us, before.own_cpu_us);
        let per = |used: Option<f64>, count: f64| {
            used.filter(|_| count > 0.0)
                .map(|used| rounded(used / count))
        };
        let written = self.written_bytes.zip(before.written_bytes);
        let written = written.map(|(after, before)| after.saturating_sub(before) as f64);
        json!({
            "server_cpu_us_per_message": per(server, messages as f64),
            "server_cores": per(server, seconds * 1e6),
            "server_resident_mib_max": self.resident_mib.iter().max(),
            "client_cpu_us_per_message": per(own, messages as f64),
            "written_per_byte": per(written, bytes as f64),
        })
    }
}

fn difference(after: Option<f64>, before: Option<f64>) -> Option<f64> {
    Some(after? - before?)
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// User and system time of a process.
fn cpu_us(process: &str) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(ticks(&stat)? as f64 * 1e6 / setting(libc::_SC_CLK_TCK)?)
}

/// The 14th and 15th field together; the second is a name that may contain anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn resident_mib(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: f64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some((pages * setting(libc::_SC_PAGESIZE)? / 1024.0 / 1024.0) as u64)
}

fn written_bytes(device: &str) -> Option<u64> {
    let disks = fs::read_to_string("/proc/diskstats").ok()?;
    sectors_written(&disks, device).map(|sectors| sectors * SECTOR_BYTES)
}

/// The 10th field of the line whose third is the name.
fn sectors_written(disks: &str, device: &str) -> Option<u64> {
    disks.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.nth(2) == Some(device)).then(|| fields.nth(6)?.parse().ok())?
    })
}

fn setting(name: libc::c_int) -> Option<f64> {
    // SAFETY: takes a number, touches no memory of ours.
    let value = unsafe { libc::sysconf(name) };
    (value > 0).then_some(value as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194304 100 0 0 0 30 12 0 0 20 0 9 0 5 6 7";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("nonsense"), None);
        let disks = " 254 0 vda 1 2 3 4 5 6 700 8 9\n 254 1 vda1 1 2 3 4 5 6 71 8 9\n";
        assert_eq!(sectors_written(disks, "vda"), Some(700));
        assert_eq!(sectors_written(disks, "vdb"), None);
    }

    #[test]
    fn this_process_can_be_measured() {
        let own = std::process::id();
        Usage::check(&[own], None).unwrap();
        assert_eq!(Usage::check(&[u32::MAX], None).unwrap_err().exit_code(), 2);
        assert_eq!(
            Usage::check(&[], Some("no disk")).unwrap_err().exit_code(),
            2
        );
        let before = Usage::now(&[own], None);
        let begun = std::time::Instant::now();
        // The kernel counts in ticks of 10 ms.
        while cpu_us("self") <= before.own_cpu_us {
            assert!(begun.elapsed().as_secs() < 60, "no CPU time passes");
            std::hint::spin_loop();
        }
        let figures = Usage::now(&[own], None).since(&before, 1.0, 10, 0);
        assert!(figures["server_cpu_us_per_message"].as_f64().unwrap() > 0.0);
        assert!(figures["server_resident_mib_max"].as_u64().unwrap() > 0);
        assert_eq!(figures["written_per_byte"], Value::Null);
    }
}
