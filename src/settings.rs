//! What is local to a node: credentials' files, deadlines, the firewall backend, the log level.
//! Defaults, then `/etc/rolegate/rolegate.toml`; what proofs stand on is never here (see
//! [`crate::record`]).

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;

use crate::gate::BackendChoice;
use crate::server::Credentials;
use crate::times;

/// The file that [`Settings::load`] reads.
pub const FILE: &str = "/etc/rolegate/rolegate.toml";

/// What to look at where servers of a kind deny access; `section` is that of the file, redis or sentinel.
pub fn look_at_credentials(section: &str) -> String {
    format!("look at user and password_file under [{section}] in {FILE}, and at that user's rights")
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How to authenticate at Redis.
    pub redis: Credentials,
    /// How to authenticate at Sentinels.
    pub sentinel: Credentials,
    /// Where `rolegate init` finds the first Sentinel.
    pub first_sentinel: SocketAddr,
    /// The firewall backend.
    pub firewall: BackendChoice,
    /// Who may reach Redis' own port past the gate beside this host, nodes and Sentinels; None: everybody (see [`crate::gate::direct`]).
    pub direct: Option<Vec<IpNet>>,
    /// How long a Redis or a Sentinel may take to answer.
    pub answer_within: Duration,
    /// How long opening a port or reading the firewall may take. Closing takes what an action has.
    pub firewall_within: Duration,
    /// error, warn, info, debug or trace.
    pub log_level: String,
    /// What `rolegate backup` does unless told otherwise.
    pub backup: Backup,
}

/// What `rolegate backup` does unless told otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Where the files are.
    pub directory: PathBuf,
    /// How many of each master name are kept, 1 or more.
    pub keep: usize,
    /// And for how long.
    pub keep_for: Option<Duration>,
    /// How long fetching one may take.
    pub within: Duration,
    /// What is run with the path of a new one behind its arguments; empty for nothing.
    pub hook: Vec<String>,
    /// How long that may take.
    pub hook_within: Duration,
    /// Another user than that of `[redis]`, with the file of its password, which is not read before it is needed: the hook of
    /// Sentinel, which may not read it, reads these settings too.
    pub user: Option<String>,
    /// See `user`.
    pub password_file: Option<PathBuf>,
}

impl Default for Backup {
    fn default() -> Self {
        Backup {
            directory: PathBuf::from("/var/backups/rolegate"),
            keep: 14,
            keep_for: None,
            within: Duration::from_secs(3600),
            hook: Vec::new(),
            hook_within: Duration::from_secs(600),
            user: None,
            password_file: None,
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            redis: Credentials::default(),
            sentinel: Credentials::default(),
            first_sentinel: SocketAddr::from(([127, 0, 0, 1], 26379)),
            firewall: BackendChoice::Auto,
            direct: None,
            answer_within: Duration::from_secs(1),
            firewall_within: Duration::from_secs(5),
            log_level: "info".to_owned(),
            backup: Backup::default(),
        }
    }
}

