//! The serial console: vm-superio's 16550A behind 8 ports.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use crate::memory::{AccessSizes, Device, DeviceError, OtherSizes};

/// Interrupts go nowhere: the guest polls.
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = io::Error;
    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Gathers the guest's output into lines, so that each is written whole.
struct Lines {
    out: Box<dyn Write + Send>,
    line: Vec<u8>,
    /// A write was interrupted: whoever reads has stalled.
    stalled: bool,
}

/// The longest line that is kept together; a longer one is written in parts, so
/// that a guest cannot make us keep more.
const LINE_MAX: usize = 4096;

impl Lines {
    /// Writes the line out. It is gone then, also if that fails or panics: a guest
    /// must not be able to make us keep what cannot be written.
    ///
    /// An interrupted write is not tried again, as `write_all` does: only a kick
    /// interrupts a vCPU's system calls, and that means that it is to stop.
    fn put_line(&mut self) -> io::Result<()> {
        let line = std::mem::take(&mut self.line);
        let mut rest = &line[..];
        while !rest.is_empty() {
            match self.out.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.stalled = true;
                    // Of another kind: the device's own `write_all` would retry.
                    return Err(io::Error::other("stopped while nobody read"));
                }
                Err(error) => return Err(error),
            }
        }
        self.out.flush()
    }
}

impl Write for Lines {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        for &byte in data {
            self.line.push(byte);
            if byte == b'\n' || self.line.len() == LINE_MAX {
                self.put_line()?;
            }
        }
        Ok(data.len())
    }

    /// The device flushes after every byte; lines go out when they end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.line.is_empty() && !self.stalled {
            // The console is going away, and with it whoever could be told.
            let _ = self.put_line();
        }
    }
}

/// A serial console, output only: what the guest sends goes to a writer, line by
/// line. A vCPU waits for a writer that blocks; when it is to stop, the write is
/// interrupted, which the writer must hand on (as a file or a pipe does, and as
/// [`std::io::Stdout`] does not).
pub struct SerialConsole {
    serial: Mutex<Serial<NoInterrupt, NoEvents, Lines>>,
}

/// Ports that the device takes.
const PORTS: u64 = 8;

impl SerialConsole {
    /// A console that writes to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> Arc<Self> {
        let lines = Lines {
            out,
            line: Vec::new(),
            stalled: false,
        };
        Arc::new(Self {
            serial: Mutex::new(Serial::new(NoInterrupt, lines)),
        })
    }

    /// How many ports it wants.
    pub fn len(&self) -> u64 {
        PORTS
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }
}

impl Device for SerialConsole {
    fn name(&self) -> &str {
        "serial"
    }

    fn sizes(&self) -> AccessSizes {
        AccessSizes::only(&[1], OtherSizes::Split)
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), DeviceError> {
        let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        data[0] = serial.read(offset as u8);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), DeviceError> {
        let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        serial
            .write(offset as u8, data[0])
            .map_err(|_| DeviceError::BadValue)
    }
}

impl std::fmt::Debug for SerialConsole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SerialConsole").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().push(data.to_vec());
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn writes_whole_lines_and_the_rest_at_the_end() {
        let sink = Sink::default();
        let console = SerialConsole::new(Box::new(sink.clone()));
        for byte in b"one\ntwo" {
            console.write(0, &[*byte]).unwrap();
        }
        assert_eq!(*sink.0.lock().unwrap(), [b"one\n"]);
        drop(console);
        assert_eq!(sink.0.lock().unwrap()[1], b"two");
    }

    struct Full(Arc<Mutex<usize>>);

    impl Write for Full {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            *self.0.lock().unwrap() = data.len();
            Err(io::Error::other("full"))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn keeps_nothing_that_cannot_be_written() {
        let last = Arc::default();
        let console = SerialConsole::new(Box::new(Full(Arc::clone(&last))));
        for _ in 0..3 * LINE_MAX {
            let _ = console.write(0, b"x");
        }
        assert_eq!(*last.lock().unwrap(), LINE_MAX);
        let _ = console.write(0, b"\n");
        assert_eq!(*last.lock().unwrap(), 1);
    }

    #[test]
    fn says_that_it_can_take_more() {
        let console = SerialConsole::new(Box::new(io::sink()));
        let mut status = [0];
        console.read(5, &mut status).unwrap();
        assert_eq!(status[0] & 0x20, 0x20, "transmitter empty");
    }
}
