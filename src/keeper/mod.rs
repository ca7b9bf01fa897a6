//! The keeper: one process per node, from boot to halt, that holds the leases of all master names of the node, and keeps what Pacemaker
//! and Sentinels may have missed.
//!
//! One thread does all that a lease needs. What may take its time (closing with thousands of connections, Pacemaker's tools)
//! runs beside it.

pub mod behind;
mod burst;
mod changes;
mod chosen;
mod connection;
mod cut;
mod direct;
pub mod events;
mod group;
mod hand;
mod handover;
pub mod history;
mod looks;
pub mod memory;
mod mend;
pub mod priority;
mod release;
mod restart;
mod roles;
pub mod socket;
pub mod stand;
mod steady;
pub mod timeline;
mod told;
mod veto;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::mman::{MlockAllFlags, mlockall};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::WeakSender;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tracing::{debug, info, warn};

use crate::causes::with_causes;
use crate::gate::{Beside, Desired, Gate};
use crate::layout::{self, Guard};
use crate::local_fence::LocalFence;
use crate::logging::{Subject, decided};
use crate::pacemaker::{self, Cib};
use crate::params::Params;
use crate::permission;
use crate::settings::Settings;
use crate::stand::{Said, Shown};
use behind::Behind;
use changes::Changes;
use events::SentinelEvent;
use group::{Common, Group, Note};
use handover::Lines;
use history::History;
use priority::Priority;
use release::Release;
use socket::{Asked, Request};

/// Held by the one keeper of a node.
const LOCK: &str = "/run/rolegate/keeper.lock";

/// This node's name, once Pacemaker has told it. Forgotten at a reboot.
const NODE_NAME: &str = "/run/rolegate/node";

/// Where Pacemaker keeps the CIB on this node's disk, with or without Pacemaker running.
const CIB_DIRECTORY: &str = "/var/lib/pacemaker/cib";

/// How often the CIB is read though nothing has told of a change.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// How often it is tried to leave nothing behind.
const LEAVES: u32 = 60;

/// A keeper that ends waits that long for a disk at most.
const WRITTEN_WITHIN: Duration = Duration::from_millis(500);

/// And for all else.
const ENDS_WITHIN: Duration = Duration::from_millis(300);

/// How long a group may take to say how it stands.
const REPORT_WITHIN: Duration = Duration::from_millis(500);

/// Runs until told to end. What is open then stays so for the rest of its lease: a restart costs nothing.
///
/// # Errors
/// Another keeper runs, or the settings are wrong.
pub fn run() -> Result<()> {
    let settings = Settings::load().inspect_err(|_| {
        // systemd starts it again at once, and again: the log shall have room for the reason.
        std::thread::sleep(Duration::from_secs(1));
    })?;
    fs::create_dir_all(permission::DIRECTORY).with_context(|| permission::DIRECTORY.to_owned())?;
    let _lock = lock()?;
    // Before anything is opened. Where it cannot be, there is no room for permissions either.
    if let Err(error) = LocalFence::default().restore() {
        let node = node_name_of_this_boot();
        decided!(warn, Subject::of(None, node.as_deref()), error, "the fence of this node itself: {error}");
    }
    // A lease must not wait for a disk. Without the right to lock memory it works, less well.
    // Only what is used: a thread's stack is mostly not.
    let on_fault = MlockAllFlags::from_bits_retain(nix::libc::MCL_ONFAULT);
    if let Err(error) = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault) {
        warn!(REASON = %error, "memory is not locked: {error}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // Each group may close, mend and begin while others wait for Pacemaker's tools. They take turns, so those of a busy moment would stay for as
        // long as there is anything to do at all, if they waited long for it.
        .max_blocking_threads(512)
        .thread_keep_alive(Duration::from_millis(500))
        .on_thread_park(burst::about_to_wait)
        .on_thread_unpark(burst::woken)
        .build()?;
    let kept = Lines::take_over();
    let result = runtime.block_on(keep(settings, kept.clone()));
    // What was being closed is closed. The next keeper must not wait for a disk or for Pacemaker.
    runtime.shutdown_timeout(ENDS_WITHIN);
    result
}

fn lock() -> Result<Flock<File>> {
    let file = File::create(LOCK).with_context(|| LOCK.to_owned())?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EAGAIN)) => bail!("another rolegate-keeper runs on this node: it holds {LOCK}"),
        Err((_, error)) => Err(error).context(LOCK),
    }
}

