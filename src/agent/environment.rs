//! What Pacemaker passes to an agent in its environment (OCF Resource Agent API 1.1).

use std::time::Duration;

/// The environment of one action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// `OCF_RESOURCE_INSTANCE`, without the `:N` of a unique clone.
    pub instance: String,
    /// `OCF_RESKEY_CRM_meta_on_node`: the node on which the action runs.
    pub on_node: Option<String>,
    /// `OCF_RESKEY_CRM_meta_timeout`, given in milliseconds.
    pub timeout: Duration,
    /// A monitor with an interval; without one it is a probe, or somebody's hand.
    pub recurring: bool,
    /// `OCF_CHECK_LEVEL`.
    pub check_level: u32,
}

impl Environment {
    /// Reads it through `get`. What is missing or cannot be read has a default: an action must
    /// work with any environment.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Self {
        let number = |name: &str| get(name).and_then(|value| value.trim().parse::<u64>().ok());
        let instance = get("OCF_RESOURCE_INSTANCE").filter(|name| !name.is_empty());
        let instance = instance.unwrap_or_else(|| "default".to_owned());
        Environment {
            instance: instance.split(':').next().unwrap_or_default().to_owned(),
            on_node: get("OCF_RESKEY_CRM_meta_on_node").filter(|name| !name.is_empty()),
            // 20 s is Pacemaker's own default.
            timeout: Duration::from_millis(number("OCF_RESKEY_CRM_meta_timeout").unwrap_or(20_000)),
            recurring: number("OCF_RESKEY_CRM_meta_interval").unwrap_or(0) > 0,
            check_level: number("OCF_CHECK_LEVEL").and_then(|level| level.try_into().ok()).unwrap_or(0),
        }
    }

    /// How long an action may take by itself: Pacemaker kills it without a word at its timeout.
    pub fn budget(&self) -> Duration {
        let margin = (self.timeout / 5).min(Duration::from_secs(3));
        self.timeout.saturating_sub(margin).max(Duration::from_millis(100))
    }
}

/// `OCF_EXIT_REASON_PREFIX`: what marks the reason on stderr.
pub fn reason_prefix(get: impl Fn(&str) -> Option<String>) -> String {
    get("OCF_EXIT_REASON_PREFIX").unwrap_or_else(|| "ocf-exit-reason:".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_pacemaker_passes() {
        let environment = Environment::read(|name| {
            let value = match name {
                "OCF_RESOURCE_INSTANCE" => "RedisGate:1",
                "OCF_RESKEY_CRM_meta_on_node" => "node1",
                "OCF_RESKEY_CRM_meta_timeout" => "30000",
                "OCF_RESKEY_CRM_meta_interval" => "5000",
                _ => return None,
            };
            Some(value.to_owned())
        });
        assert_eq!(environment.instance, "RedisGate");
        assert_eq!(environment.budget(), Duration::from_secs(27));
        assert!(environment.recurring);
    }

    #[test]
    fn an_empty_environment_is_a_probe_with_defaults() {
        let environment = Environment::read(|_| None);
        assert!(!environment.recurring);
        assert_eq!(environment.budget(), Duration::from_secs(17));
        assert_eq!(reason_prefix(|_| None), "ocf-exit-reason:");
    }
}
