//! What a switchover's marks in the Redis of this node ([`crate::switchover`]) mean here.
//!
//! * Where one has stopped writes, the read-write port closes: before a Sentinel is asked to promote another server.
//! * One that stands still is put back: whoever set it has died, or hangs. Sentinel may have written it into the configuration file
//!   meanwhile; then that is written anew.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::task::{JoinHandle, spawn_blocking};

use crate::logging::{Subject, decided};
use crate::server::{self, AskError, Credentials, Value};
use crate::switchover::{self, BELONGS_FOR, Changed, Mark, Setting};
use crate::wire::Reply;

/// Two looks that are further apart do not tell whether a mark stood still: as many may have passed as there are.
const FAR_APART: Duration = Duration::from_millis(2000);

/// Writes are let through again so much later while a Sentinel is in a failover: what is written before it ends would be lost.
const WHILE_FAILING_OVER: Duration = Duration::from_millis(2000);

/// While a switchover is under way Redis is asked so often: the port is to close at once.
pub const SOON: Duration = Duration::from_millis(40);

/// After an attempt that failed.
const PAUSE: Duration = Duration::from_secs(1);

const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What a dead switchover has left is put back by then, in Redis and on its disk.
const MENDED_WITHIN: Duration = Duration::from_secs(5);

// A mark is seen, stands still, is put back, and with the next look the file is looked at. The rest is for Redis' answers.
const _: () = {
    let stands = BELONGS_FOR.as_millis() + WHILE_FAILING_OVER.as_millis();
    assert!(stands + 3 * SOON.as_millis() + 300 < MENDED_WITHIN.as_millis());
};

/// See the module.
pub struct Keeper {
    subject: Subject,
    master: String,
    redis: SocketAddr,
    credentials: Credentials,
    watch: Watch,
    job: Option<JoinHandle<Result<Done, String>>>,
    not_before: Option<Instant>,
    said: String,
}

enum Done {
    PutBack,
    Checked,
}

/// What was seen of the settings so far.
#[derive(Debug, Default)]
struct Watch {
    /// The marks that stand now, and since when.
    marks: [Option<(Mark, Instant)>; 2],
    /// When each was seen last.
    seen: [Option<Instant>; 2],
    /// The configuration file has no mark of before.
    file_is_clean: bool,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    /// This mark is nobody's.
    PutBack(Setting, Mark),
    /// The configuration file may hold a mark.
    Check,
}

impl Watch {
    /// With the values of [`Setting::ALL`]; None where one could not be told. `failing_over`: a Sentinel is in a failover of this primary.
    fn see(&mut self, now: Instant, values: [Option<u32>; 2], failing_over: bool) -> Due {
        let mut due = Due::Nothing;
        let mut all_clear = true;
        for (n, setting) in Setting::ALL.into_iter().enumerate() {
            let Some(value) = values[n] else {
                all_clear = false;
                continue;
            };
            let last = self.seen[n].replace(now);
            let Some(mark) = Mark::of(value) else {
                self.marks[n] = None;
                continue;
            };
            all_clear = false;
            self.file_is_clean = false;
            let together = last.is_some_and(|last| now.saturating_duration_since(last) < FAR_APART);
            let since = self.marks[n].filter(|(seen, _)| *seen == mark && together).map_or(now, |(_, since)| since);
            self.marks[n] = Some((mark, since));
            let longer = match setting {
                Setting::MinReplicas if failing_over => WHILE_FAILING_OVER,
                _ => Duration::ZERO,
            };
            if due == Due::Nothing && now >= since + BELONGS_FOR + longer {
                due = Due::PutBack(setting, mark);
            }
        }
        // What is written while a mark stands would hold it.
        if all_clear && !self.file_is_clean { Due::Check } else { due }
    }
}

