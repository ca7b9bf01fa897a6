//! The firewall state of the two ports of a node: who may reach Redis through the read-only and the read-write port.
//!
//! The gate promises (design rules 1 to 3):
//!
//! - A port is closed unless an element with a timeout says that it is open. The redirect to Redis *is* the gate.
//! - Closing blocks the established connections of that port at once, in both directions, and resets them. Others are
//!   left alone, and so is everything that is not addressed to this host.
//! - A change is one transaction, read back and verified. Nothing outside our own table or chains changes.
//! - [`Gate::set`] with [`Want::Close`] needs no settings and closes whatever state our table is in.
//!
//! It must not decide who may open a port: that is for its callers.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use nix::libc::{EAFNOSUPPORT, EPROTONOSUPPORT};
use serde::ser::{Serialize, SerializeStruct, Serializer};

use crate::command::CommandError;
use crate::exit::PortCode;
use crate::logging::{Subject, decided};

pub mod cli;
pub mod direct;
pub mod iptables;
pub mod lease;
mod lock;
pub mod netlink;
pub mod nft;
mod sever;

pub use lease::{Armed, Beside, Held, Leasing, Swap, Swapped};
pub use sever::Cut;

/// The longest that one call may open a port for. Every element runs out, and somebody has to want it renewed.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// How long closing waits for another caller before it goes on without the lock.
const CLOSING_WAITS: Duration = Duration::from_millis(500);

/// Clocks of different tick rates round a timeout up by at most this.
const ROUNDING: Duration = Duration::from_millis(20);

/// One gate: the two ports of one master name and the Redis port behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ports {
    /// The read-only port.
    pub ro: u16,
    /// The read-write port.
    pub rw: u16,
    /// The port on which Redis listens.
    pub redis: u16,
}

impl Ports {
    /// A gate on these ports.
    ///
    /// # Errors
    /// [`GateError::Ports`] where one is zero or two are the same.
    pub fn new(ro: u16, rw: u16, redis: u16) -> Result<Self, GateError> {
        let ports = Ports { ro, rw, redis };
        let usable = ![ro, rw, redis].contains(&0) && ro != rw && ro != redis && rw != redis;
        if usable { Ok(ports) } else { Err(GateError::Ports(ports)) }
    }

    /// Whether any port of the one is one of the other, for whatever use.
    pub fn overlaps(self, other: Ports) -> bool {
        let all = |ports: Ports| [ports.ro, ports.rw, ports.redis];
        all(self).iter().any(|port| all(other).contains(port))
    }

    /// The number of `port`.
    pub fn number(self, port: Port) -> u16 {
        match port {
            Port::Ro => self.ro,
            Port::Rw => self.rw,
        }
    }
}

impl Default for Ports {
    fn default() -> Self {
        Ports { ro: 6380, rw: 6381, redis: 6379 }
    }
}

/// One of the two ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Port {
    /// Read-only.
    Ro,
    /// Read-write.
    Rw,
}

impl Port {
    /// Both.
    pub const ALL: [Port; 2] = [Port::Ro, Port::Rw];
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Port::Ro => "ro",
            Port::Rw => "rw",
        })
    }
}

/// What is wanted of one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Open for this long from now, at least 1 ms (on iptables 1 s, and whole seconds, rounded down) and at most
    /// [`LONGEST`]; an open port gets this time instead of what it had left.
    Open(Duration),
    /// Closed, its connections cut.
    Close,
    /// As it is.
    Keep,
}

/// What is wanted of both ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desired {
    /// Of the read-only port.
    pub ro: Want,
    /// Of the read-write port.
    pub rw: Want,
}

impl Desired {
    /// Both closed.
    pub const CLOSED: Desired = Desired { ro: Want::Close, rw: Want::Close };
    /// Both as they are.
    pub const KEEP: Desired = Desired { ro: Want::Keep, rw: Want::Keep };

    /// What is wanted of `port`.
    pub fn of(self, port: Port) -> Want {
        match port {
            Port::Ro => self.ro,
            Port::Rw => self.rw,
        }
    }

    /// The same with `want` for `port`.
    #[must_use]
    pub fn with(mut self, port: Port, want: Want) -> Self {
        match port {
            Port::Ro => self.ro = want,
            Port::Rw => self.rw = want,
        }
        self
    }

    /// The ports that are to be closed.
    fn closing(self) -> impl Iterator<Item = Port> {
        Port::ALL.into_iter().filter(move |port| self.of(*port) == Want::Close)
    }

    /// What is left without openings.
    fn only_closing(self) -> Self {
        let only = |want| if want == Want::Close { Want::Close } else { Want::Keep };
        Desired { ro: only(self.ro), rw: only(self.rw) }
    }

    fn both(self) -> [Want; 2] {
        [self.ro, self.rw]
    }

    fn closes(self) -> bool {
        self.both().contains(&Want::Close)
    }

