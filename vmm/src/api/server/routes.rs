//! Which paths there are, and what may be done with each.

use hyper::Method;

use super::super::model::{ErrorCode, Failure};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Ping,
    Info,
    Live,
    Vcpus,
    Exits,
    Waits,
    Sections,
    Map,
    Counters,
    Metrics,
    Pause,
    Resume,
    Shutdown,
    ResizeStatus,
    Resize,
    Plug,
    Unplug,
    TraceStatus,
    TraceStart,
    TraceStop,
    TraceData,
}

/// What every path begins with.
const BASE: &str = "/api/v1/";

const ROUTES: &[(&str, Method, Call)] = &[
    ("vmm.ping", Method::GET, Call::Ping),
    ("vm.info", Method::GET, Call::Info),
    ("vm.live", Method::GET, Call::Live),
    ("vm.vcpus", Method::GET, Call::Vcpus),
    ("vm.exits", Method::GET, Call::Exits),
    ("vm.waits", Method::GET, Call::Waits),
    ("vm.sections", Method::GET, Call::Sections),
    ("vm.map", Method::GET, Call::Map),
    ("vm.counters", Method::GET, Call::Counters),
    ("vm.metrics", Method::GET, Call::Metrics),
    ("vm.pause", Method::PUT, Call::Pause),
    ("vm.resume", Method::PUT, Call::Resume),
    ("vm.shutdown", Method::PUT, Call::Shutdown),
    ("vm.resize", Method::GET, Call::ResizeStatus),
    ("vm.resize", Method::PUT, Call::Resize),
    ("vm.plug", Method::PUT, Call::Plug),
    ("vm.unplug", Method::PUT, Call::Unplug),
    ("vm.trace", Method::GET, Call::TraceStatus),
    ("vm.trace-start", Method::PUT, Call::TraceStart),
    ("vm.trace-stop", Method::PUT, Call::TraceStop),
    ("vm.trace-data", Method::GET, Call::TraceData),
];

/// A refusal, and the methods that there are instead.
pub(super) type Refused = (Failure, Option<String>);

/// What `method` on `path` asks for.
pub(super) fn find(method: &Method, path: &str) -> Result<Call, Refused> {
    let name = path.strip_prefix(BASE).unwrap_or("");
    let here = || ROUTES.iter().filter(|(path, ..)| *path == name);
    if let Some((_, _, call)) = here().find(|(_, allowed, _)| allowed == method) {
        return Ok(*call);
    }
    let allowed: Vec<_> = here().map(|(_, method, _)| method.as_str()).collect();
    match allowed.is_empty() {
        true => {
            let error = format!("there is no {path}; docs/api.md has what there is");
            Err((Failure::new(ErrorCode::NotFound, error), None))
        }
        false => {
            let allowed = allowed.join(", ");
            let error = format!("{path} takes {allowed}, not {method}");
            let failure = Failure::new(ErrorCode::MethodNotAllowed, error);
            Err((failure, Some(allowed)))
        }
    }
}

/// What a query may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// Rows, or VMAs, at most.
    pub(super) limit: usize,
    /// From which address on.
    pub(super) from: u64,
}

/// The usual number of rows of exits, and the most.
const ROWS: (u64, u64) = (256, 4096);
/// The usual number of VMAs, and the most.
pub(super) const VMAS: (u64, u64) = (4096, 65536);

impl Query {
    /// Reads what comes after the `?`.
    pub(super) fn parse(call: Call, query: Option<&str>) -> Result<Self, Failure> {
        let limits = match call {
            Call::Map => VMAS,
            _ => ROWS,
        };
        let mut parsed = Self {
            limit: limits.0 as usize,
            from: 0,
        };
        for pair in query
            .unwrap_or("")
            .split('&')
            .filter(|pair| !pair.is_empty())
        {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let bad = |allowed: &str| Failure::bad(format!("{key}={value}: {allowed}"));
            match (call, key) {
                (Call::Live | Call::Exits | Call::Map, "limit") => {
                    let limit = value.parse::<u64>().ok().filter(|limit| *limit <= limits.1);
                    let allowed = format!("choose a number up to {}", limits.1);
                    parsed.limit = limit.ok_or_else(|| bad(&allowed))? as usize;
                }
                (Call::Map, "from") => {
                    let from = value.parse();
                    parsed.from = from.map_err(|_| bad("choose an address, in decimal"))?;
                }
                _ => {
                    let error = format!("this path takes no '{key}' in its query");
                    return Err(Failure::bad(error));
                }
            }
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_its_methods_and_no_other() {
        for (path, method, call) in ROUTES {
            let path = format!("{BASE}{path}");
            assert_eq!(find(method, &path).unwrap(), *call);
            for other in [Method::POST, Method::DELETE, Method::HEAD, Method::OPTIONS] {
                let (failure, allowed) = find(&other, &path).unwrap_err();
                assert_eq!(failure.status(), 405);
                assert!(allowed.unwrap().contains(method.as_str()));
            }
        }
        for path in [
            "",
            "/",
            "*",
            "/api/v1/",
            "/api/v1/vm.info/",
            "/vm.info",
            "//api/v1/vm.info",
        ] {
            assert_eq!(find(&Method::GET, path).unwrap_err().0.status(), 404);
        }
    }

    #[test]
    fn a_query_is_read_or_refused() {
        let parse = |call, query| Query::parse(call, Some(query));
        let query = Query::parse(Call::Exits, None).unwrap();
        assert_eq!((query.limit, query.from), (256, 0));
        assert_eq!(parse(Call::Live, "limit=0").unwrap().limit, 0);
        let query = parse(Call::Map, "from=4096&limit=65536").unwrap();
        assert_eq!((query.limit, query.from), (65536, 4096));
        for (call, bad) in [
            (Call::Exits, "limit=4097"),
            (Call::Exits, "limit=-1"),
            (Call::Exits, "limit="),
            (Call::Exits, "from=0"),
            (Call::Exits, "limi=1"),
            (Call::Info, "limit=1"),
            (Call::Map, "from=0x1000"),
            (Call::Map, "from=99999999999999999999"),
        ] {
            assert_eq!(parse(call, bad).unwrap_err().status(), 400, "{bad}");
        }
    }
}