/// A group that runs.
struct Running {
    guard: Guard,
    /// Of which its records are.
    subject: Subject,
    /// Where its Redis is, by the last record that had it.
    redis: SocketAddr,
    notes: mpsc::Sender<Note>,
    task: JoinHandle<()>,
}

async fn keep(settings: Settings, kept: Lines) -> Result<()> {
    let (asked_sender, asked) = mpsc::channel::<Asked>(16);
    let listener = socket::listen(Path::new(socket::PATH)).with_context(|| socket::PATH.to_owned())?;
    tokio::spawn(socket::serve(listener, asked_sender));
    tokio::spawn(tell_systemd());
    let files = Behind::begin();
    let history = History::read(&files);
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let direct = direct::begin(settings.firewall_within);
    let changed = Arc::new(Notify::new());
    watch_cib(changed.clone());
    let wires = Wires::default();
    tokio::spawn(answer_all(asked, wires.clone(), changed.clone()));
    let changes = Changes::of(Path::new(permission::DIRECTORY));
    let mut common: Option<Common> = None;
    let mut groups: BTreeMap<String, Running> = BTreeMap::new();
    let mut listeners: BTreeMap<SocketAddr, JoinHandle<()>> = BTreeMap::new();
    let mut last: Option<Arc<Cib>> = None;
    let mut release = Release::default();
    let epoch = Instant::now();
    info!("started");
    let mut read_again = tokio::time::interval(READ_AGAIN);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = changed.notified() => {}
            _ = read_again.tick() => {}
        }
        // None before the cluster is set up.
        let Ok(Ok(cib)) = spawn_blocking(pacemaker::read_cib_on_disk).await else { continue };
        let cib = Arc::new(cib);
        if common.is_none() {
            let shown = cib.clone();
            common = spawn_blocking(move || node_name(&shown)).await?.map(|me| {
                info!(NODE = %me, "this node is {me}");
                Common {
                    me,
                    settings: settings.clone(),
                    epoch,
                    files: files.clone(),
                    kept: kept.clone(),
                    history: history.clone(),
                    looks: looks::All::default(),
                    beside: Beside::default(),
                    changes: changes.clone(),
                }
            });
        }
        direct::follow(&direct, common.as_ref().map(|common| common.me.as_str()), &cib, &settings);
        let Some(common) = &common else { continue };
        release.show(&common.me, &cib);
        let outdated = groups.values().any(|running| running.task.is_finished());
        if last.as_ref() == Some(&cib) && !outdated {
            continue;
        }
        for (id, running) in &mut groups {
            if running.task.is_finished() && (&mut running.task).await.is_err() {
                bail!("what keeps gate {id} has a defect: see above");
            }
        }
        let told = follow(common, &cib, &mut groups).await;
        wires.lead_to(&groups);
        kept.forget_the_rest();
        let wanted = common.looks.wanted();
        listeners.retain(|address, task| {
            let keep = wanted.contains(address);
            if !keep {
                task.abort();
            }
            keep
        });
        for address in wanted {
            listeners.entry(address).or_insert_with(|| {
                let (wires, history) = (wires.clone(), history.clone());
                let tell = move |event| wires.tell(address, event, &history);
                let of = Subject::of(None, Some(&common.me));
                tokio::spawn(events::listen(of, address, settings.sentinel.clone(), tell))
            });
        }
        let all = groups.values().all(|running| running.notes.try_send(Note::Cluster(cib.clone())).is_ok());
        // One that is too busy to be told is told at the next look.
        last = Some(cib).filter(|_| told && all);
    }
    info!("ending; what is open stays so for the rest of its lease");
    let told = kept.hand_over();
    for running in std::mem::take(&mut groups).into_values() {
        end(running).await;
    }
    told.wait(ENDS_WITHIN).await;
    files.flush(WRITTEN_WITHIN);
    Ok(())
}

