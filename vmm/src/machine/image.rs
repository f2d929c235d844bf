//! Getting a guest's image into memory.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::elf;
use super::layout::Layout;
use super::{MachineConfig, MachineError};
use crate::memory::{Mapping, sigbus};

/// Where the image begins to run, and ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded {
    pub(super) entry: u64,
    pub(super) end: u64,
}

/// Symbols and debug information may make a file larger than what it loads: this
/// much is allowed for them.
const MAX_EXTRA: u64 = 256 << 20;

/// Loads the configured image into the lower part of boot RAM.
pub(super) fn load(
    config: &MachineConfig,
    layout: &Layout,
    low: &Mapping,
) -> Result<Loaded, MachineError> {
    let (name, bytes) = match &config.kernel {
        None => (
            "built-in".to_owned(),
            Cow::Borrowed(gracefault_guest::PAYLOAD),
        ),
        Some(path) => {
            let limit = (layout.image.end - layout.image.start) + MAX_EXTRA;
            let read = read(path, limit);
            let read_image = |source| MachineError::ReadImage {
                path: path.clone(),
                source,
            };
            (
                path.display().to_string(),
                Cow::Owned(read.map_err(read_image)?),
            )
        }
    };
    let image = elf::parse(&bytes, layout.image.clone())
        .map_err(|source| MachineError::Image { name, source })?;
    for segment in &image.segments {
        low.write(segment.gpa, segment.bytes)?;
        // All other memory is fresh.
        if config.ram.path().is_some() {
            let len = segment.bytes.len() as u64;
            zero(low, segment.gpa + len, segment.mem_size - len)?;
        }
    }
    Ok(Loaded {
        entry: image.entry,
        end: image.end(),
    })
}

/// Makes `len` bytes zero.
fn zero(low: &Mapping, start: u64, len: u64) -> Result<(), sigbus::Fault> {
    static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
    let mut done = 0;
    while done < len {
        let part = (len - done).min(ZEROES.len() as u64);
        low.write(start + done, &ZEROES[..part as usize])?;
        done += part;
    }
    Ok(())
}

fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    // A pipe would make it wait for a writer; on a regular file it has no effect.
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    let about = file.metadata()?;
    let refuse = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    if !about.is_file() {
        return refuse("it is not a regular file; give the path of an ELF image".to_owned());
    }
    if about.len() > limit {
        let len = about.len();
        return refuse(format!(
            "it is {len} bytes long, and there is room for {limit}; strip it, or give the guest \
             more memory (--memory size=)"
        ));
    }
    let mut bytes = Vec::new();
    // It may grow while it is read.
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}
