//! One connection that the keeper keeps to a server: it is remade when it is lost, and never without being told of.
//!
//! Nothing here waits: what is sent is sent within the call or the connection is given up, and what came in is found by polling. So
//! a caller can read the firewall and send what follows from it with nothing in between.

use std::collections::VecDeque;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use nix::sys::socket;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};

use crate::server::{AskError, Credentials, Value, because, denial};
use crate::wire::{self, Replies, Reply};

/// How long making a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// The pause after a connection that failed.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// The longest reply, in bytes, unless another limit is set.
const LONGEST: usize = 256 << 10;

/// Room for what is read at once. Nothing is written there before: each connection is polled with each event of any that its owner has.
const SPACE: [MaybeUninit<u8>; 16 << 10] = [MaybeUninit::uninit(); 16 << 10];

/// What happened on a connection.
#[derive(Debug)]
pub enum Event<Tag> {
    /// It is made, and logged in as far as was asked: the login's answer comes with the first reply.
    Up,
    /// One that another process had made is ours: all that was asked before is answered, or will be of no interest.
    TakenOver,
    /// All replies to one question.
    Answer(Answer<Tag>),
    /// It is lost, or could not be made. It is being remade.
    Down(AskError),
}

/// The replies to one question.
#[derive(Debug)]
pub struct Answer<Tag> {
    /// What the question was.
    pub tag: Tag,
    /// When it was sent, not later.
    pub sent: Instant,
    /// When its last reply was read, not earlier.
    pub received: Instant,
    /// As they came.
    bytes: Vec<u8>,
}

impl<Tag> Answer<Tag> {
    /// One for each command.
    ///
    /// # Errors
    /// What came is no such reply.
    pub fn replies(&self) -> Result<Vec<Reply<'_>>, AskError> {
        wire::replies(&self.bytes).map_err(|error| AskError::Broken(error.to_string()))
    }
}

/// See the module. `Tag` says what a question was about.
pub struct Connection<Tag> {
    address: SocketAddr,
    credentials: Credentials,
    state: State<Tag>,
}

enum State<Tag> {
    TakingOver(Box<TakingOver>),
    Pause(Pin<Box<Sleep>>),
    Connecting(Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>),
    Up(Box<Established<Tag>>),
    /// Lost within a call of the owner, who is told at the next poll.
    Lost(AskError),
}

/// A connection of another process, and how far its answers have been read.
struct TakingOver {
    stream: TcpStream,
    search: Search,
    asked: bool,
    patience: Pin<Box<Sleep>>,
}

struct Established<Tag> {
    stream: TcpStream,
    incoming: Replies,
    /// Questions without all their replies, the oldest first.
    open: VecDeque<Open<Tag>>,
    /// The login's reply is still to come.
    login: bool,
    /// It has answered something.
    answered: bool,
}

struct Open<Tag> {
    tag: Tag,
    sent: Instant,
    /// How many replies are still to come.
    lacks: usize,
}

impl<Tag> Connection<Tag> {
    /// A connection to be made at the first poll.
    pub fn new(address: SocketAddr, credentials: Credentials) -> Self {
        Connection { address, credentials, state: connecting(address) }
    }

    /// One that another process had made, and that is as it was left: in the middle of a question, or of an answer. If nothing comes of it,
    /// it is made anew.
    pub fn taken_over(address: SocketAddr, credentials: Credentials, stream: std::net::TcpStream) -> Self {
        let taken = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
        let state = match taken {
            Ok(stream) => State::TakingOver(Box::new(TakingOver {
                stream,
                search: Search::begin(),
                asked: false,
                patience: Box::pin(sleep(CONNECT_WITHIN)),
            })),
            Err(error) => State::Lost(because(&error)),
        };
        Connection { address, credentials, state }
    }

    /// Its socket, where it is made.
    pub fn socket(&self) -> Option<&TcpStream> {
        match &self.state {
            State::Up(up) => Some(&up.stream),
            _ => None,
        }
    }

    /// Whether it is made.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// How long the oldest question has waited for its replies; None where none waits.
    pub fn waiting_for(&self, now: Instant) -> Option<Duration> {
        match &self.state {
            State::Up(up) => up.open.front().map(|open| now.saturating_duration_since(open.sent)),
            _ => None,
        }
    }

