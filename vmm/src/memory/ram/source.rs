//! The one way to guest RAM.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::advice::{self, THP};
use super::file::{self, Store};
use super::map::{FilePart, Leaves};
use super::named::Named;
use super::parts::Parts;
use super::room::{HostRoom, Refusal};
use super::{Backend, HugePage, RamError, RamOptions, RamSizes, ThpAdvice};
use crate::memory::{Mapping, PAGE, PageSource, Pager};

/// Where a guest's boot RAM and its blocks come from. What was asked for has been
/// checked, and the host had it when this was opened.
#[derive(Debug)]
pub struct RamSource {
    options: RamOptions,
    /// What the host is told of transparent huge pages.
    advice: ThpAdvice,
    sizes: RamSizes,
    /// What is mapped, unless it is anonymous memory.
    file: Option<Arc<File>>,
    /// What of it is mapped, and what holds what should be gone.
    parts: Arc<Parts>,
    /// Who brings the pages, if they come at first touch.
    pager: Option<Arc<Pager>>,
}

impl RamSource {
    /// Private memory of this process, unchecked: what needs no choice.
    pub fn anonymous(sizes: RamSizes) -> Self {
        Self {
            options: RamOptions::default(),
            advice: ThpAdvice::HostDecides,
            sizes,
            file: None,
            parts: Arc::default(),
            pager: None,
        }
    }

    /// As [`open`](Self::open) for [`Backend::Image`], with pages from `pages` in
    /// place of a file.
    ///
    /// # Errors
    ///
    /// See [`RamError`].
    pub fn of_pages(sizes: RamSizes, pages: Arc<dyn PageSource>) -> Result<Self, RamError> {
        let options = RamOptions::default();
        HostRoom::read().check(&options, sizes)?;
        Ok(Self {
            options,
            advice: ThpAdvice::HostDecides,
            sizes,
            file: None,
            parts: Arc::default(),
            pager: Some(Pager::new(pages)?),
        })
    }

    /// Opens what `options` describes, if the host has enough of it now. Blocks for
    /// reads in `/proc` and `/sys`, and for opening the file.
    ///
    /// # Errors
    ///
    /// See [`RamError`]: each names what would have to change.
    pub fn open(options: RamOptions, sizes: RamSizes) -> Result<Self, RamError> {
        if options.backend == Backend::GuestMemfd {
            return Err(RamError::GuestMemfdNotGiven);
        }
        Self::open_in(&HostRoom::read(), options, sizes)
    }

    fn open_in(room: &HostRoom, options: RamOptions, sizes: RamSizes) -> Result<Self, RamError> {
        options.check(sizes)?;
        room.check(&options, sizes)?;
        let len = sizes.file_len();
        let file = match &options.backend {
            Backend::Anonymous | Backend::Hugetlb(_) | Backend::GuestMemfd => None,
            Backend::Memfd => Some(file::memfd(c"guest-ram", len)?),
            Backend::File(_) | Backend::PrivateFile(_) | Backend::Image(_) => {
                let named = Named::of(&options, sizes);
                named.map(|named| named.open(room)).transpose()?
            }
        };
        let (file, pager) = match (&options.backend, file) {
            (Backend::Image(_), Some(image)) => (None, Some(Pager::new(Arc::new(image))?)),
            (_, file) => (file.map(Arc::new), None),
        };
        let advice = match (options.thp, &room.thp[0]) {
            // A kernel without them has none to turn off, and refuses to.
            (ThpAdvice::Unwanted, None) => ThpAdvice::HostDecides,
            (advice, _) => advice,
        };
        Ok(Self {
            options,
            advice,
            sizes,
            file,
            parts: Arc::default(),
            pager,
        })
    }

    /// As [`open`](Self::open) for [`Backend::GuestMemfd`]; `make` has KVM make the
    /// file, of the given length.
    pub fn of_guest_memfd<E: From<RamError>>(
        options: RamOptions,
        sizes: RamSizes,
        make: impl FnOnce(u64) -> Result<File, E>,
    ) -> Result<Self, E> {
        let mut source = Self::open_in(&HostRoom::read(), options, sizes)?;
        source.file = Some(Arc::new(make(sizes.file_len())?));
        Ok(source)
    }

    /// What was asked for.
    pub fn options(&self) -> &RamOptions {
        &self.options
    }

    /// Bytes.
    pub fn sizes(&self) -> RamSizes {
        self.sizes
    }

    /// The file that is mapped, to share it or to look at it.
    pub fn file(&self) -> Option<&File> {
        self.file.as_deref()
    }

    /// Who brings the pages, if they come at first touch.
    pub fn pager(&self) -> Option<&Pager> {
        self.pager.as_deref()
    }

    /// Maps the `len` bytes of boot RAM at `offset` from its start. Blocks for as
    /// long as prefaulting takes, if that is asked for.
    ///
    /// # Errors
    ///
    /// The host refused, or has no page; nothing is left of it.
    pub fn map_boot(&self, offset: u64, len: u64) -> io::Result<Mapping> {
        self.map(offset, len)
    }