    fn opens(self) -> bool {
        self.both().iter().any(|want| matches!(want, Want::Open(_)))
    }
}

/// Whether a port is open, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortState {
    /// Who connects is refused.
    Closed,
    /// Who connects reaches Redis.
    Open {
        /// How long it stays open by itself. [`Duration::MAX`] where somebody edited the timeout away.
        remaining: Duration,
    },
}

impl PortState {
    /// Whether it is open.
    pub fn is_open(self) -> bool {
        matches!(self, PortState::Open { .. })
    }
}

/// Whether what has to be there before a port can open and be closed is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Baseline {
    /// As we make it.
    Intact,
    /// Nothing of it is there: flushed, or never made.
    Missing,
    /// Somebody changed it. What differs, in one line.
    Edited(String),
}

/// Which firewall carries the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    /// nftables.
    Nft,
    /// iptables with ipset.
    Iptables(Variant),
}

/// Which of the two iptables: they do not see each other's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Variant {
    /// iptables-nft, which keeps its rules in nf_tables.
    Nft,
    /// iptables-legacy, which keeps them in xtables.
    Legacy,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Nft => "nft",
            Backend::Iptables(Variant::Nft) => "iptables-nft",
            Backend::Iptables(Variant::Legacy) => "iptables-legacy",
        })
    }
}

/// Which firewall shall carry the gate. Closing closes on every one that holds something of ours, whatever the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum BackendChoice {
    /// nftables where nft is installed, else iptables.
    #[default]
    Auto,
    /// nftables.
    Nft,
    /// iptables: the named variant, or the one that the command `iptables` stands for.
    Iptables(Option<Variant>),
}

impl FromStr for BackendChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "auto" => BackendChoice::Auto,
            "nft" => BackendChoice::Nft,
            "iptables" => BackendChoice::Iptables(None),
            "iptables-nft" => BackendChoice::Iptables(Some(Variant::Nft)),
            "iptables-legacy" => BackendChoice::Iptables(Some(Variant::Legacy)),
            other => {
                return Err(format!(
                    "{other:?} is not a backend: auto, nft, iptables, iptables-nft or iptables-legacy"
                ));
            }
        })
    }
}

/// What the firewall holds for one gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Which firewall.
    pub backend: Backend,
    /// Whether table or chains are as we make them.
    pub baseline: Baseline,
    /// Whose state this is.
    pub ports: Ports,
    /// The read-only port.
    pub ro: PortState,
    /// The read-write port.
    pub rw: PortState,
    /// What became of the connections; None where no port was to be closed.
    pub cut: Option<Cut>,
}

impl State {
    /// The state of `port`.
    pub fn of(&self, port: Port) -> PortState {
        match port {
            Port::Ro => self.ro,
            Port::Rw => self.rw,
        }
    }
}

/// `{"backend":"nft","baseline":"intact","difference":null,"redis_port":6379,"ro":{"port":6380,"open":true,
/// "remaining_ms":19812},"rw":{...},"cut":null}`; `remaining_ms` is null where a port is closed or open without end.
impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct One {
            port: u16,
            open: bool,
            remaining_ms: Option<u64>,
        }
        let one = |port| {
            let remaining = match self.of(port) {
                PortState::Open { remaining } if remaining < Duration::MAX => Some(remaining.as_millis() as u64),
                _ => None,
            };
            One { port: self.ports.number(port), open: self.of(port).is_open(), remaining_ms: remaining }
        };
        let (baseline, difference) = match &self.baseline {
            Baseline::Intact => ("intact", None),
            Baseline::Missing => ("missing", None),
            Baseline::Edited(difference) => ("edited", Some(difference)),
        };
        let mut state = serializer.serialize_struct("State", 7)?;
        state.serialize_field("backend", &self.backend.to_string())?;
        state.serialize_field("baseline", baseline)?;
        state.serialize_field("difference", &difference)?;
        state.serialize_field("redis_port", &self.ports.redis)?;
        state.serialize_field("ro", &one(Port::Ro))?;
        state.serialize_field("rw", &one(Port::Rw))?;
        state.serialize_field("cut", &self.cut)?;
        state.end()
    }
}

