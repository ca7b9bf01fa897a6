//! The parameters of `ocf:rolegate:gate` and `ocf:rolegate:block`: one table from which metadata is rendered, the agents
//! read their environment, and the other programs read the CIB.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::gate::{Port, Ports};
use crate::record::{Record, RecordError};

/// The provider under which Pacemaker knows our agents.
pub const PROVIDER: &str = "rolegate";
/// The promotable gate.
pub const GATE: &str = "gate";
/// The classic layout's blocker.
pub const BLOCK: &str = "block";

/// One parameter as the metadata describes it.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// `string` or `integer`.
    pub kind: &'static str,
    /// Used where it is not set; empty for none.
    pub default: &'static str,
    /// Whether two gates must differ in it.
    pub unique: bool,
    /// Whether nothing works without it.
    pub required: bool,
    /// One line.
    pub short: &'static str,
    /// The whole story.
    pub long: &'static str,
}

/// All parameters of `ocf:rolegate:gate`.
pub const GATE_PARAMETERS: [Parameter; 10] = [
    Parameter {
        name: "master",
        kind: "string",
        default: "mymaster",
        unique: true,
        required: false,
        short: "Sentinel's master name",
        long: "The name under which Sentinels monitor the Redis or Valkey group whose ports this gate guards.",
    },
    Parameter {
        name: "attribute",
        kind: "string",
        default: "redis_role",
        unique: true,
        required: false,
        short: "node attribute that carries the role",
        long: "The node attribute that carries each node's role: primary, replica or fail. With several master names, each gate needs one of its own, for example redis_role-NAME.",
    },
    Parameter {
        name: "ro_port",
        kind: "integer",
        default: "6380",
        unique: true,
        required: false,
        short: "read-only port",
        long: "The port that is open on every node whose data can be read. Redirected to redis_port.",
    },
    Parameter {
        name: "rw_port",
        kind: "integer",
        default: "6381",
        unique: true,
        required: false,
        short: "read-write port",
        long: "The port that is open on the primary's node only. Redirected to redis_port.",
    },
    Parameter {
        name: "redis_port",
        kind: "integer",
        default: "6379",
        unique: false,
        required: false,
        short: "port of the local Redis or Valkey",
        long: "The port on which the local Redis or Valkey listens.",
    },
    Parameter {
        name: "sentinels",
        kind: "string",
        default: "",
        unique: false,
        required: false,
        short: "the Sentinels that count (written by rolegate init)",
        long: "The Sentinels whose majority decides, as RUNID@ADDRESS:PORT separated by spaces. Written by `rolegate init`; without it the gate stays closed.",
    },
    Parameter {
        name: "nodes",
        kind: "string",
        default: "",
        unique: false,
        required: false,
        short: "the nodes' data addresses (written by rolegate init)",
        long: "The address under which Sentinels know each node's Redis, as NODE=ADDRESS:PORT separated by spaces. Written by `rolegate init`; without it the gate stays closed.",
    },
    Parameter {
        name: "lease",
        kind: "string",
        default: "2s",
        unique: false,
        required: false,
        short: "how long the read-write port stays open without a new proof",
        long: "The lease's length, in seconds (s) or milliseconds (ms): how long the read-write port stays open when the Sentinels' majority cannot be asked any more. The kernel closes it then. A longer one forgives longer pauses, and lets an isolated primary take writes for longer. On iptables it has whole seconds. All nodes follow a change before the next one.",
    },
    Parameter {
        name: "ro_max_stale",
        kind: "string",
        default: "60s",
        unique: false,
        required: false,
        short: "how long a replica without its primary is read from",
        long: "A replica whose link to its primary has been down for longer than this, in seconds (s), fails: its read-only port closes. 0 lets it serve old data for ever.",
    },
    Parameter {
        name: "open_for",
        kind: "string",
        default: "20s",
        unique: false,
        required: false,
        short: "how long a port stays open unless renewed",
        long: "How long an open port stays open in the firewall when nobody renews it, in seconds (s) or milliseconds (ms). The keeper renews it when a quarter of the time is over; where none runs, a monitor when three tenths are. A few monitor intervals: with the shipped 5 s, the default of 20 s forgives two lost monitors then.",
    },
];

/// Which port a block blocks.
const PORT: Parameter = Parameter {
    name: "port",
    kind: "string",
    default: "",
    unique: false,
    required: true,
    short: "the port that this blocks: ro or rw",
    long: "ro blocks the read-only port, rw the read-write port. Each master name needs one block for either.",
};

/// All parameters of `ocf:rolegate:block`: those of the gate, which the two blocks of a master name share, and its port.
pub const BLOCK_PARAMETERS: [Parameter; GATE_PARAMETERS.len() + 1] = {
    let mut all = [PORT; GATE_PARAMETERS.len() + 1];
    let mut n = 0;
    while n < GATE_PARAMETERS.len() {
        all[n + 1] = Parameter { unique: false, ..GATE_PARAMETERS[n] };
        n += 1;
    }
    all
};

/// Reads which port a block blocks.
///
/// # Errors
/// [`ParamError`] where it is neither ro nor rw.
pub fn read_port(get: impl Fn(&str) -> Option<String>) -> Result<Port, ParamError> {
    let value = get(PORT.name).unwrap_or_default();
    Port::ALL.into_iter().find(|port| port.to_string() == value).ok_or_else(|| ParamError {
        name: PORT.name,
        value,
        expected: "ro or rw".to_owned(),
    })
}

