//! `rolegate switchover`: the primary moves to another node, and nothing that was acknowledged is lost.
//!
//! What is decided is in [`preflight`] (whether it may begin) and [`course`] (what comes next); here it is done, by talking to the servers
//! and Sentinels themselves: from any node. What is set meanwhile says by itself that it is a switchover's ([`crate::switchover`]), and
//! each node's keeper puts it back when this program dies. What closes the old gate and opens the new one is what does so in any failover;
//! only Pacemaker is told a moment sooner.

mod course;
mod interruption;
mod preflight;

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use self::course::{ASKS_WITHIN, Act, Course, End, Named, Position, Seen, Standing, To, Watched};
pub(super) use self::interruption::Interruption;
use self::preflight::{Judgement, Party, Plan, Scene, Told};
use super::facts;
use super::fence::operator;
use super::{Gate, Stop, gates, probe, say};
use crate::exit::CliCode;
use crate::instance::{self, ServerRole};
use crate::lease;
use crate::lease::mark::Marks;
use crate::logging::{Subject, decided};
use crate::pacemaker::cib::Node;
use crate::pacemaker::{self, Cib, PacemakerError};
use crate::record::canonical;
use crate::role::Role;
use crate::roles;
use crate::sentinel::{self, Begun, Heard, Place, Verdict};
use crate::server::{self, AskError, Credentials};
use crate::settings::Settings;
use crate::switchover::{self, Changed, Mark, Setting};
use crate::together::together;

/// For a question while nobody may write.
const QUICK: Duration = Duration::from_millis(400);

/// Whom Sentinels name is asked again and again; one that stands still must not hold that up.
const NAMING: Duration = Duration::from_millis(150);

/// How old may be what the cluster said of both nodes.
const KNOWN_FOR: Duration = Duration::from_secs(6);

/// Between two looks whether it has said so.
const SOON: Duration = Duration::from_millis(10);

/// How long the look before may take.
const LOOK: Duration = Duration::from_secs(2);

/// How long Pacemaker may take to come to rest.
const REST: Duration = Duration::from_secs(10);

/// So long before it has to be asked for, no moment is waited for any more.
const HURRIES: Duration = Duration::from_secs(3);

/// How long the old primary may take to take writes again, when it is let.
const REOPENS_WITHIN: Duration = Duration::from_secs(3);

/// The Sentinels are asked whom they name once in so many looks at the target.
const SENTINELS_EVERY: u32 = 8;

/// The arguments of switchover.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Before it stops writes it waits for the moment at which the pause is shortest: mostly under 7 s,
25 s at most. Ctrl-C is safe at any time: it goes back, or forward where a failover is under way.")]
pub struct Args {
    /// The node that becomes primary; without it the best one
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Which master name, where there are several
    #[arg(long, value_name = "NAME")]
    master: Option<String>,
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
}

/// `rolegate switchover`.
pub fn run(args: &Args) -> Result<CliCode, Stop> {
    let settings = Settings::load()?;
    let cluster = super::look()?;
    let (guards, _) = gates(&cluster.cib);
    let gate = match (&args.master, guards.as_slice()) {
        (_, []) => return Err(Stop::refused(format!("the cluster has no gate. Make one:\n{}", super::CREATE))),
        (None, [gate]) => gate,
        (wanted, _) => {
            let known: Vec<&str> = guards.iter().map(|gate| gate.params.master.as_str()).collect();
            let found = guards.iter().find(|gate| Some(&gate.params.master) == wanted.as_ref());
            found.ok_or_else(|| {
                Stop::refused(format!("which master name? --master NAME, one of {}", known.join(", ")))
            })?
        }
    };
    let master = &gate.params.master;
    let to = args.to.as_deref();
    let scene = look(gate, &settings, REST)?;
    let plan = match preflight::judge(&scene, to) {
        Judgement::Go(plan) => *plan,
        Judgement::Already(node) => {
            say(format!("{master}: {node} is primary and takes writes: nothing to do"));
            return Ok(CliCode::Ok);
        }
        Judgement::No(why) => {
            let to = to.map(|to| format!(" to {to}")).unwrap_or_default();
            return Err(Stop::refused(format!("no switchover of {master}{to}:\n  {}", why.join("\n  "))));
        }
    };
    say(format!("{master}: from {} to {}", plan.old.name, plan.target.name));
    if args.dry_run {
        dry(&plan);
        return Ok(CliCode::Ok);
    }
    let interruption = Interruption::listen();
    Ok(Doing::new(gate, &settings, plan).run(&interruption, None).1)
}

/// What came of moving the primary away.
pub(super) enum Away {
    /// Another node takes writes.
    Moved,
    /// It is where it was: why.
    Not(String),
    /// Somebody does not want it any more.
    Interrupted,
}

/// Moves the primary away from `node`, where it is its primary. By `until` a Sentinel has been asked, or it goes back.
pub(super) fn away(gate: &Gate, settings: &Settings, node: &str, interruption: &Interruption, until: Instant) -> Away {
    let rest = REST.min(until.saturating_duration_since(Instant::now()));
    let scene = match look(gate, settings, rest) {
        Ok(scene) => scene,
        Err(stop) => return Away::Not(stop.message),
    };
    let plan = match preflight::judge(&scene, None) {
        Judgement::Go(plan) => *plan,
        Judgement::Already(_) => return Away::Not("it is there already".to_owned()),
        Judgement::No(why) => return Away::Not(why.join("; ")),
    };
    let (master, from) = (&gate.params.master, &plan.old.name);
    if !from.eq_ignore_ascii_case(node) {
        return Away::Moved;
    }
    say(format!("{master}: first from {from} to {} (--no-switchover does without)", plan.target.name));
    match Doing::new(gate, settings, plan).run(interruption, Some(until)).0 {
        To::Forward(_) | To::Closed(_) => Away::Moved,
        _ if interruption.raised() => Away::Interrupted,
        To::Back(why) | To::Open(why) => Away::Not(why),
    }
}

