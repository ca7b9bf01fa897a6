//! What is done where a Sentinel promotes a server, here or on another node, and what where another Sentinel takes that back.
//!
//! The other nodes are closed meanwhile: what they acknowledge is lost.
//!
//! A Sentinel reads a replica's role every 10 s. Until it has read that a former primary is a replica, it takes the one that is promoted for the
//! primary of before that is not turned around yet, and makes it a replica of the old primary (`+convert-to-slave`; `sentinel.c`,
//! `sentinelRefreshInstanceInfo`). The one that promotes has sent its command once: it waits for failover-timeout, which is minutes, and
//! nobody is primary; where the old primary has restarted empty, its replicas take that over meanwhile.
//!
//! So the promoted node's keeper repeats the command, and the old primary's keeper, which has heard of the same, keeps its port closed. It
//! opens nothing: that takes a majority that names this node.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};

use super::events::Says;
use crate::instance::{self, Instance, ServerRole};
use crate::record::canonical;
use crate::server::{self, Credentials, Value};

/// How long a promotion that a Sentinel has begun keeps the other nodes closed, unless it is heard to end. As long again from the moment at which
/// it is taken back: the promoted node's keeper repeats it.
const LASTS: Duration = Duration::from_secs(3);

/// So long a promotion is repeated where it is taken back.
const STANDS_FOR: Duration = Duration::from_millis(2500);

/// One that was made a replica so shortly before may carry that out behind the promotion.
const CROSSED: Duration = Duration::from_millis(500);

/// Both commands come from other connections: which of them is carried out last is looked at for so long.
const WATCHED_FOR: Duration = Duration::from_millis(600);

/// And so often.
const LOOKS: Duration = Duration::from_millis(30);

/// What Redis on this node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

// The old primary's port is closed until all Sentinels know of a promotion that was repeated at the last moment, and carried out late: who leads
// the failover sees it a second later, and tells the others. An event may be heard here later than there by the rest.
const _: () = {
    const KNOWN_WITHIN: u128 = 1300;
    assert!(WATCHED_FOR.as_millis() + ANSWER_WITHIN.as_millis() + KNOWN_WITHIN + 500 < LASTS.as_millis());
    // It is closed yet when it is to stay so.
    assert!(STANDS_FOR.as_millis() + 500 <= LASTS.as_millis());
};

/// The promotion of another node's Redis.
#[derive(Debug, Default)]
pub struct Another(Option<Promotion>);

#[derive(Debug, Clone, Copy)]
struct Promotion {
    until: Instant,
    server: SocketAddr,
    /// The Sentinel.
    by: SocketAddr,
}

impl Another {
    /// Takes what the Sentinel `by` says, on the node whose Redis is at `me`: why nothing may be open here from now on, where that is new.
    pub fn heard(&mut self, by: SocketAddr, says: &Says, me: SocketAddr, now: Instant) -> Option<String> {
        match says {
            Says::Promoting { server, .. } if *server != canonical(me) => {
                self.0 = Some(Promotion { until: now + LASTS, server: *server, by });
                return self.objects(now);
            }
            Says::MadeReplica { server, .. } => {
                if let Some(promotion) = self.0.as_mut().filter(|one| one.server == *server && now < one.until) {
                    promotion.until = now + LASTS;
                }
            }
            // Another one may give up what it had begun, too.
            Says::Aborted => self.0 = self.0.filter(|promotion| promotion.by != by),
            Says::Promoting { .. } | Says::Other => {}
        }
        None
    }

    /// Why nothing may be open here.
    pub fn objects(&self, now: Instant) -> Option<String> {
        let promotion = self.0.filter(|promotion| now < promotion.until)?;
        Some(format!("a Sentinel promotes {}", promotion.server))
    }
}

/// What Sentinels' events say of this node.
#[derive(Debug, Default)]
pub struct Chosen {
    /// The run of Redis that is promoted.
    run: Option<String>,
    /// One of them has told it to be primary: until when that stands, and which.
    told: Option<(Instant, SocketAddr)>,
    /// One of them made it a replica: when last, and whose.
    turned: Option<(Instant, SocketAddr)>,
}

