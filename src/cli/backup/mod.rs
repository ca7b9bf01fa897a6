//! `rolegate backup`: a copy of the data, fetched from a replica over the network, checked by the server's own checker, compressed, and
//! there in one step or not at all.
//!
//! It is written beside its last place, under a hidden name; what has the last name is whole, checked and on the disk. Nothing of it is
//! held in memory.

mod fetch;
pub(super) mod files;
mod source;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use flate2::bufread::GzDecoder;
use flate2::{Compression, GzBuilder};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::text::bytes;
use super::{Gate, Stop, assign, facts, gates, say};
use crate::command::{self, Cmd};
use crate::exit::CliCode;
use crate::sentinel::{self, Verdict};
use crate::server::{AskError, Credentials};
use crate::settings::{Backup, Settings, look_at_credentials, password_in};
use crate::times;
use source::{NoSource, Source, Wanted};

/// How long Pacemaker may take to say where the nodes are; then what is on this node's disk has to do.
const PACEMAKER: Duration = Duration::from_secs(2);

/// Held by who makes backups in a directory.
const LOCK: &str = ".rolegate-backup.lock";

/// Of either one is enough. Each reads what the other's server of about its age has written.
const CHECKERS: [&str; 2] = ["redis-check-rdb", "valkey-check-rdb"];

/// The arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// From this node, instead of the replica that is least behind
    #[arg(long, value_name = "NODE")]
    from: Option<String>,
    /// From the primary; it costs it time and memory
    #[arg(long)]
    from_primary: bool,
    /// Which master name; without it all
    #[arg(long, value_name = "NAME")]
    master: Option<String>,
    /// Where to, instead of what rolegate.toml says
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<PathBuf>,
    /// How many are kept of each master name
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    keep: Option<u16>,
    /// For how long they are kept, such as 30d; the newest one always is
    #[arg(long, value_name = "TIME", value_parser = times::parse)]
    keep_for: Option<Duration>,
    /// Do not run the hook of rolegate.toml
    #[arg(long)]
    no_hook: bool,
}

/// `rolegate backup`.
pub fn run(args: &Args) -> Result<CliCode, Stop> {
    let settings = Settings::load()?;
    let with = terms(args, &settings)?;
    let checkers = installed_checkers()?;
    let seen = facts::cluster(PACEMAKER);
    let Some(cib) = &seen.cib else {
        return Err(Stop::unknown(seen.facts.error.unwrap_or_else(|| "Pacemaker does not answer here".to_owned())));
    };
    let (mut all, bad) = gates(cib);
    for (resource, error) in &bad {
        say(format!("gate {} is left alone: {error}", resource.id));
    }
    if let Some(master) = &args.master {
        if !all.iter().any(|gate| gate.params.master == *master) {
            return Err(super::status::no_such_master(master, &all, &bad));
        }
        all.retain(|gate| gate.params.master == *master);
    }
    if all.is_empty() {
        return Err(Stop::refused("the cluster has no gate, so nobody knows whose data: rolegate init"));
    }
    let _lock = lock(&with.backup.directory)?;
    let mut worst = CliCode::Ok;
    for gate in &all {
        let made = one(gate, &settings, &with, &checkers, seen.facts.seen_from.as_deref(), args);
        worst = worst.max(match made {
            Ok(code) => code,
            Err(stop) if all.len() == 1 => return Err(stop),
            // The others have theirs.
            Err(stop) => {
                say(&stop.message);
                stop.code
            }
        });
    }
    Ok(worst)
}

/// What the settings and the arguments come to.
struct Terms {
    backup: Backup,
    credentials: Credentials,
}