/// Why the gate is not as asked.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// Ports that cannot make a gate.
    #[error("ports {}, {} and {} cannot make a gate: all three must differ and none may be 0", .0.ro, .0.rw, .0.redis)]
    Ports(Ports),
    /// A time for which nothing is opened.
    #[error("cannot open a port for {asked:?}: at least {shortest:?} on this firewall, at most {LONGEST:?}")]
    Time {
        /// The time asked for.
        asked: Duration,
        /// The shortest that this backend can count.
        shortest: Duration,
    },
    /// No right to change the firewall.
    #[error("{what} needs CAP_NET_ADMIN: run it as root")]
    Permission {
        /// What was being done.
        what: String,
    },
    /// Nothing here can carry a gate.
    #[error("no firewall can be used here: {0}")]
    NoFirewall(String),
    /// Something of our name is not ours. Nothing was touched.
    #[error("{0}")]
    Foreign(String),
    /// A program has a port that the gate is to own. No such port was opened; what was to be closed is closed.
    #[error(
        "port {port} cannot be a gate: a program listens on {listener}; let it use another port (ss -ltnp shows it)"
    )]
    PortInUse {
        /// The gate's port.
        port: u16,
        /// Where the program listens.
        listener: SocketAddr,
    },
    /// A port is another gate's. Nothing was changed.
    #[error(
        "port {port} is another gate's: it leads to {theirs}, not to {asked}. Each gate needs ports of its own; to take that \
         one away, call `remove` with its ports"
    )]
    Owned {
        /// The port.
        port: u16,
        /// The Redis port to which it leads.
        theirs: u16,
        /// The Redis port to which it was to lead.
        asked: u16,
    },
    /// Somebody closed the port or took the right to lease it. Nothing was armed.
    #[error("the right to lease the port is gone: it was closed, or another leases it")]
    Withdrawn,
    /// The firewall did not end up as asked.
    #[error("the firewall is not as asked: {0}")]
    Mismatch(String),
    /// No answer in time. The change may have happened or not.
    #[error("{what} took longer than allowed")]
    Timeout {
        /// What was being done.
        what: String,
    },
    /// A command failed.
    #[error("the firewall refused")]
    Command(#[source] CommandError),
    /// The kernel refused.
    #[error("{what}")]
    Kernel {
        /// What was being done.
        what: String,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

impl GateError {
    /// The exit code of `rolegate-port` for this.
    pub fn code(&self) -> PortCode {
        match self {
            GateError::Ports(_) | GateError::Time { .. } => PortCode::Usage,
            GateError::Permission { .. } => PortCode::Permission,
            GateError::NoFirewall(_) => PortCode::NoFirewall,
            GateError::Foreign(_) => PortCode::Foreign,
            GateError::PortInUse { .. } => PortCode::PortInUse,
            GateError::Timeout { .. } => PortCode::Timeout,
            GateError::Owned { .. } => PortCode::Owned,
            GateError::Withdrawn | GateError::Mismatch(_) | GateError::Command(_) | GateError::Kernel { .. } => {
                PortCode::Failed
            }
        }
    }

    fn of_kernel(what: &str, error: io::Error) -> Self {
        let what = what.to_owned();
        match error.kind() {
            io::ErrorKind::PermissionDenied => GateError::Permission { what },
            io::ErrorKind::TimedOut => GateError::Timeout { what },
            // Of a socket, not of what is asked on it.
            _ if matches!(error.raw_os_error(), Some(EPROTONOSUPPORT | EAFNOSUPPORT)) => {
                GateError::NoFirewall(format!("this kernel has no nfnetlink ({what}: {error})"))
            }
            _ => GateError::Kernel { what, source: error },
        }
    }

    fn of_command(error: CommandError) -> Self {
        match error {
            CommandError::Timeout { argv, .. } => GateError::Timeout { what: argv },
            CommandError::NotFound { .. } => GateError::NoFirewall(error.to_string()),
            CommandError::Exit { argv, stderr, .. }
                if stderr.contains("not permitted") || stderr.contains("must be root") =>
            {
                GateError::Permission { what: argv }
            }
            other => GateError::Command(other),
        }
    }
}

/// What carries a gate, with what was read to find that out.
enum Carrier {
    Nft(Option<nft::seen::Seen>),
    Iptables(Variant),
}

/// The gate of one master name on this node.
#[derive(Debug, Clone)]
pub struct Gate {
    ports: Ports,
    choice: BackendChoice,
    deadline: Duration,
    spares_others: bool,
    /// Whom its records are about.
    subject: Subject,
    beside: Beside,
}

/// A reading of all gates' rules. It grows with their number, on iptables it takes programs, and it is made once for all of them where each
/// is looked at.
#[derive(Debug, Clone)]
pub struct Reading(Read);

#[derive(Debug, Clone)]
enum Read {
    /// There is none, or it failed.
    Nothing,
    Nft(Arc<nft::Reading>),
    Iptables(Arc<iptables::Seen>),
}

impl Gate {
    /// The gate on `ports`. No call takes longer than `deadline`.
    ///
    /// # Errors
    /// [`GateError::Ports`].
    pub fn new(ports: Ports, choice: BackendChoice, deadline: Duration) -> Result<Self, GateError> {
        let Ports { ro, rw, redis } = ports;
        Ok(Gate {
            ports: Ports::new(ro, rw, redis)?,
            choice,
            deadline,
            spares_others: false,
            subject: Subject::default(),
            beside: Beside::default(),
        })
    }

    /// The same gate, which shares what it knows with all others `beside` it.
    #[must_use]
    pub fn beside(mut self, beside: &Beside) -> Self {
        self.beside = beside.clone();
        self
    }

    /// The same for somebody who cannot know whose the ports are: what leads to another gate's Redis is not turned to ours.
    #[must_use]
    pub fn sparing_others(mut self) -> Self {
        self.spares_others = true;
        self
    }

    /// The same, whose records are about `subject`. A gate by its ports alone has no master name to be found by.
    #[must_use]
    pub fn about(mut self, subject: Subject) -> Self {
        self.subject = subject;
        self
    }

    /// Its ports.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// What the firewall holds. Reads only.
    ///
    /// # Errors
    /// [`GateError::Permission`], [`GateError::NoFirewall`], [`GateError::Foreign`], [`GateError::Timeout`],
    /// [`GateError::Kernel`], [`GateError::Command`].
    pub fn state(&self) -> Result<State, GateError> {
        let until = Instant::now() + self.deadline;
        match self.carrier(until)? {
            Carrier::Nft(seen) => nft::state(seen.as_ref(), self.ports),
            Carrier::Iptables(variant) => {
                let state = iptables::state(variant, self.ports, &self.beside.known, until)?;
                if state.baseline == Baseline::Intact {
                    return Ok(state);
                }
                // Read in several pieces, so what differs may be another caller at work: look again when it is done.
                let _lock = lock::take(until.min(Instant::now() + CLOSING_WAITS));
                iptables::state(variant, self.ports, &self.beside.known, until)
            }
        }
    }

    /// What the firewall holds of all gates at once: see [`Gate::state_by`].
    pub fn reading(&self) -> Reading {
        let until = Instant::now() + self.deadline;
        // What cannot be read each gate reads by itself, and says why.
        Reading(match self.carrier(until) {
            Ok(Carrier::Nft(Some(seen))) => Read::Nft(Arc::new(nft::Reading::new(seen))),
            Ok(Carrier::Iptables(variant)) => {
                iptables::read(variant, until).map_or(Read::Nothing, |seen| Read::Iptables(Arc::new(seen)))
            }
            Ok(Carrier::Nft(None)) | Err(_) => Read::Nothing,
        })
    }

    /// [`Gate::state`] of when `reading` was made, by a gate of the same choice; where there was nothing to read, of now. On iptables it is read in several pieces,
    /// so what differs may be another caller at work: [`Gate::state`] waits for that one.
    ///
    /// # Errors
    /// As [`Gate::state`].
    pub fn state_by(&self, reading: &Reading) -> Result<State, GateError> {
        match &reading.0 {
            Read::Nft(reading) if self.may_use(Backend::Nft) => reading.state(self.ports),
            Read::Iptables(seen) if self.may_use(Backend::Iptables(Variant::Nft)) => {
                seen.state_of(self.ports, &self.beside.known)
            }
            _ => self.state(),
        }
    }

    /// Makes or repairs table and entries of this gate. Opens nothing, keeps what is open.
    ///
    /// # Errors
    /// Every one but [`GateError::PortInUse`].
    pub fn baseline(&self) -> Result<State, GateError> {
        self.set(Desired::KEEP)
    }

    /// Takes the right to lease the read-write port: makes or repairs the baseline, drops the arms of whoever leased it before
    /// (what is open stays so), and prepares for this caller's. Whether it may lease, the caller must read after this
    /// returned: a closing that came before takes nothing from it.
    ///
    /// # Errors
    /// Every one but [`GateError::Time`] and [`GateError::Withdrawn`].
    pub fn leasing(&self) -> Result<Leasing, GateError> {
        let until = Instant::now() + self.deadline;
        let carrier = self.carrier(until)?;
        if let (_, Some(refusal)) = self.without_listeners(Desired::KEEP.with(Port::Rw, Want::Open(LONGEST)), until) {
            return Err(refusal);
        }
        let _lock = self.lock(Desired::KEEP, until)?;
        // What the other firewall holds was opened before this one was chosen: nobody would look at it again.
        match self.change(carrier, Desired::KEEP, until)?.backend {
            Backend::Nft => {
                iptables::shut(self.ports, Desired { ro: Want::Keep, rw: Want::Close }, until)?;
                Leasing::on_nft(self.ports, &self.beside, self.deadline, until)
            }
            Backend::Iptables(_) => {
                nft::shut(&[self.ports.rw], until)?;
                Leasing::on_iptables(self.ports, &self.beside, self.deadline, until)
            }
        }
    }

    /// Makes baseline and `want` in one transaction, cuts the connections of ports that were to be closed, reads back and
    /// verifies.
    ///
    /// A port that cannot be opened never keeps the other from closing.
    ///
    /// # Errors
    /// Every one. After [`GateError::PortInUse`] all that was to be closed is closed. Connections that could
    /// not be reset are no error: see [`State::cut`].
    pub fn set(&self, want: Desired) -> Result<State, GateError> {
        self.set_if(want, || true)?.ok_or_else(|| GateError::Mismatch("nothing was allowed".to_owned()))
    }

    /// The same, if `allowed` says so once no other caller can change the firewall any more: who takes a permission away and closes
    /// behind that finds closed what somebody with an older permission was about to open. None where it is not allowed.
    ///
    /// # Errors
    /// As [`Gate::set`].
    pub fn set_if(&self, want: Desired, allowed: impl FnOnce() -> bool) -> Result<Option<State>, GateError> {
        let until = Instant::now() + self.deadline;
        let carrier = match self.carrier(until) {
            Err(error @ GateError::NoFirewall(_)) if want.closes() && !want.opens() => {
                return self.close_without_programs(want, error, until).map(Some);
            }
            carrier => carrier?,
        };
        let shortest = match carrier {
            Carrier::Nft(_) => Duration::from_millis(1),
            Carrier::Iptables(_) => Duration::from_secs(1),
        };
        for want in want.both() {
            if let Want::Open(time) = want {
                if time < shortest || time > LONGEST {
                    return Err(GateError::Time { asked: time, shortest });
                }
            }
        }
        let (possible, refusal) = self.without_listeners(want, until);
        let _lock = self.lock(possible, until)?;
        if !allowed() {
            return Ok(None);
        }
        if let Some(owned) = self.owned(until)? {
            // Whoever's it is, it can be closed.
            return if want.closes() && !want.opens() { self.shut_locked(want, until).map(Some) } else { Err(owned) };
        }
        let state = match self.change(carrier, possible, until) {
            Err(error @ GateError::NoFirewall(_)) if want.closes() && !want.opens() => {
                self.close_without_programs(want, error, until)
            }
            changed => changed,
        }?;
        refusal.map_or(Ok(Some(state)), Err)
    }

    /// Makes baseline and `want`, and cuts what was closed.
    fn change(&self, carrier: Carrier, want: Desired, until: Instant) -> Result<State, GateError> {
        let elsewhere = self.close_elsewhere(&carrier, want, until);
        let mut state = match carrier {
            Carrier::Nft(seen) => nft::apply(&self.subject, self.ports, want, seen, until),
            Carrier::Iptables(variant) => {
                iptables::apply(&self.subject, variant, self.ports, want, &self.beside.known, until)
            }
        }?;
        elsewhere?;
        state.cut = self.cut(want, until);
        Ok(state)
    }

    /// Closes what is to be closed and changes nothing else, neither rules nor where a port leads to: for who shares a port with
    /// another gate.
    ///
    /// # Errors
    /// As [`Gate::set`], without [`GateError::PortInUse`] and [`GateError::Time`].
    pub fn shut(&self, want: Desired) -> Result<State, GateError> {
        let until = Instant::now() + self.deadline;
        let _lock = self.lock(want.only_closing(), until)?;
        self.shut_locked(want.only_closing(), until)
    }

    fn shut_locked(&self, want: Desired, until: Instant) -> Result<State, GateError> {
        let targets = targets(until)?;
        let closing: Vec<u16> = want.closing().map(|port| self.ports.number(port)).collect();
        nft::shut(&closing, until)?;
        iptables::shut(self.ports, want, until)?;
        let mut state = match self.carrier(until) {
            Ok(Carrier::Iptables(variant)) => iptables::state(variant, self.ports, &self.beside.known, until)?,
            Ok(Carrier::Nft(seen)) => nft::state(seen.as_ref(), self.ports)?,
            Err(GateError::NoFirewall(_)) => nft::state(None, self.ports)?,
            Err(error) => return Err(error),
        };
        for port in closing {
            let redis = targets.get(&port).copied().unwrap_or(self.ports.redis);
            let Cut { connections, incomplete } = self.sever(&[port], redis, until);
            let all = state.cut.get_or_insert(Cut { connections: 0, incomplete: None });
            all.connections += connections;
            all.incomplete = all.incomplete.take().or(incomplete);
        }
        Ok(state)
    }

    /// That a port is another gate's, where that matters.
    fn owned(&self, until: Instant) -> Result<Option<GateError>, GateError> {
        if !self.spares_others {
            return Ok(None);
        }
        let asked = self.ports.redis;
        Ok(owned(&targets(until)?, self.ports).map(|(port, theirs)| GateError::Owned { port, theirs, asked }))
    }

    /// The programs that listen on ports of this gate. While such a port is open, its clients reach Redis all the same: they are
    /// redirected before. Once it is closed, it does not open again.
    ///
    /// # Errors
    /// [`GateError::Permission`], [`GateError::Timeout`], [`GateError::Kernel`].
    pub fn listeners(&self) -> Result<Vec<(Port, SocketAddr)>, GateError> {
        let until = Instant::now() + self.deadline;
        let mut found = Vec::new();
        for port in Port::ALL {
            let listener = sever::listener(self.ports.number(port), until);
            found.extend(
                listener.map_err(|error| GateError::of_kernel("looking for listeners", error))?.map(|at| (port, at)),
            );
        }
        Ok(found)
    }

    /// Where no program can change a firewall, an open port can only be what the kernel still holds, on whichever; and that
    /// can be closed without programs.
    fn close_without_programs(&self, want: Desired, error: GateError, until: Instant) -> Result<State, GateError> {
        decided!(warn, self.subject, error, "closing without programs: {error}");
        let closing: Vec<u16> = want.closing().map(|port| self.ports.number(port)).collect();
        for shut in [nft::shut(&closing, until), iptables::shut(self.ports, want, until)] {
            match shut {
                // What the kernel cannot have is not open.
                Err(GateError::NoFirewall(_)) => {}
                shut => shut?,
            }
        }
        let mut state = nft::state(None, self.ports)?;
        state.cut = self.cut(want, until);
        Ok(state)
    }

    /// Ends the connections through what was closed.
    fn cut(&self, want: Desired, until: Instant) -> Option<Cut> {
        let closed: Vec<u16> = want.closing().map(|port| self.ports.number(port)).collect();
        (!closed.is_empty()).then(|| self.sever(&closed, self.ports.redis, until))
    }

    fn sever(&self, ports: &[u16], redis: u16, until: Instant) -> Cut {
        let cut = sever::cut(ports, redis, until);
        if let Some(reason) = &cut.incomplete {
            decided!(
                warn,
                self.subject,
                reason,
                "connections through closed ports {ports:?} are blocked but not all reset: {reason}"
            );
        }
        cut
    }

    /// Closes both ports and takes this gate's entries away; the table or the chains, too, when no other gate uses them.
    ///
    /// # Errors
    /// As [`Gate::set`]; [`GateError::Mismatch`] where connections could not be reset: then the entries that
    /// block them stay.
    pub fn remove(&self) -> Result<(), GateError> {
        let until = Instant::now() + self.deadline;
        let (nft, iptables) = (self.may_use(Backend::Nft), self.may_use(Backend::Iptables(Variant::Nft)));
        let nft = nft && nft::read(until)?.is_some();
        let iptables = iptables && iptables::present(until)?;
        if !nft && !iptables {
            return Ok(());
        }
        // One lock for both steps: what came in between them would be left without a guard.
        let _lock = self.lock(Desired::CLOSED, until)?;
        if let Some(owned) = self.owned(until)? {
            return Err(owned);
        }
        let closed = self.change(self.carrier(until)?, Desired::CLOSED, until)?;
        if let Some(Cut { incomplete: Some(reason), .. }) = closed.cut {
            return Err(GateError::Mismatch(format!("connections are blocked but not reset: {reason}")));
        }
        if nft {
            nft::remove(self.ports, until)?;
        }
        if iptables {
            iptables::remove(self.ports, until)?;
        }
        Ok(())
    }

    /// Whether the choice allows this kind of backend.
    fn may_use(&self, backend: Backend) -> bool {
        match self.choice {
            BackendChoice::Auto => true,
            BackendChoice::Nft => backend == Backend::Nft,
            BackendChoice::Iptables(_) => backend != Backend::Nft,
        }
    }

    /// What carries the gate now: of those that may, the one that holds something of ours, nftables first; else the one
    /// that is installed.
    fn carrier(&self, until: Instant) -> Result<Carrier, GateError> {
        let nft_only = match self.choice {
            BackendChoice::Iptables(Some(variant)) => return Ok(Carrier::Iptables(variant)),
            BackendChoice::Iptables(None) => return Ok(Carrier::Iptables(iptables::variant(until)?)),
            BackendChoice::Nft => true,
            BackendChoice::Auto => false,
        };
        if let Some(seen) = nft::read(until)? {
            return Ok(Carrier::Nft(Some(seen)));
        }
        if !nft_only && iptables::installed() && (!nft::installed() || iptables::present(until)?) {
            return Ok(Carrier::Iptables(iptables::variant(until)?));
        }
        if nft::installed() {
            return Ok(Carrier::Nft(None));
        }
        let missing = if nft_only { "nft is not installed" } else { "neither nft nor iptables is installed" };
        Err(GateError::NoFirewall(missing.to_owned()))
    }

    /// Closes what is to be closed on the backend that is not used now, too: the choice says where a port may open, and
    /// it may have been another one when this port opened.
    fn close_elsewhere(&self, used: &Carrier, want: Desired, until: Instant) -> Result<(), GateError> {
        match used {
            _ if !want.closes() => Ok(()),
            Carrier::Nft(_) => iptables::shut(self.ports, want, until),
            Carrier::Iptables(_) => match nft::read(until) {
                Ok(Some(seen)) => {
                    nft::apply(&self.subject, self.ports, want.only_closing(), Some(seen), until).map(drop)
                }
                // A table of our name that is not ours holds nothing of ours open.
                Ok(None) | Err(GateError::Foreign(_)) => Ok(()),
                Err(error) => Err(error),
            },
        }
    }

    /// `want` without the openings of closed ports on which a program listens, and the refusal to report.
    fn without_listeners(&self, mut want: Desired, until: Instant) -> (Desired, Option<GateError>) {
        let mut refusal = None;
        for port in Port::ALL {
            if let Want::Open(_) = want.of(port) {
                let number = self.ports.number(port);
                match sever::listener(number, until) {
                    Ok(None) => {}
                    // Its clients are redirected away from the program: to let it run out would only harm them.
                    Ok(Some(_)) if self.state().is_ok_and(|state| state.of(port).is_open()) => {}
                    Ok(Some(listener)) => {
                        want = want.with(port, Want::Keep);
                        refusal = Some(GateError::PortInUse { port: number, listener });
                    }
                    // The gate works with a listener, too: its port is redirected away from it.
                    Err(error) => {
                        decided!(
                            warn,
                            self.subject,
                            error,
                            "cannot tell whether a program listens on port {number}: {error}"
                        );
                    }
                }
            }
        }
        (want, refusal)
    }

    /// Waits for other callers. None where closing goes on without.
    fn lock(&self, want: Desired, until: Instant) -> Result<Option<lock::Lock>, GateError> {
        let patience = if want.closes() { until.min(Instant::now() + CLOSING_WAITS) } else { until };
        match lock::take(patience) {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if want.closes() => {
                decided!(warn, self.subject, error, "closing without the lock of other callers: {error}");
                Ok(None)
            }
            Err(error) => Err(GateError::of_kernel(&format!("taking the lock {}", lock::path().display()), error)),
        }
    }
}

/// What a program that listens on a gate's port means for its clients.
pub fn listener_means(state: PortState, number: u16) -> String {
    match state {
        PortState::Open { .. } => format!("once closed, port {number} cannot open again"),
        PortState::Closed => format!("port {number} cannot open"),
    }
}

/// Where each gate port of this node leads to, on whatever backend.
fn targets(until: Instant) -> Result<BTreeMap<u16, u16>, GateError> {
    let mut targets = iptables::targets(until)?;
    targets.extend(nft::read(until)?.filter(nft::seen::Seen::is_ours).map(|seen| seen.target).unwrap_or_default());
    Ok(targets)
}

/// The gate ports that this node's firewalls hold, if anything of ours is there. Reads only.
///
/// # Errors
/// [`GateError::Permission`], [`GateError::Timeout`], [`GateError::Kernel`].
pub fn held(deadline: Duration) -> Result<Option<Vec<u16>>, GateError> {
    let until = Instant::now() + deadline;
    let gates = nft::read(until)?.is_some_and(|seen| seen.is_ours()) || iptables::present(until)?;
    let there = gates || direct::is_there(until)?;
    Ok(if there { Some(targets(until)?.into_keys().collect()) } else { None })
}

/// Closes every gate of this node and takes all that is ours out of its firewalls, whichever carries it. Gives the ports that were there.
///
/// # Errors
/// As [`Gate::remove`].
pub fn remove_all(deadline: Duration) -> Result<Vec<u16>, GateError> {
    let until = Instant::now() + deadline;
    let there = targets(until)?;
    let gates = in_pairs(&there);
    // A table without entries goes with any gate.
    for ports in gates.into_iter().chain([Ports::default()]) {
        Gate::new(ports, BackendChoice::Auto, deadline)?.remove()?;
    }
    direct::remove(Instant::now() + deadline)?;
    Ok(there.into_keys().collect())
}

/// The gates of these ports and where they lead to. Which of two ports is which makes no difference to who removes them. Pure.
fn in_pairs(targets: &BTreeMap<u16, u16>) -> Vec<Ports> {
    let mut by_redis: BTreeMap<u16, Vec<u16>> = BTreeMap::new();
    for (port, redis) in targets {
        by_redis.entry(*redis).or_default().push(*port);
    }
    let mut gates = Vec::new();
    for (redis, ports) in by_redis {
        for pair in ports.chunks(2) {
            // One alone, with one that nobody has.
            let nobodys = (1..u16::MAX).find(|port| *port != redis && !targets.contains_key(port)).unwrap_or(u16::MAX);
            gates.push(Ports { ro: pair[0], rw: pair.get(1).copied().unwrap_or(nobodys), redis });
        }
    }
    gates
}

/// A port of `ports` that is another gate's, with the Redis port to which it leads. Two ports that lead to one Redis are a gate;
/// one alone that leads elsewhere was turned by somebody's hand. Pure.
fn owned(targets: &BTreeMap<u16, u16>, ports: Ports) -> Option<(u16, u16)> {
    [ports.rw, ports.ro].into_iter().find_map(|port| {
        let theirs = targets.get(&port).copied().filter(|theirs| *theirs != ports.redis)?;
        (targets.values().filter(|redis| **redis == theirs).count() == 2).then_some((port, theirs))
    })
}

/// A short pause of random length, so that callers who collided do not do so again.
fn pause() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Duration::from_micros(500 + u64::from((now.subsec_nanos() / 100) % 4000))
}

/// Whether `state` is what was wanted, `elapsed` after the change began at the latest.
fn verify(state: &State, want: Desired, elapsed: Duration) -> Result<(), GateError> {
    let mismatch = |text: String| Err(GateError::Mismatch(text));
    let rounding = match state.backend {
        Backend::Nft => ROUNDING,
        // Rounded down to whole seconds, once when asked for and once when shown.
        Backend::Iptables(_) => Duration::from_secs(2),
    };
    match &state.baseline {
        Baseline::Intact => {}
        Baseline::Missing => return mismatch("what was made is gone again".to_owned()),
        Baseline::Edited(difference) => return mismatch(difference.clone()),
    }
    for (port, is, want) in Port::ALL.map(|port| (state.ports.number(port), state.of(port), want.of(port))) {
        match (want, is) {
            (Want::Close, PortState::Open { .. }) => return mismatch(format!("port {port} is still open")),
            (Want::Open(duration), PortState::Open { remaining }) if remaining > duration + ROUNDING => {
                return mismatch(format!("port {port} is open for {remaining:?}, asked for {duration:?}"));
            }
            (Want::Open(duration), PortState::Open { remaining }) if remaining + elapsed + rounding < duration => {
                return mismatch(format!("port {port} is open for only {remaining:?}, asked for {duration:?}"));
            }
            (Want::Open(duration), PortState::Closed) if elapsed + rounding < duration => {
                return mismatch(format!("port {port} is still closed"));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_must_differ_and_be_ports() {
        assert_eq!(Ports::new(6380, 6381, 6379).unwrap(), Ports::default());
        for (ro, rw, redis) in [(0, 1, 2), (1, 0, 2), (1, 2, 0), (1, 1, 2), (1, 2, 1), (2, 1, 1)] {
            assert_eq!(Ports::new(ro, rw, redis).unwrap_err().code(), PortCode::Usage);
        }
    }

    #[test]
    fn two_ports_to_one_redis_are_a_gate_and_one_alone_was_turned() {
        let default = BTreeMap::from([(6380, 6379), (6381, 6379)]);
        for (ro, rw, redis, owner) in [
            (6380, 6381, 6379, None),
            (7380, 7381, 7379, None),
            (7380, 6381, 7379, Some((6381, 6379))),
            (6380, 7381, 7379, Some((6380, 6379))),
            (6380, 6381, 7379, Some((6381, 6379))),
        ] {
            assert_eq!(owned(&default, Ports { ro, rw, redis }), owner, "{ro} {rw} {redis}");
        }
        let turned = BTreeMap::from([(6380, 6379), (6381, 9999)]);
        assert_eq!(owned(&turned, Ports::default()), None);
        let to_others = BTreeMap::from([(6380, 6379), (6381, 7379), (7380, 7379), (7381, 7379)]);
        assert_eq!(owned(&to_others, Ports::default()), None);
    }

    #[test]
    fn a_backend_reads_back() {
        for backend in [Backend::Nft, Backend::Iptables(Variant::Nft), Backend::Iptables(Variant::Legacy)] {
            let choice = match backend {
                Backend::Nft => BackendChoice::Nft,
                Backend::Iptables(variant) => BackendChoice::Iptables(Some(variant)),
            };
            assert_eq!(backend.to_string().parse(), Ok(choice));
        }
        assert!("pf".parse::<BackendChoice>().is_err());
    }

    #[test]
    fn nothing_is_opened_for_ever_or_for_no_time() {
        let gate = Gate::new(Ports::default(), BackendChoice::Nft, Duration::from_secs(1)).unwrap();
        for time in [Duration::ZERO, Duration::from_micros(999), LONGEST + Duration::from_millis(1)] {
            let want = Desired { ro: Want::Keep, rw: Want::Open(time) };
            assert!(matches!(gate.set(want), Err(GateError::Time { .. })));
        }
    }

    #[test]
    fn the_json_of_a_state() {
        let state = State {
            backend: Backend::Nft,
            baseline: Baseline::Edited("chain guard_in is missing".to_owned()),
            ports: Ports::default(),
            ro: PortState::Open { remaining: Duration::from_millis(1500) },
            rw: PortState::Closed,
            cut: Some(Cut { connections: 2, incomplete: None }),
        };
        let expected = serde_json::json!({
            "backend": "nft", "baseline": "edited", "difference": "chain guard_in is missing", "redis_port": 6379,
            "ro": {"port": 6380, "open": true, "remaining_ms": 1500},
            "rw": {"port": 6381, "open": false, "remaining_ms": null},
            "cut": {"connections": 2, "incomplete": null},
        });
        assert_eq!(serde_json::to_value(&state).unwrap(), expected);
    }
}
