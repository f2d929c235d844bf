//! `gracefault ctl`: asks and steers a VM that runs.

mod args;
mod resize;
mod show;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use gracefault::api::model::{ErrorCode, Ping, PlugRequest, TraceRequest, UnplugRequest};
use gracefault::api::{Client, ClientError};

pub(crate) use args::CtlArgs;
pub(super) use show::map as show_map;

use args::{PlugArgs, TraceVerb, UnplugArgs, Verb};

use super::units::millis;
use super::{Failure, print_json, print_text};

/// A client of the VM at `path`.
pub(super) fn client(path: &Path) -> Result<Client, Failure> {
    Client::new(path).map_err(|error| Failure::Broken(format!("no event queue: {error}")))
}

/// What a command ends with that got no answer it likes.
pub(super) fn explain(error: ClientError) -> Failure {
    let text = error.to_string();
    match &error {
        // Not there, or asked for what cannot be.
        ClientError::Connect { .. } => Failure::Cannot(text),
        ClientError::Refused { failure, .. } => match failure.code {
            ErrorCode::BadRequest | ErrorCode::NotFound | ErrorCode::NotSupported => {
                Failure::Cannot(text)
            }
            _ => Failure::Broken(text + &show::unreleased(failure)),
        },
        _ => Failure::Broken(text),
    }
}

pub(crate) fn ctl(args: &CtlArgs) -> Result<(), Failure> {
    // An argument that may come before or after the verb cannot be a required one.
    let path = args.api_socket.as_deref().ok_or_else(|| {
        let error = "which VM? Say --api-socket PATH, as `gracefault run --api-socket PATH` did";
        Failure::Cannot(error.to_owned())
    })?;
    let vm = client(path)?;
    let json = args.json;
    match &args.verb {
        Verb::Ping { wait } => told(json, &ping(&vm, *wait)?, show::ping),
        Verb::Info => told(json, &vm.info().map_err(explain)?, show::info),
        Verb::Counters => told(json, &vm.counters().map_err(explain)?, show::counters),
        Verb::Map => told(json, &vm.map().map_err(explain)?, |map| show::map(map)),
        Verb::Metrics => print_text(&vm.metrics().map_err(explain)?),
        Verb::Pause => done(json, vm.pause()),
        Verb::Resume => done(json, vm.resume()),
        Verb::Shutdown => done(json, vm.shutdown()),
        Verb::Plug(args) => plug(&vm, args, json),
        Verb::Unplug(args) => unplug(&vm, args, json),
        Verb::Resize(args) => resize::resize(&vm, args, json),
        Verb::Trace(args) => trace(&vm, &args.verb, json),
    }
}

/// Asks, and again until somebody answers or it has taken so long.
fn ping(vm: &Client, wait: Option<Duration>) -> Result<Ping, Failure> {
    let begun = Instant::now();
    // Not there yet, or one that ends there before another begins.
    let may_come = |error: &ClientError| {
        matches!(
            error,
            ClientError::Connect { .. } | ClientError::Gone { .. }
        )
    };
    loop {
        match vm.ping() {
            Err(error) if may_come(&error) && wait.is_some_and(|wait| begun.elapsed() < wait) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            answer => return answer.map_err(explain),
        }
    }
}

/// Prints an answer, as text or as it came.
fn told<T: serde::Serialize>(
    json: bool,
    answer: &T,
    text: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    match json {
        true => print_json(answer),
        false => print_text(&text(answer)),
    }
}

/// Of an answer that says nothing but that it was done.
fn done(json: bool, answer: Result<(), ClientError>) -> Result<(), Failure> {
    answer.map_err(explain)?;
    match json {
        true => print_json(&serde_json::json!({})),
        false => Ok(()),
    }
}

fn plug(vm: &Client, args: &PlugArgs, json: bool) -> Result<(), Failure> {
    let request = PlugRequest {
        start: args.at,
        size: args.size,
        id: args.id.clone(),
    };
    told(json, &vm.plug(&request).map_err(explain)?, show::plug)
}

fn unplug(vm: &Client, args: &UnplugArgs, json: bool) -> Result<(), Failure> {
    let request = UnplugRequest {
        start: args.at,
        size: args.size,
        id: args.id.clone(),
        deadline_ms: args.deadline.map(millis),
        forced: args.forced,
    };
    told(json, &vm.unplug(&request).map_err(explain)?, show::unplug)
}

fn trace(vm: &Client, verb: &TraceVerb, json: bool) -> Result<(), Failure> {
    let status = match verb {
        TraceVerb::Status => vm.trace_status(),
        TraceVerb::Start(args) => vm.trace_start(&TraceRequest {
            events: args.events.clone(),
            size: args.size,
            on_full: args.on_full.into(),
        }),
        TraceVerb::Stop => vm.trace_stop(),
        TraceVerb::Fetch { output } => return fetch(vm, output, json),
    };
    told(json, &status.map_err(explain)?, show::trace)
}

/// Writes the recording to `path`: beside it first, so that what is there is lost only
/// for a whole one.
fn fetch(vm: &Client, path: &Path, json: bool) -> Result<(), Failure> {
    let cannot = |error: io::Error| Failure::Cannot(format!("{}: {error}", path.display()));
    if path.metadata().is_ok_and(|there| !there.is_file()) {
        return Err(cannot(io::Error::other("not a regular file")));
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = options.open(&beside).map_err(cannot)?;
    let fetched = vm.trace_fetch(&mut file).map_err(explain);
    let kept = fetched.and_then(|bytes| {
        file.flush().map_err(cannot)?;
        std::fs::rename(&beside, path).map_err(cannot)?;
        Ok(bytes)
    });
    if kept.is_err() {
        // It is ours, and useless.
        let _ = std::fs::remove_file(&beside);
    }
    let bytes = kept?;
    match json {
        true => print_json(&serde_json::json!({ "bytes": bytes })),
        false => print_text(&format!("{}: {bytes} bytes\n", path.display())),
    }
}