/// Says what would be done.
fn dry(plan: &Plan) {
    let (old, target) = (&plan.old.name, &plan.target.name);
    for (other, priority) in &plan.behind {
        say(format!(
            "  would put {} behind {target} in Sentinel's choice for the while (replica-priority, now {priority})",
            other.name
        ));
    }
    say(format!(
        "  would wait until a Sentinel knows that, and sees a promotion at once (at most {} s)",
        course::WAITS_AT_MOST.as_secs()
    ));
    say(format!(
        "  would stop writes at {old} (min-replicas-to-write, now {}), close it, and wait until every replica has all",
        plan.min_replicas
    ));
    say("  would ask that Sentinel for a failover, and put all settings back");
    say("Nothing was changed.");
}

/// All that is looked at before.
fn look(gate: &Gate, settings: &Settings, rest: Duration) -> Result<Scene, Stop> {
    let record = gate.params.record.as_ref().map_err(|error| Stop::refused(error.to_string()))?;
    // What was asked for a moment ago may still be under way.
    let until = Instant::now() + rest;
    let idle = loop {
        match pacemaker::is_idle() {
            Ok(false) if Instant::now() < until => thread::sleep(Duration::from_millis(200)),
            other => break other.map_err(|error| error.to_string()),
        }
    };
    let seen = facts::cluster(LOOK);
    let Some(cib) = &seen.cib else {
        return Err(Stop::unknown(seen.facts.error.unwrap_or_else(|| "Pacemaker does not answer".to_owned())));
    };
    let group = facts::group(gate, cib, seen.mon.as_ref(), settings, Instant::now() + LOOK);
    let within = settings.answer_within;
    let ask = record.nodes().iter().map(|node| {
        let (address, credentials) = (node.address, settings.redis.clone());
        move || read_settings(address, &credentials, within)
    });
    let answers = together(within, ask);
    let answers = answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(AskError::Silent.to_string())));
    let told = record.sentinels().iter().map(|sentinel| {
        let (address, credentials, master) = (sentinel.address, settings.sentinel.clone(), gate.params.master.clone());
        move || {
            let survey = sentinel::survey(address, &master, &credentials, within).map_err(|error| error.to_string());
            let info = server::ask(address, &credentials, within, &[&["INFO", "sentinel"]]);
            let info = info.ok().and_then(|replies| server::text(replies.first()?)).unwrap_or_default();
            Told { sentinel: address, survey, tilt: info.contains("sentinel_tilt:1") }
        }
    });
    let told = together(within * 2, told).into_iter().flatten().collect();
    let settings = record.nodes().iter().map(|node| node.name.clone()).zip(answers).collect();
    Ok(Scene { cluster: seen.facts, group, idle, settings, told })
}

fn read_settings(
    address: SocketAddr,
    credentials: &Credentials,
    within: Duration,
) -> Result<preflight::Settings, String> {
    let get = |name| ["CONFIG", "GET", name];
    let questions = ["min-replicas-to-write", "min-replicas-max-lag", "replica-priority"].map(get);
    let commands: Vec<&[&str]> = questions.iter().map(|words| &words[..]).collect();
    let replies = server::ask(address, credentials, within, &commands).map_err(|error| error.to_string())?;
    let mut numbers = replies.iter().map(|reply| {
        switchover::number(reply).ok_or_else(|| format!("not a reply to CONFIG GET: {}", server::shown(reply)))
    });
    let mut next = || numbers.next().unwrap_or_else(|| Err("too few replies".to_owned()));
    Ok(preflight::Settings { min_replicas: next()?, max_lag: next()?, priority: next()? })
}

/// The old primary's node and the target's in the cluster, or why they are not told.
type Nodes = Result<(Node, Node), String>;

/// A setting that is marked now.
#[derive(Debug, Clone)]
struct Marked {
    party: Party,
    setting: Setting,
    /// The mark that was set last.
    mark: Mark,
    /// Or one of these: where answers did not come.
    maybe: Vec<Mark>,
    /// It was changed then, or later.
    since: Instant,
}

impl Marked {
    /// The values by which it is known as ours.
    fn ours(&self) -> Vec<u32> {
        std::iter::once(&self.mark).chain(&self.maybe).map(|mark| mark.value()).collect()
    }
}

/// A switchover under way.
struct Doing {
    plan: Plan,
    master: String,
    settings: Settings,
    record: crate::record::Record,
    rw: u16,
    attribute: String,
    /// By which its marks are known.
    owner: u32,
    /// Both nodes as the cluster had them when it was asked, or why they are not told.
    nodes: Option<(Instant, Nodes)>,
    asking: Option<(Instant, thread::JoinHandle<Nodes>)>,
    moving: Option<thread::JoinHandle<bool>>,
    marked: Vec<Marked>,
    begun: Instant,
    /// Since when nobody can write.
    stopped: Option<Instant>,
    /// For how long nobody could, each time.
    pauses: Vec<Duration>,
    closed: bool,
    looks: u32,
    /// Whose server is primary, other than the old one's.
    promoted: Option<String>,
    named: Named,
    /// The Sentinels' configuration epoch, as they said last.
    epoch: Option<u64>,
    /// The Sentinels that were asked.
    asked: Vec<SocketAddr>,
    /// Somebody let the old primary go while a failover was under way.
    let_go: bool,
}

impl Doing {
    fn new(gate: &Gate, settings: &Settings, plan: Plan) -> Self {
        let record = gate.params.record.clone();
        Doing {
            epoch: plan.epoch,
            plan,
            master: gate.params.master.clone(),
            settings: settings.clone(),
            // Without one there is no plan.
            record: record.unwrap_or_else(|_| unreachable!("a plan stands on a record")),
            rw: gate.params.ports.rw,
            attribute: gate.params.attribute.clone(),
            owner: some_number(),
            nodes: None,
            asking: None,
            moving: None,
            marked: Vec::new(),
            begun: Instant::now(),
            stopped: None,
            pauses: Vec::new(),
            closed: false,
            looks: 0,
            promoted: None,
            named: Named::Unknown,
            asked: Vec::new(),
            let_go: false,
        }
    }