fn terms(args: &Args, settings: &Settings) -> Result<Terms, Stop> {
    let mut backup = settings.backup.clone();
    if let Some(directory) = &args.directory {
        backup.directory = std::path::absolute(directory).map_err(|error| failed(directory, &error))?;
    }
    backup.keep = args.keep.map_or(backup.keep, usize::from);
    backup.keep_for = args.keep_for.or(backup.keep_for);
    let credentials = match (&backup.user, &backup.password_file) {
        (None, None) => settings.redis.clone(),
        (user, file) => Credentials { user: user.clone(), password: file.as_deref().map(password_in).transpose()? },
    };
    Ok(Terms { backup, credentials })
}

fn failed(path: &Path, error: &io::Error) -> Stop {
    Stop::refused(format!("{}: {error}", path.display()))
}

/// The checkers that are there.
fn installed_checkers() -> Result<Vec<&'static str>, Stop> {
    let found: Vec<&str> = CHECKERS.into_iter().filter(|name| command::find(name).is_ok()).collect();
    if found.is_empty() {
        return Err(Stop::refused(format!(
            "neither {} is installed here, and what is not checked is no backup: apt install redis-tools (or valkey-tools)",
            CHECKERS.join(" nor ")
        )));
    }
    Ok(found)
}

/// One at a time in a directory.
fn lock(directory: &Path) -> Result<Flock<File>, Stop> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|error| failed(directory, &error))?;
    let path = directory.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let lock = match Flock::lock(file.map_err(|error| failed(&path, &error))?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, Errno::EAGAIN)) => {
            return Err(Stop::refused(format!("another rolegate backup is under way: it holds {}", path.display())));
        }
        Err((_, error)) => return Err(failed(&path, &error.into())),
    };
    files::remove_unfinished(directory).map_err(|error| failed(directory, &error))?;
    Ok(lock)
}

/// A backup of one master name.
fn one(
    gate: &Gate,
    settings: &Settings,
    with: &Terms,
    checkers: &[&'static str],
    me: Option<&str>,
    args: &Args,
) -> Result<CliCode, Stop> {
    let master = &gate.params.master;
    let stop = |why: String| Stop::refused(format!("{master}: no backup: {why}"));
    let record = gate.params.record.as_ref().map_err(|error| stop(error.to_string()))?;
    let names: Vec<String> = record.nodes().iter().map(|node| node.name.clone()).collect();
    let mut servers = assign::servers(record, &names, settings);
    let heard = sentinel::ask_all(record, master, &settings.sentinel, settings.answer_within);
    let verdict = Verdict::of(record, &heard, None);
    // In the record's order.
    let servers: Vec<_> = names
        .into_iter()
        .map(|name| {
            let server = servers.remove(&name).unwrap_or(Err(AskError::Silent));
            (name, server)
        })
        .collect();
    let wanted = Wanted { from: args.from.as_deref(), from_primary: args.from_primary, me };
    let source = source::choose(&servers, verdict.points_at_node.as_deref(), wanted).map_err(|error| match error {
        NoSource::Refused(why) => stop(why),
        NoSource::Unknown(why) => Stop::unknown(format!("{master}: no backup: {why}")),
    })?;
    let entry = record.node(&source.node).ok_or_else(|| stop(format!("{} is not in the record", source.node)))?;
    let known_replica = record.nodes().iter().find(|node| {
        node.name != entry.name
            && verdict.points_at_node.as_ref().is_none_or(|named| !named.eq_ignore_ascii_case(&node.name))
    });

    let backup = &with.backup;
    let (name, path) = free_name(&backup.directory, master);
    let unfinished = Unfinished(files::unfinished(&backup.directory, &name));
    let comment = format!("{}{master} from {} ({})", files::COMMENT, source.node, entry.address);
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&unfinished.0);
    let file = file.map_err(|error| failed(&unfinished.0, &error))?;
    // Little work for this node, which has a Redis to serve.
    let mut sink = GzBuilder::new().comment(comment).write(io::BufWriter::new(file), Compression::fast());
    let began = Instant::now();
    let as_replica = known_replica.map(|node| node.address);
    let fetched = fetch::fetch(entry.address, &with.credentials, as_replica, backup.within, &mut sink);
    let length = fetched.map_err(|why| {
        let next = match why.contains("NOPERM") || why.contains("WRONGPASS") || why.contains("NOAUTH") {
            true => {
                let section = if backup.user.is_some() || backup.password_file.is_some() { "backup" } else { "redis" };
                format!("; {}: it needs +sync and +replconf, too", look_at_credentials(section))
            }
            false => String::new(),
        };
        stop(format!("{} ({}): {why}{next}", source.node, entry.address))
    })?;
    let took = began.elapsed();
    let written = sink.finish().and_then(|buffer| buffer.into_inner().map_err(io::IntoInnerError::into_error));
    let file = written.map_err(|error| failed(&unfinished.0, &error))?;
    file.sync_all().map_err(|error| failed(&unfinished.0, &error))?;
    let checked_by = check(&unfinished.0, length, checkers, backup.within)
        .map_err(|why| stop(format!("what came from {} ({}) is no good copy: {why}", source.node, entry.address)))?;
    let size = file.metadata().map_or(0, |meta| meta.len());
    fs::rename(&unfinished.0, &path).map_err(|error| failed(&path, &error))?;
    // The name, too.
    File::open(&backup.directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|error| failed(&backup.directory, &error))?;
    say(format!("{master}: {}", made(&source, length, size, took, checked_by)));
    say(format!("  {}", path.display()));

    let mut code = CliCode::Ok;
    if let (Some((program, arguments)), false) = (backup.hook.split_first(), args.no_hook) {
        match run_hook(program, arguments, &path, backup.hook_within) {
            Ok(()) => say(format!("  {program} has taken it")),
            Err(why) => {
                code = CliCode::Warning;
                say(format!("  the backup is there, but the hook failed: {why}"));
            }
        }
    }
    let (removed, trouble) = files::remove_outdated(&backup.directory, master, now(), backup.keep, backup.keep_for);
    for path in removed {
        say(format!("  removed {}", path.display()));
    }
    for why in trouble {
        code = CliCode::Warning;
        say(format!("  {why}"));
    }
    Ok(code)
}

