//! The marks that a switchover leaves in servers' settings, and what makes them harmless.
//!
//! While a switchover is under way two settings are not what they were: `min-replicas-to-write` of the old primary, so that it
//! acknowledges nothing more (Sentinel takes no notice of that, as it would of a CLIENT PAUSE), and `replica-priority`: of the
//! replicas that are not to be chosen, and of the primary, where it means nothing but that a switchover is being prepared. Whoever set
//! them may die at any moment, and Sentinel makes them permanent when it turns a server
//! around (`CONFIG REWRITE`). So a value says by itself that it is a switchover's, whose, and what it was before: nothing that
//! puts it back needs to have seen it set. Whoever goes on with a switchover makes the value a new one again and again; one that
//! stands still belongs to nobody, and the keeper of its node puts back what was before.
//!
//! A mark is the lock, too: where one stands no other switchover begins, and nobody writes over a value that is not what he read.
//!
//! Both settings are numbers up to 2^31 - 1. A mark is 1,000,000,000 and more, of which the last four digits are the value of before; a
//! check makes one in 109 numbers a mark, and no number that somebody would think of.
//! As `min-replicas-to-write` that is more than anybody has, as `replica-priority` it is behind all others, but not never chosen: where
//! the target dies Sentinel still finds somebody.

use std::net::SocketAddr;
use std::time::Duration;

use crate::server::{self, AskError, Credentials, Value};
use crate::wire::Reply;

/// A mark that has not changed for so long belongs to nobody: the keeper puts back what was before.
pub const BELONGS_FOR: Duration = Duration::from_millis(2500);

/// The first number that can be a mark.
pub const FIRST: u32 = 1_000_000_000;

/// What a value of before is less than.
const BEFORE: u32 = 10_000;

/// How many marks there are of one switchover and one value: more than could pass between two looks of a keeper.
const BEATS: u32 = 8;

/// How many switchovers can be told from each other.
const OWNERS: u32 = 128;

/// One of so many numbers is a mark.
const CHECKS: u32 = 109;

// Both settings are signed, of 32 bits.
const _: () = assert!((FIRST as u64) + (OWNERS * BEATS * CHECKS) as u64 * (BEFORE as u64) <= i32::MAX as u64);

/// A setting that a switchover marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Setting {
    /// With so few replicas a primary takes no writes.
    MinReplicas,
    /// Whom Sentinel chooses: the least, 0 never.
    Priority,
}

impl Setting {
    /// Both.
    pub const ALL: [Setting; 2] = [Setting::MinReplicas, Setting::Priority];

    /// As CONFIG SET and redis.conf call it.
    pub fn name(self) -> &'static str {
        match self {
            Setting::MinReplicas => "min-replicas-to-write",
            Setting::Priority => "replica-priority",
        }
    }

    /// The same by its name before Redis 5.
    fn old_name(self) -> &'static str {
        match self {
            Setting::MinReplicas => "min-slaves-to-write",
            Setting::Priority => "slave-priority",
        }
    }
}

/// A marked value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    before: u32,
    owner: u32,
    beat: u32,
}

impl Mark {
    /// The mark of a setting that is `before` now. None where that is a value which a mark cannot hold, or a mark.
    ///
    /// `owner`: any number, by which a switchover knows its own marks.
    pub fn new(before: u32, owner: u32) -> Option<Self> {
        (before < BEFORE).then_some(Mark { before, owner: owner % OWNERS, beat: 0 })
    }

    /// The mark that `value` is, if it is one.
    pub fn of(value: u32) -> Option<Self> {
        let rest = value.checked_sub(FIRST)?;
        let (before, rest) = (rest % BEFORE, rest / BEFORE);
        let (check, rest) = (rest % CHECKS, rest / CHECKS);
        let mark = Mark { before, owner: rest / BEATS, beat: rest % BEATS };
        (mark.owner < OWNERS && mark.check() == check).then_some(mark)
    }

