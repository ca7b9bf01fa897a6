//! One short conversation with a Redis, Valkey or Sentinel: connect, authenticate, send all
//! commands in one write, read all replies.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub use redis::Value;

use crate::together::together;
use crate::wire::{self, Replies};

/// Who we are to a server. The password comes from a file and is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The ACL user; without one, the default user.
    pub user: Option<String>,
    /// The password; without one, no AUTH is sent.
    pub password: Option<String>,
}

impl Credentials {
    /// The command that logs in, where one is needed.
    pub(crate) fn login(&self) -> Option<Vec<String>> {
        let password = self.password.clone()?;
        let user = self.user.clone();
        Some(["AUTH".to_owned()].into_iter().chain(user).chain([password]).collect())
    }
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let password = self.password.as_ref().map(|_| "hidden");
        f.debug_struct("Credentials").field("user", &self.user).field("password", &password).finish()
    }
}

/// Why there is no answer. Only [`AskError::Refused`] says something about the server: that
/// nothing listens there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Nothing within the deadline.
    #[error("no answer")]
    Silent,
    /// Nothing listens at the address.
    #[error("connection refused")]
    Refused,
    /// It does not let us in, or not do this.
    #[error("access denied: {0}")]
    Denied(String),
    /// The connection broke, or what came was no reply.
    #[error("{0}")]
    Broken(String),
}

/// Sends `commands` to `address` in one write and gives a reply for each; an error reply is a
/// [`Value::ServerError`] in its place. A command is its words, which are any bytes.
///
/// # Errors
/// [`AskError`], in any case within `deadline`.
pub fn ask<W: AsRef<[u8]>>(
    address: SocketAddr,
    credentials: &Credentials,
    deadline: Duration,
    commands: &[&[W]],
) -> Result<Vec<Value>, AskError> {
    let replies = ask_each(address, credentials, deadline, commands)?;
    replies.iter().find_map(denial).map_or(Ok(replies), Err)
}

/// The same for who wants to know which commands are denied: a denial of one is a reply as any other.
///
/// # Errors
/// As [`ask`]; [`AskError::Denied`] only where the login is.
pub fn ask_each<W: AsRef<[u8]>>(
    address: SocketAddr,
    credentials: &Credentials,
    deadline: Duration,
    commands: &[&[W]],
) -> Result<Vec<Value>, AskError> {
    let credentials = credentials.clone();
    let commands: Vec<Vec<Vec<u8>>> =
        commands.iter().map(|words| words.iter().map(|word| word.as_ref().to_vec()).collect()).collect();
    // On a thread, because the system's calls may take longer than asked.
    together(deadline, [move || converse(address, &credentials, deadline, &commands)])
        .pop()
        .flatten()
        .unwrap_or(Err(AskError::Silent))
}

fn converse(
    address: SocketAddr,
    credentials: &Credentials,
    deadline: Duration,
    commands: &[Vec<Vec<u8>>],
) -> Result<Vec<Value>, AskError> {
    let until = Instant::now() + deadline;
    let mut stream = TcpStream::connect_timeout(&address, deadline).map_err(|error| because(&error))?;
    stream.set_nodelay(true).map_err(|error| because(&error))?;
    stream.set_write_timeout(Some(left(until)?)).map_err(|error| because(&error))?;
    let login = credentials.login().map(|words| words.into_iter().map(String::into_bytes).collect::<Vec<_>>());
    let words: Vec<&[Vec<u8>]> = login.iter().chain(commands).map(Vec::as_slice).collect();
    stream.write_all(&wire::pack(&words)).map_err(|error| because(&error))?;

    let mut replies = Replies::default();
    let mut all = Vec::new();
    let mut buffer = [0; 16 << 10];
    while all.len() < words.len() {
        match replies.next_reply().map_err(|error| AskError::Broken(error.to_string()))? {
            Some(reply) => {
                // Without a login nothing else is answered either.
                if let Some(denial) = denial(&reply).filter(|_| login.is_some() && all.is_empty()) {
                    return Err(denial);
                }
                all.push(reply);
            }
            None => {
                // Of what is left for it all: a byte now and then would renew a timeout of its own for ever.
                stream.set_read_timeout(Some(left(until)?)).map_err(|error| because(&error))?;
                match stream.read(&mut buffer) {
                    // Protected mode, or too many clients: the reason comes before the end.
                    Ok(0) => {
                        let reason = all.last().filter(|reply| matches!(reply, Value::ServerError(_))).map(shown);
                        return Err(AskError::Broken(reason.unwrap_or_else(|| "the connection was closed".to_owned())));
                    }
                    Ok(read) => replies.received(&buffer[..read]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(because(&error)),
                }
            }
        }
    }
    Ok(all.split_off(usize::from(login.is_some())))
}

/// The time until then.
fn left(until: Instant) -> Result<Duration, AskError> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(AskError::Silent),
        left => Ok(left),
    }
}

/// What an error reply says about our rights, if that is what it speaks of.
pub(crate) fn denial(reply: &Value) -> Option<AskError> {
    let Value::ServerError(error) = reply else { return None };
    let code = error.code();
    matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM")
        .then(|| AskError::Denied(format!("{code} {}", error.details().unwrap_or_default().trim_end_matches('.'))))
}

pub(crate) fn because(error: &io::Error) -> AskError {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => AskError::Refused,
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => AskError::Silent,
        _ => AskError::Broken(error.to_string()),
    }
}

/// The text of a reply, where it is text.
pub(crate) fn text(value: &Value) -> Option<String> {
    text_in(value).map(Cow::into_owned)
}

/// The same, for who only reads it.
pub(crate) fn text_in(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes)),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.into()),
        Value::Int(number) => Some(number.to_string().into()),
        _ => None,
    }
}

/// A reply for a message, shortened.
pub(crate) fn shown(reply: &Value) -> String {
    match reply {
        Value::ServerError(error) => format!("{} {}", error.code(), error.details().unwrap_or_default()),
        other => format!("{other:?}").chars().take(100).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// A byte now and then is no answer: neither the asker nor the connection, with its thread and its memory, stays for it.
    #[test]
    fn a_server_that_trickles_is_given_up() {
        for endless in [&b"$1000000\r\n"[..], b"+", b"*100000\r\n:1\r\n:1\r\n"] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_nodelay(true).unwrap();
                let began = Instant::now();
                for byte in endless.iter().chain(std::iter::repeat(&b'1')) {
                    if stream.write_all(&[*byte]).is_err() {
                        return began.elapsed();
                    }
                    assert!(began.elapsed() < Duration::from_secs(20), "it still listens");
                    thread::sleep(Duration::from_millis(20));
                }
                unreachable!("it is endless")
            });
            let asked = Instant::now();
            let deadline = Duration::from_millis(500);
            assert_eq!(ask(address, &Credentials::default(), deadline, &[&["PING"]]), Err(AskError::Silent));
            assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
            assert!(server.join().unwrap() >= deadline / 2, "it was given time");
        }
    }
}