impl Keeper {
    /// For the Redis of one master name on a node.
    pub fn new(subject: Subject, master: &str, redis: SocketAddr, credentials: Credentials) -> Self {
        Keeper {
            subject,
            master: master.to_owned(),
            redis,
            credentials,
            watch: Watch::default(),
            job: None,
            not_before: None,
            said: String::new(),
        }
    }

    /// Whether a switchover is under way, or left something. Until what is put back has been seen, too: the file is looked at behind that.
    pub fn is_under_way(&self) -> bool {
        self.watch.marks != [None, None] || self.job.is_some()
    }

    /// Why nothing should be written to this Redis, where it is the primary.
    pub fn objects(&self) -> Option<String> {
        self.watch.marks[0].map(|_| "a switchover has stopped writes".to_owned())
    }

    /// Does what is to be done, if anything is, when Redis has answered [`switchover::QUESTION`]. `failing_over`: a Sentinel is in a failover of it.
    pub fn keep(&mut self, now: Instant, replies: &[Reply], failing_over: bool) {
        let value = |n: usize| replies.get(n).cloned().and_then(switchover::number);
        let due = self.watch.see(now, [value(0), value(1)], failing_over);
        if self.job.is_some() || self.not_before.is_some_and(|at| now < at) {
            return;
        }
        let (subject, master) = (self.subject.clone(), self.master.clone());
        let (redis, credentials) = (self.redis, self.credentials.clone());
        self.job = match due {
            Due::Nothing => return,
            Due::PutBack(setting, mark) => {
                Some(spawn_blocking(move || put_back(redis, &credentials, &subject, &master, setting, mark)))
            }
            Due::Check => Some(spawn_blocking(move || check(redis, &credentials, &subject, &master))),
        };
    }

    /// Takes note of what has ended.
    pub fn poll(&mut self, context: &mut Context<'_>) {
        let Some(job) = &mut self.job else { return };
        let Poll::Ready(result) = Pin::new(job).poll(context) else { return };
        self.job = None;
        self.not_before = None;
        let why = match result {
            Ok(Ok(Done::PutBack)) => {
                self.said.clear();
                return;
            }
            Ok(Ok(Done::Checked)) => {
                // Whatever was marked meanwhile has its own check.
                self.watch.file_is_clean = self.watch.marks == [None, None];
                return;
            }
            Ok(Err(why)) => why,
            // It has said so on stderr.
            Err(_) => return,
        };
        self.not_before = Some(Instant::now() + PAUSE);
        // Once, not every second for hours.
        if self.said != why {
            decided!(warn, self.subject, why, "{}: what a switchover left is not put back: {why}", self.master);
            self.said = why;
        }
    }
}

fn ask(redis: SocketAddr, credentials: &Credentials, command: &[&str]) -> Result<Value, String> {
    let failed = |why: String| format!("{}: {why}", command.join(" "));
    match server::ask(redis, credentials, ANSWER_WITHIN, &[command]).map(|replies| replies.into_iter().next()) {
        Ok(Some(error @ Value::ServerError(_))) => Err(failed(server::shown(&error))),
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => Err(failed(AskError::Silent.to_string())),
        Err(error) => Err(failed(error.to_string())),
    }
}

fn put_back(
    redis: SocketAddr,
    credentials: &Credentials,
    subject: &Subject,
    master: &str,
    setting: Setting,
    mark: Mark,
) -> Result<Done, String> {
    let name = setting.name();
    match switchover::change(redis, credentials, ANSWER_WITHIN, setting, &[mark.value()], mark.before()) {
        Changed::Done => {
            decided!(
                info,
                subject,
                "switchover",
                "{master}: {name} is {} again: a switchover that did not end had left {}",
                mark.before(),
                mark.value()
            );
            Ok(Done::PutBack)
        }
        // Somebody goes on with it, or has put it back.
        Changed::Other(_) => Ok(Done::PutBack),
        Changed::No(why) | Changed::Unknown(why) => Err(why),
    }
}

