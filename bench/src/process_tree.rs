//! What processes and their children use, from /proc.

use std::collections::HashMap;
use std::fs;

/// User and system time so far of the processes with these numbers and all that they started, also of those
/// that ended.
pub(crate) fn cpu_us_of(roots: &[u32]) -> f64 {
    let children = children();
    let all = roots.iter().flat_map(|root| tree(*root, &children));
    all.filter_map(|pid| cpu_us(&pid.to_string())).sum()
}

/// Bytes in memory of each of these processes with all that it started. A page that several processes share is
/// shared out among them: a fork that writes a file does not count twice.
pub(crate) fn resident_bytes_of(roots: &[u32]) -> Vec<u64> {
    let children = children();
    let of = |root: &u32| {
        tree(*root, &children)
            .into_iter()
            .filter_map(resident_bytes)
            .sum()
    };
    roots.iter().map(of).collect()
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
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let share = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kib: u64 = share.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
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
        assert!(resident_bytes_of(&[std::process::id()])[0] > 0);
    }
}