/// A promotion that was taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenBack {
    /// Until when it is repeated.
    until: Instant,
    /// One that has restarted since may have lost what it had.
    run: String,
    /// Another failover makes it another's replica.
    of: SocketAddr,
}

impl Chosen {
    /// Takes what the Sentinel `by` says, on the node whose Redis is at `me`, of the run `run` where that is known: what is to be repeated.
    pub fn heard(
        &mut self,
        by: SocketAddr,
        says: &Says,
        me: SocketAddr,
        run: Option<&str>,
        now: Instant,
    ) -> Option<TakenBack> {
        let me = canonical(me);
        match says {
            Says::Promoting { server, told } if *server == me => {
                self.run = run.map(str::to_owned).or(self.run.take());
                if !told {
                    // Nor is the old primary closed yet.
                    return None;
                }
                self.told = Some((now + STANDS_FOR, by));
                let (at, of) = self.turned.take()?;
                self.taken_back(of, now).filter(|_| now < at + CROSSED)
            }
            Says::MadeReplica { server, of } if *server == me => {
                self.turned = Some((now, *of));
                self.taken_back(*of, now)
            }
            // Another one may give up what it had begun, too.
            Says::Aborted if self.told.is_some_and(|(_, told_by)| told_by != by) => None,
            Says::MadeReplica { .. } | Says::Other => None,
            // Two failovers at once are Sentinels' to settle.
            Says::Promoting { .. } | Says::Aborted => {
                (self.told, self.turned) = (None, None);
                None
            }
        }
    }

    /// Whether one of them has it promoted.
    pub fn stands(&self) -> bool {
        self.told.is_some()
    }

    fn taken_back(&self, of: SocketAddr, now: Instant) -> Option<TakenBack> {
        let (until, _) = self.told.filter(|(until, _)| now < *until)?;
        let until = until.min(now + WATCHED_FOR);
        Some(TakenBack { until, run: self.run.clone()?, of })
    }
}

/// The repeating, and what comes of it.
#[derive(Debug, Default)]
pub struct Defence {
    job: Option<JoinHandle<Result<u32, String>>>,
    stands: Stands,
}

/// What is repeated now: it may change, and end, at any moment.
#[derive(Debug, Clone, Default)]
struct Stands(Arc<Mutex<Option<TakenBack>>>);

impl Stands {
    fn lock(&self) -> MutexGuard<'_, Option<TakenBack>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Option<TakenBack> {
        self.lock().clone().filter(|taken_back| Instant::now() < taken_back.until)
    }
}

impl Defence {
    /// Begins, or goes on if it is under way.
    pub fn begin(&mut self, redis: SocketAddr, credentials: &Credentials, taken_back: TakenBack) {
        *self.stands.lock() = Some(taken_back);
        if self.job.is_none() {
            let (credentials, stands) = (credentials.clone(), self.stands.clone());
            self.job = Some(spawn_blocking(move || defend(redis, &credentials, &stands)));
        }
    }

    /// Nothing is repeated from now on.
    pub fn end(&mut self) {
        *self.stands.lock() = None;
    }

    /// What runs.
    pub fn job(&mut self) -> &mut Option<JoinHandle<Result<u32, String>>> {
        &mut self.job
    }
}

/// Promotes as often as it is taken back; says how often that was.
fn defend(redis: SocketAddr, credentials: &Credentials, stands: &Stands) -> Result<u32, String> {
    let mut repeated = 0;
    let mut trouble = None;
    while let Some(taken_back) = stands.now() {
        trouble = match instance::ask(redis, credentials, ANSWER_WITHIN) {
            Ok(instance) => match is_taken_back(&instance, &taken_back) {
                // It may have been called off while Redis was asked.
                Ok(true) if stands.now().is_some() => {
                    repeated += 1;
                    promote(redis, credentials).err()
                }
                Ok(_) => None,
                Err(why) => return Err(why.to_owned()),
            },
            // Whoever turns a server around breaks all connections to it.
            Err(error) => Some(error.to_string()),
        };
        sleep(LOOKS);
    }
    trouble.map_or(Ok(repeated), Err)
}