    /// `until`: it goes back then, where no Sentinel was asked yet.
    fn run(mut self, interruption: &Interruption, until: Option<Instant>) -> (To, CliCode) {
        self.step("every check passed");
        let mut course = Course::new(&self.plan.old.name);
        if let Some(until) = until {
            course = course.hurrying(until.saturating_duration_since(self.begun).saturating_sub(HURRIES));
        }
        let (mut seen, mut said) = (Seen::Nothing, false);
        let mut surveys = 0;
        loop {
            let interrupted = interruption.raised();
            if interrupted && !said {
                said = true;
                let where_to = match self.asked.is_empty() {
                    true => "back",
                    false => "forward: a failover is under way",
                };
                self.step(&format!("interrupted: going {where_to}"));
            }
            let late = until.is_some_and(|until| Instant::now() > until);
            let ends = match (interrupted, late) {
                (true, _) => Some("interrupted"),
                (false, true) => Some("it took too long"),
                _ => None,
            };
            let (pause, act) = course.next(self.begun.elapsed(), ends, seen);
            thread::sleep(pause);
            if act == Act::Survey {
                surveys += 1;
                if surveys == 1 {
                    self.step(&format!(
                        "waiting for the moment at which a Sentinel sees a promotion at once (at most {} s)",
                        course::WAITS_AT_MOST.as_secs()
                    ));
                }
            }
            if let Act::End(end) = act {
                let code = self.ended(&end);
                return (end.to, code);
            }
            seen = self.act(&act);
        }
    }

    /// Says what has just become true.
    fn step(&self, what: &str) {
        say(format!("{:7.3} s  {what}", self.begun.elapsed().as_secs_f64()));
    }

    fn act(&mut self, act: &Act) -> Seen {
        match act {
            Act::Prefer => Seen::Done(self.prefer()),
            Act::Survey => Seen::Sentinels(self.survey()),
            Act::Beat => Seen::Beaten(self.beat()),
            Act::Stop => Seen::Stopped(self.stop()),
            Act::Locate => Seen::Standing(self.locate()),
            Act::FailOver(sentinel) => Seen::Asked(self.fail_over(*sentinel)),
            Act::Watch => Seen::Watched(self.watch()),
            Act::Return => Seen::Done(self.roles_back()),
            Act::Lift => Seen::Done(self.put_back(Setting::MinReplicas)),
            Act::Forget => Seen::Done(self.put_back(Setting::Priority)),
            Act::End(_) => Seen::Nothing,
        }
    }

    fn prefer(&mut self) -> Result<(), String> {
        // Of all the primary's comes first: two that begin at once meet here.
        let lock = (self.plan.old.clone(), self.plan.priority);
        for (n, (party, priority)) in std::iter::once(lock).chain(self.plan.behind.clone()).enumerate() {
            self.mark(&party, Setting::Priority, priority, self.settings.answer_within)?;
            if n > 0 {
                self.step(&format!(
                    "{} is put behind {} in Sentinel's choice (replica-priority)",
                    party.name, self.plan.target.name
                ));
            }
        }
        Ok(())
    }

    /// Marks a setting that is `before`.
    fn mark(&mut self, party: &Party, setting: Setting, before: u32, within: Duration) -> Result<(), String> {
        self.mark_and(party, setting, before, within, &[]).map(drop)
    }

    /// The same, and asks `also` behind it.
    fn mark_and(
        &mut self,
        party: &Party,
        setting: Setting,
        before: u32,
        within: Duration,
        also: &[&[&str]],
    ) -> Result<Vec<server::Value>, String> {
        let mark = Mark::new(before, self.owner).ok_or_else(|| format!("{before} is too great to be marked"))?;
        let since = Instant::now();
        let credentials = &self.settings.redis;
        let (changed, replies) =
            switchover::change_and(party.address, credentials, within, setting, &[before], mark.value(), also);
        let marked = Marked { party: party.clone(), setting, mark, maybe: Vec::new(), since };
        match changed {
            Changed::Done => {
                self.marked.push(marked);
                Ok(replies)
            }
            Changed::Other(value) if Mark::of(value).is_some() => {
                Err(format!("another switchover is under way ({} of {} has its mark)", setting.name(), party.name))
            }
            Changed::Other(value) => Err(format!(
                "{} of {} was changed meanwhile: it was {before} and is {value}",
                setting.name(),
                party.name
            )),
            Changed::No(why) => Err(format!("{}: {why}", party.name)),
            Changed::Unknown(why) => {
                // It may be set though no answer came.
                self.marked.push(marked);
                Err(format!("{}: {why}", party.name))
            }
        }
    }

    /// Asks the cluster about both nodes again and again, beside all else.
    fn know_the_nodes(&mut self) {
        if let Some((at, asking)) = self.asking.take() {
            match asking.is_finished() {
                true => self.nodes = asking.join().ok().map(|nodes| (at, nodes)),
                false => self.asking = Some((at, asking)),
            }
        } else if self.nodes.as_ref().is_none_or(|(at, _)| at.elapsed() > KNOWN_FOR / 3) {
            let (old, target) = (self.plan.old.name.clone(), self.plan.target.name.clone());
            self.asking = Some((Instant::now(), thread::spawn(move || nodes_now(&old, &target))));
        }
    }

    fn survey(&mut self) -> Vec<Option<course::Known>> {
        self.know_the_nodes();
        // It went back, and begins again.
        if self.stopped.is_some() && self.old_takes_writes() {
            self.take_up(&self.plan.old.name.clone());
        }
        if self.nodes.is_none() {
            // Not before it is known.
            thread::sleep(SOON);
            return Vec::new();
        }
        let jobs = self.plan.sentinels.iter().map(|&address| {
            let (master, credentials, plan) = (self.master.clone(), self.settings.sentinel.clone(), self.plan.clone());
            move || survey(address, &master, &credentials, &plan)
        });
        let answers = together(QUICK, jobs);
        // The slowest one makes the others' answers older.
        let now = |(at, known): (Instant, course::Known)| course::Known { age: known.age + at.elapsed(), ..known };
        answers.into_iter().map(|answer| answer.flatten().map(now)).collect()
    }

