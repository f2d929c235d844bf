//! The kernel's interface: numbers and structures.

use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iowr_nr};

/// The type of all of its ioctls, and the version of its interface.
pub(super) const UFFD: u32 = 0xaa;

/// `struct uffdio_api`.
#[repr(C)]
#[derive(Default)]
pub(super) struct Api {
    pub(super) api: u64,
    pub(super) features: u64,
    pub(super) ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
#[derive(Default)]
pub(super) struct Range {
    pub(super) start: u64,
    pub(super) len: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
#[derive(Default)]
pub(super) struct Register {
    pub(super) range: Range,
    pub(super) mode: u64,
    pub(super) ioctls: u64,
}

/// `UFFDIO_REGISTER_MODE_MISSING`.
pub(super) const MISSING: u64 = 1;

/// `struct uffdio_copy`.
#[repr(C)]
#[derive(Default)]
pub(super) struct Copy {
    pub(super) dst: u64,
    pub(super) src: u64,
    pub(super) len: u64,
    pub(super) mode: u64,
    pub(super) copied: i64,
}

/// `struct uffd_msg`, of a page fault.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Message {
    pub(super) event: u8,
    pub(super) reserved: [u8; 7],
    pub(super) flags: u64,
    pub(super) address: u64,
    pub(super) thread: u32,
    pub(super) padding: u32,
}

/// `UFFD_FEATURE_THREAD_ID`: a fault tells whose it is. Linux 4.14.
pub(super) const THREAD_ID: u64 = 1 << 8;

/// `UFFD_EVENT_PAGEFAULT`.
pub(super) const PAGE_FAULT: u8 = 0x12;

// The sizes are the kernel's, and part of the numbers below.
const _: () = {
    assert!(size_of::<Api>() == 24 && size_of::<Range>() == 16);
    assert!(size_of::<Register>() == 32 && size_of::<Copy>() == 40);
    assert!(size_of::<Message>() == 32);
};

ioctl_io_nr!(USERFAULTFD_IOC_NEW, UFFD, 0x00);
ioctl_iowr_nr!(UFFDIO_API, UFFD, 0x3f, Api);
ioctl_iowr_nr!(UFFDIO_REGISTER, UFFD, 0x00, Register);
ioctl_ior_nr!(UFFDIO_UNREGISTER, UFFD, 0x01, Range);
ioctl_ior_nr!(UFFDIO_WAKE, UFFD, 0x02, Range);
ioctl_iowr_nr!(UFFDIO_COPY, UFFD, 0x03, Copy);
