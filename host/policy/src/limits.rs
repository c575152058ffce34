//! What one policy may use up: of the engine, of memory, of the operator's
//! patience. Plain data; it knows no engine.

use std::time::Duration;

/// Bounds for every check and every decision.
///
/// The defaults are made for a group of 10,000 members on a busy machine, with
/// room to spare. Figures are those of `examples/cost.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Fuel for one call, about one unit for each WebAssembly instruction.
    /// The deterministic budget: the same question costs the same everywhere.
    /// Default 1,000,000,000: about a second of a core; ranking 10,000 members
    /// takes 40 million, placing 1,000 newcomers among them 260 million.
    pub fuel: u64,
    /// Wall-clock time for one call. It catches what fuel cannot see (a
    /// starved machine, a bulk copy that costs one unit), so it is
    /// wider than the fuel lasts. Default 5 s.
    pub deadline: Duration,
    /// Linear memory in bytes, over all memories of one sandbox. Default
    /// 64 MiB: a question with 10,000 members takes 4.
    pub memory_bytes: usize,
    /// Elements in all tables of one sandbox. Default 100,000: a table holds
    /// a plugin's function pointers, of which real ones have below 5,000.
    pub table_elements: usize,
    /// Core instances in one sandbox. Default 64; a component has 3 to 6.
    pub instances: usize,
    /// Bytes that a policy may hand over in one call, its answer included.
    /// Default 4 MiB: reasons for 10,000 members at 300 bytes each.
    pub output_bytes: usize,
    /// Log lines kept of one call; the rest is dropped. Default 100.
    pub log_lines: usize,
    /// Bytes of log text kept of one call. Default 16 KiB, so that a decision
    /// record stays small.
    pub log_bytes: usize,
    /// Size of a plugin as it is stored, compressed or not. Default 16 MiB:
    /// a ConfigMap holds one; a file or an image may hold more.
    pub wasm_bytes: usize,
    /// Size of a plugin once unpacked. Default 32 MiB. Compiling costs about
    /// 1.1 ms for each KiB of code, and gzip packs zeros a thousand to one.
    pub unpacked_bytes: usize,
    /// Code size of one function. Default 512 KiB: a compiler's time grows
    /// faster than a function does, so this bounds it better than the sum.
    pub function_bytes: usize,
    /// Functions in the whole component. Default 50,000.
    pub functions: usize,
    /// Stack of the WebAssembly code. Default 512 KiB: together with the
    /// host's own frames it fits the 2 MiB stack of a blocking thread.
    pub stack_bytes: usize,
    /// Compiled components kept for reuse, the latest first. Default 32: the
    /// shipped ones, a site's own and their predecessors.
    pub kept_components: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const MIB: usize = 1024 * 1024;
        Self {
            fuel: 1_000_000_000,
            deadline: Duration::from_secs(5),
            memory_bytes: 64 * MIB,
            table_elements: 100_000,
            instances: 64,
            output_bytes: 4 * MIB,
            log_lines: 100,
            log_bytes: 16 * 1024,
            wasm_bytes: 16 * MIB,
            unpacked_bytes: 32 * MIB,
            function_bytes: MIB / 2,
            functions: 50_000,
            stack_bytes: MIB / 2,
            kept_components: 32,
        }
    }
}
