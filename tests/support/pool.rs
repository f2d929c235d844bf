//! The host's pool of huge pages of 2 MiB.
use std::fs;

/// Pages of the host's pool, made larger for a test and restored by it.
pub(crate) struct Pool {
    before: u64,
}

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// A figure of the pool.
pub(crate) fn pool(file: &str) -> u64 {
    let text = fs::read_to_string(format!("{POOL}/{file}")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

impl Pool {
    /// At least `pages` free ones, or why they cannot be had.
    pub(crate) fn grow(pages: u64) -> Result<Self, String> {
        let pool_is = Self {
            before: pool("nr_hugepages"),
        };
        if pool("free_hugepages") - pool("resv_hugepages") >= pages {
            return Ok(pool_is);
        }
        let wanted = (pool_is.before + pages).to_string();
        fs::write(format!("{POOL}/nr_hugepages"), wanted)
            .map_err(|e| format!("{POOL}/nr_hugepages cannot be raised: {e}"))?;
        match pool("free_hugepages") - pool("resv_hugepages") {
            free if free >= pages => Ok(pool_is),
            free => Err(format!("the host gave {free} of {pages} huge pages")),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if pool("nr_hugepages") != self.before {
            let _ = fs::write(format!("{POOL}/nr_hugepages"), self.before.to_string());
        }
    }
}
