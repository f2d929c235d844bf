//! The tiny guest of Gracefault and what it shares with the VMM.
#![no_std]

pub mod abi;