    /// Makes all marks new. Whoever else has changed one ends it; what he set is not ours to put back.
    fn beat(&mut self) -> Result<(), String> {
        let jobs = self.marked.clone().into_iter().map(|marked| {
            let credentials = self.settings.redis.clone();
            move || {
                let (ours, next) = (marked.ours(), marked.mark.next().value());
                let since = Instant::now();
                let changed =
                    switchover::change(marked.party.address, &credentials, QUICK, marked.setting, &ours, next);
                (since, changed)
            }
        });
        // Two questions each.
        let answers = together(2 * QUICK, jobs);
        let mut result = Ok(());
        let mut gone = Vec::new();
        for (n, (marked, answer)) in self.marked.iter_mut().zip(answers).enumerate() {
            let (since, changed) =
                answer.unwrap_or_else(|| (marked.since, Changed::Unknown(AskError::Silent.to_string())));
            let what = format!("{} of {}", marked.setting.name(), marked.party.name);
            match changed {
                Changed::Done => {
                    (marked.mark, marked.since) = (marked.mark.next(), since);
                    marked.maybe.clear();
                }
                Changed::Other(value) => {
                    result = Err(format!("{what} was changed meanwhile: it is {value}"));
                    gone.push(n);
                }
                Changed::No(why) => result = Err(format!("{what}: {why}")),
                // Was it done? The next one will see.
                Changed::Unknown(_) => {
                    marked.maybe.push(marked.mark);
                    marked.mark = marked.mark.next();
                }
            }
        }
        for n in gone.into_iter().rev() {
            let marked = self.marked.remove(n);
            let while_asked = !self.asked.is_empty() && self.promoted.is_none();
            self.let_go |= marked.setting == Setting::MinReplicas && while_asked;
        }
        result
    }

    fn stop(&mut self) -> Result<u64, String> {
        // Roles are written soon, and Pacemaker's tools override quorum. There is no time to ask now: they take long on a busy machine.
        match &self.nodes {
            Some((at, Ok(_))) if at.elapsed() < KNOWN_FOR => {}
            Some((_, Err(why))) => return Err(why.clone()),
            _ => return Err("Pacemaker does not answer in time".to_owned()),
        }
        let old = self.plan.old.clone();
        let failed = |why: String| format!("writes at {} cannot be stopped: {why}", old.name);
        // A stop that is nobody's must not be set.
        let now = instance::ask(old.address, &self.settings.redis, QUICK).map_err(|error| failed(error.to_string()))?;
        if !now.is_primary() || now.run_id != self.plan.run_id {
            return Err(failed("it is not the primary any more that it was".to_owned()));
        }
        self.closed = false;
        let begun = Instant::now();
        // In one write: what is acknowledged before is within the offset that is read behind it.
        let said = self.mark_and(&old, Setting::MinReplicas, self.plan.min_replicas, QUICK, &instance::QUESTION);
        if self.marked.iter().any(|marked| marked.setting == Setting::MinReplicas) {
            // Where it went back before, and nobody was seen to take writes since, it is the same pause.
            self.stopped.get_or_insert(begun);
        }
        let said = said.map_err(failed)?;
        let primary = instance::read(&said).map_err(|error| failed(error.to_string()))?;
        if !primary.is_primary() || primary.run_id != self.plan.run_id {
            return Err(failed("it is not the primary any more that it was".to_owned()));
        }
        // Redis shows this where the setting takes effect.
        if !said.iter().filter_map(server::text).any(|text| text.contains("min_slaves_good_slaves:")) {
            return Err(failed("min-replicas-to-write takes no effect there".to_owned()));
        }
        self.step(&format!("{} takes no more writes (min-replicas-to-write)", old.name));
        Ok(primary.offset)
    }

    fn locate(&mut self) -> Standing {
        enum Told {
            At(Option<Position>),
            Closed(bool),
        }
        let mut jobs: Vec<Box<dyn FnOnce() -> Told + Send>> = Vec::new();
        let replicas: Vec<Party> = std::iter::once(&self.plan.target).chain(&self.plan.others).cloned().collect();
        for party in &replicas {
            let (address, old, credentials) = (party.address, self.plan.old.address, self.settings.redis.clone());
            jobs.push(Box::new(move || Told::At(position(address, old, &credentials))));
        }
        if !self.closed {
            let port = SocketAddr::new(self.plan.old.address.ip(), self.rw);
            let (record, master, old) = (self.record.clone(), self.master.clone(), self.plan.old.name.clone());
            let credentials = self.settings.sentinel.clone();
            jobs.push(Box::new(move || {
                let refused = probe::refuses(port, QUICK);
                Told::Closed(refused && marked_closed(&record, &master, &old, &credentials))
            }));
        }
        let mut told = together(QUICK, jobs).into_iter();
        let positions = replicas.iter().map(|party| {
            let at = match told.next().flatten() {
                Some(Told::At(at)) => at,
                _ => None,
            };
            (party.name.clone(), at)
        });
        let positions: Vec<_> = positions.collect();
        if !self.closed && matches!(told.next().flatten(), Some(Told::Closed(true))) {
            self.closed = true;
            self.step(&format!("{}: {} is closed", self.plan.old.name, self.rw));
        }
        Standing { closed: self.closed, replicas: positions }
    }

