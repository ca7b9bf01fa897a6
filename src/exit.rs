//! The exit codes of each program, in one place.

/// What an OCF agent tells Pacemaker (OCF Resource Agent API 1.1; 190 and 191 are Pacemaker's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OcfCode {
    /// Success; for monitor: running, Unpromoted.
    Success = 0,
    /// Failed; for monitor: not as it should be.
    Generic = 1,
    /// A parameter cannot be used on this node.
    Arguments = 2,
    /// No such action.
    Unimplemented = 3,
    /// Not permitted (not root).
    Permission = 4,
    /// Something that the agent needs is not installed here.
    Installed = 5,
    /// The resource's configuration is wrong everywhere. Stops the clone on all nodes.
    Configured = 6,
    /// monitor: cleanly stopped.
    NotRunning = 7,
    /// monitor: running, Promoted.
    RunningPromoted = 8,
    /// monitor: Promoted, and wrong.
    FailedPromoted = 9,
    /// monitor: Unpromoted, works less well than it should; nothing is restarted.
    Degraded = 190,
    /// monitor: Promoted, works less well than it should; nothing is restarted.
    DegradedPromoted = 191,
}

/// What the hook tells Sentinel: 1 is tried again (after 30 s, 60 s, ... ten times), 2 never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HookCode {
    /// Done, or nothing to do.
    Done = 0,
    /// Could not be done now; the same call may work later.
    Retry = 1,
    /// Cannot work by trying again.
    Never = 2,
}

/// What `rolegate status` and the other commands tell a monitoring system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CliCode {
    /// Healthy; for commands: done.
    Ok = 0,
    /// Redundancy lost; for commands: done, but look.
    Warning = 1,
    /// Nobody or more than one node takes writes; for commands: refused or failed.
    Critical = 2,
    /// Could not see enough to tell.
    Unknown = 3,
}

/// What `rolegate-port` tells its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PortCode {
    /// Done.
    Ok = 0,
    /// The firewall refused or did not end up as asked.
    Failed = 1,
    /// Wrong usage: an argument or a combination of arguments.
    Usage = 2,
    /// Not permitted: needs CAP_NET_ADMIN.
    Permission = 4,
    /// Neither nft nor iptables with ipset can be used here.
    NoFirewall = 5,
    /// A program listens on a port that the gate is to own.
    PortInUse = 6,
    /// A table, chain or set of our name holds what we did not put there.
    Foreign = 7,
    /// A command did not answer within its deadline.
    Timeout = 8,
    /// The port leads to another gate's Redis.
    Owned = 9,
}

macro_rules! exit_code {
    ($($code:ty),*) => {$(
        impl From<$code> for std::process::ExitCode {
            fn from(code: $code) -> Self {
                std::process::ExitCode::from(code as u8)
            }
        }
    )*};
}
exit_code!(OcfCode, HookCode, CliCode, PortCode);
