//! What the machine and the kernel say: which machine it is, how busy, and what
//! a process takes of it. Must not know what the process is for. Linux.

use std::time::Duration;

use vmgroup_sim::clock::Clock;

use crate::Result;

/// What a process has taken so far.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Resident memory now, in KiB (`VmRSS`).
    pub resident: u64,
    /// The most it ever had resident, in KiB (`VmHWM`).
    pub peak: u64,
    /// CPU time in user and system mode.
    pub cpu: Duration,
}

/// Reads what a process has taken.
pub fn usage(pid: u32) -> Result<Usage> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or_default()
    };
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the name in brackets, which may hold blanks. After it,
    // utime and stime are the 12th and the 13th.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|number| number.parse::<u64>().ok()).sum();
    // USER_HZ is 100 on every Linux that Rust runs on.
    let cpu = Duration::from_millis(ticks * 10);
    Ok(Usage { resident: field("VmRSS:"), peak: field("VmHWM:"), cpu })
}

/// Date, processor, memory and load in one line.
pub fn describe() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let (processors, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let value = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let kib: u64 =
        value(&memory, "MemTotal").split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_default();
    let profile = if cfg!(debug_assertions) { "DEBUG build: times say nothing" } else { "release build" };
    format!(
        "{}; {} × {}; {} GiB; {profile}; load at the start {}",
        Clock::system().now().strftime("%Y-%m-%d %H:%M UTC"),
        std::thread::available_parallelism().map_or(0, usize::from),
        value(&processors, "model name"),
        kib >> 20,
        load(),
    )
}

/// The load over one minute: how many wanted a processor.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}