    /// Whether the stop still stands, as it was set.
    fn stands(&self) -> Result<(), String> {
        let old = &self.plan.old;
        let marked = self.marked.iter().find(|marked| marked.setting == Setting::MinReplicas);
        let marked = marked.ok_or_else(|| format!("writes at {} are not stopped any more", old.name))?;
        let get: &[&str] = &["CONFIG", "GET", Setting::MinReplicas.name()];
        let commands: Vec<&[&str]> = std::iter::once(get).chain(instance::QUESTION).collect();
        let replies = server::ask(old.address, &self.settings.redis, QUICK, &commands)
            .map_err(|error| format!("Redis on {}: {error}", old.name))?;
        let (set, said) = replies.split_at(1);
        let primary = instance::read(said).map_err(|error| format!("Redis on {}: {error}", old.name))?;
        let value = set.first().and_then(switchover::number);
        if !value.is_some_and(|value| marked.ours().contains(&value)) {
            return Err(format!("writes at {} are not stopped any more", old.name));
        }
        if !primary.is_primary() || primary.run_id != self.plan.run_id {
            return Err(format!("Redis on {} is not the primary any more that it was", old.name));
        }
        // After that answer: this process may have stood still, and the keeper may be about to put it back.
        let age = marked.since.elapsed();
        match age < ASKS_WITHIN {
            true => Ok(()),
            false => Err(format!("the stop at {} is {} ms old, which is too long", old.name, age.as_millis())),
        }
    }

    fn fail_over(&mut self, sentinel: usize) -> Result<(), String> {
        let address = *self.plan.sentinels.get(sentinel).ok_or("no such Sentinel")?;
        if !self.asked.is_empty() {
            let heard = sentinel::ask_all(&self.record, &self.master, &self.settings.sentinel, NAMING);
            let old = canonical(self.plan.old.address);
            let named = heard.iter().filter_map(|heard| heard.answer.as_ref().ok()?.named.as_ref()?.address());
            if named.map(canonical).any(|named| named != old) {
                return Err("a Sentinel names another node already".to_owned());
            }
            // Last: one that names the target already would move the primary away from it.
            let asking = survey(address, &self.master, &self.settings.sentinel, &self.plan);
            if !asking.is_some_and(|(_, known)| known.chooses_target) {
                return Err(format!("Sentinel {address} would not choose {}", self.plan.target.name));
            }
            // It stood since the first one was asked, and has to stand until one is made primary.
            let _beaten = self.beat();
        } else {
            self.step("every replica has every byte");
        }
        self.stands()?;
        let result = match sentinel::begin_failover(address, &self.master, &self.settings.sentinel, QUICK) {
            Begun::Yes => {
                self.move_roles();
                Ok("was asked for the failover")
            }
            Begun::Perhaps => Ok("was asked for the failover, and has not answered"),
            Begun::No(why) => Err(format!("Sentinel {address} begins no failover: {why}")),
        };
        match &result {
            Ok(what) => {
                self.asked.push(address);
                self.step(&format!("Sentinel {address} {what}"));
            }
            Err(why) => self.step(why),
        }
        result.map(drop)
    }

    /// Pacemaker needs as long to move the gate as Sentinel to promote: it begins now. Only the permission moves; what opens is the lease, when a
    /// majority of Sentinels names the target. The keepers leave such roles alone for two seconds.
    fn move_roles(&mut self) {
        if self.moving.is_some() {
            return;
        }
        let Some((_, Ok((old, target)))) = self.nodes.clone() else { return };
        let attribute = self.attribute.clone();
        // Where it fails the keepers do it, a little later.
        self.moving = Some(thread::spawn(move || pacemaker::move_primary(&old, &target, &attribute).unwrap_or(false)));
    }

    fn roles_back(&mut self) -> Result<(), String> {
        let moved = self.moving.take().is_some_and(|moving| moving.join().unwrap_or(false));
        if moved {
            let (old, target) = nodes_now(&self.plan.old.name, &self.plan.target.name)?;
            pacemaker::move_primary(&target, &old, &self.attribute).map_err(|error| error.to_string())?;
            self.step(&format!("{} is primary's again on {}", self.attribute, self.plan.old.name));
        }
        Ok(())
    }

    fn watch(&mut self) -> Watched {
        self.looks += 1;
        let mut heard = Vec::new();
        if !matches!(self.named, Named::Other(_)) && self.looks % SENTINELS_EVERY == 0 {
            heard = self.ask_sentinels();
            let verdict = Verdict::of(&self.record, &heard, None);
            self.named = match verdict.points_at_node {
                Some(node) if node.eq_ignore_ascii_case(&self.plan.old.name) => Named::Old,
                Some(node) => Named::Other(node),
                None => Named::Unknown,
            };
        }
        let (before, mut target_answers, mut all_answer) = (self.promoted.clone(), false, false);
        match &self.named {
            Named::Other(node) => self.promoted = Some(node.clone()),
            _ => {
                let parties: Vec<&Party> = std::iter::once(&self.plan.target).chain(&self.plan.others).collect();
                let jobs = parties.iter().map(|party| {
                    let (address, credentials) = (party.address, self.settings.redis.clone());
                    move || instance::ask(address, &credentials, QUICK).ok().map(|instance| instance.is_primary())
                });
                let found: Vec<Option<bool>> = together(QUICK, jobs).into_iter().map(Option::flatten).collect();
                target_answers = found.first().is_some_and(Option::is_some);
                all_answer = found.iter().all(Option::is_some);
                let primary = found.iter().zip(&parties).find(|(is, _)| **is == Some(true));
                self.promoted = before.clone().or(primary.map(|(_, party)| party.name.clone()));
            }
        }
        let named = self.named.clone();
        let unpromoted = all_answer && self.promoted.is_none();
        let over = has_come_to_nothing(&heard, &self.asked, self.plan.old.address, unpromoted);
        let Some(node) = self.promoted.clone() else {
            return Watched { named, target_answers, over, ..Watched::default() };
        };
        if before.as_ref() != Some(&node) {
            let instead = match node.eq_ignore_ascii_case(&self.plan.target.name) {
                true => String::new(),
                false => format!(", and not {}", self.plan.target.name),
            };
            self.step(&format!("{node} is primary{instead}"));
        }
        let open = self.record.node(&node).is_some_and(|entry| {
            let port = SocketAddr::new(entry.address.ip(), self.rw);
            probe::port(port, &self.settings.redis, QUICK).takes_writes()
                && has_its_replicas(entry.address, &self.settings.redis)
        });
        if open {
            self.take_up(&node);
        }
        Watched { promoted: Some(node), named, open, target_answers, over }
    }

