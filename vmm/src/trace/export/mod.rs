//! Traces in formats that other programs read.

pub mod jsonl;
pub mod openmetrics;
#[cfg(feature = "perfetto")]
pub mod perfetto;
