//! The console: the serial port's transmit register, one `out` per byte, each of
//! them counted. [`print!`](crate::print) and [`println!`](crate::println) write
//! to it. Bytes of several vCPUs mix; take turns if that matters.

use core::arch::asm;
use core::fmt;

use crate::abi::SERIAL_PORT;
use crate::rt::report::{self, Field};

/// The serial port. Writing to it never fails.
#[derive(Clone, Copy, Debug)]
pub struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            report::add(Field::SERIAL_BYTES, 1);
            // SAFETY: the port only takes a byte to print. A guest runs with
            // IOPL 3; elsewhere the line before has faulted already.
            unsafe {
                asm!("out dx, al", in("dx") SERIAL_PORT, in("al") byte,
                    options(nostack, preserves_flags, nomem));
            }
        }
        Ok(())
    }
}

/// Prints to the [`Console`], like `std::print!`.
#[macro_export]
macro_rules! print {
    ($($arg:tt)*) => {{
        // A value's own `fmt` may fail; the console does not.
        let _ = ::core::fmt::Write::write_fmt(
            &mut $crate::rt::console::Console,
            ::core::format_args!($($arg)*),
        );
    }};
}

/// Prints a line to the [`Console`], like `std::println!`.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => { $crate::print!("{}\n", ::core::format_args!($($arg)*)) };
}
