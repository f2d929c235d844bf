//! The API of a running VM: HTTP/1.1 and JSON over a Unix socket.
//!
//! | module | what it is |
//! |---|---|
//! | [`model`] | what goes over it, as types |
//! | [`Client`] | asks, and blocks for the answer |
//!
//! `docs/api.md` in the repository explains it, and `docs/api.json` is its OpenAPI file.

mod client;
pub mod model;

pub use client::{Client, ClientError};
