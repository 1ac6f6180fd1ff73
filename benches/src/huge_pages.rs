//! Memory in pages of 2 MB for the servers of a benchmark.
//!
//! With pages of 4 kB a look-up in a gigabyte of shared memory costs as much for finding out where a page is as for
//! looking at it, and the more so the more data there is: what grows is then the page table. PostgreSQL takes huge pages
//! by itself where the machine has reserved some.

use std::fs;

const RESERVED: &str = "/proc/sys/vm/nr_hugepages";

/// Huge pages reserved until this is dropped, if the machine gives any: that takes root, and memory in large pieces.
pub struct HugePages {
    before: String,
}

impl HugePages {
    /// Asks for so many megabytes more than are reserved.
    pub fn reserve(megabytes: u64) -> Option<Self> {
        let before = fs::read_to_string(RESERVED).ok()?.trim().to_owned();
        let wanted = before.parse::<u64>().ok()? + megabytes / 2;
        fs::write(RESERVED, wanted.to_string()).ok()?;
        eprintln!("{RESERVED}: {wanted} until the end, {before} before");
        Some(Self { before })
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Err(error) = fs::write(RESERVED, &self.before) {
            eprintln!(
                "{RESERVED} could not be set to {} again: {error}",
                self.before
            );
        }
    }
}