/// Says that the keeper is there, and then that it still is. One that hangs or was stopped is killed, and started anew: its node would stay
/// closed, and nobody else could open.
async fn tell_systemd() {
    let beats = Arc::new(AtomicBool::new(true));
    let patience = sd_notify::watchdog_enabled();
    let beating = beats.clone();
    // systemd may be slow to listen: a thread that no lease waits for.
    std::thread::spawn(move || {
        let tell = |state| {
            if let Err(error) = sd_notify::notify(&[state]) {
                warn!(REASON = %error, "systemd is not told: {error}");
            }
        };
        tell(NotifyState::Ready);
        let Some(patience) = patience else { return };
        loop {
            if beating.swap(false, Ordering::Relaxed) {
                tell(NotifyState::Watchdog);
            }
            std::thread::sleep(patience / 6);
        }
    });
    let Some(patience) = patience else { return };
    let mut alive = tokio::time::interval(patience / 6);
    loop {
        alive.tick().await;
        beats.store(true, Ordering::Relaxed);
    }
}

/// Begins, changes and ends the groups, so that there is one for each gate of the CIB, or the blocks in its place, with a record that
/// has this node. Says whether all have been told what is new to them.
async fn follow(common: &Common, cib: &Arc<Cib>, groups: &mut BTreeMap<String, Running>) -> bool {
    let mut told = true;
    let (guards, bad) = layout::guards(cib);
    for (resource, error) in &bad {
        // What is kept stays as it is: a slip of the pen must not close a port.
        let subject = Subject::of(Some(layout::master_of(resource)), Some(&common.me)).of_gate(&resource.id);
        decided!(warn, subject, error, "{error}");
    }
    let wanted: BTreeMap<String, Guard> = guards.into_iter().map(|guard| (guard.resource.id.clone(), guard)).collect();
    let there = |id: &String| wanted.contains_key(id) || bad.iter().any(|(resource, _)| resource.id == *id);
    let gone: Vec<String> = groups.keys().filter(|id| !there(id)).cloned().collect();
    for id in gone {
        if let Some(running) = groups.remove(&id) {
            let (me, master, ports) =
                (common.me.clone(), running.guard.params.master.clone(), running.guard.params.ports);
            let (subject, why) = (running.subject.clone(), "gone from the cluster");
            decided!(info, subject, why, "{master}: gate {id} is {why}; what is open is closed");
            // A gate's agent has closed when it stopped, if Pacemaker let it. A block's has not.
            let is_blocks = running.guard.is_blocks();
            let redis = running.redis;
            end(running).await;
            stand::forget(&id, &subject);
            put_priority_back(common, &subject, &master, &id, redis);
            let (firewall, within) = (common.settings.firewall, common.settings.firewall_within);
            let of = subject.clone();
            let close = move || {
                let gate = Gate::new(ports, firewall, within)?.about(of);
                if is_blocks { gate.set(Desired::CLOSED) } else { gate.shut(Desired::CLOSED) }
            };
            match spawn_blocking(close).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => {
                    let why = with_causes(&error);
                    decided!(warn, subject, why, "{why}");
                    continue;
                }
                Err(_) => continue,
            }
            // Under another name it goes on, and says itself where it stands. What may still be open stands on something.
            if wanted.values().all(|guard| guard.params.master != master) {
                tokio::spawn(async move {
                    if let Ok(Err(why)) = spawn_blocking(move || stand::say_nothing(&me, &master)).await {
                        debug!("{why}");
                    }
                });
            }
        }
    }
    for (id, guard) in wanted {
        if let Some(running) = groups.get_mut(&id) {
            let ended = running.task.is_finished();
            if running.guard == guard && !ended {
                continue;
            }
            if same_place(&running.guard.params, &guard.params) && !ended {
                match running.notes.try_send(Note::Guard(Box::new(guard.clone()))) {
                    Ok(()) => {
                        running.redis = redis_of(common, &guard).unwrap_or(running.redis);
                        running.guard = guard;
                    }
                    Err(_) => told = false,
                }
                continue;
            }
            // What is open stays so until this node has no permission.
            if !ended {
                told &= running.notes.try_send(Note::Outdated).is_ok();
                continue;
            }
        }
        let uses = |running: &Running| running.guard.params.ports.overlaps(guard.params.ports);
        let other =
            groups.iter().find(|(other, running)| **other != id && !running.task.is_finished() && uses(running));
        if let Some((other, _)) = other {
            // Its parameters are wrong now, or not followed yet.
            let subject = Subject::of(Some(&guard.params.master), Some(&common.me)).of_gate(&id);
            let why = format!("its ports are still kept for {other}");
            decided!(warn, subject, why, "not kept: {why}");
            continue;
        }
        let (notes, inbox) = mpsc::channel(64);
        let Some(group) = Group::new(common.clone(), cib, &guard, inbox) else {
            // Its record was taken away (rolegate deinit), or has this node no more.
            if let Some(running) = groups.remove(&id) {
                let why = "it has no record with this node";
                decided!(info, running.subject, why, "gate {id} has no record with this node any more");
                put_priority_back(common, &running.subject, &guard.params.master, &id, running.redis);
            }
            told &= without_a_place(common, cib, &guard).await;
            continue;
        };
        let (redis, subject) = (group.redis_at(), group.subject().clone());
        let master = &guard.params.master;
        decided!(info, subject, "its record has this node", "{master}: kept for {id}");
        groups.insert(id, Running { guard, subject, redis, notes, task: tokio::spawn(group.run()) });
    }
    told
}

