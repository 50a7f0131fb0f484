//! What the operating system knows of this process. What cannot be read is left out.

use std::fs;

/// The process.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) start_seconds: Option<f64>,
    pub(super) open_fds: Option<usize>,
    pub(super) max_fds: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // Behind the name, which may hold anything: field 3 is the first.
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .map(|(_, fields)| fields.split_whitespace().collect())
            .unwrap_or_default();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = |number| Some(field(number)? as f64 / setting(libc::_SC_CLK_TCK)? as f64);
        let cpu_seconds = ticks(14).zip(ticks(15)).map(|(user, system)| user + system);
        let pages = field(24);
        Self {
            cpu_seconds,
            resident_bytes: pages.and_then(|pages| Some(pages * setting(libc::_SC_PAGESIZE)?)),
            start_seconds: ticks(22).zip(booted()).map(|(since, boot)| since + boot),
            open_fds: fs::read_dir("/proc/self/fd").map(Iterator::count).ok(),
            max_fds: max_fds(),
        }
    }
}

fn setting(name: libc::c_int) -> Option<u64> {
    // SAFETY: has no memory effects.
    let value = unsafe { libc::sysconf(name) };
    u64::try_from(value).ok().filter(|value| *value > 0)
}

/// When the machine started, seconds since 1970.
fn booted() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse().ok()
}

fn max_fds() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_tells_of_itself() {
        let process = Process::read();
        assert!(process.resident_bytes.unwrap() > 1 << 20);
        assert!(process.cpu_seconds.unwrap() >= 0.0);
        assert!(process.open_fds.unwrap() > 2);
        assert!(process.start_seconds.unwrap() > 1.7e9);
        assert!(process.max_fds.is_none_or(|max| max > 2));
    }
}