    /// What is set.
    pub fn value(self) -> u32 {
        FIRST + ((self.owner * BEATS + self.beat) * CHECKS + self.check()) * BEFORE + self.before
    }

    /// The next one.
    #[must_use]
    pub fn next(self) -> Self {
        Mark { beat: (self.beat + 1) % BEATS, ..self }
    }

    /// What it was before.
    pub fn before(self) -> u32 {
        self.before
    }

    /// Not of the digits beside it only: round numbers must not pass.
    fn check(self) -> u32 {
        ((self.owner * BEATS + self.beat + 1) * 31 + self.before * 7 + 1) % CHECKS
    }
}

/// What a value was before a switchover marked it; itself, where it bears no mark.
pub fn before(value: u32) -> u32 {
    Mark::of(value).map_or(value, Mark::before)
}

/// Whether a configuration file holds a mark.
pub fn marked(config: &str) -> bool {
    config.lines().any(|line| {
        let mut words = line.split_whitespace();
        let (name, value) = (words.next().unwrap_or_default().to_ascii_lowercase(), words.next().unwrap_or_default());
        let ours = Setting::ALL.iter().any(|setting| name == setting.name() || name == setting.old_name());
        ours && value.trim_matches('"').parse().ok().and_then(Mark::of).is_some()
    })
}

/// What a server is asked for its marks: a reply for each of [`Setting::ALL`].
pub const QUESTION: [&[&str]; 2] =
    [&["CONFIG", "GET", "min-replicas-to-write"], &["CONFIG", "GET", "replica-priority"]];

/// The marks that the server at `address` bears, by their settings; none where it does not tell.
pub fn marks_of(address: SocketAddr, credentials: &Credentials, within: Duration) -> Vec<(Setting, Mark)> {
    let replies = server::ask(address, credentials, within, &QUESTION).unwrap_or_default();
    let marks = Setting::ALL.into_iter().zip(&replies);
    marks.filter_map(|(setting, reply)| Some((setting, Mark::of(number(reply)?)?))).collect()
}

/// The number in a reply to CONFIG GET: `["replica-priority", "100"]`, or a map of that.
pub fn number<'a>(reply: impl Into<Reply<'a>>) -> Option<u32> {
    let Reply::List(pair) = reply.into() else { return None };
    pair.get(1)?.text()?.parse().ok()
}

/// What came of changing a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// It is the new value.
    Done,
    /// It was not what it had been taken for, and is left as it is: its value.
    Other(u32),
    /// It could not be read, or is not let be changed: nothing was.
    No(String),
    /// No answer came: it may be the new value.
    Unknown(String),
}

/// Sets `setting` of the server at `address` to `new` if it is one of `expected`. There is a moment between the look and the change;
/// what somebody has set in it is seen, and set again.
pub fn change(
    address: SocketAddr,
    credentials: &Credentials,
    within: Duration,
    setting: Setting,
    expected: &[u32],
    new: u32,
) -> Changed {
    change_and(address, credentials, within, setting, expected, new, &[]).0
}

