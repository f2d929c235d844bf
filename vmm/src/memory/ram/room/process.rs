//! The limits of this process.

use std::fs;
use std::mem::MaybeUninit;

use super::host::kib_field;

/// A limit and what is used of it, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The limit.
    pub limit: u64,
    /// What is used of it now.
    pub used: u64,
}

impl Limit {
    /// What is left.
    pub fn left(self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// The limits of this process. `None`: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// `RLIMIT_AS`: bytes of addresses.
    pub address_space: Option<Limit>,
    /// `RLIMIT_DATA`: bytes of private memory that can be written.
    pub data: Option<Limit>,
    /// `RLIMIT_FSIZE`: bytes in a file that it makes longer. Going past it is a
    /// signal.
    pub file_size: Option<u64>,
    /// Mappings it has.
    pub mappings: u64,
    /// Mappings it may have (`vm.max_map_count`).
    pub max_map_count: Option<u64>,
}

impl Process {
    /// Those of this process, now; `max_map_count` is the host's and not read.
    pub(super) fn read() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limit = |resource, name| {
            let used = kib_field(&status, name).unwrap_or(0);
            rlimit(resource).map(|limit| Limit { limit, used })
        };
        let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
        Self {
            address_space: limit(libc::RLIMIT_AS, "VmSize"),
            data: limit(libc::RLIMIT_DATA, "VmData"),
            file_size: rlimit(libc::RLIMIT_FSIZE),
            mappings: maps.lines().count() as u64,
            max_map_count: None,
        }
    }
}

fn rlimit(resource: libc::__rlimit_resource_t) -> Option<u64> {
    let mut found = MaybeUninit::<libc::rlimit>::zeroed();
    // SAFETY: fills in a structure of the right type; zeroes are valid too.
    let (result, found) = unsafe {
        let result = libc::getrlimit(resource, found.as_mut_ptr());
        (result, found.assume_init())
    };
    (result == 0 && found.rlim_cur != libc::RLIM_INFINITY).then_some(found.rlim_cur)
}
