//! What the kernel tells about processes: whether one still is the one we knew, and who its children are.
//!
//! Lives here: reading `/proc`. Does not: signals. Where there is no `/proc`, nothing is known and nothing is assumed.
//! Source: proc(5), `/proc/stat` (btime), `/proc/pid/stat` (fields 3 and 22) and `/proc/pid/task/tid/children`.

use std::{
    fs,
    time::{Duration, SystemTime},
};

/// Clock ticks a second: fixed for what the kernel tells user space (`USER_HZ`), on every architecture Linux supports but Alpha.
const TICKS: u64 = 100;

/// Start of a process in clock ticks since boot: with the id it names one process for good. `None` if it does not run; a zombie does not.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?; // the name may hold anything, also spaces and brackets
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then_some(())?;
    fields.nth(18)?.parse().ok()
}

/// Wall-clock time at which a process started. `None` if it does not run.
pub(crate) fn started_at(pid: u32) -> Option<SystemTime> {
    let boot: u64 =
        fs::read_to_string("/proc/stat").ok()?.lines().find_map(|line| line.strip_prefix("btime ")?.parse().ok())?;
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(boot + start_time(pid)? / TICKS))
}

/// The children of a process, whichever of its threads started them.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Everything a process has started, and what that has started, each with its start time.
pub(crate) fn descendants(pid: u32) -> Vec<(u32, u64)> {
    let mut pids = children(pid);
    let mut next = 0;
    while let Some(pid) = pids.get(next) {
        pids.extend(children(*pid));
        next += 1;
    }
    pids.into_iter().filter_map(|pid| Some((pid, start_time(pid)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_one_start_time_and_shows_its_child() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(children(std::process::id()).contains(&child.id()));
        let start = start_time(child.id());
        assert!(descendants(std::process::id()).contains(&(child.id(), start.unwrap())));
        assert_eq!(start_time(child.id()), start);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(start_time(child.id()), None);
    }
}
