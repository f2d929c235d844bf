//! What a user can ask for.

use std::path::{Path, PathBuf};

use super::RamError;
use crate::memory::PAGE;

/// Where the memory behind guest RAM comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// Private memory of this process.
    #[default]
    Anonymous,
    /// A file in memory: as anonymous, but another process can map it too.
    Memfd,
    /// Huge pages of the host's pool, set aside when they are mapped.
    Hugetlb(HugePage),
    /// A file: boot RAM at its start, the blocks behind. What the guest writes
    /// goes to the file. Made if it does not exist, and longer if it is short.
    File(PathBuf),
    /// A file, as above, which is only read: what the guest writes stays in memory.
    PrivateFile(PathBuf),
    /// A file, as above, which is read a page at a time, when the guest or the VMM
    /// first touches it ([`paging`](crate::memory::paging)).
    Image(PathBuf),
    /// KVM's own memory file (`KVM_CREATE_GUEST_MEMFD`).
    GuestMemfd,
}

/// A size of huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HugePage {
    /// 2 MiB.
    Size2M,
    /// 1 GiB.
    Size1G,
}

impl HugePage {
    /// Bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Size2M => 2 << 20,
            Self::Size1G => 1 << 30,
        }
    }
}

/// What is said to the host about transparent huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ThpAdvice {
    /// Nothing: the host's own setting decides.
    #[default]
    HostDecides,
    /// Wanted (`MADV_HUGEPAGE`); memory is aligned for them.
    Wanted,
    /// Not wanted (`MADV_NOHUGEPAGE`).
    Unwanted,
}

/// How to get guest RAM. Whether the parts go together is checked by
/// [`RamSource::open`](super::RamSource::open).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RamOptions {
    /// Where it comes from.
    pub backend: Backend,
    /// Whether every page is there before the guest can touch it: a plug takes
    /// longer, a first touch costs a second-level fault only, and memory that is
    /// short makes the plug fail in place of the guest.
    pub prefault: bool,
    /// Transparent huge pages.
    pub thp: ThpAdvice,
    /// Whether unplugging a block of a [`Backend::File`] also makes a hole in the
    /// file. All other backends give everything back anyway.
    pub discard: bool,
}

/// Bytes of the RAM that is to come from one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RamSizes {
    /// Boot RAM.
    pub boot: u64,
    /// The most that can be plugged; a multiple of `block`.
    pub hotplug: u64,
    /// A block; a power of two.
    pub block: u64,
}

impl RamSizes {
    /// Where the blocks begin in a file that holds boot RAM first.
    pub fn blocks_at(self) -> u64 {
        self.boot.next_multiple_of(self.block.max(PAGE))
    }

    /// Bytes of a file that holds all of it.
    pub fn file_len(self) -> u64 {
        self.blocks_at() + self.hotplug
    }

    /// The first size, and its bytes, that is no multiple of `page`.
    pub(super) fn not_made_of(self, page: u64) -> Option<(&'static str, u64)> {
        let sizes = [
            ("size", self.boot),
            ("hotplug_size", self.hotplug),
            ("block", if self.hotplug == 0 { 0 } else { self.block }),
        ];
        let mut sizes = sizes.into_iter();
        sizes.find(|(_, bytes)| !bytes.is_multiple_of(page))
    }

    /// All that the guest can touch.
    pub fn all(self) -> u64 {
        self.boot.saturating_add(self.hotplug)
    }

    /// How many mappings it may take: boot RAM has two parts.
    pub fn mappings(self) -> u64 {
        2 + self.hotplug / self.block.max(PAGE)
    }
}

