//! `--api-socket`: what `run` and `stress` share.

use std::path::Path;
use std::sync::Arc;

use gracefault::api::{ApiServer, Socket, Vm};

use super::Failure;

/// Makes the socket that was asked for: before anything else, since one that cannot be
/// should cost no run.
pub(super) fn bind(path: Option<&Path>) -> Result<Option<Socket>, Failure> {
    let bound = path.map(Socket::bind).transpose();
    bound.map_err(|error| Failure::Cannot(error.to_string()))
}

/// Serves `vm` there until what this returns is dropped.
pub(super) fn serve(socket: Socket, vm: impl Vm) -> Result<ApiServer, Failure> {
    let path = socket.path().display().to_string();
    ApiServer::start(socket, Arc::new(vm))
        .map_err(|error| Failure::Broken(format!("{path}: the API cannot be served: {error}")))
}
