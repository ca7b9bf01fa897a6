//! What one Redis or Valkey server says of itself: its role, its run id, its replication.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::server::{self, AskError, Credentials};
use crate::wire::Reply;

/// One server as it describes itself in INFO.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instance {
    /// `run_id`: new at each start of the process.
    pub run_id: String,
    /// `redis_version`, or `valkey_version` where there is one.
    pub version: String,
    /// Whether it is a primary (`role:master`) or a replica.
    pub role: ServerRole,
    /// It is still loading its data, and answers -LOADING to clients.
    pub loading: bool,
    /// `master_replid`: which history of writes its data belongs to.
    pub replication_id: String,
    /// `master_repl_offset` of a primary, `slave_repl_offset` of a replica, in bytes.
    pub offset: u64,
    /// `uptime_in_seconds`: how long this process has run.
    pub uptime: Duration,
    /// `replica-priority` as Sentinels see it; 0 is never chosen.
    pub priority: u32,
}

/// The server's own word for its role.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ServerRole {
    /// `role:master`.
    Primary {
        /// Its replicas that are online, by `slaveN` lines.
        replicas: Vec<OnlineReplica>,
    },
    /// `role:slave`.
    Replica {
        /// Of whom, host and port as configured.
        of: String,
        /// `master_link_status:up`.
        link_up: bool,
        /// `master_link_down_since_seconds`, where the link is down.
        link_down_for: Option<Duration>,
    },
    /// INFO gave no role.
    #[default]
    Unknown,
}

/// A replica as its primary sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnlineReplica {
    /// Its address and port as the primary knows it.
    pub address: String,
    /// What it has acknowledged, in bytes.
    pub offset: u64,
    /// Whole seconds since its last acknowledgement.
    pub lag: u64,
}

impl Instance {
    /// Whether it takes writes as far as its role goes.
    pub fn is_primary(&self) -> bool {
        matches!(self.role, ServerRole::Primary { .. })
    }
}

/// What a server is asked. Three questions: INFO takes several sections only since Redis 7.
pub const QUESTION: [&[&str]; 3] = [&["INFO", "server"], &["INFO", "replication"], &["INFO", "persistence"]];

/// Asks the server at `address`.
///
/// # Errors
/// [`AskError`], in any case within `deadline`.
pub fn ask(address: SocketAddr, credentials: &Credentials, deadline: Duration) -> Result<Instance, AskError> {
    read(&server::ask(address, credentials, deadline, &QUESTION)?)
}

/// Reads the replies to [`QUESTION`].
///
/// # Errors
/// [`AskError::Broken`] where they are none.
pub fn read<'a, R: Into<Reply<'a>>>(replies: impl IntoIterator<Item = R>) -> Result<Instance, AskError> {
    let text = |reply: R| {
        let reply = reply.into();
        let not_a = || AskError::Broken(format!("not a reply to INFO: {}", server::shown(&reply.to_value())));
        reply.text().ok_or_else(not_a)
    };
    let texts = replies.into_iter().map(text).collect::<Result<Vec<Cow<str>>, AskError>>()?;
    read_info(texts.iter().map(|text| &**text))
        .ok_or_else(|| AskError::Broken("INFO without run_id or role".to_owned()))
}

/// What is read of INFO, besides what begins with `slave`.
const FIELDS: [&str; 13] = [
    "run_id",
    "redis_version",
    "valkey_version",
    "uptime_in_seconds",
    "role",
    "connected_slaves",
    "master_host",
    "master_port",
    "master_link_status",
    "master_link_down_since_seconds",
    "master_replid",
    "master_repl_offset",
    "loading",
];