/// As Sentinel does it, with its file: else it is a replica again when it has restarted.
fn promote(redis: SocketAddr, credentials: &Credentials) -> Result<(), String> {
    let commands: [&[&str]; 2] = [&["REPLICAOF", "NO", "ONE"], &["CONFIG", "REWRITE"]];
    let failed = |why: String| Err(format!("REPLICAOF NO ONE: {why}"));
    match server::ask_each(redis, credentials, ANSWER_WITHIN, &commands).as_deref() {
        // One without a file has none to write.
        Ok([Value::Okay, _]) => Ok(()),
        Ok(replies) => failed(replies.first().map_or_else(String::new, server::shown)),
        Err(error) => failed(error.to_string()),
    }
}

/// A replica, of whom it was made one, whose data is still what it was: one that has taken over another's, or is about to, is no better than that
/// other. Why it is not to be promoted again, where that is so.
fn is_taken_back(instance: &Instance, taken_back: &TakenBack) -> Result<bool, &'static str> {
    match &instance.role {
        _ if instance.run_id != taken_back.run => Err("it has restarted"),
        ServerRole::Replica { .. } if instance.loading => Err("it takes over another's data"),
        ServerRole::Replica { link_up: true, .. } => Err("it has taken over another's data"),
        ServerRole::Replica { of, .. } if !is_at(of, taken_back.of) => Err("it follows another primary"),
        ServerRole::Replica { .. } => Ok(true),
        ServerRole::Primary { .. } | ServerRole::Unknown => Ok(false),
    }
}