/// Has the configuration file written anew where it holds a mark.
fn check(redis: SocketAddr, credentials: &Credentials, subject: &Subject, master: &str) -> Result<Done, String> {
    let info = server::text(&ask(redis, credentials, &["INFO", "server"])?).unwrap_or_default();
    let file = info.lines().find_map(|line| line.trim_end().strip_prefix("config_file:")).unwrap_or_default();
    // One without a file, or out of our sight, keeps nothing that we could see.
    if file.is_empty() || !holds_mark(Path::new(file)) {
        return Ok(Done::Checked);
    }
    ask(redis, credentials, &["CONFIG", "REWRITE"])?;
    decided!(
        info,
        subject,
        "switchover",
        "{master}: {file} is written anew: it held what a switchover sets for a while"
    );
    Ok(Done::Checked)
}

/// Whether a configuration file holds a mark, in whatever encoding its comments are.
fn holds_mark(file: &Path) -> bool {
    fs::read(file).is_ok_and(|text| switchover::marked(&String::from_utf8_lossy(&text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_in_a_file_of_any_encoding() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("redis.conf");
        assert!(!holds_mark(&path), "there is none");
        let mark = Mark::new(100, 5).unwrap().value();
        fs::write(&path, [b"# caf\xe9\nreplica-priority ".as_slice(), mark.to_string().as_bytes(), b"\n"].concat())
            .unwrap();
        assert!(holds_mark(&path));
        fs::write(&path, b"# caf\xe9\nreplica-priority 100\n").unwrap();
        assert!(!holds_mark(&path));
    }

    /// Redis' answers to [`switchover::QUESTION`].
    fn answers(values: [u32; 2]) -> Vec<Value> {
        let bulk = |text: String| Value::BulkString(text.into_bytes());
        let answer = |(setting, value): (Setting, u32)| {
            Value::Array(vec![bulk(setting.name().to_owned()), bulk(value.to_string())])
        };
        Setting::ALL.into_iter().zip(values).map(answer).collect()
    }

    fn replies(values: &[Value]) -> Vec<Reply<'_>> {
        values.iter().map(Reply::from).collect()
    }

    #[test]
    fn a_switchover_is_under_way_from_its_first_mark_until_what_is_put_back_has_been_looked_at() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let mut keeper =
            Keeper::new(Subject::of(Some("mymaster"), Some("node1")), "mymaster", nobody, Credentials::default());
        assert!(!keeper.is_under_way(), "nothing was seen yet");
        runtime.block_on(async {
            let begun = Instant::now();
            let at = |ms: u64| begun + Duration::from_millis(ms);
            keeper.watch.file_is_clean = true;
            keeper.keep(at(0), &replies(&answers([0, 100])), false);
            assert!(!keeper.is_under_way());
            for marks in [[0, marked(100, 1).value()], [marked(1, 1).value(), 100]] {
                keeper.keep(at(10), &replies(&answers(marks)), false);
                assert!(keeper.is_under_way() && keeper.job.is_none(), "{marks:?}");
            }
            // What cannot be told has not ended.
            keeper.keep(at(20), &[], false);
            assert!(keeper.is_under_way());
            keeper.keep(at(30), &replies(&answers([1, 100])), false);
            assert!(keeper.is_under_way() && keeper.watch.marks == [None, None], "the file is looked at");
            std::future::poll_fn(|context| {
                keeper.poll(context);
                if keeper.job.is_some() { Poll::Pending } else { Poll::Ready(()) }
            })
            .await;
            assert!(!keeper.is_under_way());
        });
    }

    /// Each further beat is another mark.
    fn marked(before: u32, beat: u32) -> Mark {
        (0..beat).fold(Mark::new(before, 5).unwrap(), |mark, _| mark.next())
    }

    /// Looks each 0.4 s for a while: what is due at the end, and before.
    fn looks(
        watch: &mut Watch,
        begun: Instant,
        ms: std::ops::RangeInclusive<u64>,
        values: [u32; 2],
        over: bool,
    ) -> Due {
        let mut due = Due::Nothing;
        for at in ms.step_by(400) {
            assert_eq!(due, Due::Nothing, "at {at}");
            due = watch.see(begun + Duration::from_millis(at), values.map(Some), over);
        }
        due
    }

    #[test]
    fn a_mark_that_stands_still_is_put_back_and_then_the_file_is_checked() {
        let (mut watch, begun) = (Watch::default(), Instant::now());
        let at = |ms: u64| begun + Duration::from_millis(ms);
        // What a keeper before this one saw, this one does not know.
        assert_eq!(watch.see(at(0), [Some(0), Some(100)], false), Due::Check);
        watch.file_is_clean = true;
        assert_eq!(watch.see(at(0), [Some(0), Some(100)], false), Due::Nothing);
        let stop = marked(1, 0);
        assert_eq!(looks(&mut watch, begun, 400..=2800, [stop.value(), 100], false), Due::Nothing);
        assert_eq!(
            watch.see(at(2900), [Some(stop.value()), Some(100)], false),
            Due::PutBack(Setting::MinReplicas, stop)
        );
        // Could not tell is neither.
        assert_eq!(watch.see(at(3000), [None, Some(100)], false), Due::Nothing);
        assert_eq!(watch.see(at(3200), [Some(1), Some(100)], false), Due::Check);
        assert_eq!(watch.see(at(3600), [Some(1), Some(100)], false), Due::Check);
    }

    #[test]
    fn one_that_changes_belongs_to_somebody_even_where_none_was_seen_for_long() {
        let (mut watch, begun) = (Watch::default(), Instant::now());
        for beat in 0..20_u32 {
            let from = u64::from(beat) * 1000;
            let values = [0, marked(100, beat).value()];
            assert_eq!(looks(&mut watch, begun, from..=from + 800, values, false), Due::Nothing);
        }
        // Eight beats later it is the same number.
        assert_eq!(marked(100, 27), marked(100, 19));
        let values = [0, marked(100, 27).value()];
        assert_eq!(looks(&mut watch, begun, 27_000..=29_400, values, false), Due::Nothing);
        let late = begun + Duration::from_millis(29_500);
        assert_eq!(watch.see(late, values.map(Some), false), Due::PutBack(Setting::Priority, marked(100, 27)));
    }

    #[test]
    fn writes_go_on_later_where_a_failover_may_still_be() {
        let (mut watch, begun) = (Watch::default(), Instant::now());
        let values = [marked(0, 1).value(), 100];
        assert_eq!(looks(&mut watch, begun, 0..=4400, values, true), Due::Nothing);
        assert_eq!(
            watch.see(begun + Duration::from_millis(4500), values.map(Some), true),
            Due::PutBack(Setting::MinReplicas, marked(0, 1))
        );
        let mut watch = Watch::default();
        let values = [0, marked(100, 1).value()];
        assert_ne!(looks(&mut watch, begun, 0..=2800, values, true), Due::Nothing, "others need not wait");
    }

    #[test]
    fn each_of_two_marks_has_its_time() {
        let (mut watch, begun) = (Watch::default(), Instant::now());
        let at = |ms: u64| begun + Duration::from_millis(ms);
        let behind = marked(100, 1);
        let values = |beat: u32| [Some(marked(0, beat).value()), Some(behind.value())];
        assert_eq!(watch.see(at(0), values(1), false), Due::Nothing);
        assert_eq!(watch.see(at(1500), values(2), false), Due::Nothing);
        assert_eq!(watch.see(at(3000), values(2), false), Due::PutBack(Setting::Priority, behind));
        // No file is written while a mark stands.
        assert_eq!(watch.see(at(3500), [values(3)[0], Some(100)], false), Due::Nothing);
        assert_eq!(watch.see(at(4000), [Some(0), Some(100)], false), Due::Check);
    }
}
