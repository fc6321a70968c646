//! Redis' protocol (RESP 2) and its server, so that both stores are asked by one client and run side by side.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Failure;
use crate::process::Process;

/// A reply may take so long.
const PATIENCE: Duration = Duration::from_secs(60);
/// The server may take so long to start: it loads its file.
const READY_MAX: Duration = Duration::from_secs(60);
/// A reply's line may have so many bytes.
const LINE_BYTES_MAX: usize = 64 << 10;

/// When each write reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sync {
    /// Before it is answered: `appendfsync always`.
    Always,
    /// Once a second: `appendfsync everysec`.
    EverySecond,
}

impl Sync {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::EverySecond => "everysec",
        }
    }
}

/// A running `redis-server` with an append-only file and no snapshots. It ends with this value.
#[derive(Debug)]
pub struct Redis {
    /// The server.
    pub process: Process,
    /// Its listener.
    pub address: SocketAddr,
    /// Its directory.
    pub data: PathBuf,
    /// Its first line of `--version`.
    pub version: String,
}

impl Redis {
    /// Starts it on a free port in a new folder of `dir`. Installs Debian's package first where there is none, and says so.
    ///
    /// # Errors
    /// When it is not to be had, or does not answer within a minute.
    pub fn start(dir: &Path, sync: Sync) -> Result<Self, Failure> {
        let version = ensure_installed()?;
        let data = dir.join("redis");
        std::fs::create_dir_all(&data)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let (port, folder) = (address.port().to_string(), data.display().to_string());
        let settings = [
            ["--bind", "127.0.0.1"],
            ["--port", &port],
            ["--dir", &folder],
            ["--appendonly", "yes"],
            ["--appendfsync", sync.as_str()],
            ["--save", ""],
        ];
        let mut command = Command::new("redis-server");
        command.args(settings.as_flattened());
        let mut process = Process::start(&mut command, &dir.join("redis.log"))?;
        if let Some(mut stdout) = process.stdout() {
            std::thread::spawn(move || io::copy(&mut stdout, &mut io::sink()));
        }
        let mut redis = Self { process, address, data, version };
        redis.wait()?;
        Ok(redis)
    }

    fn wait(&mut self) -> Result<(), Failure> {
        let by = Instant::now() + READY_MAX;
        while Connection::open(self.address).and_then(|mut connection| connection.ask(&command(&[b"PING"]))).is_err() {
            if self.process.has_ended() || Instant::now() > by {
                return Err(format!("redis-server did not start:\n{}", self.process.last_words()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// The installed server's version; installs Debian's package where there is none.
fn ensure_installed() -> Result<String, Failure> {
    if let Some(version) = installed() {
        return Ok(version);
    }
    println!("There is no redis-server: installing the distribution's package (apt-get install redis-server). Its service is not used.\n");
    let script = "run() { if [ \"$(id -u)\" = 0 ]; then \"$@\"; else sudo -n \"$@\"; fi; }\n\
                  export DEBIAN_FRONTEND=noninteractive\n\
                  run apt-get update -qq; run apt-get install -y -qq --no-install-recommends redis-server";
    let output = Command::new("/bin/sh").args(["-c", script]).output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    installed().ok_or_else(|| format!("redis-server cannot be installed; install it by hand and repeat:\n{said}").into())
}

fn installed() -> Option<String> {
    let output = Command::new("redis-server").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().find_map(|word| word.strip_prefix("v=").map(|version| format!("Redis {version}")))
}

/// A command as it goes over the wire.
#[must_use]
pub fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// A connection that sends many commands before it reads their replies; only simple strings, errors and integers come back.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    line: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens there.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { stream, line: Vec::new() })
    }

    /// Sends one command; its reply's line.
    ///
    /// # Errors
    /// When it is answered with an error, or not at all.
    pub fn ask(&mut self, command: &[u8]) -> io::Result<String> {
        self.ask_all(command, 1)?;
        Ok(String::from_utf8_lossy(&self.line).trim_end().to_owned())
    }

    /// Sends commands that were put together, and reads their replies.
    ///
    /// # Errors
    /// When one of them is answered with an error, or not at all.
    pub fn ask_all(&mut self, commands: &[u8], count: u64) -> io::Result<()> {
        self.stream.write_all(commands)?;
        let mut reader = io::BufReader::new(&self.stream);
        for _ in 0..count {
            self.line.clear();
            io::BufRead::read_until(&mut reader.by_ref().take(LINE_BYTES_MAX as u64), b'\n', &mut self.line)?;
            if !matches!(self.line.first(), Some(b'+' | b':')) {
                return Err(io::Error::other(format!("Redis answers {:?}", String::from_utf8_lossy(&self.line))));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_bulk_strings() {
        assert_eq!(command(&[b"SET", b"a", b""]), b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$0\r\n\r\n");
    }

    #[test]
    fn replies_are_counted_and_an_error_among_them_is_told() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            for replies in ["+OK\r\n:7\r\n", "+OK\r\n-ERR no\r\n"] {
                let _ = stream.read(&mut [0; 64]);
                stream.write_all(replies.as_bytes()).expect("sent");
            }
        });
        let mut connection = Connection::open(address).expect("connected");
        connection.ask_all(b"x", 2).expect("both are good");
        assert!(connection.ask_all(b"x", 2).expect_err("an error").to_string().contains("ERR no"));
    }
}
