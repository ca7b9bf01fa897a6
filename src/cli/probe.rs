//! What a client gets on a node's port: nothing, a refusal, or a server, and which.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::instance;
use crate::server::{AskError, Credentials};

/// What came of connecting to a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "port")]
pub enum Port {
    /// The connection was refused: closed.
    Refused,
    /// Nothing came back: the host is silent, or a firewall drops what is sent there.
    Silent,
    /// No way there.
    Unreachable {
        /// The system's reason.
        why: String,
    },
    /// The connection was made.
    Open {
        /// Who answers there, or why that cannot be told.
        #[serde(flatten)]
        who: Who,
    },
}

/// Who answers at an open port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "server")]
pub enum Who {
    /// A server.
    Known {
        /// Its run id.
        run_id: String,
        /// It takes writes as far as its role goes.
        primary: bool,
        /// It is loading its data and answers nothing else.
        loading: bool,
    },
    /// It could not be told.
    Unknown {
        /// Why.
        why: String,
    },
}

impl Port {
    /// Whether a connection can be made.
    pub fn is_open(&self) -> bool {
        matches!(self, Port::Open { .. })
    }

    /// Whether a client can write there.
    pub fn takes_writes(&self) -> bool {
        matches!(self, Port::Open { who: Who::Known { primary: true, loading: false, .. } })
    }

    /// The run id of the server that answers.
    pub fn run_id(&self) -> Option<&str> {
        match self {
            Port::Open { who: Who::Known { run_id, .. } } => Some(run_id),
            _ => None,
        }
    }

    /// In one word or two.
    pub fn word(&self) -> &str {
        match self {
            Port::Refused => "refused",
            Port::Silent => "silent",
            Port::Unreachable { .. } => "unreachable",
            Port::Open { who: Who::Known { loading: true, .. } } => "open, loading",
            Port::Open { who: Who::Known { .. } } => "open",
            Port::Open { who: Who::Unknown { .. } } => "open, no answer",
        }
    }
}

/// Connects to `address` and asks who is there, within `deadline`.
pub fn port(address: SocketAddr, credentials: &Credentials, deadline: Duration) -> Port {
    let started = Instant::now();
    match TcpStream::connect_timeout(&address, deadline) {
        Ok(_connected) => {}
        Err(error) => {
            return match error.kind() {
                io::ErrorKind::ConnectionRefused => Port::Refused,
                io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Port::Silent,
                _ => Port::Unreachable { why: error.to_string() },
            };
        }
    }
    let left = deadline.saturating_sub(started.elapsed()).max(Duration::from_millis(10));
    let who = match instance::ask(address, credentials, left) {
        Ok(server) => Who::Known { primary: server.is_primary(), loading: server.loading, run_id: server.run_id },
        // Closed between the two connections.
        Err(AskError::Refused) => return Port::Refused,
        Err(error) => Who::Unknown { why: error.to_string() },
    };
    Port::Open { who }
}

/// Whether nothing listens at `address`: a gate that is closed. Silence is no refusal.
pub fn refuses(address: SocketAddr, deadline: Duration) -> bool {
    TcpStream::connect_timeout(&address, deadline).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn probe(address: SocketAddr) -> Port {
        port(address, &Credentials::default(), Duration::from_millis(300))
    }

    #[test]
    fn an_open_port_where_nobody_answers_is_open_all_the_same() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let found = probe(listener.local_addr().unwrap());
        assert!(found.is_open() && !found.takes_writes() && found.run_id().is_none(), "{found:?}");
    }

    #[test]
    fn nobody_listening_is_a_refusal() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(probe(address), Port::Refused);
    }
}
