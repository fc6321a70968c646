//! Many keys in few requests: `POST /v1/batch`, lines in, lines out, every put acknowledged after its sync.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde::Deserialize;

use crate::Failure;
use crate::wire::{self, Wire};

/// A batch may take so long on a slow disk.
const PATIENCE: Duration = Duration::from_secs(120);
/// A batch of which a line failed is sent again so often.
const ATTEMPTS: u32 = 5;
/// Keys that are asked for in one request.
const ASKED: usize = 500;

/// How keys are loaded.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Lines of a request.
    pub lines: u64,
    /// Connections that load side by side.
    pub connections: u32,
}

/// Writes a line for each number.
///
/// # Errors
/// When the daemon does not answer, or refuses a batch again and again.
pub fn load(address: SocketAddr, numbers: Range<u64>, shape: Shape, line: &(dyn Fn(u64) -> String + Sync)) -> Result<(), Failure> {
    let next = AtomicU64::new(numbers.start);
    let lane = || load_lane(address, &next, numbers.end, shape.lines.max(1), line);
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..shape.connections).map(|_| scope.spawn(lane)).collect();
        lanes.into_iter().try_for_each(|lane| lane.join().map_err(|_| "a lane panicked")?)
    })
}

fn load_lane(address: SocketAddr, next: &AtomicU64, end: u64, lines: u64, line: &(dyn Fn(u64) -> String + Sync)) -> Result<(), Failure> {
    let mut wire = Wire::connect(address, PATIENCE)?;
    loop {
        let first = next.fetch_add(lines, Ordering::Relaxed);
        if first >= end {
            return Ok(());
        }
        send(&mut wire, first..(first + lines).min(end), line)?;
    }
}

fn send(wire: &mut Wire, numbers: Range<u64>, line: &(dyn Fn(u64) -> String + Sync)) -> Result<(), Failure> {
    let count = numbers.end - numbers.start;
    let request = request(&numbers.map(line).collect::<String>());
    let mut refusal = String::new();
    for attempt in 0..ATTEMPTS {
        let answer = wire.ask(&request)?;
        match unwritten(answer.status, answer.body, count) {
            None => return Ok(()),
            Some(why) => refusal = why,
        }
        thread::sleep(Duration::from_millis(100) * (attempt + 1));
    }
    Err(format!("a batch was not taken {ATTEMPTS} times over: {refusal}").into())
}

fn request(lines: &str) -> Vec<u8> {
    wire::with_body("POST", "/v1/batch", "Content-Type: application/x-ndjson\r\n", lines.as_bytes())
}

/// The line of a put into `data`. Key and value are plain characters.
#[must_use]
pub fn put(key: &str, value: &str) -> String {
    format!("{{\"op\":\"put\",\"ns\":\"data\",\"key\":\"{key}\",\"text\":\"{value}\"}}\n")
}

/// The first answer that is not 2xx, or what else is wrong; `None` when all lines were taken.
fn unwritten(status: u16, body: &[u8], count: u64) -> Option<String> {
    let lines: Vec<&[u8]> = body.split(|&b| b == b'\n').filter(|line| !line.is_empty()).collect();
    let is_taken = |line: &&[u8]| line.windows(10).any(|part| part == b"\"status\":2");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if status != 200 {
        return Some(format!("{status} {}", text(body)));
    }
    match lines.iter().find(|line| !is_taken(line)) {
        Some(line) => Some(text(line)),
        None if lines.len() as u64 == count => None,
        None => Some(format!("{} answers to {count} lines", lines.len())),
    }
}

#[derive(Debug, Deserialize)]
struct Got {
    status: u16,
    etag: Option<String>,
}

/// The versions of keys in `data`, in order; `None` where one is absent.
///
/// # Errors
/// When the daemon does not answer each.
pub fn versions(address: SocketAddr, keys: &[String]) -> Result<Vec<Option<String>>, Failure> {
    let mut wire = Wire::connect(address, PATIENCE)?;
    let mut found = Vec::with_capacity(keys.len());
    for asked in keys.chunks(ASKED) {
        let lines: String = asked.iter().map(|key| format!("{{\"op\":\"get\",\"ns\":\"data\",\"key\":\"{key}\"}}\n")).collect();
        let answer = wire.ask(&request(&lines))?;
        let mut got = understood(answer.body)?;
        if answer.status != 200 || got.len() != asked.len() {
            return Err(format!("a batch of {} gets has {} answers, status {}", asked.len(), got.len(), answer.status).into());
        }
        found.extend(got.drain(..).map(|one| one.etag.filter(|_| one.status == 200)));
    }
    Ok(found)
}

fn understood(body: &[u8]) -> Result<VecDeque<Got>, Failure> {
    let lines = body.split(|&b| b == b'\n').filter(|line| !line.is_empty());
    Ok(lines.map(serde_json::from_slice).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_that_failed_is_noticed() {
        let good = b"{\"status\":204,\"etag\":\"x\"}\n{\"etag\":\"y\",\"status\":201}\n";
        assert_eq!(unwritten(200, good, 2), None);
        assert!(unwritten(200, good, 3).is_some());
        assert!(unwritten(200, b"{\"status\":204}\n{\"status\":507}\n", 2).expect("noticed").contains("507"));
        assert!(unwritten(503, b"{}", 2).is_some());
    }

    #[test]
    fn answers_to_gets_are_understood() {
        let got = understood(b"{\"status\":200,\"etag\":\"\\\"1\\\"\",\"text\":\"v\"}\n{\"status\":404,\"problem\":{}}\n").expect("lines");
        assert_eq!((got[0].etag.as_deref(), got[1].status), (Some("\"1\""), 404));
        assert!(understood(b"<html>").is_err());
    }

    #[test]
    fn a_put_is_one_line_of_json() {
        let line = put("a/1", "v");
        assert!(line.ends_with('\n'));
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((json["op"].as_str(), json["key"].as_str(), json["text"].as_str()), (Some("put"), Some("a/1"), Some("v")));
    }
}