/// Whether it is the same master name on the same ports. All else a group can change.
fn same_place(a: &Params, b: &Params) -> bool {
    (&a.master, a.ports) == (&b.master, b.ports)
}

/// A node that the record has not, and that once stood on one, says that it does so no more: others wait for that. Says whether that is so.
async fn without_a_place(common: &Common, cib: &Arc<Cib>, guard: &Guard) -> bool {
    let (me, master) = (common.me.clone(), guard.params.master.clone());
    let has_place = guard.params.record.as_ref().is_ok_and(|record| record.node(&me).is_some());
    let said = Said::read(cib.node(&me).and_then(|node| node.permanent(&crate::stand::attribute(&master))));
    if has_place || matches!(said.shown, Shown::Nothing | Shown::Never) {
        return true;
    }
    let gate = guard.resource.id.clone();
    if let Ok(Err(why)) = spawn_blocking(move || stand::say_nothing(&me, &master)).await {
        debug!(GATE = %gate, "{why}");
    }
    // Until the disk shows it.
    false
}

/// Where this node's Redis is by the record, if it is in there.
fn redis_of(common: &Common, guard: &Guard) -> Option<SocketAddr> {
    Some(guard.params.record.as_ref().ok()?.node(&common.me)?.address)
}

/// Where a gate is not kept any more, its Redis gets the replica-priority that it had.
fn put_priority_back(common: &Common, subject: &Subject, master: &str, id: &str, redis: SocketAddr) {
    let (priority, subject) = (Priority::new(subject.clone(), master, id), subject.clone());
    let settings = common.settings.clone();
    tokio::spawn(async move {
        // Its Redis may be down just now.
        for _ in 0..LEAVES {
            let (priority, settings) = (priority.clone(), settings.clone());
            let Ok(Err(why)) = spawn_blocking(move || veto::leave(&priority, redis, &settings)).await else { return };
            decided!(warn, subject, why, "replica-priority is not put back: {why}");
            tokio::time::sleep(READ_AGAIN).await;
        }
    });
}

async fn end(running: Running) {
    drop(running.notes);
    // Ends by itself when nobody can tell it anything any more. One that panicked has said so.
    let _ended = running.task.await;
}

/// The ways to the groups that there are, for what cannot wait until the cluster's configuration has been read.
#[derive(Clone, Default)]
struct Wires(Arc<Mutex<Vec<Wire>>>);

struct Wire {
    master: String,
    resources: Vec<String>,
    /// A group ends when nobody can tell it anything any more: this is nobody.
    notes: WeakSender<Note>,
}