/// Reads INFO's text, in its parts; `None` without a run id or a role, which every server gives.
fn read_info<'a>(parts: impl IntoIterator<Item = &'a str>) -> Option<Instance> {
    // A keeper reads it several times a second for each master name; most of it is of no use.
    let is_wanted = |name: &str| FIELDS.contains(&name) || name.starts_with("slave");
    let fields = parts.into_iter().flat_map(str::lines).filter_map(|line| line.trim_end().split_once(':'));
    let info: HashMap<&str, &str> = fields.filter(|(name, _)| is_wanted(name)).collect();
    let number = |name: &str| info.get(name).and_then(|value| value.parse::<u64>().ok());
    let role = match *info.get("role")? {
        "master" => ServerRole::Primary {
            replicas: (0..number("connected_slaves").unwrap_or(0).min(1000))
                .filter_map(|n| replica(info.get(format!("slave{n}").as_str())?))
                .collect(),
        },
        "slave" => ServerRole::Replica {
            of: format!("{}:{}", info.get("master_host")?, info.get("master_port")?),
            link_up: info.get("master_link_status") == Some(&"up"),
            link_down_for: number("master_link_down_since_seconds").map(Duration::from_secs),
        },
        _ => return None,
    };
    let offset = match role {
        ServerRole::Replica { .. } => number("slave_repl_offset"),
        _ => number("master_repl_offset"),
    };
    Some(Instance {
        run_id: info.get("run_id").filter(|id| !id.is_empty())?.to_string(),
        version: info.get("valkey_version").or(info.get("redis_version")).unwrap_or(&"").to_string(),
        loading: info.get("loading").is_some_and(|&value| value != "0"),
        replication_id: info.get("master_replid").unwrap_or(&"").to_string(),
        offset: offset.unwrap_or(0),
        uptime: Duration::from_secs(number("uptime_in_seconds").unwrap_or(0)),
        priority: number("slave_priority").and_then(|value| value.try_into().ok()).unwrap_or(100),
        role,
    })
}

/// `ip=10.0.0.2,port=6379,state=online,offset=100,lag=0`
fn replica(line: &str) -> Option<OnlineReplica> {
    let fields: HashMap<&str, &str> = line.split(',').filter_map(|field| field.split_once('=')).collect();
    (fields.get("state") == Some(&"online")).then_some(())?;
    Some(OnlineReplica {
        address: format!("{}:{}", fields.get("ip")?, fields.get("port")?),
        offset: fields.get("offset")?.parse().ok()?,
        // Less than none where the server's clock was set back.
        lag: fields.get("lag")?.parse::<i64>().ok()?.try_into().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // INFO of Redis 7.0.15, the lines that matter and some that do not.
    const PRIMARY: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:0123\r\n# Replication\r\nrole:master\r\nconnected_slaves:2\r\nslave0:ip=10.0.0.2,port=6379,state=online,offset=98,lag=1\r\nslave1:ip=10.0.0.3,port=6379,state=wait_bgsave,offset=0,lag=0\r\nmaster_replid:abc\r\nmaster_repl_offset:100\r\n# Persistence\r\nloading:0\r\n";
    const REPLICA: &str = "redis_version:7.2.4\r\nvalkey_version:8.1.1\r\nrun_id:4567\r\nrole:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\nmaster_link_status:down\r\nmaster_link_down_since_seconds:7\r\nslave_repl_offset:90\r\nslave_priority:0\r\nmaster_replid:abc\r\nmaster_repl_offset:90\r\nloading:1\r\n";

    #[test]
    fn reads_a_primary() {
        let instance = read_info([PRIMARY]).unwrap();
        assert!(instance.is_primary() && !instance.loading);
        assert_eq!((instance.run_id.as_str(), instance.offset, instance.priority), ("0123", 100, 100));
        assert_eq!(
            instance.role,
            ServerRole::Primary {
                replicas: vec![OnlineReplica { address: "10.0.0.2:6379".into(), offset: 98, lag: 1 }]
            }
        );
    }

    #[test]
    fn a_replica_does_not_vanish_where_the_clock_was_set_back() {
        let replica = replica("ip=10.0.0.2,port=6379,state=online,offset=98,lag=-3599").unwrap();
        assert_eq!((replica.offset, replica.lag), (98, 0));
    }

    #[test]
    fn reads_a_replica_of_valkey() {
        let instance = read_info([REPLICA]).unwrap();
        assert_eq!((instance.version.as_str(), instance.priority, instance.loading), ("8.1.1", 0, true));
        assert_eq!(
            instance.role,
            ServerRole::Replica {
                of: "10.0.0.1:6379".into(),
                link_up: false,
                link_down_for: Some(Duration::from_secs(7))
            }
        );
    }

    #[test]
    fn without_role_or_run_id_it_is_no_answer() {
        assert_eq!(read_info(["run_id:1\r\n"]), None);
        assert_eq!(read_info(["role:master\r\n"]), None);
        assert_eq!(read_info(["run_id:1\r\nrole:sentinel\r\n"]), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(run_id|role|slave0|connected_slaves|loading|[a-z]{1,5}|:|=|,|master|slave|9{1,25}|\r\n){0,80}") {
            let _either = read_info([text.as_str()]);
        }
    }
}