/// Whether a replica of `of`, host and port without brackets, is that server's.
fn is_at(of: &str, server: SocketAddr) -> bool {
    let address = of.rsplit_once(':').and_then(|(host, port)| Some((host.parse::<IpAddr>().ok()?, port.parse().ok()?)));
    address.is_some_and(|(ip, port)| canonical(SocketAddr::new(ip, port)) == canonical(server))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 6379))
    }

    /// The Sentinel on that node.
    fn by(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 26379))
    }

    fn promoting(n: u8, told: bool) -> Says {
        Says::Promoting { server: at(n), told }
    }

    fn made_replica(n: u8) -> Says {
        Says::MadeReplica { server: at(n), of: at(2) }
    }

    #[test]
    fn a_promotion_is_defended_where_it_is_taken_back_and_while_it_stands() {
        let began = Instant::now();
        let ms = |ms: u64| began + Duration::from_millis(ms);
        let (begun, mine, others) = (promoting(1, false), promoting(1, true), promoting(3, true));
        let (turned, another) = (made_replica(1), made_replica(3));
        // What was heard last, and when: whether it is defended then, and until when.
        type Case<'s> = (&'s [(u64, &'s Says)], Option<u64>);
        let cases: [Case; 13] = [
            (&[(0, &begun), (100, &mine), (700, &turned)], Some(1300)),
            (&[(0, &mine), (2300, &turned)], Some(2500)),
            (&[(0, &mine), (700, &another)], None),
            (&[(0, &mine), (2600, &turned)], None),
            // Whoever promotes it has not told it so yet.
            (&[(0, &begun), (50, &turned)], None),
            (&[(0, &begun), (50, &turned), (100, &mine)], Some(700)),
            (&[(0, &turned), (100, &begun)], None),
            (&[(0, &turned), (600, &mine)], None),
            (&[(0, &mine), (100, &Says::Other)], None),
            (&[(0, &mine), (100, &Says::Aborted), (200, &turned)], None),
            (&[(0, &mine), (100, &others), (200, &turned)], None),
            (&[(0, &turned), (100, &others), (200, &mine)], None),
            (&[(0, &turned)], None),
        ];
        for (heard, until) in cases {
            let mut chosen = Chosen::default();
            let heard_at = |(at_ms, says): &(u64, &Says)| chosen.heard(by(1), says, at(1), Some("run"), ms(*at_ms));
            let last = heard.iter().map(heard_at).last().flatten();
            let wanted = until.map(|until| TakenBack { until: ms(until), run: "run".to_owned(), of: at(2) });
            assert_eq!(last, wanted, "{heard:?}");
        }
        // Another Sentinel, which was not elected, gives up.
        let mut chosen = Chosen::default();
        chosen.heard(by(1), &mine, at(1), Some("run"), ms(0));
        chosen.heard(by(3), &Says::Aborted, at(1), Some("run"), ms(100));
        assert!(chosen.stands() && chosen.heard(by(2), &turned, at(1), Some("run"), ms(200)).is_some());
    }

    #[test]
    fn what_is_defended_is_the_run_that_was_promoted() {
        let now = Instant::now();
        let run = |first: Option<&str>, second: Option<&str>, then: Option<&str>| {
            let mut chosen = Chosen::default();
            chosen.heard(by(1), &promoting(1, false), at(1), first, now);
            chosen.heard(by(1), &promoting(1, true), at(1), second, now);
            chosen.heard(by(1), &made_replica(1), at(1), then, now).map(|taken_back| taken_back.run)
        };
        assert_eq!(run(Some("a"), None, Some("b")).as_deref(), Some("a"));
        assert_eq!(run(Some("a"), Some("b"), None).as_deref(), Some("b"));
        assert_eq!(run(None, None, Some("b")), None, "it may have restarted in between");
    }

    #[test]
    fn others_are_closed_while_it_is_promoted_and_as_long_again_where_it_is_taken_back() {
        let began = Instant::now();
        let ms = |ms: u64| began + Duration::from_millis(ms);
        // What was heard, and when: until when nothing may be open.
        type Case<'s> = (&'s [(u64, Says)], u64);
        let cases: [Case; 7] = [
            (&[(0, promoting(2, false)), (100, promoting(2, true))], 3100),
            (&[(0, promoting(2, true)), (900, made_replica(2))], 3900),
            (&[(0, promoting(2, true)), (900, made_replica(1))], 3000),
            (&[(0, promoting(2, true)), (900, promoting(1, true))], 3000),
            (&[(0, promoting(2, true)), (900, Says::Aborted)], 0),
            (&[(0, made_replica(2))], 0),
            (&[(0, promoting(1, true))], 0),
        ];
        for (heard, until) in cases {
            let mut another = Another::default();
            let mut new = Vec::new();
            for (at_ms, says) in heard {
                new.extend(another.heard(by(1), says, at(1), ms(*at_ms)).map(|_| *at_ms));
            }
            let promoted = |(at, says): &(u64, Says)| {
                matches!(says, Says::Promoting { server, .. } if *server == self::at(2)).then_some(*at)
            };
            assert_eq!(new, heard.iter().filter_map(promoted).collect::<Vec<_>>(), "{heard:?}");
            let last = heard.last().map_or(0, |(at, _)| *at);
            let objects = |at: u64| another.objects(ms(at)).as_deref() == Some("a Sentinel promotes 10.0.0.2:6379");
            assert_eq!((last..=5000).filter(|at| objects(*at)).count() as u64, until.saturating_sub(last), "{heard:?}");
        }
        // One that comes when all is over begins nothing.
        let mut another = Another::default();
        another.heard(by(1), &promoting(2, true), at(1), ms(0));
        assert_eq!(another.heard(by(3), &made_replica(2), at(1), ms(3000)), None);
        assert_eq!(another.objects(ms(3001)), None);
        another.heard(by(1), &promoting(2, true), at(1), ms(4000));
        another.heard(by(3), &Says::Aborted, at(1), ms(4100));
        assert!(another.objects(ms(4200)).is_some(), "it is another's failover that ended");
    }

    fn replica(of: &str, link_up: bool, loading: bool) -> Instance {
        let role = ServerRole::Replica { of: of.to_owned(), link_up, link_down_for: None };
        Instance { run_id: "run".to_owned(), role, loading, ..Instance::default() }
    }

    #[test]
    fn one_that_has_the_data_of_another_or_follows_another_is_not_promoted() {
        let taken_back = TakenBack { until: Instant::now(), run: "run".to_owned(), of: at(2) };
        let is = |instance: &Instance| is_taken_back(instance, &taken_back);
        let ours = replica("10.0.0.2:6379", false, false);
        assert_eq!(is(&ours), Ok(true));
        let primary = ServerRole::Primary { replicas: vec![] };
        assert_eq!(is(&Instance { role: primary.clone(), ..ours.clone() }), Ok(false));
        let restarted = |role: &ServerRole| Instance { run_id: "other".to_owned(), role: role.clone(), ..ours.clone() };
        for other in [
            replica("10.0.0.2:6379", true, false),
            replica("10.0.0.2:6379", false, true),
            replica("10.0.0.3:6379", false, false),
            replica("10.0.0.2:6380", false, false),
            replica("redis2:6379", false, false),
            restarted(&ours.role),
            restarted(&primary),
        ] {
            assert!(is(&other).is_err(), "{other:?}");
        }
        let (six, four) = ("[fd00::2]:6379".parse().unwrap(), "[::ffff:10.0.0.2]:6379".parse().unwrap());
        assert!(is_at("fd00::2:6379", six) && is_at("10.0.0.2:6379", four) && !is_at("fd00::2", six));
    }

    /// Takes connections one after the other, and answers each with one of `answers`, the last one again and again; says how often something was
    /// asked with `word`.
    fn asked_with(word: &'static str, answers: &[Option<String>], stands: Stands) -> (u32, Result<u32, String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let defence = thread::spawn(move || defend(address, &Credentials::default(), &stands));
        listener.set_nonblocking(true).unwrap();
        let mut answers = answers.iter().peekable();
        let mut count = 0;
        while !defence.is_finished() {
            let Ok((mut stream, _)) = listener.accept() else {
                sleep(Duration::from_millis(2));
                continue;
            };
            let answer = if answers.len() > 1 { answers.next().unwrap() } else { *answers.peek().unwrap() };
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut buffer = [0; 4096];
            let read = stream.read(&mut buffer).unwrap();
            count += u32::from(String::from_utf8_lossy(&buffer[..read]).contains(word));
            // None of them, and the connection is broken.
            _ = answer.as_ref().map(|answer| stream.write_all(answer.as_bytes()));
        }
        (count, defence.join().unwrap())
    }

    /// What it says to INFO.
    fn info(lines: &str) -> String {
        format!("${}\r\nrun_id:run\r\n{lines}\r\n$0\r\n\r\n$0\r\n\r\n", "run_id:run\r\n".len() + lines.len())
    }

    const DONE: &str = "+OK\r\n+OK\r\n";

    fn stands(lasts: Duration) -> Stands {
        let taken_back = TakenBack { until: Instant::now() + lasts, run: "run".to_owned(), of: at(2) };
        Stands(Arc::new(Mutex::new(Some(taken_back))))
    }

    #[test]
    fn connections_that_break_while_it_is_turned_around_are_made_anew() {
        let replica = || Some(info("role:slave\r\nmaster_host:10.0.0.2\r\nmaster_port:6379\r\n"));
        let primary = || Some(info("role:master\r\n"));
        let done = Some(DONE.to_owned());
        let (asked, result) = asked_with("REPLICAOF", &[None, None, replica(), None, primary()], stands(WATCHED_FOR));
        assert_eq!((asked, result), (1, Ok(1)));
        let (asked, result) = asked_with("REWRITE", &[replica(), done, primary()], stands(WATCHED_FOR));
        assert_eq!((asked, result), (1, Ok(1)));
        let (_, result) = asked_with("INFO", &[None], stands(Duration::from_millis(200)));
        assert!(result.is_err(), "{result:?}");
    }

    #[test]
    fn what_was_called_off_is_not_repeated() {
        let stands = stands(Duration::from_secs(60));
        let mut defence = Defence { job: None, stands: stands.clone() };
        defence.end();
        let (asked, result) = asked_with("REPLICAOF", &[None], stands);
        assert_eq!((asked, result), (0, Ok(0)));
    }
}
