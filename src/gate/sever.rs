//! TCP connections of this host: finding those that came through a port, ending exactly those, finding listeners.
//!
//! A redirected connection is known to conntrack alone: its socket knows only the port behind the redirect. So what came
//! through a port is listed there, and the local socket of each is destroyed by sock_diag: the server sees an error, the
//! client a reset. Message formats: linux/netfilter/nfnetlink_conntrack.h, linux/inet_diag.h.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use nix::libc::{AF_INET, AF_INET6, EINVAL, EOPNOTSUPP, IPPROTO_TCP};
use nix::sys::socket::SockProtocol;

use super::netlink::{Message, Socket, attr, number};

/// NFNL_SUBSYS_CTNETLINK and IPCTNL_MSG_CT_GET.
const CONNTRACK: u8 = 1;
const GET_CONNECTIONS: u8 = 1;
const NFGENMSG: usize = 4;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// struct inet_diag_sockid, which a question, an answer and a destruction carry alike.
const SOCKET_ID: usize = 48;

const LISTEN: u32 = 10;
const FIN_WAIT2: u8 = 5;
/// idiag_timer of what is left of a closed socket: no program has it any more.
const TIME_WAIT_TIMER: u8 = 3;
/// All states in which a socket can take or send data: not TIME_WAIT (6), CLOSE (7), LISTEN (10).
const CONNECTED: u32 = (1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5) | (1 << 8 | 1 << 9 | 1 << 11 | 1 << 12);

/// How often what is left is looked for again. A connection that was being made while the port closed shows up late.
const ROUNDS: usize = 5;

/// How many sockets are destroyed with one message to the kernel.
const BATCH: usize = 256;

/// What became of the connections through closed ports.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Cut {
    /// How many were ended.
    pub connections: usize,
    /// Why some may be left, if so. What is left gets no answer any more and is reset at its next packet: the firewall
    /// blocks a closed port's established connections too.
    pub incomplete: Option<String>,
}

/// A connection as the local socket sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Connection {
    local: SocketAddr,
    remote: SocketAddr,
}

/// Ends every connection that came through one of `ports` and was redirected to `redis`, and looks again until none is left.
pub fn cut(ports: &[u16], redis: u16, until: Instant) -> Cut {
    let mut cut = Cut::default();
    if let Err(reason) = rounds(ports, redis, until, &mut cut.connections) {
        cut.incomplete = Some(reason);
    }
    cut
}

fn rounds(ports: &[u16], redis: u16, until: Instant, ended: &mut usize) -> Result<(), String> {
    let mut left = 0;
    for _ in 0..ROUNDS {
        let through =
            through(ports, redis, until).map_err(|error| format!("cannot list them from conntrack: {error}"))?;
        if through.is_empty() {
            return Ok(());
        }
        let sockets = sockets(redis, CONNECTED, until).map_err(|error| format!("cannot list sockets: {error}"))?;
        let doomed: Vec<_> = sockets.iter().filter(|socket| through.contains(&socket.connection)).collect();
        left = doomed.len();
        if left == 0 {
            return Ok(());
        }
        *ended += destroy(&doomed, until)?;
    }
    Err(format!("{left} were still there after {ROUNDS} rounds"))
}

/// The connections that conntrack knows to have come to one of `ports` and gone on to `redis`.
fn through(ports: &[u16], redis: u16, until: Instant) -> io::Result<HashSet<Connection>> {
    let mut socket = Socket::open(SockProtocol::NetlinkNetFilter, until)?;
    let mut found = HashSet::new();
    for (family, port) in
        [AF_INET, AF_INET6].into_iter().flat_map(|family| ports.iter().map(move |port| (family, *port)))
    {
        let ask = Message::netfilter(CONNTRACK, GET_CONNECTIONS, family as u8);
        let mut keep = |entry: &[u8]| {
            let entry = entry.get(NFGENMSG..).unwrap_or_default();
            if let (Some(original), Some(reply)) = (attr(entry, 1).and_then(tuple), attr(entry, 2).and_then(tuple)) {
                if original.1.port() == port && reply.0.port() == redis {
                    found.insert(Connection { local: reply.0, remote: reply.1 });
                }
            }
        };
        match again(|| socket.dump(&only_to(ask.clone(), port), &mut keep)) {
            // A kernel that cannot filter (before 5.8) sends all there is.
            Err(error) if matches!(error.raw_os_error(), Some(EINVAL | EOPNOTSUPP)) => {
                again(|| socket.dump(&ask, &mut keep))?;
            }
            result => result?,
        }
    }
    Ok(found)
}

/// Asks the kernel to send only what was addressed to TCP port `port`: a busy host tracks a million connections.
fn only_to(ask: Message, port: u16) -> Message {
    /// CTA_FILTER_F_CTA_PROTO_NUM and CTA_FILTER_F_CTA_PROTO_DST_PORT.
    const BY: u32 = 1 << 3 | 1 << 5;
    ask.nest(1, |tuple| tuple.nest(2, |protocol| protocol.attr(1, &[IPPROTO_TCP as u8]).attr(3, &port.to_be_bytes())))
        .nest(25, |filter| filter.attr(1, &BY.to_ne_bytes()).attr(2, &0u32.to_ne_bytes()))
}