    /// What each Sentinel says now.
    fn ask_sentinels(&mut self) -> Vec<Heard> {
        let heard = sentinel::ask_all(&self.record, &self.master, &self.settings.sentinel, NAMING);
        let answers = heard.iter().filter_map(|heard| heard.answer.as_deref().ok());
        self.epoch = sentinel::highest_epoch(answers).or(self.epoch);
        heard
    }

    /// This node takes writes: whatever pause there was is over.
    fn take_up(&mut self, node: &str) {
        if let Some(since) = self.stopped.take() {
            self.pauses.push(since.elapsed());
            self.step(&format!("{node} takes writes"));
        }
    }

    fn old_takes_writes(&self) -> bool {
        let port = SocketAddr::new(self.plan.old.address.ip(), self.rw);
        probe::port(port, &self.settings.redis, QUICK).takes_writes()
    }

    /// Puts back what is marked of that setting, where it is our mark.
    fn put_back(&mut self, setting: Setting) -> Result<(), String> {
        let mut result = Ok(());
        for marked in self.marked.clone().into_iter().filter(|marked| marked.setting == setting) {
            let (ours, before) = (marked.ours(), marked.mark.before());
            let changed = switchover::change(marked.party.address, &self.settings.redis, QUICK, setting, &ours, before);
            let what = format!("{} of {}", setting.name(), marked.party.name);
            let said = match changed {
                Changed::Done => format!("{what} is {before} again"),
                Changed::Other(value) if value == before => format!("{what} is {before} again already"),
                // Whose it is now, he puts it back.
                Changed::Other(value) => format!("{what} is {value} now, which somebody else has set"),
                Changed::No(why) | Changed::Unknown(why) => {
                    result = Err(format!("{}: {why}", marked.party.name));
                    continue;
                }
            };
            self.marked.retain(|other| other.setting != setting || other.party != marked.party);
            // The primary's own was only the lock.
            if setting == Setting::MinReplicas || marked.party != self.plan.old {
                self.step(&said);
            }
        }
        result
    }

    fn ended(&mut self, end: &End) -> CliCode {
        if matches!(end.to, To::Back(_) | To::Open(_)) && self.stopped.is_some() {
            // Its keeper has to see that it may.
            let until = Instant::now() + REOPENS_WITHIN;
            while Instant::now() < until && !self.old_takes_writes() {
                thread::sleep(SOON);
            }
            if Instant::now() < until {
                self.take_up(&self.plan.old.name.clone());
            }
        }
        if !self.asked.is_empty() {
            // The failover has its own, and the port may have opened between two questions.
            self.ask_sentinels();
        }
        let (master, target) = (&self.master, &self.plan.target.name);
        let (node, outcome) = match &end.to {
            To::Forward(node) => (node, "takes writes".to_owned()),
            To::Closed(node) => (node, "is primary, and was not seen to take writes".to_owned()),
            To::Back(why) | To::Open(why) => (&self.plan.old.name, format!("stays primary: {why}")),
        };
        let subject = Subject::of(Some(master), Some(node)).as_role(Some(Role::Primary));
        subject.heard(self.epoch);
        let what = format!("switchover to {target}: {node} {outcome}");
        decided!(info, subject, "switchover", OPERATOR = operator(), "{master}: {what}");
        for marked in self.marked.iter().filter(|_| end.left) {
            say(format!(
                "{} of {} was not seen put back: the keeper there does it within 5 s",
                marked.setting.name(),
                marked.party.name
            ));
        }
        let (old, target) = (&self.plan.old, &self.plan.target.name);
        // Where it was let go, the old primary took writes in between.
        let at_most = if self.let_go { " at most" } else { "" };
        let pause = said_of(&self.pauses).map(|said| format!("; {said}{at_most}")).unwrap_or_default();
        if self.let_go {
            say(format!(
                "{} was let take writes again before another node was primary: what it acknowledged then may be lost",
                old.name
            ));
        }
        let code = match &end.to {
            To::Forward(node) if node.eq_ignore_ascii_case(target) => {
                say(format!("Done: {node} takes writes{pause}. {} follows it in about 10 s.", old.name));
                CliCode::Ok
            }
            To::Forward(node) => {
                say(format!(
                    "Done, but Sentinel chose {node} instead of {target}, with every byte: it takes writes{pause}."
                ));
                CliCode::Warning
            }
            To::Closed(node) => {
                say(format!(
                    "{node} is primary, and was not seen to take writes within {} s: rolegate status says why",
                    course::OPEN_WITHIN.as_secs()
                ));
                CliCode::Critical
            }
            To::Back(why) => {
                say(format!("Went back: {why}."));
                self.still_primary();
                CliCode::Critical
            }
            To::Open(why) => {
                say(format!(
                    "Went back: {why}. A Sentinel that was asked may still do it; then {} closes at that moment, and what it acknowledges just before may be lost.",
                    old.name
                ));
                self.still_primary();
                CliCode::Critical
            }
        };
        let code = if self.let_go { code.max(CliCode::Warning) } else { code };
        if end.left { code.max(CliCode::Warning) } else { code }
    }

    fn still_primary(&self) {
        let old = &self.plan.old;
        let port =
            probe::port(SocketAddr::new(old.address.ip(), self.rw), &self.settings.redis, self.settings.answer_within);
        let pause = said_of(&self.pauses).map(|said| format!("; {said}")).unwrap_or_default();
        if port.takes_writes() {
            say(format!("{} is primary and takes writes{pause}.", old.name));
        } else {
            say(format!("{} was primary; its read-write port is {} now: rolegate status", old.name, port.word()));
        }
    }
}