/// The parameters, read and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    /// Sentinel's master name.
    pub master: String,
    /// The role attribute.
    pub attribute: String,
    /// The ports.
    pub ports: Ports,
    /// What proofs stand on, or why there is nothing. Not an error of the parameters: without a
    /// record a gate runs, closed.
    pub record: Result<Record, RecordError>,
    /// How long a lease lasts (L).
    pub lease: Duration,
    /// How long a replica's link may be down before it fails; None for ever.
    pub ro_max_stale: Option<Duration>,
    /// How long an opening lasts.
    pub open_for: Duration,
}

/// A parameter with a value that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parameter {name}={value:?}: {expected}")]
pub struct ParamError {
    /// The parameter.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub expected: String,
}

impl Params {
    /// Reads parameters through `get`, which gives a parameter's value where it is set.
    ///
    /// # Errors
    /// [`ParamError`], naming the parameter, the value and what would be right.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, ParamError> {
        let value = |name: &'static str| {
            get(name).filter(|value| !value.is_empty()).unwrap_or_else(|| default_of(name).to_owned())
        };
        let name = |parameter: &'static str| {
            let text = value(parameter);
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if text.len() <= 64 && text.chars().all(plain) && !text.starts_with('.') {
                Ok(text)
            } else {
                let expected = "a name of letters, digits, '.', '_' and '-', at most 64".to_owned();
                Err(ParamError { name: parameter, value: text, expected })
            }
        };
        let port = |parameter: &'static str| {
            let text = value(parameter);
            text.parse::<u16>().ok().filter(|&port| port != 0).ok_or_else(|| ParamError {
                name: parameter,
                value: text.clone(),
                expected: "a port from 1 to 65535".to_owned(),
            })
        };
        let ports =
            Ports::new(port("ro_port")?, port("rw_port")?, port("redis_port")?).map_err(|error| ParamError {
                name: "ro_port, rw_port, redis_port",
                value: [value("ro_port"), value("rw_port"), value("redis_port")].join(", "),
                expected: error.to_string(),
            })?;
        let time = |parameter: &'static str, least: Duration, most: Duration, expected: &str| {
            let text = value(parameter);
            duration(&text).filter(|time| (least..=most).contains(time)).ok_or_else(|| ParamError {
                name: parameter,
                value: text.clone(),
                expected: expected.to_owned(),
            })
        };
        let hour = Duration::from_secs(3600);
        let ro_max_stale = time("ro_max_stale", Duration::ZERO, 24 * hour, "a time up to 86400s, or 0")?;
        Ok(Params {
            master: name("master")?,
            attribute: name("attribute")?,
            ports,
            record: Record::parse(&value("sentinels"), &value("nodes")),
            lease: time("lease", *LEASES.start(), *LEASES.end(), "a time from 1s to 60s, such as 2s or 1500ms")?,
            ro_max_stale: (ro_max_stale > Duration::ZERO).then_some(ro_max_stale),
            open_for: time("open_for", Duration::from_secs(2), hour, "a time from 2s to 3600s, such as 20s or 2500ms")?,
        })
    }
}

/// How long a lease may be.
pub const LEASES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);

/// The default of a parameter; empty for none.
pub(crate) fn default_of(name: &str) -> &'static str {
    GATE_PARAMETERS.iter().find(|parameter| parameter.name == name).map_or("", |parameter| parameter.default)
}

/// `20s`, `2500ms`, or seconds without a unit, as Pacemaker reads times.
fn duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let number = |digits: &str| digits.trim().parse::<u64>().ok();
    if let Some(digits) = text.strip_suffix("ms") {
        return number(digits).map(Duration::from_millis);
    }
    number(text.strip_suffix('s').unwrap_or(text)).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(set: &[(&str, &str)]) -> Result<Params, ParamError> {
        Params::read(|name| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_string()))
    }

    #[test]
    fn the_defaults_are_a_gate_without_a_record() {
        let params = read(&[]).unwrap();
        assert_eq!((params.master.as_str(), params.attribute.as_str()), ("mymaster", "redis_role"));
        assert_eq!(params.ports, Ports::default());
        assert_eq!(params.record, Err(RecordError::Missing));
        assert_eq!(params.open_for, Duration::from_secs(20));
    }

    #[test]
    fn bad_values_are_named() {
        for (name, value) in [
            ("ro_port", "0"),
            ("rw_port", "65536"),
            ("redis_port", "redis"),
            ("master", "my master"),
            ("master", "../../etc"),
            ("attribute", "a\"b"),
            ("open_for", "0"),
            ("open_for", "1h"),
            ("open_for", "99999s"),
            ("lease", "0"),
            ("lease", "61s"),
            ("ro_max_stale", "long"),
            ("rw_port", "6380"),
        ] {
            let error = read(&[(name, value)]).unwrap_err();
            assert!(error.name.contains(name) && error.value.contains(value), "{error}");
        }
    }

    #[test]
    fn a_block_says_which_port() {
        let read = |value: Option<&str>| read_port(|name| value.filter(|_| name == "port").map(str::to_owned));
        assert_eq!((read(Some("ro")), read(Some("rw"))), (Ok(Port::Ro), Ok(Port::Rw)));
        for wrong in [None, Some(""), Some("RW"), Some("6381")] {
            assert!(read(wrong).unwrap_err().to_string().contains("ro or rw"), "{wrong:?}");
        }
    }

    #[test]
    fn times_are_read_as_pacemaker_reads_them() {
        for (text, milliseconds) in [("20s", 20_000), ("2500ms", 2500), ("7", 7000), (" 3 s", 3000)] {
            assert_eq!(duration(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        assert_eq!(duration("-1s"), None);
        assert_eq!(duration(""), None);
    }
}
