//! Fetching a copy of a server's data over the network, as `redis-cli --rdb` does: it makes one for a replica, and we are none.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::server::{self, AskError, Credentials, Value};
use crate::transfer::{Transfer, TransferError};
use crate::wire::{self, Replies};

/// How long it may take until the connection stands.
const CONNECTS_WITHIN: Duration = Duration::from_secs(5);

/// Nothing for so long is a connection that is dead: while it makes the copy a server sends a newline each second.
const SILENT_FOR: Duration = Duration::from_secs(30);

/// Fetches the data of `source` within `deadline` and writes it to `sink`. Gives how many bytes it was.
///
/// `as_replica`: under which address the server lists us while this lasts. Sentinel reads the replicas of a primary from such a list, and
/// would remember one that it does not know for ever: so a replica's that it knows. Only those that are `online` count elsewhere, and we
/// never are.
///
/// # Errors
/// Why there is none, in words.
pub fn fetch(
    source: SocketAddr,
    credentials: &Credentials,
    as_replica: Option<SocketAddr>,
    deadline: Duration,
    sink: &mut dyn Write,
) -> Result<u64, String> {
    let until = Instant::now() + deadline;
    let broken = |error: io::Error| match server::because(&error) {
        AskError::Silent => format!("no byte for {} s", SILENT_FOR.as_secs()),
        error => error.to_string(),
    };
    let mut stream =
        TcpStream::connect_timeout(&source, CONNECTS_WITHIN).map_err(|error| server::because(&error).to_string())?;
    stream.set_write_timeout(Some(SILENT_FOR)).map_err(broken)?;
    stream.set_read_timeout(Some(SILENT_FOR)).map_err(broken)?;

    let words = |words: &[&str]| -> Vec<String> { words.iter().map(ToString::to_string).collect() };
    let mut first: Vec<Vec<String>> = credentials.login().into_iter().collect();
    let login = first.len();
    if let Some(address) = as_replica {
        first.push(words(&["REPLCONF", "ip-address", &address.ip().to_string()]));
        first.push(words(&["REPLCONF", "listening-port", &address.port().to_string()]));
    }
    // Since 7.0: no changes of the data behind the copy. An older server refuses that, and sends what we do not read.
    first.push(words(&["REPLCONF", "rdb-only", "1"]));
    // Without a file of its own, where it is set so.
    first.push(words(&["REPLCONF", "capa", "eof"]));
    let all: Vec<&[String]> = first.iter().map(Vec::as_slice).collect();
    stream.write_all(&wire::pack(&all)).map_err(broken)?;
    let mut replies = Replies::default();
    let mut buffer = vec![0; 64 << 10];
    let mut left = all.len();
    while left > 0 {
        while let Some(reply) = replies.next_reply().map_err(|error| error.to_string())? {
            if let Some(denied) = server::denial(&reply) {
                return Err(denied.to_string());
            }
            if let (Value::ServerError(_), true) = (&reply, all.len() - left < login) {
                return Err(server::shown(&reply));
            }
            left = left.saturating_sub(1);
        }
        if left > 0 {
            replies.received(read(&mut stream, &mut buffer, until).map_err(broken)?);
        }
    }

    // Not with the others: a server that still has something to say refuses it.
    stream.write_all(&wire::pack(&[&["SYNC"]])).map_err(broken)?;
    let mut transfer = Transfer::default();
    let mut counted = Counted { sink, bytes: 0 };
    loop {
        let received = read(&mut stream, &mut buffer, until).map_err(broken)?;
        match transfer.received(received, &mut counted) {
            Ok(true) => return Ok(counted.bytes),
            Ok(false) => {}
            Err(TransferError::Write(error)) => return Err(format!("cannot write: {error}")),
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn read<'b>(stream: &mut TcpStream, buffer: &'b mut [u8], until: Instant) -> io::Result<&'b [u8]> {
    loop {
        if Instant::now() >= until {
            return Err(io::Error::other("it took longer than allowed"));
        }
        match stream.read(buffer) {
            Ok(0) => return Err(io::Error::other("the connection was closed before all was there")),
            Ok(read) => return Ok(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Counts what goes through.
struct Counted<'s> {
    sink: &'s mut dyn Write,
    bytes: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
