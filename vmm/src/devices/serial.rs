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
}

/// The longest line that is kept together; a longer one is written in parts, so
/// that a guest cannot make us keep more.
const LINE_MAX: usize = 4096;

impl Write for Lines {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        for &byte in data {
            self.line.push(byte);
            if byte == b'\n' || self.line.len() == LINE_MAX {
                self.out.write_all(&self.line)?;
                self.out.flush()?;
                self.line.clear();
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
        if !self.line.is_empty() {
            // The console is going away, and with it whoever could be told.
            let _ = self
                .out
                .write_all(&self.line)
                .and_then(|()| self.out.flush());
        }
    }
}

/// A serial console, output only: what the guest sends goes to a writer, line by
/// line. The writer must not block for long: a vCPU waits for it.
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

    #[test]
    fn says_that_it_can_take_more() {
        let console = SerialConsole::new(Box::new(io::sink()));
        let mut status = [0];
        console.read(5, &mut status).unwrap();
        assert_eq!(status[0] & 0x20, 0x20, "transmitter empty");
    }
}
