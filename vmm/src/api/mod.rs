//! The API of a running VM: HTTP/1.1 and JSON over a Unix socket.
//!
//! | module | what it is |
//! |---|---|
//! | [`model`] | what goes over it, as types |
//! | [`Client`] | asks, and blocks for the answer |
//! | [`ApiServer`], [`Socket`] | answers, on a thread of its own |
//! | [`Vm`] | what is served: [`MachineVm`], [`StormVm`] |
//!
//! `docs/api.md` in the repository explains it, and `docs/api.json` is its OpenAPI file.

mod client;
mod figures;
pub mod model;
mod of_machine;
mod of_map;
mod of_storm;
mod server;
mod vm;

pub use client::{Client, ClientError};
pub use of_machine::MachineVm;
pub use of_storm::StormVm;
pub use server::{ApiServer, Socket, SocketError};
pub use vm::{Cancel, Vm};
