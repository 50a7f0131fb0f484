//! What processes and their children use, from /proc.

use std::collections::HashMap;
use std::fs;

/// CPU time of processes so far, and what they hold in memory now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Used {
    /// User and system time, of children too, also of those that ended.
    pub(crate) cpu_us: f64,
    /// Resident bytes of each root with its children.
    pub(crate) resident_bytes: Vec<u64>,
}

/// What the processes with these numbers, and all that they started, use.
pub(crate) fn used(roots: &[u32]) -> Used {
    let children = children();
    let mut used = Used::default();
    for root in roots {
        let mut resident = 0;
        for pid in tree(*root, &children) {
            used.cpu_us += cpu_us(&pid.to_string()).unwrap_or(0.0);
            resident += resident_bytes(pid).unwrap_or(0);
        }
        used.resident_bytes.push(resident);
    }
    used
}

/// A process and all below it.
pub(crate) fn of(root: u32) -> Vec<u32> {
    tree(root, &children())
}

/// User and system time of this process.
pub(crate) fn own_cpu_us() -> f64 {
    cpu_us("self").unwrap_or(0.0)
}

/// Time in which the CPUs of this machine were busy, with whatever.
pub(crate) fn machine_cpu_us() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.lines().next().unwrap_or("").split_whitespace();
    let ticks: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq; guests are in user, stolen time is not ours.
    let busy: u64 = [0, 1, 2, 5, 6]
        .iter()
        .filter_map(|place| ticks.get(*place))
        .sum();
    busy as f64 * 1e6 / setting(libc::_SC_CLK_TCK)
}

fn children() -> HashMap<u32, Vec<u32>> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let listed = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in listed.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()) {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if let Some(parent) = after_name(&stat)
            .nth(1)
            .and_then(|field| field.parse().ok())
        {
            children.entry(parent).or_default().push(pid);
        }
    }
    children
}

fn tree(root: u32, children: &HashMap<u32, Vec<u32>>) -> Vec<u32> {
    let mut all = vec![root];
    let mut next = 0;
    while next < all.len() {
        all.extend(children.get(&all[next]).into_iter().flatten());
        next += 1;
    }
    all
}

fn cpu_us(process: &str) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let ticks: u64 = after_name(&stat)
        .skip(11)
        .take(4)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Some(ticks as f64 * 1e6 / setting(libc::_SC_CLK_TCK))
}

/// The fields from the third on; the second is a name that may contain anything.
fn after_name(stat: &str) -> std::str::SplitWhitespace<'_> {
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    after.split_whitespace()
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * setting(libc::_SC_PAGESIZE) as u64)
}

fn setting(name: libc::c_int) -> f64 {
    // SAFETY: takes a number, touches no memory of ours.
    unsafe { libc::sysconf(name) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_the_process_and_all_below_it() {
        let children = HashMap::from([(1, vec![2, 3]), (3, vec![4]), (5, vec![6])]);
        assert_eq!(tree(1, &children), [1, 2, 3, 4]);
        assert_eq!(tree(6, &children), [6]);
    }

    #[test]
    fn this_process_is_found_with_its_child() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .expect("sleep starts");
        let found = of(std::process::id());
        child.kill().expect("it is ours");
        child.wait().expect("it is ours");
        assert!(found.contains(&child.id()), "{found:?}");
        assert!(used(&[std::process::id()]).resident_bytes[0] > 0);
    }
}
