//! Runs a program as another process would: in its mount namespace, as its user, in its groups, without new privileges. For trying
//! Sentinel's hook under what its unit forbids. What the unit's filter of system calls forbids is not tried.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::super::Stop;
use super::machine;
use crate::exit::CliCode;

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The process
    pid: i32,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    argv: Vec<String>,
}

/// Becomes the program. Returns only where that is not possible.
pub fn run(args: &Args) -> Result<CliCode, Stop> {
    let Args { pid, argv } = args;
    let process = machine::process(*pid).map_err(Stop::refused)?;
    let gid = process.groups.first().copied().unwrap_or(0);
    let groups: Vec<Gid> = process.groups.iter().skip(1).map(|group| Gid::from_raw(*group)).collect();
    let open = |kind: &str| {
        let path = format!("/proc/{pid}/ns/{kind}");
        File::open(&path).map_err(|error| Stop::refused(format!("{path}: {error}")))
    };
    let (mount, users) = (open("mnt")?, open("user")?);
    let failed = |what: &'static str| move |error: nix::Error| Stop::refused(format!("{what}: {error}"));
    setns(mount, CloneFlags::CLONE_NEWNS).map_err(failed("its mount namespace"))?;
    // Before its user namespace, where some of them may not exist.
    setgroups(&groups).map_err(failed("its groups"))?;
    let gid = Gid::from_raw(gid);
    setresgid(gid, gid, gid).map_err(failed("its group"))?;
    if process.own_users {
        setns(users, CloneFlags::CLONE_NEWUSER).map_err(failed("its user namespace"))?;
    }
    let uid = Uid::from_raw(process.uid);
    setresuid(uid, uid, uid).map_err(failed("its user"))?;
    nix::sys::prctl::set_no_new_privs().map_err(failed("no new privileges"))?;
    let (program, arguments) = argv.split_first().ok_or_else(|| Stop::refused("no program"))?;
    // Else a shell's message would be all that is left of the reason.
    let reason = match fs::metadata(program) {
        Err(error) => error.to_string(),
        Ok(_) => Command::new(program).args(arguments).current_dir("/").exec().to_string(),
    };
    Err(Stop::refused(format!("{program}: {reason}")))
}
