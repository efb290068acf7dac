//! What the kernel says of a process: memory and processor time.

use std::time::Duration;

use super::Failure;

/// Processor time that a process's threads have had, to the nanosecond. (`/proc/PID/stat` counts hundredths.)
pub fn cpu(pid: u32) -> Result<Duration, Failure> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        sum += text.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(sum))
}

/// Memory of a process that no file backs, in bytes.
pub fn memory(pid: u32) -> Result<u64, Failure> {
    status(pid, "RssAnon:")
}

/// All memory of a process, in bytes.
pub fn resident(pid: u32) -> Result<u64, Failure> {
    status(pid, "VmRSS:")
}

fn status(pid: u32, key: &str) -> Result<u64, Failure> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)).ok_or("no such line of its status")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}