/// For how long nobody could write: of several pauses, between which the old primary took writes, each.
fn said_of(pauses: &[Duration]) -> Option<String> {
    let seconds = |pause: &Duration| format!("{:.2} s", pause.as_secs_f64());
    let (last, before) = pauses.split_last()?;
    let before: String = before.iter().rev().map(|pause| format!(", and for {} before", seconds(pause))).collect();
    Some(format!("nobody could write for {}{before}", seconds(last)))
}

/// Both nodes as the cluster has them now, where it has quorum.
fn nodes_now(old: &str, target: &str) -> Nodes {
    enum Told {
        Quorum(Result<bool, PacemakerError>),
        Cib(Box<Result<Cib, PacemakerError>>),
    }
    let jobs: [fn() -> Told; 2] =
        [|| Told::Quorum(pacemaker::has_quorum()), || Told::Cib(Box::new(pacemaker::read_cib()))];
    let (mut quorum, mut found) = (false, None);
    for told in together(LOOK, jobs).into_iter().flatten() {
        match told {
            Told::Quorum(has) => quorum = has.map_err(|error| error.to_string())?,
            Told::Cib(cib) => found = Some((*cib).map_err(|error| error.to_string())?),
        }
    }
    let cib = found.ok_or("Pacemaker does not answer in time")?;
    if !quorum {
        return Err("this partition has lost quorum".to_owned());
    }
    let node = |name: &str| cib.node(name).cloned().ok_or_else(|| format!("the cluster has no {name} any more"));
    let (old, target) = (node(old)?, node(target)?);
    if roles::fenced(&target) {
        return Err(format!("{} was fenced meanwhile", target.name));
    }
    Ok((old, target))
}

/// What one Sentinel knows.
/// What a Sentinel knows, at that time.
fn survey(
    sentinel: SocketAddr,
    master: &str,
    credentials: &Credentials,
    plan: &Plan,
) -> Option<(Instant, course::Known)> {
    // One in TILT would begin a failover and do nothing for half a minute.
    let info = server::ask(sentinel, credentials, QUICK, &[&["INFO", "sentinel"]]);
    let tilt = info
        .ok()
        .and_then(|replies| server::text(replies.first()?))
        .is_some_and(|info| info.contains("sentinel_tilt:1"));
    let asked = Instant::now();
    let survey = sentinel::survey(sentinel, master, credentials, QUICK).ok()?;
    let mut known = preflight::known(&survey, plan.old.address, plan.target.address)?;
    known.chooses_target &= !tilt;
    // It may be as old as the question.
    known.age = known.age.saturating_add(asked.elapsed() / 2);
    Some((Instant::now(), known))
}

/// Whether the failover that the Sentinels at `asked` were asked for will not be: each of them says that it is in none, and names the primary at
/// `old`. One that refuses connections has no process any more, and its failover is gone with it as long as it has promoted nobody: what a Sentinel
/// knows of a promotion it writes down before it tells the others (sentinelRefreshInstanceInfo of sentinel.c), and goes on with when it is started
/// again. So that counts where nobody was promoted (`unpromoted`: every server that could be has said that it is none), and nobody else who answers says anything else. One
/// that does not answer may still do it. Pure.
fn has_come_to_nothing(heard: &[Heard], asked: &[SocketAddr], old: SocketAddr, unpromoted: bool) -> bool {
    let old = Some(canonical(old));
    let rests = |answer: &sentinel::Answer| {
        let named = answer.named.as_ref().and_then(Place::address).map(canonical);
        let flags = answer.master.as_ref().map(|master| master.flags.as_slice());
        named == old && flags.is_some_and(|flags| !flags.iter().any(|flag| flag == "failover_in_progress"))
    };
    let mut answers = heard.iter().filter_map(|heard| heard.answer.as_deref().ok()).peekable();
    let dead_is_over = unpromoted && answers.peek().is_some() && answers.all(rests);
    !asked.is_empty()
        && asked.iter().all(|asked| {
            heard.iter().filter(|heard| heard.sentinel.address == *asked).any(|heard| match &heard.answer {
                Ok(answer) => rests(answer),
                Err(AskError::Refused) => dead_is_over,
                Err(_) => false,
            })
        })
}

/// How far a replica is, and whether it follows `old`.
fn position(address: SocketAddr, old: SocketAddr, credentials: &Credentials) -> Option<Position> {
    let instance = instance::ask(address, credentials, QUICK).ok()?;
    let of_old = |of: &str| of.parse().ok().map(canonical) == Some(canonical(old));
    let follows = matches!(&instance.role, ServerRole::Replica { of, link_up: true, .. } if of_old(of));
    Some(Position { follows, offset: instance.offset })
}

/// Whether a majority of Sentinels shows all lines of the node marked closed: from then on another node may open at once.
fn marked_closed(record: &crate::record::Record, master: &str, node: &str, credentials: &Credentials) -> bool {
    let jobs = record.sentinels().iter().map(|sentinel| {
        let (address, credentials) = (sentinel.address, credentials.clone());
        move || {
            let replies = server::ask(address, &credentials, NAMING, &[&["CLIENT", "LIST", "TYPE", "normal"]]).ok()?;
            server::text(replies.first()?)
        }
    });
    let lists: Vec<_> = together(NAMING, jobs).into_iter().flatten().flatten().collect();
    show_closed(&lists, master, node, record.majority())
}

/// Whether so many `CLIENT LIST`s, each a Sentinel's, show the node's lines, and each of them marked closed. Pure.
fn show_closed(lists: &[String], master: &str, node: &str, majority: usize) -> bool {
    let nodes = [node.to_owned()];
    let shows = |list: &&String| {
        let lines = Marks::read(list).of(master, &nodes);
        // Without a line, it shows nothing: one may come that is not closed.
        !lines.is_empty() && lines.iter().all(|line| line.mark == Some(lease::Mark::Closed))
    };
    lists.iter().filter(shows).count() >= majority
}