    /// Sends `commands` now. On a connection that does not take them at once, or is not made, nothing is asked; the former
    /// is given up.
    pub fn ask<W: AsRef<[u8]>>(&mut self, tag: Tag, commands: &[&[W]]) {
        let State::Up(up) = &mut self.state else { return };
        let sent = Instant::now();
        let bytes = wire::pack(commands);
        match up.stream.try_write(&bytes) {
            Ok(written) if written == bytes.len() => {
                up.open.push_back(Open { tag, sent, lacks: commands.len() });
            }
            Ok(_) => self.lose(AskError::Silent),
            Err(error) => self.lose(because(&error)),
        }
    }

    /// From now on no reply to it is longer than that, in bytes.
    pub fn limit(&mut self, longest: usize) {
        if let State::Up(up) = &mut self.state {
            up.incoming.limit(longest);
        }
    }

    /// Gives it up: what was received counts, nothing later.
    pub fn give_up(&mut self) {
        if self.is_up() {
            self.lose(AskError::Silent);
        }
    }

    fn lose(&mut self, error: AskError) {
        self.cut();
        self.state = State::Lost(error);
    }

    /// Ends it for whoever else has a descriptor of it, too.
    fn cut(&self) {
        let stream = match &self.state {
            State::Up(up) => &up.stream,
            State::TakingOver(taking) => &taking.stream,
            _ => return,
        };
        // One that is broken is cut already.
        let _ended = socket::shutdown(stream.as_raw_fd(), socket::Shutdown::Both);
    }

