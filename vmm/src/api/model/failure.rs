//! What a refusal says.

use serde::{Deserialize, Serialize};

use super::Hold;

/// Why a request was not carried out, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// 400: it is no such request.
    BadRequest,
    /// 404: there is no such path, or nothing by that name.
    NotFound,
    /// 405: the path has other methods.
    MethodNotAllowed,
    /// 408: its body did not come in time.
    Timeout,
    /// 409: not in the state that the VM is in.
    Conflict,
    /// 409: this kind of VM cannot do it.
    NotSupported,
    /// 409: the guest, or a reader, did not let go in time. Nothing has changed.
    NotReleased,
    /// 413: the body is too long.
    TooLarge,
    /// 429: too many requests at once.
    TooMany,
    /// 500: something went wrong.
    Failed,
}

/// What did not let go of what was to be unplugged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreleased {
    /// vCPUs whose guest has not given it back.
    pub vcpus: Vec<u32>,
    /// Readers that hold it.
    pub holders: Vec<Hold>,
    /// How long they were waited for.
    pub waited_ns: u64,
}

/// The body of every answer from 400 on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why, for programs.
    pub code: ErrorCode,
    /// Why, for people: and what to do.
    pub error: String,
    /// With `not_released`: who did not let go.
    pub unreleased: Option<Unreleased>,
}