/// Whether it has as many replicas as it wants for a write.
fn has_its_replicas(address: SocketAddr, credentials: &Credentials) -> bool {
    let get: &[&str] = &["CONFIG", "GET", Setting::MinReplicas.name()];
    let Ok(replies) = server::ask(address, credentials, QUICK, &[get, &["INFO", "replication"]]) else { return false };
    let [set, info] = replies.as_slice() else { return false };
    let (Some(wanted), Some(info)) = (switchover::number(set), server::text(info)) else { return false };
    // There where it means anything.
    let good =
        info.lines().find_map(|line| line.trim_end().strip_prefix("min_slaves_good_slaves:")?.parse::<u32>().ok());
    good.is_none_or(|good| good >= wanted)
}

/// By which a switchover's marks are hardly another's.
fn some_number() -> u32 {
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    (time / 1000).wrapping_mul(31).wrapping_add(std::process::id().wrapping_mul(7919))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pause_is_told() {
        let ms = |times: &[u64]| -> Vec<Duration> { times.iter().map(|ms| Duration::from_millis(*ms)).collect() };
        assert_eq!(said_of(&[]), None);
        assert_eq!(said_of(&ms(&[812])).unwrap(), "nobody could write for 0.81 s");
        let two = said_of(&ms(&[400, 1230])).unwrap();
        assert_eq!(two, "nobody could write for 1.23 s, and for 0.40 s before");
    }

    #[test]
    fn a_failover_has_come_to_nothing_when_nobody_who_was_asked_can_do_it_any_more() {
        let at = |n: u8| SocketAddr::from(([10, 0, 0, n], 26379));
        let redis = |n: u8| SocketAddr::from(([10, 0, 0, n], 6379));
        let says = |n: u8, names: u8, flags: &str| {
            let place = |n| Place { host: format!("10.0.0.{n}"), port: 6379 };
            let flags = flags.split(',').map(str::to_owned).collect();
            let master = sentinel::Master { place: Some(place(1)), flags, ..sentinel::Master::default() };
            let id = format!("{n:040x}");
            let answer = sentinel::Answer { id, named: Some(place(names)), master: Some(master) };
            (n, Ok(std::sync::Arc::new(answer)))
        };
        let well = |n| says(n, 1, "master");
        let failing_over = |n| says(n, 1, "master,failover_in_progress");
        let (dead, silent) = (|n| (n, Err(AskError::Refused)), |n| (n, Err(AskError::Silent)));
        for (what, heard, over) in [
            ("all say that there is none", [well(1), well(2), well(3)], [true, true]),
            ("who was asked is in one", [failing_over(1), well(2), well(3)], [false, false]),
            ("it names the other one", [says(1, 2, "master"), well(2), well(3)], [false, false]),
            ("it may stand still", [silent(1), well(2), well(3)], [false, false]),
            ("another one is silent", [well(1), silent(2), well(3)], [true, true]),
            // Whom it has promoted it knows again when it is started again.
            ("it is dead", [dead(1), well(2), well(3)], [false, true]),
            ("it is dead and has told another one", [dead(1), says(2, 2, "master"), well(3)], [false, false]),
            ("it is dead and another one is in one", [dead(1), failing_over(2), well(3)], [false, false]),
            ("all are dead", [dead(1), dead(2), dead(3)], [false, false]),
            ("it is none of these", [well(2), well(3), well(4)], [false, false]),
        ] {
            let heard = heard.map(|(n, answer)| Heard {
                sentinel: crate::record::SentinelEntry { id: format!("{n:040x}"), address: at(n) },
                answer,
            });
            let found = [false, true].map(|unpromoted| has_come_to_nothing(&heard, &[at(1)], redis(1), unpromoted));
            assert_eq!(found, over, "{what}");
        }
    }

    /// What a Sentinel lists: a line of an operator's, and one of each of these names.
    fn listed(names: &[&str]) -> String {
        let line = |(n, name): (usize, &&str)| {
            format!(
                "id={} addr=10.0.0.1:{} laddr=10.0.0.9:26379 fd=9 name={name} age=7 idle=0 flags=N db=0\n",
                n + 4,
                n + 40000
            )
        };
        format!(
            "id=3 addr=10.0.0.1:39999 fd=8 name= age=1 idle=1 flags=N db=0\n{}",
            names.iter().enumerate().map(line).collect::<String>()
        )
    }

    #[test]
    fn a_node_is_shown_closed_by_all_of_its_lines_at_a_majority() {
        let mark = |node: &str, mark| lease::mark::text("mymaster", node, &mark);
        let held = lease::Mark::Held { length: 2_000_000, nonce: 1 };
        let (closed, open) = (mark("node1", lease::Mark::Closed), mark("node1", held));
        let (other, others) = (mark("node2", held), mark("node2", lease::Mark::Closed));
        let elsewhere = lease::mark::text("cache", "node1", &held);
        let all = listed(&[&closed]);
        let shown = |lists: &[&String]| {
            let lists: Vec<String> = lists.iter().map(|list| (*list).clone()).collect();
            show_closed(&lists, "mymaster", "node1", 2)
        };
        // Two of three, or all.
        assert!(shown(&[&all, &all]) && shown(&[&all, &all, &all]));
        // The majority is of the record, not of those that answer.
        assert!(!shown(&[&all]) && !shown(&[]));
        for (what, list, counts) in [
            ("two lines, both closed", listed(&[&closed, &closed]), true),
            ("as Pacemaker, without regard to case", listed(&[&mark("NODE1", lease::Mark::Closed)]), true),
            ("another node may be open", listed(&[&closed, &other]), true),
            ("another master name may be open", listed(&[&closed, &elsewhere]), true),
            ("one line may be open", listed(&[&closed, &open]), false),
            ("one line cannot be understood", listed(&[&closed, "rolegate:mymaster:node1:shut"]), false),
            ("no line", listed(&[]), false),
            ("another node is closed", listed(&[&others]), false),
            ("nothing", String::new(), false),
        ] {
            assert_eq!(shown(&[&all, &list]), counts, "{what}");
            assert!(shown(&[&all, &list, &all]), "{what}: two others show it");
        }
    }
}
