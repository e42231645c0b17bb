//! Processor time of a process, to the nanosecond.
//!
//! Lives here: the kernel's account of all its threads. Does not: time of threads that have ended, which none of a proxy's do.
//! Source: proc(5), `/proc/PID/task/TID/schedstat`; `/proc/PID/stat` counts in hundredths of a second.

use std::{fs, io, time::Duration};

/// "No such process", which the kernel says of a thread that ends while its account is read.
const ESRCH: i32 = 3;

/// Returns the time that the threads of a process have run so far.
///
/// # Errors
/// The system's, when there is no such process or the kernel keeps no account.
pub fn time(pid: u32) -> io::Result<Duration> {
    let mut all = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let account = match fs::read_to_string(task?.path().join("schedstat")) {
            // It ended since it was listed, or since it was opened.
            Err(error) if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH) => continue,
            account => account?,
        };
        let ran = account.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
        all += Duration::from_nanos(ran.ok_or_else(|| io::Error::other(format!("not an account: {account:?}")))?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time_of_ones_own() {
        let before = time(std::process::id()).unwrap();
        let mut sum = 0_u64;
        // The harness' own threads may end meanwhile and take their time out of the account.
        while time(std::process::id()).unwrap().saturating_sub(before) < Duration::from_millis(20) {
            sum = std::hint::black_box((0..100_000_u64).fold(sum, u64::wrapping_add));
        }
        assert!(time(std::process::id()).unwrap() > before);
    }
}
