//! One short conversation with a Redis, Valkey or Sentinel: connect, authenticate, send all
//! commands in one write, read all replies.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use redis::{Client, ConnectionAddr, ConnectionLike, IntoConnectionInfo, Pipeline, RedisConnectionInfo, RedisError};

pub use redis::Value;

use crate::together::together;

/// Who we are to a server. The password comes from a file and is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The ACL user; without one, the default user.
    pub user: Option<String>,
    /// The password; without one, no AUTH is sent.
    pub password: Option<String>,
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
/// [`Value::ServerError`] in its place. A command is its words.
///
/// # Errors
/// [`AskError`], in any case within `deadline`.
pub fn ask(
    address: SocketAddr,
    credentials: &Credentials,
    deadline: Duration,
    commands: &[&[&str]],
) -> Result<Vec<Value>, AskError> {
    let credentials = credentials.clone();
    let commands: Vec<Vec<String>> =
        commands.iter().map(|words| words.iter().map(|&word| word.to_owned()).collect()).collect();
    // On a thread, because a server that sends a byte now and then renews every read's timeout.
    together(deadline, [move || converse(address, &credentials, deadline, &commands)])
        .pop()
        .flatten()
        .unwrap_or(Err(AskError::Silent))
}

fn converse(
    address: SocketAddr,
    credentials: &Credentials,
    deadline: Duration,
    commands: &[Vec<String>],
) -> Result<Vec<Value>, AskError> {
    // CLIENT SETINFO would be one more right that our ACL user needs.
    let mut settings = RedisConnectionInfo::default().set_skip_set_lib_name();
    if let Some(user) = &credentials.user {
        settings = settings.set_username(user);
    }
    if let Some(password) = &credentials.password {
        settings = settings.set_password(password);
    }
    let info = ConnectionAddr::Tcp(address.ip().to_string(), address.port())
        .into_connection_info()
        .map_err(|error| because(&error))?
        .set_redis_settings(settings);
    let mut connection = Client::open(info)
        .and_then(|client| client.get_connection_with_timeout(deadline))
        .map_err(|error| because(&error))?;
    connection.set_read_timeout(Some(deadline)).map_err(|error| because(&error))?;
    connection.set_write_timeout(Some(deadline)).map_err(|error| because(&error))?;

    let mut pipeline = Pipeline::new();
    for words in commands {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(word);
        }
        pipeline.add_command(command);
    }
    let replies = connection
        .req_packed_commands(&pipeline.get_packed_pipeline(), 0, commands.len())
        .map_err(|error| because(&error))?;
    match replies.iter().find_map(denial) {
        Some(denial) => Err(denial),
        None => Ok(replies),
    }
}

fn denial(reply: &Value) -> Option<AskError> {
    let Value::ServerError(error) = reply else { return None };
    let code = error.code();
    matches!(code, "NOAUTH" | "WRONGPASS" | "NOPERM")
        .then(|| AskError::Denied(format!("{code} {}", error.details().unwrap_or_default())))
}

fn because(error: &RedisError) -> AskError {
    if error.is_connection_refusal() {
        return AskError::Refused;
    }
    if error.is_timeout() {
        return AskError::Silent;
    }
    match error.code() {
        Some(code @ ("NOAUTH" | "WRONGPASS" | "NOPERM")) => {
            AskError::Denied(format!("{code} {}", error.detail().unwrap_or_default()))
        }
        _ if error.kind() == redis::ErrorKind::AuthenticationFailed => AskError::Denied(error.to_string()),
        _ => {
            let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
            AskError::Broken(source.map_or_else(|| error.to_string(), ToString::to_string))
        }
    }
}

/// The text of a reply, where it is text.
pub(crate) fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Int(number) => Some(number.to_string()),
        _ => None,
    }
}