/// Removed unless it was renamed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _renamed = fs::remove_file(&self.0);
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// A name that no file has. Seconds are enough: who holds the lock can wait for the next.
fn free_name(directory: &Path, master: &str) -> (String, PathBuf) {
    loop {
        let name = files::name(master, now());
        let path = directory.join(&name);
        if fs::symlink_metadata(&path).is_err() {
            return (name, path);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn made(source: &Source, length: u64, size: u64, took: Duration, checked_by: &str) -> String {
    let behind = match (source.primary, source.behind) {
        (true, _) => "primary".to_owned(),
        (false, Some(behind)) => format!("replica, {} behind", bytes(behind)),
        (false, None) => "replica; how far behind cannot be told".to_owned(),
    };
    format!(
        "{} from {} ({behind}) in {:.1} s, {} compressed, checked by {checked_by}",
        bytes(length),
        source.node,
        took.as_secs_f64(),
        bytes(size)
    )
}

/// Reads the file as it is on the disk, to its end, and gives the data to a checker. Gives the one that is content.
fn check(path: &Path, length: u64, checkers: &[&'static str], within: Duration) -> Result<&'static str, String> {
    let mut why = Vec::new();
    for checker in checkers {
        let (read, whole) = mpsc::channel();
        let read = Mutex::new(read);
        let from: Arc<Path> = path.into();
        // They read a stream as well as a file: sought is nothing.
        let run = Cmd::new(*checker).arg("/dev/stdin").deadline(within).fed_by(move |pipe| {
            let all = unpack(&from, pipe);
            let _gone = read.lock().unwrap_or_else(PoisonError::into_inner).send(all);
        });
        match run.run() {
            Ok(_) => {
                // It has read all that it needs; the rest is read for the file's own checksum.
                return match whole.recv_timeout(within) {
                    Ok(Ok(all)) if all == length => Ok(checker),
                    Ok(Ok(all)) => Err(format!("the file holds {all} bytes, and {length} were fetched")),
                    Ok(Err(error)) => Err(format!("the file cannot be read again: {error}")),
                    Err(_) => Err("the file could not be read again in time".to_owned()),
                };
            }
            Err(error) => why.push(error.to_string()),
        }
    }
    Err(why.join("; "))
}

/// Writes what is in the file `path` into `pipe` for as long as that takes it, and reads to the end. Gives how many bytes it was.
fn unpack(path: &Path, pipe: &mut dyn Write) -> io::Result<u64> {
    let mut data = GzDecoder::new(BufReader::new(File::open(path)?));
    let (mut buffer, mut all, mut listens) = (vec![0; 64 << 10], 0, true);
    loop {
        match data.read(&mut buffer)? {
            0 => return Ok(all),
            read => {
                all += read as u64;
                listens = listens && pipe.write_all(&buffer[..read]).is_ok();
            }
        }
    }
}

fn run_hook(program: &str, arguments: &[String], path: &Path, within: Duration) -> Result<(), String> {
    let run = Cmd::new(program).args(arguments).arg(path).deadline(within).run();
    run.map(drop).map_err(|error| crate::causes::with_causes(&error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn two_at_once_are_refused_and_what_was_left_is_removed() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("deep/er");
        let held = lock(&directory).unwrap();
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
        let left = files::unfinished(&directory, "x");
        fs::write(&left, "").unwrap();
        assert!(lock(&directory).unwrap_err().message.contains("under way"));
        assert!(left.exists(), "it is the other's");
        drop(held);
        let _held = lock(&directory).unwrap();
        assert!(!left.exists());
    }

    #[test]
    fn what_is_no_whole_copy_is_not_good() {
        let checkers = installed_checkers().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.rdb.gz");
        // An empty RDB of version 10 without a checksum, and the same cut off.
        let whole = [b"REDIS0010\xff".as_slice(), &[0; 8]].concat();
        let pack = |data: &[u8]| {
            let mut gz = GzBuilder::new().write(Vec::new(), Compression::fast());
            gz.write_all(data).unwrap();
            gz.finish().unwrap()
        };
        let checked = |packed: &[u8], length: usize| {
            fs::write(&path, packed).unwrap();
            check(&path, length as u64, &checkers, Duration::from_secs(20))
        };
        assert!(checked(&pack(&whole), whole.len()).is_ok());
        let shorter = checked(&pack(&whole), whole.len() + 1).unwrap_err();
        assert!(shorter.contains("18 bytes"), "{shorter}");
        assert!(checked(&pack(&whole[..9]), 9).is_err());
        let mut damaged = pack(&whole);
        let at = damaged.len() - 6;
        damaged[at] ^= 1;
        let error = checked(&damaged, whole.len()).unwrap_err();
        assert!(error.contains("read again"), "{error}");
    }

    #[test]
    fn a_hook_gets_the_path_as_one_argument_and_has_a_deadline() {
        let path = Path::new("/a b/$(x).gz");
        let sh = |script: &str, within: u64| {
            let arguments = ["-c", script, "hook"].map(str::to_owned);
            run_hook("/bin/sh", &arguments, path, Duration::from_millis(within))
        };
        assert_eq!(sh("[ \"$1\" = '/a b/$(x).gz' ] && [ $# = 1 ]", 20_000), Ok(()));
        let why = sh("echo no room >&2; exit 3", 20_000).unwrap_err();
        assert!(why.contains("code 3: no room"), "{why}");
        assert!(sh("sleep 60", 100).unwrap_err().contains("did not end within 100 ms"));
        assert!(run_hook("/nonexistent/hook", &[], path, Duration::from_secs(1)).is_err());
    }
}
