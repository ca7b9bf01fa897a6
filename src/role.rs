//! The role of a node, and the node attribute that carries it through the cluster.

use std::fmt;
use std::str::FromStr;

/// The value of the node attribute `redis_role` (or whatever the gate's `attribute` parameter
/// names). Pacemaker's location rules place and promote the gate by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A majority of Sentinels names this node: both ports may open.
    Primary,
    /// Not named, and its data can be read: the read-only port may open.
    Replica,
    /// Neither port may open.
    Fail,
}

impl Role {
    /// The attribute's value, as operators read it in `crm_mon -A`.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
            Role::Fail => "fail",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A role attribute with a value that is none of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a role: primary, replica or fail")]
pub struct NotARole(pub String);

impl FromStr for Role {
    type Err = NotARole;

    fn from_str(text: &str) -> Result<Self, NotARole> {
        match text {
            "primary" => Ok(Role::Primary),
            "replica" => Ok(Role::Replica),
            "fail" => Ok(Role::Fail),
            other => Err(NotARole(other.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_reads_back() {
        for role in [Role::Primary, Role::Replica, Role::Fail] {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        assert!("master".parse::<Role>().is_err());
        assert!("Primary".parse::<Role>().is_err());
        assert!("".parse::<Role>().is_err());
    }
}