impl Wires {
    fn lead_to(&self, groups: &BTreeMap<String, Running>) {
        let wire = |running: &Running| Wire {
            master: running.guard.params.master.clone(),
            resources: running.guard.resources().map(|resource| resource.id.clone()).collect(),
            notes: running.notes.downgrade(),
        };
        *self.lock() = groups.values().map(wire).collect();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Wire>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The groups that are concerned.
    fn to(&self, concerned: impl Fn(&Wire) -> bool) -> Vec<mpsc::Sender<Note>> {
        self.lock().iter().filter(|wire| concerned(wire)).filter_map(|wire| wire.notes.upgrade()).collect()
    }

    fn tell(&self, sentinel: SocketAddr, event: SentinelEvent, history: &History) {
        let concerned = self.to(|wire| wire.master == event.master);
        if concerned.is_empty() {
            return;
        }
        history.heard(sentinel, &event);
        for notes in concerned {
            // One that is that far behind looks by itself.
            let _full = notes.try_send(Note::Event(Box::new((sentinel, event.clone()))));
        }
    }
}

/// Answers what comes through the socket.
async fn answer_all(mut asked: mpsc::Receiver<Asked>, wires: Wires, changed: Arc<Notify>) {
    while let Some((request, reply)) = asked.recv().await {
        let mut reports = Vec::new();
        let concerned = wires.to(|wire| match &request {
            Request::Report => true,
            Request::Permission(id) => wire.resources.contains(id),
            Request::Failover(master) => *master == wire.master,
        });
        for notes in concerned {
            if request != Request::Report {
                let _full = notes.try_send(Note::Look);
            }
            let (sender, receiver) = oneshot::channel();
            let _full = notes.try_send(Note::Report(sender));
            reports.push(receiver);
        }
        let changed = changed.clone();
        tokio::spawn(async move {
            let mut told = Vec::new();
            for report in reports {
                if let Ok(Ok(report)) = tokio::time::timeout(REPORT_WITHIN, report).await {
                    told.push(report);
                }
            }
            let _gone = reply.send(told);
            // A group that waited for its permission to be withdrawn ends when it is told of that.
            if request != Request::Report {
                changed.notify_one();
            }
        });
    }
}

/// This node's name, as a keeper has learned it in this boot.
pub fn known_node_name(cib: &Cib) -> Option<String> {
    cib.node(&node_name_of_this_boot()?).map(|node| node.name.clone())
}

/// The same without a look at the cluster, which may have been given another name for it since: for records alone.
pub fn node_name_of_this_boot() -> Option<String> {
    let name = fs::read_to_string(NODE_NAME).ok()?.trim().to_owned();
    Some(name).filter(|name| !name.is_empty())
}

/// Pacemaker's name for this node: as a keeper before this one learned it in this boot (one that is restarted has no time to ask), from
/// Pacemaker, or, where that does not run yet, the host's name if the CIB knows it.
fn node_name(cib: &Cib) -> Option<String> {
    if let Some(name) = known_node_name(cib) {
        return Some(name);
    }
    match pacemaker::local_node() {
        Ok(name) => {
            if let Err(error) = fs::write(NODE_NAME, &name) {
                warn!(NODE = %name, REASON = %error, "cannot write {NODE_NAME}: {error}");
            }
            Some(name)
        }
        Err(_) => {
            let host = nix::unistd::gethostname().ok()?;
            cib.node(&host.to_string_lossy()).map(|node| node.name.clone())
        }
    }
}

/// Watches the CIB on this node's disk. Without a directory to watch, it is read now and then.
fn watch_cib(changed: Arc<Notify>) {
    let watch = move || -> nix::Result<()> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        inotify.add_watch(CIB_DIRECTORY, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE)?;
        loop {
            let events = inotify.read_events()?;
            if events.iter().any(|event| event.name.as_ref().is_some_and(|name| name == "cib.xml")) {
                changed.notify_one();
            }
        }
    };
    std::thread::spawn(move || {
        if let Err(error) = watch() {
            warn!(REASON = %error, "{CIB_DIRECTORY} is not watched, only read every {READ_AGAIN:?}: {error}");
        }
    });
}