/// Source and destination of a TCP tuple (CTA_TUPLE_*).
fn tuple(tuple: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (ip, protocol) = (attr(tuple, 1)?, attr(tuple, 2)?);
    if number(attr(protocol, 1)?) != IPPROTO_TCP as u64 {
        return None;
    }
    let address = |v4, v6| attr(ip, v4).or_else(|| attr(ip, v6)).and_then(address);
    let port = |kind| attr(protocol, kind).map(|port| number(port) as u16);
    Some((SocketAddr::new(address(1, 3)?, port(2)?), SocketAddr::new(address(2, 4)?, port(3)?)))
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|bytes| Ipv4Addr::from(bytes).into()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).to_canonical()),
        _ => None,
    }
}

/// A socket and all by which the kernel finds exactly it again.
#[derive(Debug)]
struct Found {
    family: u8,
    id: [u8; SOCKET_ID],
    connection: Connection,
}

/// All TCP sockets with the local port `port` in one of `states` (a mask of 1 << TCP_*).
fn sockets(port: u16, states: u32, until: Instant) -> io::Result<Vec<Found>> {
    let mut socket = Socket::open(SockProtocol::NetlinkSockDiag, until)?;
    let mut found = Vec::new();
    for family in [AF_INET as u8, AF_INET6 as u8] {
        let mut id = [0; SOCKET_ID];
        id[..2].copy_from_slice(&port.to_be_bytes());
        let ask = Message::new(SOCK_DIAG_BY_FAMILY, &request(family, states, &id));
        let from = found.len();
        again(|| {
            found.truncate(from);
            socket.dump(&ask, |answer| found.extend(socket_of(answer, port)))
        })?;
    }
    Ok(found)
}

/// struct inet_diag_req_v2.
fn request(family: u8, states: u32, id: &[u8; SOCKET_ID]) -> Vec<u8> {
    let mut request = vec![family, IPPROTO_TCP as u8, 0, 0];
    request.extend(states.to_ne_bytes());
    request.extend(id);
    request
}

/// Reads struct inet_diag_msg.
fn socket_of(answer: &[u8], port: u16) -> Option<Found> {
    let [family, state, timer, _, rest @ ..] = answer else { return None };
    let id: [u8; SOCKET_ID] = rest.get(..SOCKET_ID)?.try_into().ok()?;
    let length = if i32::from(*family) == AF_INET { 4 } else { 16 };
    let end = |at: usize, port: &[u8]| Some(SocketAddr::new(address(&id[at..at + length])?, number(port) as u16));
    let connection = Connection { local: end(4, &id[..2])?, remote: end(20, &id[2..4])? };
    let leftover = *state == FIN_WAIT2 && *timer == TIME_WAIT_TIMER;
    (connection.local.port() == port && !leftover).then_some(Found { family: *family, id, connection })
}

/// Destroys `sockets` and counts those that this call ended.
fn destroy(sockets: &[&Found], until: Instant) -> Result<usize, String> {
    let failed = |error: io::Error| format!("cannot destroy sockets: {error}");
    let mut socket = Socket::open(SockProtocol::NetlinkSockDiag, until).map_err(failed)?;
    let mut ended = 0;
    for batch in sockets.chunks(BATCH) {
        let messages: Vec<_> =
            batch.iter().map(|found| Message::new(SOCK_DESTROY, &request(found.family, u32::MAX, &found.id))).collect();
        ended += messages.len();
        for (_, error) in socket.each(messages).map_err(failed)? {
            ended -= 1;
            match error {
                error if error.raw_os_error() == Some(EOPNOTSUPP) => {
                    return Err("this kernel cannot destroy sockets (CONFIG_INET_DIAG_DESTROY)".to_owned());
                }
                // Gone by itself meanwhile.
                error if error.kind() == io::ErrorKind::NotFound => {}
                error => return Err(failed(error)),
            }
        }
    }
    Ok(ended)
}

/// A program that listens on `port`, on whatever address.
///
/// # Errors
/// The kernel's; [`io::ErrorKind::TimedOut`] at `until`.
pub fn listener(port: u16, until: Instant) -> io::Result<Option<SocketAddr>> {
    Ok(sockets(port, 1 << LISTEN, until)?.first().map(|found| found.connection.local))
}

/// Repeats a dump that a change interrupted. Only the deadline in the socket ends it otherwise.
fn again(mut dump: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    loop {
        match dump() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_tuple_of_either_family_and_only_tcp() {
        let proto = |number: u8| {
            move |message: Message| {
                message.attr(1, &[number]).attr(2, &40000u16.to_be_bytes()).attr(3, &6381u16.to_be_bytes())
            }
        };
        let v4 =
            Message::new(0, &[]).nest(1, |ip| ip.attr(1, &[10, 0, 0, 1]).attr(2, &[10, 0, 0, 2])).nest(2, proto(6));
        let (from, to) = ("10.0.0.1:40000".parse().unwrap(), "10.0.0.2:6381".parse().unwrap());
        assert_eq!(tuple(v4.body()), Some((from, to)));

        let address = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        let v6 = |number| {
            Message::new(0, &[])
                .nest(1, |ip| ip.attr(3, &address("fd00::1")).attr(4, &address("fd00::2")))
                .nest(2, proto(number))
        };
        let (from, to) = ("[fd00::1]:40000".parse().unwrap(), "[fd00::2]:6381".parse().unwrap());
        assert_eq!(tuple(v6(6).body()), Some((from, to)));
        assert_eq!(tuple(v6(17).body()), None);
    }

    #[test]
    fn finds_a_listener_and_no_connection_in_its_place() {
        let until = Instant::now() + std::time::Duration::from_secs(10);
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        assert_eq!(listener(address.port(), until).unwrap(), Some(address));
        let client = std::net::TcpStream::connect(address).unwrap();
        drop(server);
        assert_eq!(listener(address.port(), until).unwrap(), None);
        drop(client);
    }
}