    /// The next event.
    pub fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Event<Tag>> {
        loop {
            match &mut self.state {
                State::TakingOver(taking) => match taking.poll(context) {
                    Poll::Ready(Ok(rest)) => {
                        let taken = std::mem::replace(&mut self.state, State::Lost(AskError::Silent));
                        let State::TakingOver(taking) = taken else { continue };
                        let mut up = Established::new(taking.stream);
                        up.incoming.received(&rest);
                        // As whoever it was made, and maybe with a password that is not right any more.
                        let logged_in = up.log_in(&self.credentials);
                        self.state = State::Up(Box::new(up));
                        return Poll::Ready(match logged_in {
                            Ok(()) => Event::TakenOver,
                            Err(error) => self.lost(because(&error)),
                        });
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(self.lost(error)),
                    Poll::Pending => return Poll::Pending,
                },
                State::Pause(pause) => match pause.as_mut().poll(context) {
                    Poll::Ready(()) => self.state = connecting(self.address),
                    Poll::Pending => return Poll::Pending,
                },
                State::Connecting(connecting) => match connecting.as_mut().poll(context) {
                    Poll::Ready(Ok(stream)) => {
                        let mut up = Established::new(stream);
                        match up.log_in(&self.credentials) {
                            Ok(()) => {
                                self.state = State::Up(Box::new(up));
                                return Poll::Ready(Event::Up);
                            }
                            Err(error) => return Poll::Ready(self.lost(because(&error))),
                        }
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(self.lost(because(&error))),
                    Poll::Pending => return Poll::Pending,
                },
                State::Up(up) => match up.poll_answer(context) {
                    Poll::Ready(Ok(answer)) => return Poll::Ready(Event::Answer(answer)),
                    Poll::Ready(Err(error)) => return Poll::Ready(self.lost(error)),
                    Poll::Pending => return Poll::Pending,
                },
                State::Lost(error) => {
                    let error = error.clone();
                    return Poll::Ready(self.lost(error));
                }
            }
        }
    }

    /// A connection that worked is remade at once; one that did not waits a moment.
    fn lost(&mut self, error: AskError) -> Event<Tag> {
        self.cut();
        let worked = matches!(&self.state, State::Up(up) if up.answered);
        self.state = match worked && error != AskError::Silent && !matches!(error, AskError::Denied(_)) {
            true => connecting(self.address),
            false => State::Pause(Box::pin(sleep(RETRY_AFTER))),
        };
        Event::Down(error)
    }
}

fn connecting<Tag>(address: SocketAddr) -> State<Tag> {
    State::Connecting(Box::pin(async move {
        let stream = timeout(CONNECT_WITHIN, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }))
}

impl TakingOver {
    /// What has come behind the answers to what another process asked.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<u8>, AskError>> {
        while !self.asked {
            match self.stream.poll_write_ready(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(because(&error))),
                Poll::Pending => break,
            }
            let bytes = self.search.question();
            match self.stream.try_write(&bytes) {
                Ok(written) if written == bytes.len() => self.asked = true,
                Ok(_) => return Poll::Ready(Err(AskError::Silent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(because(&error))),
            }
        }
        loop {
            let mut space = SPACE;
            let mut buffer = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                    return Poll::Ready(Err(AskError::Broken("the connection was closed".to_owned())));
                }
                Poll::Ready(Ok(())) => {
                    if let Some(rest) = self.search.received(buffer.filled()) {
                        return Poll::Ready(Ok(rest));
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(because(&error))),
            }
        }
        match self.patience.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(AskError::Silent)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Where the answers to what another process asked end: at that of a PING which nobody else has sent.
struct Search {
    word: String,
    /// What came last, too little to be the answer.
    seen: Vec<u8>,
}

impl Search {
    fn begin() -> Self {
        Search { word: format!("{:016x}{:016x}", random(), random()), seen: Vec::new() }
    }

    fn question(&self) -> Vec<u8> {
        wire::pack(&[&["PING", &self.word]])
    }

    /// What came behind the answer, once that has come.
    fn received(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let answer = format!("${}\r\n{}\r\n", self.word.len(), self.word).into_bytes();
        self.seen.extend_from_slice(bytes);
        if let Some(at) = self.seen.windows(answer.len()).position(|window| window == answer) {
            return Some(self.seen.split_off(at + answer.len()));
        }
        let of_no_use = (self.seen.len() + 1).saturating_sub(answer.len());
        self.seen.drain(..of_no_use);
        None
    }
}

/// A number that nobody can guess.
fn random() -> u64 {
    RandomState::new().hash_one(())
}

impl<Tag> Established<Tag> {
    fn new(stream: TcpStream) -> Self {
        let (incoming, open) = (Replies::of_at_most(LONGEST), VecDeque::new());
        Established { stream, incoming, open, login: false, answered: false }
    }

    fn log_in(&mut self, credentials: &Credentials) -> io::Result<()> {
        let Some(login) = credentials.login() else { return Ok(()) };
        let bytes = wire::pack(&[&login[..]]);
        match self.stream.try_write(&bytes)? == bytes.len() {
            true => self.login = true,
            false => return Err(io::ErrorKind::TimedOut.into()),
        }
        Ok(())
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Result<Answer<Tag>, AskError>> {
        let broken = |what: &str| Poll::Ready(Err(AskError::Broken(what.to_owned())));
        loop {
            loop {
                let reply = match self.incoming.pass() {
                    Ok(Some(reply)) => reply,
                    Ok(None) => break,
                    Err(error) => return broken(&error.to_string()),
                };
                // NOPERM is an answer to one command; without a login there are none.
                match denied(reply) {
                    Some((denial, code)) if self.login || code == "NOAUTH" => return Poll::Ready(Err(denial)),
                    _ => {}
                }
                if std::mem::take(&mut self.login) {
                    drop(self.incoming.take());
                    continue;
                }
                let Some(open) = self.open.front_mut() else { return broken("a reply to no question") };
                open.lacks = open.lacks.saturating_sub(1);
                if open.lacks > 0 {
                    continue;
                }
                let Some(Open { tag, sent, .. }) = self.open.pop_front() else { continue };
                self.answered = true;
                let bytes = self.incoming.take();
                return Poll::Ready(Ok(Answer { tag, sent, received: Instant::now(), bytes }));
            }
            let mut space = SPACE;
            let mut buffer = ReadBuf::uninit(&mut space);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return broken("the connection was closed"),
                Poll::Ready(Ok(())) => self.incoming.received(buffer.filled()),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(because(&error))),
            }
        }
    }
}

/// What an error reply says about our rights, if it is one that does, and its code.
fn denied(reply: &[u8]) -> Option<(AskError, String)> {
    if reply.first() != Some(&b'-') {
        return None;
    }
    let value = wire::replies(reply).ok()?.first()?.to_value();
    let Value::ServerError(error) = &value else { return None };
    Some((denial(&value)?, error.code().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn answers_of_before_end_where_the_ping_is_answered(
            before in proptest::collection::vec(any::<u8>(), 0..200),
            after in proptest::collection::vec(any::<u8>(), 0..60),
            part in 1..40_usize,
        ) {
            let mut search = Search::begin();
            let answer = format!("$32\r\n{}\r\n", search.word);
            // The beginning of the answer is not the answer.
            let all = [&before, &answer.as_bytes()[..answer.len() / 2], answer.as_bytes(), &after].concat();
            let mut rest: Option<Vec<u8>> = None;
            for part in all.chunks(part) {
                match &mut rest {
                    Some(rest) => rest.extend_from_slice(part),
                    None => rest = search.received(part),
                }
                prop_assert!(rest.is_some() || search.seen.len() < answer.len());
            }
            prop_assert_eq!(rest, Some(after));
        }
    }
}
