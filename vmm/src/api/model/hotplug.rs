//! Plug, unplug, resize.

use serde::{Deserialize, Serialize};

use super::Hold;

/// The longest that a request may ask to wait, in milliseconds.
const LONGEST: u64 = 600_000;
/// Letters of an id.
const ID: usize = 64;

fn check_id(id: &Option<String>) -> Result<(), String> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    match id {
        Some(id) if id.is_empty() || id.len() > ID || !id.chars().all(is_fine) => Err(format!(
            "id: choose 1 to {ID} letters, digits, '_', '-' and '.'"
        )),
        _ => Ok(()),
    }
}

fn check_ms(field: &str, value: Option<u64>) -> Result<(), String> {
    match value {
        Some(ms) if ms > LONGEST => {
            Err(format!("{field}: {ms} is too long; {LONGEST} is the most"))
        }
        _ => Ok(()),
    }
}

fn check_size(size: u64) -> Result<(), String> {
    match size {
        0 => Err("size: 0 bytes are nothing; choose so many blocks".to_owned()),
        _ => Ok(()),
    }
}

/// A range of guest addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// The first address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

/// `PUT /vm.plug`: plugs fresh, zeroed RAM, all of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlugRequest {
    /// The first guest address, where a block begins. None for the lowest place that
    /// has room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// Bytes: a number of blocks.
    pub size: u64,
    /// What to call it: 1 to 64 letters, digits, `_`, `-` and `.`. The map shows it, and
    /// an unplug may name it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

impl PlugRequest {
    /// Whether it can be a request, whatever VM it is for.
    ///
    /// # Errors
    /// What to change.
    pub fn check(&self) -> Result<(), String> {
        check_size(self.size)?;
        check_id(&self.id)
    }
}

/// How a plug went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlugReport {
    /// What was plugged.
    pub range: Range,
    /// What it is called.
    pub id: Option<String>,
    /// How many blocks.
    pub blocks: u32,
    /// All of it.
    pub total_ns: u64,
    /// The map's own part.
    pub map_ns: u64,
    /// Adding memslots.
    pub kvm_ns: u64,
    /// Getting the memory from the host.
    pub host_ns: u64,
}

/// `PUT /vm.unplug`: unplugs a range, by `id` or by `start` and `size`, all of it or
/// nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnplugRequest {
    /// The first guest address, where a block begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// Bytes: a number of blocks, all of them plugged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What it was called when it was plugged; all of it has to be there yet (409).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// How long the guest may take to give it back and readers to leave it, in
    /// milliseconds: 10 000 if not given, 600 000 at most. Then it fails, and nothing
    /// has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Whether to take it out without asking the guest, whose accesses read all ones
    /// from then on.
    #[serde(default)]
    pub forced: bool,
}

impl UnplugRequest {
    /// Whether it can be a request, whatever VM it is for.
    ///
    /// # Errors
    /// What to change.
    pub fn check(&self) -> Result<(), String> {
        match (&self.id, self.start, self.size) {
            (Some(_), None, None) => check_id(&self.id)?,
            (None, Some(_), Some(size)) => check_size(size)?,
            _ => {
                let error = "say what to unplug: either by 'id', or by 'start' and 'size'";
                return Err(error.to_owned());
            }
        }
        check_ms("deadline_ms", self.deadline_ms)
    }
}

/// How an unplug went: by when it returns no reader and no vCPU can touch the memory
/// any more, and the host has it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnplugReport {
    /// What was unplugged.
    pub range: Range,
    /// How many blocks.
    pub blocks: u32,
    /// All of it.
    pub total_ns: u64,
    /// Waiting for the guest to give it back.
    pub consent_ns: u64,
    /// Waiting for readers to leave.
    pub drain_ns: u64,
    /// The map's own part.
    pub map_ns: u64,
    /// Removing memslots.
    pub kvm_ns: u64,
    /// Giving the memory back to the host.
    pub host_ns: u64,
    /// The readers that were waited for.
    pub holders: Vec<Hold>,
    /// If the host took the memory but not the addresses, why.
    pub unmap_error: Option<String>,
}

/// `PUT /vm.resize`: so much is to be plugged, whichever blocks that takes. The answer
/// is 202 while the resize goes on, and 200 once it is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResizeRequest {
    /// Bytes: a number of blocks, at most the total.
    pub requested: u64,
    /// Whether to take blocks out without asking the guest.
    #[serde(default)]
    pub forced: bool,
    /// How long to wait for its end before the answer, in milliseconds: 0 if not given,
    /// 600 000 at most. It goes on either way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// How long the guest may take to give a block back, and readers to leave it, in
    /// milliseconds: 10 000 if not given, 600 000 at most. Then the resize ends, with what
    /// was reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience_ms: Option<u64>,
}

impl ResizeRequest {
    /// Whether it can be a request, whatever VM it is for.
    ///
    /// # Errors
    /// What to change.
    pub fn check(&self) -> Result<(), String> {
        check_ms("wait_ms", self.wait_ms)?;
        check_ms("patience_ms", self.patience_ms)
    }
}

/// How far the last resize is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResizeState {
    /// There was none yet.
    None,
    /// It goes on.
    Underway,
    /// What was requested was reached.
    Done,
    /// It ended before that.
    Failed,
}

/// What a resize has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeReport {
    /// Blocks it has plugged.
    pub plugged_blocks: u32,
    /// Blocks it has unplugged.
    pub unplugged_blocks: u32,
    /// From the request to its end.
    pub took_ns: u64,
    /// Waiting for readers to leave, all blocks together.
    pub drain_ns: u64,
    /// The readers that were waited for.
    pub holders: Vec<Hold>,
}

/// `GET /vm.resize`, and the answer to `PUT /vm.resize`. All sizes are bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResizeStatus {
    /// A block.
    pub block_size: u64,
    /// The most that can be plugged.
    pub total: u64,
    /// What was asked for last; 0 before.
    pub requested: u64,
    /// What is plugged now.
    pub plugged: u64,
    /// How far the last resize is.
    pub state: ResizeState,
    /// If it is done: what it has done.
    pub report: Option<ResizeReport>,
    /// If it failed: why.
    pub error: Option<String>,
}
