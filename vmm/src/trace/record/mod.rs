//! Recording: each thread puts what it did into a ring of its own, and one thread
//! writes all of them to a file.
//!
//! A thread that records takes no lock, makes no system call and writes no cache line
//! that another one writes. What does not fit is lost, as [`OnFull`] says, and counted.

mod observer;
mod options;
mod ring;
mod threads;
mod writer;

pub use observer::SpaceObserver;
pub(crate) use observer::what;
pub use options::{BadEvents, EventSet, OnFull, RecordOptions};
pub use ring::Who;
pub use threads::VcpuRecorder;
pub use writer::{RecordError, Recording, RecordingHandle, Written};
