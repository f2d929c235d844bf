//! HTTP by hand, so that a test can send what no client would.
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::command::HANG;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        let found = headers.find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| &**value)
    }

    pub(crate) fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// A connection.
pub(crate) fn connect(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap_or_else(|e| panic!("{socket:?}: {e}"));
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream.set_write_timeout(Some(HANG)).unwrap();
    stream
}

/// The bytes of a request that ends its connection.
pub(crate) fn request(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let len = body.len();
    let mut bytes = format!(
        "{method} /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {len}\r\n\r\n"
    )
    .into_bytes();
    bytes.extend(body);
    bytes
}

/// Sends a request, and waits for the answer.
#[track_caller]
pub(crate) fn send(socket: &Path, method: &str, path: &str, body: &[u8]) -> Answer {
    send_raw(socket, &request(method, path, body)).expect("an answer")
}

/// Sends bytes, and waits for the answer; `None` if the connection is closed without one.
pub(crate) fn send_raw(socket: &Path, bytes: &[u8]) -> Option<Answer> {
    let mut stream = connect(socket);
    // It may be closed before all is sent.
    let _ = stream.write_all(bytes);
    let mut all = Vec::new();
    let _ = stream.read_to_end(&mut all);
    parse(&all)
}

/// The answer in these bytes, if they are one.
pub(crate) fn parse(all: &[u8]) -> Option<Answer> {
    let end = all.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&all[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Some(Answer {
        status,
        headers: headers.collect(),
        body: all[end + 4..].to_vec(),
    })
}
