//! Where a guest's console output goes, without a vCPU ever waiting for it.
//!
//! The device puts lines into a buffer; a thread named "console" writes them. When
//! whoever reads is too slow the buffer fills, and what does not fit is dropped and
//! counted: a guest that prints for ever, or a reader that has stopped, must neither
//! stall an exit nor take memory without end.

use std::io::{self, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;

use crate::memory::faults::{self, Step};

/// Bytes that are kept for a reader who is slow.
const CAPACITY: usize = 1 << 20;

/// How the console fared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConsoleReport {
    /// Bytes that were not written: nobody read them in time, or writing failed.
    pub dropped_bytes: u64,
    /// The first error of a write.
    pub error: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    /// Whole lines, not longer than [`CAPACITY`] together.
    waiting: Vec<u8>,
    /// The thread is writing what it took.
    writing: bool,
    /// No more will come.
    closed: bool,
    report: ConsoleReport,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when there is something to write, or it is written.
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that writes a console's output.
#[derive(Debug)]
pub struct Console {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The end of it that takes output; writing to it never blocks and never fails.
#[derive(Clone, Debug)]
pub struct ConsoleInput(Arc<Shared>);

impl Console {
    /// Starts the thread. `out` may block for as long as it likes.
    pub fn new(out: Box<dyn Write + Send>) -> io::Result<Self> {
        faults::check(Step::StartConsole)?;
        let shared = Arc::<Shared>::default();
        let of_thread = shared.clone();
        let thread = thread::Builder::new()
            .name("console".to_owned())
            .spawn(move || write_out(&of_thread, out))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// Where to put output.
    pub fn input(&self) -> ConsoleInput {
        ConsoleInput(self.shared.clone())
    }

    /// Waits until all is written, for `patience` at most; what is not written by
    /// then counts as dropped, and its thread is left to the writer that blocks it.
    pub fn finish(mut self, patience: Duration) -> ConsoleReport {
        let mut state = self.close();
        let busy = |state: &mut State| state.writing || !state.waiting.is_empty();
        let waited = self
            .shared
            .changed
            .wait_timeout_while(state, patience, busy);
        state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.report.dropped_bytes += state.waiting.len() as u64;
        state.waiting = Vec::new();
        let (report, stuck) = (state.report.clone(), state.writing);
        drop(state);
        if let Some(thread) = self.thread.take().filter(|_| !stuck) {
            // It catches what the writer panics with.
            let _ = thread.join();
        }
        report
    }

    fn close(&self) -> MutexGuard<'_, State> {
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.changed.notify_all();
        state
    }
}

impl Drop for Console {
    /// Writes what it can without waiting for long.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let shared = self.shared.clone();
            let this = Console {
                shared,
                thread: Some(thread),
            };
            // Takes the thread out, so this comes once.
            this.finish(Duration::from_millis(100));
        }
    }
}

fn write_out(shared: &Shared, mut out: Box<dyn Write + Send>) {
    let mut state = shared.lock();
    loop {
        while state.waiting.is_empty() && !state.closed {
            state = shared
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.waiting.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut state.waiting);
        let failed = state.report.error.is_some();
        state.writing = true;
        drop(state);
        let error = if failed {
            None
        } else {
            put(&mut *out, &lines).err()
        };
        state = shared.lock();
        state.writing = false;
        if failed || error.is_some() {
            state.report.dropped_bytes += lines.len() as u64;
        }
        state.report.error = state.report.error.take().or(error);
        shared.changed.notify_all();
    }
}

/// Writes, a panic of the writer being an error like others.
fn put(out: &mut dyn Write, lines: &[u8]) -> Result<(), String> {
    let write = AssertUnwindSafe(|| out.write_all(lines).and_then(|()| out.flush()));
    match catch_unwind(write) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("its writer panicked".to_owned()),
    }
}

impl Write for ConsoleInput {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.waiting.len() + data.len() > CAPACITY {
            state.report.dropped_bytes += data.len() as u64;
        } else {
            state.waiting.extend_from_slice(data);
        }
        self.0.changed.notify_all();
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(data);
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Blocks until the sender is gone.
    struct Stuck(mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, data: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(data.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Broken(bool);

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            assert!(!self.0, "on purpose");
            Err(io::Error::other("no room"))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_is_written_in_order_by_the_end() {
        let sink = Sink::default();
        let console = Console::new(Box::new(sink.clone())).unwrap();
        let mut input = console.input();
        (0..1000).for_each(|n| writeln!(input, "{n}").unwrap());
        assert_eq!(console.finish(LONG), ConsoleReport::default());
        let expected: String = (0..1000).map(|n| format!("{n}\n")).collect();
        assert_eq!(
            String::from_utf8(sink.0.lock().unwrap().clone()).unwrap(),
            expected
        );
    }

    #[test]
    fn a_reader_who_has_stopped_costs_memory_up_to_a_bound() {
        let (reader, stuck) = mpsc::channel();
        let console = Console::new(Box::new(Stuck(stuck))).unwrap();
        let mut input = console.input();
        let line = [b'x'; 1000];
        let lines = 3 * CAPACITY / line.len();
        (0..lines).for_each(|_| input.write_all(&line).unwrap());
        assert!(console.shared.lock().waiting.len() <= CAPACITY);
        let report = console.finish(Duration::ZERO);
        assert!(
            report.dropped_bytes >= (lines * line.len() - 2 * CAPACITY) as u64,
            "{report:?}"
        );
        drop(reader);
    }

    #[test]
    fn a_writer_that_fails_or_panics_is_reported_and_no_more_asked() {
        for (panics, says) in [(false, "no room"), (true, "panicked")] {
            let console = Console::new(Box::new(Broken(panics))).unwrap();
            let mut input = console.input();
            input.write_all(b"one\n").unwrap();
            input.write_all(b"two\n").unwrap();
            let report = console.finish(LONG);
            assert_eq!(report.dropped_bytes, 8);
            assert!(report.error.unwrap().contains(says));
        }
    }
}
