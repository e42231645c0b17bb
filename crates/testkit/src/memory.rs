//! Memory of a process, as the kernel counts it.
//!
//! Lives here: resident memory, now and at its highest. Does not: what it is used for.
//! Source: proc(5), `/proc/PID/status`.

use std::{fs, io};

/// Resident memory of a process, in MiB.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resident {
    /// Now.
    pub now: f64,
    /// At its highest so far.
    pub peak: f64,
}

/// Returns what a process has in memory.
///
/// # Errors
/// The system's, when there is no such process.
pub fn resident(pid: u32) -> io::Result<Resident> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let of = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
    };
    let (now, peak) = (of("VmRSS:"), of("VmHWM:"));
    now.zip(peak).map(|(now, peak)| Resident { now, peak }).ok_or_else(|| io::Error::other("no account of memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_used_is_counted() {
        let before = resident(std::process::id()).unwrap();
        let used = std::hint::black_box(vec![1_u8; 32 << 20]);
        let after = resident(std::process::id()).unwrap();
        assert!(after.now >= before.now + 16.0 && after.peak >= after.now, "{before:?} {after:?}");
        drop(used);
    }
}
