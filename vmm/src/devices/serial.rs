//! The serial console: vm-superio's 16550A behind 8 ports.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use vm_superio::serial::NoEvents;
use vm_superio::{Serial, Trigger};

use super::ConsoleInput;
use crate::memory::{AccessSizes, Device, DeviceError, OtherSizes};

/// Interrupts go nowhere: the guest polls.
struct NoInterrupt;

impl Trigger for NoInterrupt {
    type E = io::Error;
    fn trigger(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Gathers the guest's output into lines, so that each stays whole.
struct Lines {
    out: ConsoleInput,
    line: Vec<u8>,
}

/// The longest line that is kept together; a longer one goes on in parts, so that a
/// guest cannot make us keep more.
const LINE_MAX: usize = 4096;

impl Write for Lines {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        for &byte in data {
            self.line.push(byte);
            if byte == b'\n' || self.line.len() == LINE_MAX {
                self.out.write_all(&std::mem::take(&mut self.line))?;
            }
        }
        Ok(data.len())
    }

    /// The device flushes after every byte; lines go on when they end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A serial console, output only: what the guest sends goes to a [`Console`], line
/// by line.
///
/// [`Console`]: super::Console
pub struct SerialConsole {
    serial: Mutex<Serial<NoInterrupt, NoEvents, Lines>>,
}

/// Ports that the device takes.
const PORTS: u64 = 8;

impl SerialConsole {
    /// A console whose lines go to `out`.
    pub fn new(out: ConsoleInput) -> Arc<Self> {
        let line = Vec::new();
        let serial = Serial::new(NoInterrupt, Lines { out, line });
        Arc::new(Self {
            serial: Mutex::new(serial),
        })
    }

    /// Hands on what there is of a line that has not ended: the guest has.
    pub fn end_line(&self) {
        let mut serial = self.serial.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = serial.writer_mut();
        let rest = std::mem::take(&mut lines.line);
        lines.out.write_all(&rest).expect("it never fails");
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
    use std::sync::mpsc;
    use std::time::Duration;

    use super::super::Console;
    use super::*;

    /// Hands each write on.
    struct Sink(mpsc::Sender<Vec<u8>>);

    impl Write for Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.send(data.to_vec()).map_err(io::Error::other)?;
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn hands_on_whole_lines_and_the_rest_at_the_end() {
        let (sender, written) = mpsc::channel();
        let console = Console::new(Box::new(Sink(sender))).unwrap();
        let serial = SerialConsole::new(console.input());
        b"one\ntwo"
            .iter()
            .for_each(|byte| serial.write(0, &[*byte]).unwrap());
        assert_eq!(written.recv().unwrap(), b"one\n");
        serial.end_line();
        assert_eq!(written.recv().unwrap(), b"two");
        // A line without an end goes on in parts.
        (0..=LINE_MAX).for_each(|_| serial.write(0, b"x").unwrap());
        assert_eq!(written.recv().unwrap().len(), LINE_MAX);
        console.finish(Duration::from_secs(60));
    }

    #[test]
    fn says_that_it_can_take_more() {
        let console = Console::new(Box::new(io::sink())).unwrap();
        let serial = SerialConsole::new(console.input());
        let mut status = [0];
        serial.read(5, &mut status).unwrap();
        assert_eq!(status[0] & 0x20, 0x20, "transmitter empty");
    }
}