/// The same, and `also` asked in the same write behind the change: its replies, where there are any.
pub fn change_and(
    address: SocketAddr,
    credentials: &Credentials,
    within: Duration,
    setting: Setting,
    expected: &[u32],
    new: u32,
    also: &[&[&str]],
) -> (Changed, Vec<Value>) {
    let name = setting.name();
    let ask = |commands: &[&[&str]]| server::ask(address, credentials, within, commands);
    let get: &[&str] = &["CONFIG", "GET", name];
    let no = |why: String| (Changed::No(format!("{name}: {why}")), Vec::new());
    match ask(&[get]).as_deref() {
        Ok([reply]) => match number(reply) {
            Some(now) if expected.contains(&now) => {}
            Some(now) => return (Changed::Other(now), Vec::new()),
            None => return no(server::shown(reply)),
        },
        Ok(_) => return no("no answer".to_owned()),
        Err(error) => return no(error.to_string()),
    }
    let text = new.to_string();
    let set: &[&str] = &["CONFIG", "SET", name, &text];
    // In one write, which Redis does in one go.
    let commands: Vec<&[&str]> = [get, set].into_iter().chain(also.iter().copied()).collect();
    let mut replies = match ask(&commands) {
        Ok(replies) => replies,
        Err(error @ (AskError::Refused | AskError::Denied(_))) => return no(error.to_string()),
        Err(error) => return (Changed::Unknown(format!("{name}: {error}")), Vec::new()),
    };
    let rest = replies.split_off(2.min(replies.len()));
    match replies.as_slice() {
        [was, Value::Okay] => match number(was) {
            Some(was) if !expected.contains(&was) => {
                let was_text = was.to_string();
                let back: [&[&str]; 1] = [&["CONFIG", "SET", name, &was_text]];
                match ask(&back).as_deref() {
                    Ok([Value::Okay]) => (Changed::Other(was), rest),
                    _ => (Changed::Unknown(format!("{name}: it was {was}, and may be {new} now")), rest),
                }
            }
            _ => (Changed::Done, rest),
        },
        [_, refusal] => no(server::shown(refusal)),
        _ => no("no answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_configuration_file_shows_its_marks() {
        let marked_priority = Mark::new(100, 7).unwrap().next().value();
        for (text, is) in [
            ("", false),
            ("port 6379\nreplica-priority 100\nmin-replicas-to-write 0\n", false),
            (&format!("port 6379\nreplica-priority {marked_priority}\n"), true),
            (&format!("  Slave-Priority \"{marked_priority}\"\n"), true),
            (&format!("min-slaves-to-write {marked_priority}"), true),
            (&format!("# replica-priority {marked_priority}\n"), false),
            (&format!("maxmemory {marked_priority}\n"), false),
        ] {
            assert_eq!(marked(text), is, "{text}");
        }
    }

    #[test]
    fn no_number_that_somebody_would_think_of_is_a_mark() {
        let repeated = (1..=9).flat_map(|digit| [digit * 111_111_111, digit * 1_111_111_111]);
        let round = (0..=9).flat_map(|zeros: u32| {
            let step = 10_u64.pow(zeros);
            // Up to three digits and zeros.
            (1..1000).map(move |n| n * step)
        });
        let powers = (0..31).flat_map(|n: u32| [(1_u64 << n) - 1, 1 << n, (1 << n) + 1]);
        let others = [
            999_999_999,
            1_999_999_999,
            1_000_000_100,
            123_456_789,
            1_234_567_890,
            1_234_567_891,
            2_147_483_646,
            2_147_483_647,
            2_000_000_001,
            1_000_000_001,
        ];
        for value in repeated.chain(round).chain(powers).chain(others) {
            let Ok(value) = u32::try_from(value) else { continue };
            assert_eq!(Mark::of(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn a_mark_holds_what_was_before_and_hardly_another_value_is_one(value in 0..BEFORE, owner: u32, any in 0..FIRST) {
            let mark = Mark::new(value, owner).unwrap();
            let mut beats = vec![mark];
            for _ in 1..BEATS {
                beats.push(beats[beats.len() - 1].next());
            }
            for mark in &beats {
                prop_assert_eq!(Mark::of(mark.value()), Some(*mark));
                prop_assert!(mark.value() < 1 << 31 && mark.value() >= FIRST);
                prop_assert!(before(mark.value()) == value && mark.next() != *mark);
                prop_assert_eq!(Mark::new(mark.value(), owner), None);
            }
            prop_assert!(Mark::of(any).is_none() && before(any) == any);
            prop_assert_eq!(Mark::new(any, owner).is_some(), any < BEFORE);
            if owner % OWNERS != (owner / 2) % OWNERS {
                let other = Mark::new(value, owner / 2).unwrap();
                prop_assert!(!beats.contains(&other));
            }
        }

        #[test]
        fn whatever_is_read_as_a_mark_is_one_number_only(value: u32) {
            if let Some(mark) = Mark::of(value) {
                prop_assert_eq!(mark.value(), value);
            }
        }
    }
}
