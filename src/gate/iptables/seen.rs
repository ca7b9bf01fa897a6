//! What iptables-save shows of our chains. Pure.

use std::collections::BTreeMap;

use super::plan::{CHAINS, JUMPS, PREFIX, Place};

/// Our part of the rules of one family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Saved {
    /// The rules of each of our chains that is there, without `-A CHAIN`.
    chains: BTreeMap<(String, String), Vec<String>>,
    /// The rules of other chains that jump to ours.
    jumps: BTreeMap<(String, String), Vec<String>>,
}

impl Saved {
    /// Reads the output of iptables-save.
    pub fn parse(text: &str) -> Self {
        let mut saved = Saved::default();
        let mut table = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            } else if let Some(chain) = line.strip_prefix(':') {
                let chain = chain.split(' ').next().unwrap_or_default();
                if is_ours(table, chain) {
                    saved.chains.entry((table.to_owned(), chain.to_owned())).or_default();
                }
            } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rule| rule.split_once(' ')) {
                let key = (table.to_owned(), chain.to_owned());
                if is_ours(table, chain) {
                    saved.chains.entry(key).or_default().push(rule.to_owned());
                } else if target(rule).is_some_and(|target| is_ours(table, target)) {
                    saved.jumps.entry(key).or_default().push(rule.to_owned());
                }
            }
        }
        saved
    }

    /// The rules of a chain of ours.
    pub fn chain(&self, chain: Place) -> Option<&Vec<String>> {
        self.chains.get(&(chain.table.to_owned(), chain.chain.to_owned()))
    }

    /// The rules of another chain that jump to ours.
    pub fn jumps(&self, from: Place) -> Vec<&str> {
        let jumps = self.jumps.get(&(from.table.to_owned(), from.chain.to_owned()));
        jumps.into_iter().flatten().map(String::as_str).collect()
    }

    /// The rules that jump to ours from chains of `table` that we do not jump from, each with its chain.
    pub fn other_jumps<'a>(&'a self, table: &str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let known = |chain: &str| JUMPS.iter().any(|(from, ..)| (from.table, from.chain) == (table, chain));
        let others = self.jumps.iter().filter(move |((of, chain), _)| of == table && !known(chain));
        others.flat_map(|((_, chain), rules)| rules.iter().map(move |rule| (chain.as_str(), rule.as_str())))
    }

    /// Whether nothing of ours is there.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty()
    }

    /// A chain of a name of ours whose rules have nothing to do with our sets: its table, and what it is.
    pub fn foreign_chain(&self) -> Option<(&str, String)> {
        self.chains.iter().find_map(|((table, chain), rules)| {
            let foreign = !rules.is_empty() && !rules.iter().any(|rule| rule.contains(PREFIX));
            let what = || {
                format!("chain {chain} in table {table} is not rolegate's: its first rule is `{}`; rename it", rules[0])
            };
            foreign.then(|| (table.as_str(), what()))
        })
    }
}

fn is_ours(table: &str, chain: &str) -> bool {
    CHAINS.iter().any(|ours| (ours.table, ours.chain) == (table, chain))
}

/// The chain or target that a rule leads to.
fn target(rule: &str) -> Option<&str> {
    let mut words = rule.split(' ');
    words.find(|word| matches!(*word, "-j" | "-g"))?;
    words.next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::Ports;
    use crate::gate::iptables::plan::{self, Gates};

    const PORTS: Ports = Ports { ro: 6380, rw: 6381, redis: 6379 };

    fn own() -> Gates {
        plan::with(Gates::new(), PORTS)
    }

    #[test]
    fn what_iptables_shows_of_an_intact_gate_needs_nothing() {
        for text in [include_str!("golden/nft.save"), include_str!("golden/legacy.save")] {
            let saved = Saved::parse(text);
            assert_eq!(plan::rules_differ(&saved, &own(), PORTS), None);
            assert_eq!(plan::restore(&saved, &own()), "");
            assert_eq!(saved.foreign_chain(), None);
        }
    }

    #[test]
    fn an_empty_firewall_gets_everything() {
        let text = plan::restore(&Saved::default(), &own());
        assert_eq!(text, include_str!("golden/create.restore"));
    }

    #[test]
    fn each_missing_or_changed_line_is_seen() {
        let text = include_str!("golden/nft.save");
        for (at, line) in text.lines().enumerate().filter(|(_, line)| line.contains("ROLEGATE")) {
            let less: String =
                text.lines().enumerate().filter(|(n, _)| *n != at).map(|(_, l)| format!("{l}\n")).collect();
            // A chain that is only declared by its rules is there all the same.
            if !line.starts_with(':') {
                assert!(plan::rules_differ(&Saved::parse(&less), &own(), PORTS).is_some(), "without {line}");
            }
            let twice = text.replace(line, &format!("{line}\n{line}"));
            if line.starts_with("-A") {
                assert!(plan::rules_differ(&Saved::parse(&twice), &own(), PORTS).is_some(), "twice {line}");
                let other = text.replace(line, &line.replace("rolegate-", "other-"));
                assert!(plan::rules_differ(&Saved::parse(&other), &own(), PORTS).is_some(), "changed {line}");
            }
        }
    }

    #[test]
    fn the_last_gate_takes_chains_and_jumps_with_it() {
        let saved = Saved::parse(include_str!("golden/nft.save"));
        assert_eq!(plan::restore(&saved, &Gates::new()), include_str!("golden/remove.restore"));
        assert_eq!(plan::restore(&Saved::default(), &Gates::new()), "");
    }

    #[test]
    fn a_chain_of_our_name_with_others_rules_is_foreign() {
        let saved = Saved::parse("*nat\n:ROLEGATE - [0:0]\n-A ROLEGATE -p tcp -j ACCEPT\nCOMMIT\n");
        assert!(saved.foreign_chain().is_some_and(|(table, _)| table == "nat"));
        assert!(!saved.is_empty());
        assert!(Saved::parse("*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j DOCKER\nCOMMIT\n").is_empty());
    }
}