/// Why the settings cannot be used. Never shows a file's content, which may hold a secret.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The settings file, or a password file that it names.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("{}{}: {reason}", path.display(), line.map(|line| format!(" line {line}")).unwrap_or_default())]
    Invalid {
        /// The settings file.
        path: PathBuf,
        /// The line, counted from 1.
        line: Option<usize>,
        /// What is wrong with it.
        reason: String,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    redis: ServerSection,
    sentinel: SentinelSection,
    firewall: FirewallSection,
    log: LogSection,
    backup: BackupSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct BackupSection {
    directory: Option<PathBuf>,
    keep: Option<usize>,
    keep_for: Option<String>,
    within: Option<String>,
    hook: Vec<String>,
    hook_within: Option<String>,
    user: Option<String>,
    password_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ServerSection {
    user: Option<String>,
    password_file: Option<PathBuf>,
    answer_within_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SentinelSection {
    address: Option<SocketAddr>,
    user: Option<String>,
    password_file: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FirewallSection {
    backend: Option<String>,
    direct: Option<Vec<String>>,
    within_ms: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogSection {
    level: Option<Level>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Settings {
    /// Reads [`FILE`]; the defaults where there is none.
    ///
    /// # Errors
    /// [`SettingsError`], naming the file and the line.
    pub fn load() -> Result<Self, SettingsError> {
        Settings::load_from(Path::new(FILE))
    }

    /// Reads the settings file `path`; the defaults where there is none.
    ///
    /// # Errors
    /// [`SettingsError`], naming the file and the line.
    pub fn load_from(path: &Path) -> Result<Self, SettingsError> {
        match fs::read_to_string(path) {
            Ok(text) => Settings::parse(path, &text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Settings::default()),
            Err(source) => Err(SettingsError::Unreadable { path: path.to_owned(), source }),
        }
    }

    fn parse(path: &Path, text: &str) -> Result<Self, SettingsError> {
        let invalid = |line, reason: &str| SettingsError::Invalid {
            path: path.to_owned(),
            line,
            // The first line only: the rest is an excerpt of the file.
            reason: reason.lines().next().unwrap_or_default().to_owned(),
        };
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            invalid(line, error.message())
        })?;
        let default = Settings::default();
        let milliseconds = |value: Option<u64>, default: Duration, name: &str| match value {
            Some(0) => Err(invalid(None, &format!("{name} is 0; it must be at least 1"))),
            Some(60_001..) => Err(invalid(None, &format!("{name} is above 60000, a minute"))),
            Some(value) => Ok(Duration::from_millis(value)),
            None => Ok(default),
        };
        Ok(Settings {
            redis: credentials(file.redis.user, file.redis.password_file.as_deref())?,
            sentinel: credentials(file.sentinel.user, file.sentinel.password_file.as_deref())?,
            first_sentinel: file.sentinel.address.unwrap_or(default.first_sentinel),
            firewall: match file.firewall.backend {
                None => default.firewall,
                Some(text) => text.parse().map_err(|why: String| invalid(None, &format!("firewall.backend: {why}")))?,
            },
            direct: match file.firewall.direct {
                None => None,
                Some(list) => Some(
                    list.iter().map(|text| net(text)).collect::<Result<_, _>>().map_err(|why| invalid(None, &why))?,
                ),
            },
            answer_within: milliseconds(file.redis.answer_within_ms, default.answer_within, "redis.answer_within_ms")?,
            firewall_within: milliseconds(file.firewall.within_ms, default.firewall_within, "firewall.within_ms")?,
            log_level: match file.log.level {
                Some(Level::Error) => "error",
                Some(Level::Warn) => "warn",
                None | Some(Level::Info) => "info",
                Some(Level::Debug) => "debug",
                Some(Level::Trace) => "trace",
            }
            .to_owned(),
            backup: backup(file.backup).map_err(|why| invalid(None, &why))?,
        })
    }

    /// The log level as the logger takes it.
    pub fn level(&self) -> tracing_subscriber::filter::LevelFilter {
        self.log_level.parse().unwrap_or(tracing_subscriber::filter::LevelFilter::INFO)
    }
}

fn net(text: &str) -> Result<IpNet, String> {
    let net = text.parse().or_else(|_| text.parse().map(|address: IpAddr| address.to_canonical().into()));
    net.map_err(|_| {
        format!(
            "firewall.direct: {text:?} is neither an address (192.0.2.7) nor a network (192.0.2.0/24, 2001:db8::/64)"
        )
    })
}

fn backup(section: BackupSection) -> Result<Backup, String> {
    let default = Backup::default();
    let time = |text: Option<String>, name: &str| -> Result<Option<Duration>, String> {
        text.map(|text| times::parse(&text).map_err(|why| format!("backup.{name}: {text:?}: {why}"))).transpose()
    };
    let absolute = |path: &Path, name: &str| match path.is_absolute() {
        true => Ok(()),
        false => Err(format!("backup.{name}: {:?} is no absolute path", path.display().to_string())),
    };
    let directory = section.directory.unwrap_or(default.directory);
    absolute(&directory, "directory")?;
    if let Some(program) = section.hook.first() {
        absolute(Path::new(program), "hook")?;
    }
    let keep = section.keep.unwrap_or(default.keep);
    if keep == 0 {
        return Err("backup.keep: 0: at least 1 is kept".to_owned());
    }
    Ok(Backup {
        directory,
        keep,
        keep_for: time(section.keep_for, "keep_for")?,
        within: time(section.within, "within")?.unwrap_or(default.within),
        hook: section.hook,
        hook_within: time(section.hook_within, "hook_within")?.unwrap_or(default.hook_within),
        user: section.user,
        password_file: section.password_file,
    })
}

fn credentials(user: Option<String>, password_file: Option<&Path>) -> Result<Credentials, SettingsError> {
    Ok(Credentials { user, password: password_file.map(password_in).transpose()? })
}

/// The password in the file `path`, without the line's end.
///
/// # Errors
/// [`SettingsError::Unreadable`].
pub fn password_in(path: &Path) -> Result<String, SettingsError> {
    let text =
        fs::read_to_string(path).map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Variant;

    fn parse(text: &str) -> Result<Settings, SettingsError> {
        Settings::parse(Path::new("rolegate.toml"), text)
    }

    #[test]
    fn an_empty_or_missing_file_is_the_defaults() {
        assert_eq!(parse("").unwrap(), Settings::default());
        assert_eq!(Settings::load_from(Path::new("/nonexistent/rolegate.toml")).unwrap(), Settings::default());
    }

    #[test]
    fn the_file_that_is_installed_shows_the_defaults() {
        let text = include_str!("../contrib/rolegate.toml");
        assert_eq!(parse(text).unwrap(), Settings::default());
        let shown: Vec<_> = text
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|key| key.contains(" = ")).unwrap_or(line))
            .collect();
        assert_eq!(parse(&shown.join("\n")).unwrap(), Settings::default());
        // Those that have none.
        let keys: Vec<_> = text
            .lines()
            .map(|line| line.strip_prefix('#').filter(|key| !key.starts_with(' ')).unwrap_or(line))
            .collect();
        let error = parse(&keys.join("\n")).unwrap_err();
        assert!(matches!(&error, SettingsError::Unreadable { .. }) && text.contains("\n#user = "), "{error}");
    }

    #[test]
    fn reads_each_key() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("redis.password");
        fs::write(&file, "s3cret\n").unwrap();
        let settings = parse(&format!(
            "[redis]\nuser = 'gate'\npassword_file = '{}'\nanswer_within_ms = 250\n[sentinel]\naddress = '10.0.0.9:26379'\n[firewall]\nbackend = 'iptables-legacy'\nwithin_ms = 3000\ndirect = ['10.0.0.9', '192.0.2.0/24', '::/0']\n[log]\nlevel = 'debug'\n\
             [backup]\ndirectory = '/srv/backup'\nkeep = 3\nkeep_for = '30d'\nwithin = '2h'\nhook = ['/usr/local/bin/upload', '-v']\n\
             hook_within = '5m'\nuser = 'backup'\npassword_file = '/nonexistent/not-read-here'\n",
            file.display()
        ))
        .unwrap();
        assert_eq!((settings.backup.keep, settings.backup.hook.len()), (3, 2));
        assert_eq!(settings.backup.keep_for, Some(Duration::from_secs(30 * 86_400)));
        assert_eq!(settings.redis.user.as_deref(), Some("gate"));
        assert_eq!(settings.redis.password.as_deref(), Some("s3cret"));
        assert_eq!(settings.answer_within, Duration::from_millis(250));
        let direct: Vec<String> = settings.direct.iter().flatten().map(ToString::to_string).collect();
        assert_eq!(direct, ["10.0.0.9/32", "192.0.2.0/24", "::/0"]);
        assert_eq!(parse("[firewall]\ndirect = []").unwrap().direct, Some(Vec::new()));
        assert_eq!(settings.first_sentinel, "10.0.0.9:26379".parse().unwrap());
        assert_eq!(
            (settings.firewall, settings.log_level.as_str()),
            (BackendChoice::Iptables(Some(Variant::Legacy)), "debug")
        );
        assert!(!format!("{settings:?}").contains("s3cret"));
    }

    #[test]
    fn errors_name_the_line_and_never_show_the_content() {
        for (text, line, part) in [
            ("[redis]\npasword_file = 'hunter2'\n", Some(2), "pasword_file"),
            ("[redis]\npassword = 'hunter2'\n", Some(2), "password"),
            ("[redis]\nuser = 'hunter2\n", Some(2), ""),
            ("[firewall]\nbackend = 'pf'\n", None, "pf"),
            ("[firewall]\ndirect = ['10.0.0']\n", None, "firewall.direct: \"10.0.0\" is neither"),
            ("[firewall]\ndirect = ['10.0.0.0/33']\n", None, "firewall.direct: \"10.0.0.0/33\""),
            ("[firewall]\ndirect = 'all'\n", Some(2), ""),
            ("[log]\nlevel = 'loud'\n", Some(2), "loud"),
            ("[redis]\nanswer_within_ms = 0\n", None, "answer_within_ms"),
            ("[backup]\nkeep = 0\n", None, "backup.keep"),
            ("[backup]\nkeep = -1\n", Some(2), ""),
            ("[backup]\nkeep_for = '30'\n", None, "backup.keep_for: \"30\""),
            ("[backup]\nhook = ['upload']\n", None, "backup.hook"),
            ("[backup]\nhook = 'upload'\n", Some(2), ""),
            ("[backup]\ndirectory = 'here'\n", None, "backup.directory"),
            ("[redis]\nanswer_within_ms = 100000\n", None, "answer_within_ms"),
        ] {
            let error = parse(text).unwrap_err();
            let SettingsError::Invalid { line: found, .. } = &error else { panic!("{error:?}") };
            assert_eq!(*found, line, "{text}");
            let message = error.to_string();
            assert!(message.contains(part) && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_missing_password_file_is_named() {
        let error = parse("[sentinel]\npassword_file = '/nonexistent/password'\n").unwrap_err();
        assert!(error.to_string().contains("/nonexistent/password"));
    }
}
