//! What the kernel says of this process, under the names that every Prometheus
//! client gives them. From Linux's /proc; elsewhere the values stay 0.

use std::sync::atomic::Ordering;

use prometheus_client::metrics::gauge::Gauge;

use super::catalogue::Catalogue;
use super::{FloatCounter, FloatGauge};

/// The standard `process_*` metrics.
pub(super) struct Process {
    cpu_seconds: FloatCounter,
    resident: Gauge,
    virtual_memory: Gauge,
    threads: Gauge,
    open_files: Gauge,
    max_files: Gauge,
}

impl Process {
    /// Registers them. `started` is in seconds since 1970.
    pub(super) fn register(catalogue: &mut Catalogue, started: f64) -> Self {
        let start = FloatGauge::default();
        start.set(started);
        catalogue.keep("process_start_time_seconds", "Start of this process, in seconds since 1970", start);
        let mut gauge = |base, help| catalogue.add(base, help, Gauge::default());
        Self {
            resident: gauge("process_resident_memory_bytes", "Resident memory of this process"),
            virtual_memory: gauge("process_virtual_memory_bytes", "Virtual memory of this process"),
            threads: gauge("process_threads", "Threads of this process"),
            open_files: gauge("process_open_fds", "Open file descriptors of this process"),
            max_files: gauge("process_max_fds", "The most file descriptors that this process may open"),
            cpu_seconds: catalogue.add(
                "process_cpu_seconds",
                "CPU time of this process, user and system",
                FloatCounter::default(),
            ),
        }
    }

    /// Reads them anew.
    pub(super) fn read(&self) {
        if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
            for (gauge, value) in [
                (&self.resident, bytes(&status, "VmRSS:")),
                (&self.virtual_memory, bytes(&status, "VmSize:")),
                (&self.threads, field(&status, "Threads:")),
            ] {
                if let Some(value) = value {
                    gauge.set(value);
                }
            }
        }
        let cpu = std::fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat));
        if let Some(seconds) = cpu {
            self.cpu_seconds.inner().store(seconds.to_bits(), Ordering::Relaxed);
        }
        if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
            // The listing itself is one of them.
            self.open_files.set(i64::try_from(files.count()).unwrap_or(i64::MAX).saturating_sub(1));
        }
        let limit = std::fs::read_to_string("/proc/self/limits").ok().and_then(|limits| max_files(&limits));
        if let Some(limit) = limit {
            self.max_files.set(limit);
        }
    }
}

/// A number of /proc/PID/status; a unit behind it is left off.
fn field(status: &str, name: &str) -> Option<i64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_ascii_whitespace().next()?.parse().ok()
}

/// A figure of /proc/PID/status that is given in kB.
fn bytes(status: &str, name: &str) -> Option<i64> {
    field(status, name).map(|kib| kib * 1024)
}

/// `utime` + `stime` of /proc/PID/stat, in ticks of 10 ms (`USER_HZ` is 100 on
/// every architecture that we build for).
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The command's name may contain blanks; it ends at the last parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / 100.0)
}

/// The soft limit of /proc/PID/limits; none if there is no limit.
fn max_files(limits: &str) -> Option<i64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_understood() {
        let status = "Name:\tx\nVmSize:\t    4096 kB\nVmRSS:\t    2048 kB\nThreads:\t3\n";
        assert_eq!(bytes(status, "VmRSS:"), Some(2_097_152));
        assert_eq!(field(status, "Threads:"), Some(3));
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 9 9 9";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("nonsense"), None);
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n";
        assert_eq!(max_files(limits), Some(1024));
        assert_eq!(max_files("Max open files            unlimited            unlimited            files\n"), None);
    }
}
