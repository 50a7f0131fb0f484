//! What the machine has, and what this process takes of it.

use std::fs;
use std::io;

/// A megabyte-sized guess where the machine does not say: small, so that nothing is promised.
const MEMORY_UNKNOWN: u64 = 1 << 30;

/// Memory that this process may take: the machine's, or its control group's where that is less.
pub(crate) fn memory_bytes() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| kilobytes(&text, "MemTotal:"));
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max")
        .ok()
        .and_then(|text| text.trim().parse().ok());
    let known = [machine, group].into_iter().flatten().min();
    known.unwrap_or(MEMORY_UNKNOWN)
}

/// Resident memory of this process.
pub(crate) fn resident_bytes() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    kilobytes(&text, "VmRSS:").ok_or_else(|| io::Error::other("/proc/self/status has no VmRSS"))
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(number * 1_024)
}

/// Raises the limit of open files to what this process may have: one per connection.
pub(crate) fn raise_file_limit(wanted: u64) {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: both calls get a pointer to a value of ours that lives through them.
    let raised = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 && {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) == 0
        }
    };
    if !raised || limit.rlim_cur < wanted {
        tracing::warn!(
            files = limit.rlim_cur,
            wanted,
            "this process may open fewer files than `limits.connections_max` may need; raise `ulimit -n`"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_says_what_it_has() {
        let resident = resident_bytes().unwrap();
        assert!(resident > 1 << 20 && memory_bytes() > resident);
        assert_eq!(kilobytes("a: 1\nVmRSS:\t  12 kB\n", "VmRSS:"), Some(12_288));
        assert_eq!(kilobytes("", "VmRSS:"), None);
    }
}
