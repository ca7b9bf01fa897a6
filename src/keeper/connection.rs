//! One connection that the keeper keeps to a server: it is remade when it is lost, and never without being told of.
//!
//! Nothing here waits: what is sent is sent within the call or the connection is given up, and what came in is found by polling. So
//! a caller can read the firewall and send what follows from it with nothing in between.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep, timeout};

use crate::server::{AskError, Credentials, Value, because, denial};
use crate::wire::{self, Replies};

/// How long making a connection may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);

/// The pause after a connection that failed.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// What happened on a connection.
#[derive(Debug)]
pub enum Event<Tag> {
    /// It is made, and logged in as far as was asked: the login's answer comes with the first reply.
    Up,
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
    /// One for each command; an error reply is a [`Value::ServerError`].
    pub replies: Vec<Value>,
}

/// See the module. `Tag` says what a question was about.
pub struct Connection<Tag> {
    address: SocketAddr,
    credentials: Credentials,
    state: State<Tag>,
}

enum State<Tag> {
    Pause(Pin<Box<Sleep>>),
    Connecting(Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>),
    Up(Box<Established<Tag>>),
    /// Lost within a call of the owner, who is told at the next poll.
    Lost(AskError),
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
    expected: usize,
    replies: Vec<Value>,
}

impl<Tag> Connection<Tag> {
    /// A connection to be made at the first poll.
    pub fn new(address: SocketAddr, credentials: Credentials) -> Self {
        Connection { address, credentials, state: connecting(address) }
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
    pub fn ask<W: AsRef<str>>(&mut self, tag: Tag, commands: &[&[W]]) {
        let State::Up(up) = &mut self.state else { return };
        let sent = Instant::now();
        let bytes = wire::pack(commands);
        match up.stream.try_write(&bytes) {
            Ok(written) if written == bytes.len() => {
                up.open.push_back(Open { tag, sent, expected: commands.len(), replies: Vec::new() });
            }
            Ok(_) => self.state = State::Lost(AskError::Silent),
            Err(error) => self.state = State::Lost(because(&error)),
        }
    }

    /// Gives it up: what was received counts, nothing later.
    pub fn give_up(&mut self) {
        if self.is_up() {
            self.state = State::Lost(AskError::Silent);
        }
    }

    /// The next event.
    pub fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Event<Tag>> {
        loop {
            match &mut self.state {
                State::Pause(pause) => match pause.as_mut().poll(context) {
                    Poll::Ready(()) => self.state = connecting(self.address),
                    Poll::Pending => return Poll::Pending,
                },
                State::Connecting(connecting) => match connecting.as_mut().poll(context) {
                    Poll::Ready(Ok(stream)) => {
                        let mut up = Established {
                            stream,
                            incoming: Replies::default(),
                            open: VecDeque::new(),
                            login: false,
                            answered: false,
                        };
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

impl<Tag> Established<Tag> {
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
                let reply = match self.incoming.next_reply() {
                    Ok(Some(reply)) => reply,
                    Ok(None) => break,
                    Err(error) => return broken(&error.to_string()),
                };
                // NOPERM is an answer to one command; without a login there are none.
                match denial(&reply) {
                    Some(denial) if self.login || matches!(&reply, Value::ServerError(e) if e.code() == "NOAUTH") => {
                        return Poll::Ready(Err(denial));
                    }
                    _ => {}
                }
                if std::mem::take(&mut self.login) {
                    continue;
                }
                let Some(open) = self.open.front_mut() else { return broken("a reply to no question") };
                open.replies.push(reply);
                if open.replies.len() < open.expected {
                    continue;
                }
                let Some(Open { tag, sent, replies, .. }) = self.open.pop_front() else { continue };
                self.answered = true;
                return Poll::Ready(Ok(Answer { tag, sent, received: Instant::now(), replies }));
            }
            let mut space = [0; 16 << 10];
            let mut buffer = ReadBuf::new(&mut space);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return broken("the connection was closed"),
                Poll::Ready(Ok(())) => self.incoming.received(buffer.filled()),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(because(&error))),
            }
        }
    }
}
