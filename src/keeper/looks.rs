//! Looks at the lines of all keepers: one connection per Sentinel for all master names of the node.
//!
//! A look lists the Sentinel's clients, the lines of all master names among them; so it is one answer for all, where 64 master names
//! that look each by itself would make Sentinels list their 200 lines 500 times a second. Looks wake nobody up: a group takes those
//! that there are when it decides. What an acquisition needs besides, the question's own look, is asked on the line itself.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};

use super::connection::{Connection, Event};
use crate::lease::mark::Marks;
use crate::server::{self, Credentials};
use crate::wire::{self, Reply};

/// From one look to the next. Less than 0.9 G, by more than an answer takes.
const EVERY: Duration = Duration::from_millis(400);

/// A Sentinel that takes longer than this to answer is silent: the connection is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many looks are kept for groups that have not taken them yet. One that misses some begins its windows anew.
const KEPT: usize = 8;

/// What is asked.
pub const QUESTION: [&str; 4] = ["CLIENT", "LIST", "TYPE", "normal"];

/// What a Sentinel showed.
#[derive(Debug)]
pub struct Look {
    /// When it was asked, not later.
    pub sent: Instant,
    /// When its reply had come, not earlier.
    pub received: Instant,
    /// What it showed, or why it shows nothing.
    pub shown: Result<Marks, String>,
}

/// The looks at one Sentinel.
#[derive(Debug, Clone, Default)]
pub struct Looks(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    looks: Mutex<VecDeque<Arc<Look>>>,
}

/// The looks at all Sentinels of the node's records. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct All(Arc<Mutex<BTreeMap<SocketAddr, Looks>>>);

impl All {
    /// Those at the Sentinel at `address`, which begin now if nobody has looked there.
    pub fn at(&self, address: SocketAddr, credentials: &Credentials) -> Looks {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(address).or_insert_with(|| Looks::begin(address, credentials.clone())).clone()
    }

    /// The Sentinels at which somebody looks. Others are not looked at any more.
    pub fn wanted(&self) -> BTreeSet<SocketAddr> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, looks| looks.is_shared());
        all.keys().copied().collect()
    }
}

impl Looks {
    /// Looks at the Sentinel at `address` from now on, for as long as somebody has this.
    fn begin(address: SocketAddr, credentials: Credentials) -> Self {
        let looks = Looks::default();
        tokio::spawn(keep_looking(address, credentials, Arc::downgrade(&looks.0)));
        looks
    }

    /// Whether somebody else has it, too.
    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// The looks that were sent after `after` and not behind `before`, in the order of their sending. For a question that was sent at
    /// `before`, which brings a look of its own: a later one must not stand in the way of that.
    pub fn between(&self, after: Instant, before: Instant) -> Vec<Arc<Look>> {
        let looks = self.0.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.iter().filter(|look| look.sent > after && look.sent <= before).cloned().collect()
    }
}

impl Shared {
    fn add(&self, look: Look) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.len() == KEPT {
            looks.pop_front();
        }
        looks.push_back(Arc::new(look));
    }
}

/// What a reply to [`QUESTION`] shows.
///
/// # Errors
/// Why it shows nothing, in an operator's words.
pub fn read(address: SocketAddr, reply: &Reply) -> Result<Marks, String> {
    let not_one = || format!("Sentinel {address} does not list its clients: {}", server::shown(&reply.to_value()));
    // A status or a number is no list of nobody.
    match reply {
        Reply::Text(text) => Ok(Marks::read(&String::from_utf8_lossy(text))),
        _ => Err(not_one()),
    }
}

async fn keep_looking(address: SocketAddr, credentials: Credentials, shared: Weak<Shared>) {
    let mut connection: Connection<()> = Connection::new(address, credentials);
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let event = poll_fn(|context| {
            if tick.poll_tick(context).is_ready() {
                return Poll::Ready(None);
            }
            connection.poll_event(context).map(Some)
        })
        .await;
        let Some(shared) = shared.upgrade() else { return };
        match event {
            None if connection.waiting_for(Instant::now()).is_some_and(|waited| waited > PATIENCE) => {
                connection.give_up();
            }
            None if connection.waiting_for(Instant::now()).is_none() => connection.ask((), &[&QUESTION[..]]),
            Some(Event::Up | Event::TakenOver) => {
                tick.reset();
                connection.limit(wire::LONGEST_REPLY);
                connection.ask((), &[&QUESTION[..]]);
            }
            Some(Event::Answer(answer)) => match answer.replies().as_deref() {
                Ok([reply]) => {
                    let shown = read(address, reply);
                    shared.add(Look { sent: answer.sent, received: answer.received, shown });
                }
                _ => connection.give_up(),
            },
            // It is being remade. That the Sentinel is away shows on the lines.
            Some(Event::Down(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_list_shows_nothing_and_not_that_nobody_is_there() {
        let at = SocketAddr::from(([10, 0, 0, 1], 26379));
        assert!(read(at, &Reply::Text(b"")).is_ok());
        for reply in [Reply::Status("OK"), Reply::Int(7), Reply::Nil, Reply::List(Vec::new())] {
            assert!(read(at, &reply).is_err(), "{reply:?}");
        }
    }

    #[test]
    fn looks_behind_a_question_wait_for_the_next_one() {
        let began = Instant::now();
        let at = |ms: u64| began + Duration::from_millis(ms);
        let looks = Looks::default();
        for sent in [0, 400, 800] {
            looks.0.add(Look { sent: at(sent), received: at(sent + 5), shown: Err("nothing".to_owned()) });
        }
        let between = |after, before| {
            let looks = looks.between(at(after), at(before));
            looks.iter().map(|look| (look.sent - began).as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(between(0, 799), [400]);
        assert_eq!(between(400, 800), [800]);
        assert_eq!(between(800, 900), [] as [u128; 0]);
        for sent in 0..KEPT as u64 {
            looks.0.add(Look { sent: at(1000 + sent), received: at(2000), shown: Err("nothing".to_owned()) });
        }
        assert_eq!(looks.between(began, at(5000)).len(), KEPT);
    }
}
