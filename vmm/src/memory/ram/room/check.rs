//! Comparing what is asked for with each limit that applies to it.

use super::{HostRoom, Refusal};
use crate::memory::ram::{Backend, RamOptions, RamSizes, ThpAdvice};

/// Mappings that the rest of a machine may take: threads, the allocator, KVM.
const OTHER_MAPPINGS: u64 = 1024;

impl HostRoom {
    /// Whether there is room for all that is asked for; but for the pages of a file
    /// that is mapped, which [`RamSource::open`](crate::memory::RamSource::open) checks.
    ///
    /// # Errors
    ///
    /// The first limit that does not allow it.
    pub fn check(&self, options: &RamOptions, sizes: RamSizes) -> Result<(), Refusal> {
        if options.prefault && !self.can_populate {
            return Err(Refusal::Populate);
        }
        self.check_thp(options)?;
        self.check_process(options, sizes)?;
        match options.backend {
            Backend::Hugetlb(page) => self.check_pool(page.bytes(), sizes.all()),
            // What it needs depends on where it is: seen when it is opened.
            Backend::File(_) | Backend::PrivateFile(_) => Ok(()),
            _ => self.check_memory(options.prefault, sizes.all()),
        }
    }

    /// Whether the host has so much memory that no file is behind.
    pub(in crate::memory::ram) fn check_memory(
        &self,
        prefault: bool,
        needed: u64,
    ) -> Result<(), Refusal> {
        let promise = !prefault;
        match (self.commit.policy, self.commit.left, self.available) {
            (2, Some(left), _) if needed > left => return Err(Refusal::Commit { needed, left }),
            // Whoever has set this wants promises that cannot all be kept.
            (1, ..) if promise => {}
            (_, _, Some(available)) if needed > available => {
                return Err(Refusal::Memory {
                    needed,
                    available,
                    promise,
                });
            }
            _ => {}
        }
        match &self.cgroup {
            Some(room) if needed > room.left => Err(Refusal::Cgroup {
                needed,
                file: room.file.clone(),
                limit: room.limit,
                left: room.left,
            }),
            _ => Ok(()),
        }
    }

    /// Whether the pool has so many bytes of such pages.
    pub(in crate::memory::ram) fn check_pool(&self, page: u64, bytes: u64) -> Result<(), Refusal> {
        let pool = self.huge.iter().find(|pool| pool.page == page);
        let pool = pool.ok_or(Refusal::NoHugePages { page })?;
        // First, since a page that it forbids may be free.
        if let Some(room) = pool.cgroup.as_ref().filter(|room| bytes > room.left) {
            return Err(Refusal::Cgroup {
                needed: bytes,
                file: room.file.clone(),
                limit: room.limit,
                left: room.left,
            });
        }
        let needed = bytes.div_ceil(page);
        match needed > pool.pages {
            true => Err(Refusal::HugePages {
                needed,
                page,
                pages: pool.pages,
                enough: pool.total + (needed - pool.pages),
            }),
            false => Ok(()),
        }
    }

    fn check_thp(&self, options: &RamOptions) -> Result<(), Refusal> {
        if options.thp != ThpAdvice::Wanted {
            return Ok(());
        }
        let (found, file, wanted) = match options.backend {
            Backend::Memfd => (&self.thp[1], "shmem_enabled", "advise"),
            _ => (&self.thp[0], "enabled", "madvise"),
        };
        let found = found.as_deref().unwrap_or("not there");
        let chosen = found
            .split_once('[')
            .and_then(|(_, rest)| rest.split_once(']'));
        match chosen {
            None | Some(("never" | "deny", _)) => Err(Refusal::Thp {
                found: chosen.map_or(found, |(word, _)| word).to_owned(),
                file,
                wanted,
            }),
            Some(_) => Ok(()),
        }
    }

    fn check_process(&self, options: &RamOptions, sizes: RamSizes) -> Result<(), Refusal> {
        let process = &self.process;
        let over_by = |needed, what, name, flag, left: Option<u64>| match left {
            Some(left) if needed > left => Err(Refusal::Process {
                needed,
                what,
                name,
                flag,
                left,
            }),
            _ => Ok(()),
        };
        let over = |what, name, flag, left| over_by(sizes.all(), what, name, flag, left);
        let addresses = process.address_space.map(|limit| limit.left());
        over("addresses", "RLIMIT_AS", "-v", addresses)?;
        if matches!(
            options.backend,
            Backend::Anonymous | Backend::PrivateFile(_) | Backend::Image(_)
        ) {
            let data = process.data.map(|limit| limit.left());
            over("private memory", "RLIMIT_DATA", "-d", data)?;
        }
        if matches!(options.backend, Backend::Memfd | Backend::File(_)) {
            // Boot RAM takes whole blocks of a file.
            let needed = sizes.file_len();
            over_by(
                needed,
                "the length of files",
                "RLIMIT_FSIZE",
                "-f",
                process.file_size,
            )?;
        }
        let needed = sizes.mappings() + OTHER_MAPPINGS;
        let left = process
            .max_map_count
            .map(|most| most.saturating_sub(process.mappings));
        match left {
            Some(left) if needed > left => Err(Refusal::Mappings {
                needed,
                left,
                enough: process.mappings + needed,
            }),
            _ => Ok(()),
        }
    }
}
