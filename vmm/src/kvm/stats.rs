//! KVM's own counters, by `KVM_GET_STATS_FD`: no root, no tracefs.
//!
//! Names differ between kernels, so they are read from the descriptor at run
//! time. Of those there are only some mean what they seem to: `mmio_exits`
//! counts emulated instructions (not the [`fragment`](super::fragment)s in
//! which they come back), `exits` counts the processor's exits, most of which
//! never reach user space.
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use kvm_bindings::{kvm_stats_desc, kvm_stats_header};
use vmm_sys_util::ioctl::ioctl;

use super::ioctls::KVM_GET_STATS_FD;

/// Why the counters cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatsError {
    /// KVM gives no descriptor.
    #[error(
        "KVM's counters cannot be read (KVM_GET_STATS_FD): {source}; they need KVM_CAP_BINARY_STATS_FD, Linux 5.14 or later; see `gracefault check`"
    )]
    Open {
        /// The system's error.
        source: io::Error,
    },
    /// What the descriptor holds makes no sense.
    #[error("KVM's counters have a form that is not understood: {source}")]
    Format {
        /// What was wrong.
        source: io::Error,
    },
}

/// The counters of one vCPU or VM. Holds a descriptor, no lock, and reads what
/// is current at each call.
#[derive(Debug)]
pub struct Stats {
    file: File,
    /// Name and place in the file of each counter's first value.
    counters: Vec<(String, u64)>,
}

impl Stats {
    pub(super) fn open(fd: &impl AsRawFd) -> Result<Self, StatsError> {
        // SAFETY: the ioctl takes no argument and returns a new descriptor.
        let new = unsafe { ioctl(fd, KVM_GET_STATS_FD()) };
        if new < 0 {
            return Err(StatsError::Open {
                source: io::Error::last_os_error(),
            });
        }
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { File::from_raw_fd(new) };
        let counters = parse(&file).map_err(|source| StatsError::Format { source })?;
        Ok(Self { file, counters })
    }

    /// The counter's value now, or `None` if this kernel has none of that name.
    /// One system call. Of a histogram, the first bucket.
    pub fn read(&self, name: &str) -> Option<u64> {
        let (_, at) = self.counters.iter().find(|(n, _)| n == name)?;
        let mut value = [0; 8];
        self.file.read_exact_at(&mut value, *at).ok()?;
        Some(u64::from_le_bytes(value))
    }

    /// What this kernel counts.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.counters.iter().map(|(name, _)| name.as_str())
    }
}

/// Reads the header and the descriptors: a fixed part and then a name, padded
/// with zeroes, of the same length in all.
fn parse(file: &impl FileExt) -> io::Result<Vec<(String, u64)>> {
    let mut header = [0; size_of::<kvm_stats_header>()];
    file.read_exact_at(&mut header, 0)?;
    let field = |i: usize| u32::from_ne_bytes(header[i * 4..][..4].try_into().unwrap_or_default());
    let (name_size, count, descriptors, data) = (field(1), field(2), field(4), field(5));
    let fixed = size_of::<kvm_stats_desc>();
    let size = fixed + name_size as usize;
    if name_size > 4096 || count > 65_536 {
        return Err(io::Error::other(format!(
            "{count} counters, names of {name_size} bytes"
        )));
    }
    let mut bytes = vec![0; size * count as usize];
    file.read_exact_at(&mut bytes, descriptors.into())?;
    let counters = bytes.chunks_exact(size).map(|descriptor| {
        let offset = u32::from_ne_bytes(descriptor[8..12].try_into().unwrap_or_default());
        let name = descriptor[fixed..]
            .split(|b| *b == 0)
            .next()
            .unwrap_or_default();
        (
            String::from_utf8_lossy(name).into_owned(),
            u64::from(data) + u64::from(offset),
        )
    });
    Ok(counters.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(count: u32) -> File {
        let mut bytes: Vec<u8> = [0_u32, 16, count, 24, 32, 100]
            .iter()
            .flat_map(|w| w.to_ne_bytes())
            .collect();
        bytes.resize(32, 0);
        for (name, offset) in [("exits", 0_u32), ("mmio_exits", 8)] {
            bytes.extend([0; 8]);
            bytes.extend(offset.to_ne_bytes());
            bytes.extend([0; 4]);
            bytes.extend(format!("{name:\0<16}").as_bytes());
        }
        bytes.resize(100, 0);
        bytes.extend([5_u64, 7].iter().flat_map(|v| v.to_ne_bytes()));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    #[test]
    fn counters_are_found_by_name() {
        let file = file(2);
        let stats = Stats {
            counters: parse(&file).unwrap(),
            file,
        };
        assert_eq!(stats.names().collect::<Vec<_>>(), ["exits", "mmio_exits"]);
        assert_eq!(stats.read("mmio_exits"), Some(7));
        assert_eq!(stats.read("exits"), Some(5));
        assert_eq!(stats.read("mmio"), None);
    }

    #[test]
    fn nonsense_is_an_error_not_a_panic() {
        assert!(parse(&file(3)).is_err());
        assert!(parse(&file(u32::MAX)).is_err());
        assert!(parse(&tempfile::tempfile().unwrap()).is_err());
    }
}