impl RamOptions {
    /// The word for the backend, as a user writes it.
    pub fn backing(&self) -> &'static str {
        match self.backend {
            Backend::Anonymous => "anon",
            Backend::Memfd => "memfd",
            Backend::Hugetlb(_) => "hugetlb",
            Backend::File(_) => "file",
            Backend::PrivateFile(_) => "private-file",
            Backend::Image(_) => "image",
            Backend::GuestMemfd => "guest-memfd",
        }
    }

    /// The file that the user named.
    pub fn path(&self) -> Option<&Path> {
        match &self.backend {
            Backend::File(path) | Backend::PrivateFile(path) | Backend::Image(path) => Some(path),
            _ => None,
        }
    }

    /// The huge pages of the pool that it takes.
    pub fn huge_page(&self) -> Option<HugePage> {
        match self.backend {
            Backend::Hugetlb(page) => Some(page),
            _ => None,
        }
    }

    /// Whether the parts go together, whatever the host has.
    pub(super) fn check(&self, sizes: RamSizes) -> Result<(), RamError> {
        let RamSizes {
            boot,
            hotplug,
            block,
        } = sizes;
        let blocks_at = boot.checked_next_multiple_of(block.max(PAGE));
        if blocks_at.and_then(|at| at.checked_add(hotplug)).is_none() {
            return Err(RamError::TooLarge { boot, hotplug });
        }
        let backing = self.backing();
        if self.discard && !matches!(self.backend, Backend::File(_)) {
            return Err(RamError::DiscardOfNoFile { backing });
        }
        let takes_thp = matches!(self.backend, Backend::Anonymous | Backend::Memfd);
        if self.thp != ThpAdvice::HostDecides && !takes_thp {
            return Err(RamError::NoThp { backing });
        }
        let Some(page) = self.huge_page().map(HugePage::bytes) else {
            return Ok(());
        };
        match sizes.not_made_of(page) {
            Some((what, bytes)) => Err(RamError::NotHugePages { what, bytes, page }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: RamSizes = RamSizes {
        boot: 64 << 20,
        hotplug: 128 << 20,
        block: 2 << 20,
    };

    fn check(options: RamOptions, sizes: RamSizes) -> Result<(), RamError> {
        options.check(sizes)
    }

    #[test]
    fn parts_that_do_not_go_together_are_refused() {
        for backend in [Backend::Anonymous, Backend::Memfd, Backend::GuestMemfd] {
            let discard = RamOptions {
                discard: true,
                backend,
                ..Default::default()
            };
            let error = check(discard, SIZES).unwrap_err();
            assert!(matches!(error, RamError::DiscardOfNoFile { .. }), "{error}");
        }
        let hugetlb = Backend::Hugetlb(HugePage::Size2M);
        for backend in [hugetlb, Backend::File("x".into()), Backend::GuestMemfd] {
            let thp = RamOptions {
                thp: ThpAdvice::Wanted,
                backend,
                ..Default::default()
            };
            let error = check(thp, SIZES).unwrap_err();
            assert!(matches!(error, RamError::NoThp { .. }), "{error}");
        }
    }

    #[test]
    fn huge_pages_want_multiples_of_themselves() {
        let refused = |page, sizes| {
            let options = RamOptions {
                backend: Backend::Hugetlb(page),
                ..Default::default()
            };
            match check(options, sizes) {
                Err(RamError::NotHugePages { what, .. }) => Some(what),
                Err(other) => panic!("{other}"),
                Ok(()) => None,
            }
        };
        assert_eq!(refused(HugePage::Size2M, SIZES), None);
        assert_eq!(refused(HugePage::Size1G, SIZES), Some("size"));
        let small = |boot, hotplug, block| RamSizes {
            boot,
            hotplug,
            block,
        };
        let block = small(2 << 20, 2 << 20, 1 << 20);
        assert_eq!(refused(HugePage::Size2M, block), Some("block"));
        let no_blocks = small(2 << 20, 0, 4096);
        assert_eq!(refused(HugePage::Size2M, no_blocks), None);
    }

    #[test]
    fn blocks_lie_behind_boot_ram() {
        let odd = RamSizes {
            boot: (64 << 20) + 4096,
            ..SIZES
        };
        assert_eq!((odd.blocks_at(), odd.file_len()), (66 << 20, 194 << 20));
        assert_eq!(odd.mappings(), 66);
    }
}