    /// Maps block number `block`; as [`map_boot`](Self::map_boot). It holds zeroes,
    /// or what is in its place in a file that the user named. Where there is a file,
    /// fails with `ResourceBusy` while an earlier mapping of the block lives.
    pub fn map_block(&self, block: u32) -> io::Result<Mapping> {
        let len = self.sizes.block;
        self.map(self.sizes.blocks_at() + u64::from(block) * len, len)
    }

    fn map(&self, offset: u64, len: u64) -> io::Result<Mapping> {
        let options = &self.options;
        if let Some(pager) = &self.pager {
            let mapping = pager.map(offset, len)?;
            return self.prefaulted(mapping);
        }
        let anonymous = libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let flags = match options.backend {
            Backend::Anonymous | Backend::Image(_) => libc::MAP_PRIVATE | anonymous,
            Backend::PrivateFile(_) => libc::MAP_PRIVATE | libc::MAP_NORESERVE,
            // Not private: a copy for a child could find the pool empty. Reserved,
            // so that the mapping fails and not the guest.
            Backend::Hugetlb(page) => {
                let size = (page.bytes().trailing_zeros() as i32) << libc::MAP_HUGE_SHIFT;
                libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | size
            }
            Backend::Memfd | Backend::File(_) | Backend::GuestMemfd => libc::MAP_SHARED,
        };
        let align = match self.advice {
            ThpAdvice::Wanted if len >= THP => THP,
            _ => PAGE,
        };
        let leaves = match options.path() {
            None => Leaves::Hole,
            Some(_) if options.discard => Leaves::HoleIfUnmapped,
            Some(_) => Leaves::Contents,
        };
        let part = |file: &Arc<File>| {
            Ok::<_, io::Error>(FilePart {
                file: file.clone(),
                offset,
                leaves,
                is_guest_memfd: options.backend == Backend::GuestMemfd,
                claim: self.parts.claim(offset, len)?,
            })
        };
        let part = self.file.as_ref().map(part).transpose()?;
        // A hole that could not be made when the part was given up last.
        if let Some(part) = part.as_ref().filter(|part| part.claim.is_stale()) {
            part.punch(len as usize).map_err(|error| {
                self.wrong(
                    "the hole that unplugging should have left cannot be made",
                    error,
                )
            })?;
        }
        let explain = |error| self.explain(&HostRoom::read(), error, len);
        let mapping = Mapping::new(len, align, flags, part).map_err(explain)?;
        let (addr, bytes) = mapping.raw();
        advice::advise_thp(addr, bytes, self.advice).map_err(|error| {
            let what = "the host takes no advice on huge pages (leave out hugepages=)";
            self.wrong(what, error)
        })?;
        self.prefaulted(mapping)
    }

    fn prefaulted(&self, mapping: Mapping) -> io::Result<Mapping> {
        if self.options.prefault {
            let (addr, len) = mapping.raw();
            let explain = |error| self.explain(&HostRoom::read(), error, len as u64);
            advice::populate(addr, len).map_err(explain)?;
        }
        Ok(mapping)
    }

    /// What a refusal of the host to give `len` bytes means for this backend. `room`:
    /// what the host has now.
    fn explain(&self, room: &HostRoom, error: io::Error, len: u64) -> io::Error {
        let (huge, code) = (self.huge_page(), error.raw_os_error());
        let what = match (&self.options.backend, huge, code) {
            (_, Some(page), Some(libc::ENOMEM | libc::EFAULT)) => {
                match room.check_pool(page, len) {
                    // It may be a limit on addresses just as well.
                    Ok(()) if code == Some(libc::ENOMEM) => return error,
                    Err(limit @ Refusal::Cgroup { .. }) => limit.to_string(),
                    _ => {
                        let kib = page >> 10;
                        format!(
                            "no huge pages of {kib} KiB are left: \
                             raise /sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages"
                        )
                    }
                }
            }
            (Backend::File(path), None, Some(libc::EFAULT | libc::ENOSPC)) => format!(
                "{} has no page to give: its file system is full, or it was cut short",
                path.display()
            ),
            (Backend::PrivateFile(path), None, Some(libc::EFAULT)) => format!(
                "{} has no page to give: it was cut short, or cannot be read",
                path.display()
            ),
            _ => return error,
        };
        io::Error::new(io::ErrorKind::OutOfMemory, format!("{what} ({error})"))
    }

    /// The error with the settings that it is of, as a user writes them.
    fn wrong(&self, what: &str, error: io::Error) -> io::Error {
        let options = &self.options;
        let path = options.path().map(|path| format!(":{}", path.display()));
        let thp = match options.thp {
            ThpAdvice::HostDecides => "",
            ThpAdvice::Wanted => ",hugepages=thp",
            ThpAdvice::Unwanted => ",hugepages=off",
        };
        let discard = if options.discard { ",discard=on" } else { "" };
        let (backing, path) = (options.backing(), path.unwrap_or_default());
        let text = format!("backing={backing}{path}{thp}{discard}: {what}: {error}");
        io::Error::new(error.kind(), text)
    }

    /// Bytes of the pool's pages that it is made of.
    fn huge_page(&self) -> Option<u64> {
        match self.file.as_deref().map(Store::of) {
            Some(Store::Pool(page)) => Some(page),
            _ => self.options.huge_page().map(HugePage::bytes),
        }
    }
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
