//! What stands in the firewall beside rolegate's own rules: read from what `nft list ruleset` and the `*-save` programs of iptables print. Pure.

use crate::gate::{Ports, direct};

/// The names of our own table and chains.
const OWN_TABLE: &str = "inet rolegate";
const OWN_CHAIN: &str = "ROLEGATE";

/// A rule of somebody else.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Foreign {
    /// Where it stands: `ip filter INPUT`.
    pub chain: String,
    /// It is in a chain, or reached from one, that sees what comes in for this host.
    input: bool,
    /// The rule, as printed.
    pub text: String,
}

/// What was printed, by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// The rules.
    pub rules: Vec<Foreign>,
    /// The input chains that drop what no rule accepts.
    pub drops: Vec<String>,
    /// The Redis ports that our own `direct` shuts.
    pub direct: Vec<u16>,
}

/// What others do to our ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// Rules that keep our ports' packets from being tracked: without that there is no redirect.
    pub untracked: Vec<String>,
    /// Rules that send our ports elsewhere, or drop what comes there.
    pub taken: Vec<String>,
    /// An input chain drops what is not accepted, and nothing is seen that accepts redirected connections.
    pub shut: Option<String>,
    /// Something keeps strangers off Redis' own port.
    pub direct_shut: bool,
    /// And that is `direct` of our settings, for each gate.
    pub by_direct: bool,
}

/// Reads `nft list ruleset`.
pub fn read_nft(text: &str, into: &mut Ruleset) {
    let (mut table, mut chain, mut input) = (String::new(), None::<String>, false);
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ").and_then(|rest| rest.strip_suffix(" {")) {
            table = name.to_owned();
        } else if let Some(name) = line.strip_prefix("chain ").and_then(|rest| rest.strip_suffix(" {")) {
            // A chain without a hook may be reached from one.
            (chain, input) = (Some(name.to_owned()), name.to_ascii_lowercase().contains("in"));
        } else if line == "}" {
            chain = None;
        } else if let Some(name) = &chain {
            let at = format!("{table} {name}");
            if table.strip_prefix("inet ") == Some(direct::TABLE) {
                if line.contains("reject") {
                    into.direct.extend(direct::port_of(name));
                }
                continue;
            }
            if table == OWN_TABLE || name.starts_with(OWN_CHAIN) || line.is_empty() || line.starts_with('#') {
                continue;
            }
            if line.starts_with("type ") {
                input = line.contains("hook input");
                if input && line.contains("policy drop") {
                    into.drops.push(at);
                }
                continue;
            }
            push(into, at, input, line);
        }
    }
}

/// Reads what `iptables-nft-save` and its like print: chains that nft has shown as well, of which one would have each rule twice, and mend it by
/// either's command. Where they cannot show a table, because it holds what only nft has, they show none of its chains.
pub fn read_saved_by_nft(family: &str, text: &str, into: &mut Ruleset) {
    for (table, line) in saved(text) {
        if let Some((chain, _)) = chain_of(line) {
            let chain = format!("{family} {table} {chain}");
            into.rules.retain(|rule| rule.chain != chain);
            into.drops.retain(|drops| *drops != chain);
        }
    }
    read_saved(family, text, into);
}

/// Reads what `iptables-save` and its like print, `family` being ip or ip6.
pub fn read_saved(family: &str, text: &str, into: &mut Ruleset) {
    for (table, line) in saved(text) {
        if let Some((chain, policy)) = chain_of(line) {
            if (table, chain) == ("filter", "INPUT") && policy.starts_with("DROP") {
                into.drops.push(format!("{family} {table} {chain}"));
            }
        } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
            if !chain.starts_with(OWN_CHAIN) && !rule.contains("-j ROLEGATE") {
                let input = table == "filter" && chain.to_ascii_lowercase().contains("in");
                push(into, format!("{family} {table} {chain}"), input, rule);
            }
        }
    }
}

/// The lines of what they print, each with the table that it is of.
fn saved(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut table = "";
    text.lines().map(str::trim).map(move |line| {
        table = line.strip_prefix('*').unwrap_or(table);
        (table, line)
    })
}

/// A chain and its policy, where a line of theirs is of one.
fn chain_of(line: &str) -> Option<(&str, &str)> {
    line.strip_prefix(':')?.split_once(' ')
}

fn push(into: &mut Ruleset, chain: String, input: bool, text: &str) {
    let rule = Foreign { chain, input, text: text.to_owned() };
    if !into.rules.contains(&rule) {
        into.rules.push(rule);
    }
}

/// The ports that a rule speaks of as `dport`, `sport` or either; None where it names no port.
fn ports(rule: &str, which: &[&str]) -> Option<Vec<(u16, u16)>> {
    let words: Vec<&str> = rule.split([' ', ',', '{', '}']).filter(|word| !word.is_empty()).collect();
    let mut found: Option<Vec<(u16, u16)>> = None;
    for (at, word) in words.iter().enumerate() {
        let name = word.trim_start_matches("--").trim_end_matches('s');
        if !which.contains(&name) {
            continue;
        }
        let listed = words[at + 1..].iter().map_while(|word| {
            let (low, high) = word.split_once(['-', ':']).unwrap_or((word, word));
            Some((low.parse().ok()?, high.parse().ok()?))
        });
        let listed: Vec<(u16, u16)> = listed.collect();
        // A set by name, or an inverted match, could be any port.
        let listed = if listed.is_empty() { vec![(0, u16::MAX)] } else { listed };
        found.get_or_insert_default().extend(listed);
    }
    found
}

fn has(ports: &[(u16, u16)], port: u16) -> bool {
    ports.iter().any(|(low, high)| (*low..=*high).contains(&port))
}

/// It matches only another protocol.
fn not_tcp(rule: &str) -> bool {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let other = |word: &str| ["udp", "icmp", "icmpv6", "ipv6-icmp", "sctp", "esp", "vrrp", "112"].contains(&word);
    words.windows(2).any(|pair| ["-p", "l4proto", "protocol", "nexthdr"].contains(&pair[0]) && other(pair[1]))
        || words.windows(2).any(|pair| pair[0] == "udp" && ["dport", "sport"].contains(&pair[1]))
}

/// What the rules come to for these ports.
pub fn look(ruleset: &Ruleset, gates: &[Ports]) -> Found {
    let mut found = Found::default();
    let ours = |ports: &[(u16, u16)], redis: bool| {
        gates.iter().any(|gate| has(ports, gate.ro) || has(ports, gate.rw) || redis && has(ports, gate.redis))
    };
    for rule in &ruleset.rules {
        let text = rule.text.as_str();
        let words: Vec<&str> = text.split_whitespace().collect();
        let says = |options: &[&str]| options.iter().any(|option| words.contains(option));
        let shown = || format!("{}: {text}", rule.chain);
        if says(&["notrack", "NOTRACK", "--notrack"]) && !not_tcp(text) {
            if ports(text, &["dport", "sport", "port"]).is_none_or(|ports| ours(&ports, true)) {
                found.untracked.push(shown());
            }
            continue;
        }
        // A match that names no port of ours by number does not aim at it.
        let aims = ports(text, &["dport", "port"]).is_some_and(|ports| {
            let exact: Vec<_> = ports.into_iter().filter(|range| *range != (0, u16::MAX)).collect();
            ours(&exact, false)
        });
        let elsewhere = says(&["dnat", "redirect", "DNAT", "REDIRECT", "tproxy", "TPROXY"]) && !says(&["ct"]);
        let dropped = says(&["drop", "reject", "DROP", "REJECT"]) && rule.input;
        if aims && !not_tcp(text) && (elsewhere || dropped) {
            found.taken.push(shown());
        }
    }
    let inputs: Vec<&Foreign> = ruleset.rules.iter().filter(|rule| rule.input).collect();
    let accepts = |text: &str| text.contains("accept") || text.contains("-j ACCEPT");
    let drops = |text: &str| {
        text.split_whitespace().any(|word| ["drop", "reject", "DROP", "REJECT"].contains(&word)) && !not_tcp(text)
    };
    let of_redis = |text: &str| {
        ports(text, &["dport", "port"]).is_some_and(|ports| {
            gates.iter().any(|gate| ports.iter().any(|range| *range != (0, u16::MAX) && has(&[*range], gate.redis)))
        })
    };
    let redirected = |text: &str| text.contains("ct status dnat") || text.contains("--ctstate DNAT");
    // A last rule that drops everything is a policy, too.
    let mut closed = ruleset.drops.clone();
    closed.extend(
        inputs
            .iter()
            .filter(|rule| {
                let words: Vec<&str> = rule
                    .text
                    .split_whitespace()
                    .filter(|word| !["counter", "packets", "bytes"].contains(word) && word.parse::<u64>().is_err())
                    .collect();
                matches!(words.as_slice(), ["drop" | "reject", ..] | ["-j", "DROP" | "REJECT", ..])
            })
            .map(|rule| rule.chain.clone()),
    );
    let open_to_all = |rule: &&&Foreign| {
        accepts(&rule.text) && of_redis(&rule.text) && !redirected(&rule.text) && !limited(&rule.text)
    };
    let lets_in = inputs.iter().any(|rule| accepts(&rule.text) && (redirected(&rule.text) || of_redis(&rule.text)));
    if let Some(chain) = closed.first().filter(|_| !lets_in) {
        found.shut = Some(chain.clone());
    }
    let dropped = inputs.iter().any(|rule| drops(&rule.text) && of_redis(&rule.text));
    found.by_direct = !gates.is_empty() && gates.iter().all(|gate| ruleset.direct.contains(&gate.redis));
    found.direct_shut =
        found.by_direct || dropped || (!closed.is_empty() && !inputs.iter().any(|rule| open_to_all(&rule)));
    found
}

/// What takes away a rule, as [`Found`] shows it.
pub fn delete(shown: &str) -> String {
    let (chain, rule) = shown.split_once(": ").unwrap_or((shown, ""));
    match (chain.split(' ').collect::<Vec<_>>().as_slice(), rule.starts_with('-')) {
        // As `iptables-save` prints it.
        ([family, table, name], true) => format!("{} -t {table} -D {name} {rule}", program(family)),
        _ => format!("nft -a list chain {chain} shows its handle, then nft delete rule {chain} handle HANDLE"),
    }
}

/// What has a chain that drops let redirected connections to these Redis ports in.
pub fn let_in(chain: &str, redis: &[u16]) -> String {
    let ports: Vec<String> = redis.iter().map(u16::to_string).collect();
    match chain.split(' ').collect::<Vec<_>>().as_slice() {
        // iptables' own table and what its chain INPUT leads to, also where nft shows them: a rule of nft there would keep iptables from reading its
        // table. A chain of nft's own is `input` there, by custom.
        [family @ ("ip" | "ip6"), "filter", chain] if *chain != "input" => {
            let dport = match ports.as_slice() {
                [one] => format!("--dport {one}"),
                several => format!("-m multiport --dports {}", several.join(",")),
            };
            format!("{} -I INPUT -p tcp {dport} -m conntrack --ctstate DNAT -j ACCEPT", program(family))
        }
        _ => {
            let dport = match ports.as_slice() {
                [one] => one.clone(),
                several => format!("'{{ {} }}'", several.join(", ")),
            };
            format!("nft insert rule {chain} tcp dport {dport} ct status dnat accept")
        }
    }
}

fn program(family: &str) -> &'static str {
    if family == "ip6" { "ip6tables" } else { "iptables" }
}

/// It matches only some senders.
fn limited(rule: &str) -> bool {
    ["saddr", "-s ", "iif", "-i ", "--match-set"].iter().any(|word| rule.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nft(chain: &str) -> Found {
        let mut ruleset = Ruleset::default();
        let own = "table inet rolegate {\n\tchain guard_in {\n\t\ttype filter hook prerouting priority raw - 10; policy accept;\n\t\ttcp dport 6381 reject with tcp reset\n\t}\n}\n";
        read_nft(&format!("{own}table inet filter {{\n\tchain input {{\n{chain}\n\t}}\n}}\n"), &mut ruleset);
        look(&ruleset, &[Ports::default()])
    }

    fn saved(lines: &str) -> Found {
        let mut ruleset = Ruleset::default();
        read_saved("ip", lines, &mut ruleset);
        look(&ruleset, &[Ports::default()])
    }

    #[test]
    fn our_own_rules_and_those_about_other_things_are_nothing() {
        assert_eq!(nft(""), Found::default());
        let usual = "type filter hook input priority filter; policy accept;\nct state established,related accept\ntcp dport 22 accept\ntcp dport { 80, 443 } drop\nudp dport 6381 drop";
        assert_eq!(nft(usual), Found::default());
        let own = "*raw\n:PREROUTING ACCEPT [0:0]\n:ROLEGATE - [0:0]\n-A PREROUTING -p tcp -m set --match-set rolegate-gated dst -j ROLEGATE\n-A ROLEGATE -p tcp -j REJECT\nCOMMIT\n";
        assert_eq!(saved(own), Found::default());
    }

    #[test]
    fn untracked_packets_are_not_redirected() {
        for rule in
            ["tcp dport 6379 notrack", "notrack", "tcp sport { 22, 6379-6381 } notrack", "tcp dport @quick notrack"]
        {
            assert_eq!(nft(rule).untracked.len(), 1, "{rule}");
        }
        for rule in ["udp dport 53 notrack", "tcp dport 80 notrack", "meta l4proto udp notrack"] {
            assert!(nft(rule).untracked.is_empty(), "{rule}");
        }
        assert_eq!(saved("*raw\n-A PREROUTING -p tcp -m tcp --dport 6381 -j CT --notrack\n").untracked.len(), 1);
        assert!(saved("*raw\n-A PREROUTING -p udp -m udp --dport 53 -j CT --notrack\n").untracked.is_empty());
    }

    #[test]
    fn what_takes_a_port_away_is_named() {
        let input = "type filter hook input priority filter; policy accept;\n";
        assert_eq!(nft(&format!("{input}tcp dport 6381 drop")).taken, ["inet filter input: tcp dport 6381 drop"]);
        assert_eq!(
            nft("type nat hook prerouting priority dstnat;\ntcp dport 6380-6390 dnat to 10.0.0.9:1").taken.len(),
            1
        );
        assert_eq!(
            saved("*nat\n-A PREROUTING -p tcp -m multiport --dports 80,6381 -j REDIRECT --to-ports 1\n").taken.len(),
            1
        );
        assert!(nft(&format!("{input}tcp dport 6381 accept")).taken.is_empty());
    }

    #[test]
    fn a_rule_of_iptables_nft_is_named_once() {
        // Once as nft 1.0.6 shows it, once as iptables 1.8.9 does.
        let by_nft = "table ip filter {\n\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t\ttcp dport 6381 counter packets 0 bytes 0 drop\n\t}\n}\ntable ip mine {\n\tchain in {\n\t\ttcp dport 6380 drop\n\t}\n}\n";
        let saved = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 6381 -j DROP\nCOMMIT\n";
        let of = |read: &dyn Fn(&mut Ruleset)| {
            let mut ruleset = Ruleset::default();
            read_nft(by_nft, &mut ruleset);
            read(&mut ruleset);
            (look(&ruleset, &[Ports::default()]).taken, ruleset.drops)
        };
        let (mine, by_iptables) =
            ("ip mine in: tcp dport 6380 drop", "ip filter INPUT: -p tcp -m tcp --dport 6381 -j DROP");
        let (taken, drops) = of(&|ruleset| read_saved_by_nft("ip", saved, ruleset));
        assert_eq!((taken, drops), (vec![mine.to_owned(), by_iptables.to_owned()], vec!["ip filter INPUT".to_owned()]));
        // Another family's, one that it cannot show, and legacy's, which is another firewall.
        assert_eq!(of(&|ruleset| read_saved_by_nft("ip6", saved, ruleset)).0.len(), 3);
        let cannot = "# Table `filter' is incompatible, use 'nft' tool.\n";
        assert_eq!(of(&|ruleset| read_saved_by_nft("ip", cannot, ruleset)).0.len(), 2);
        assert_eq!(of(&|ruleset| read_saved("ip", saved, ruleset)).0.len(), 3);
    }

    #[test]
    fn a_firewall_that_drops_must_let_redirected_connections_in() {
        let dropping = "type filter hook input priority filter; policy drop;\n";
        assert_eq!(nft(&format!("{dropping}tcp dport 6381 accept")).shut.as_deref(), Some("inet filter input"));
        let good = nft(&format!("{dropping}tcp dport 6379 ct status dnat accept"));
        assert_eq!((good.shut, good.direct_shut), (None, true));
        assert!(!nft(&format!("{dropping}tcp dport 6379 accept")).direct_shut);
        assert!(nft(&format!("{dropping}ip saddr 10.0.0.0/24 tcp dport 6379 accept")).direct_shut);
        let last = "*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-port-unreachable\n";
        assert_eq!(saved(last).shut.as_deref(), Some("ip filter INPUT"));
        let with = last.replace(
            "-A INPUT -j REJECT",
            "-A INPUT -p tcp -m tcp --dport 6379 -m conntrack --ctstate DNAT -j ACCEPT\n-A INPUT -j REJECT",
        );
        assert_eq!((saved(&with).shut, saved(&with).direct_shut), (None, true));
        let some = "type filter hook input priority filter; policy accept;\nip saddr != 10.0.0.0/24 tcp dport 6379 ct status ! dnat drop";
        assert!(nft(some).direct_shut && nft(some).shut.is_none());
    }

    #[test]
    fn what_mends_it_is_of_the_firewall_in_which_it_was_found() {
        let rule = saved("*nat\n-A PREROUTING -p tcp -m tcp --dport 6381 -j REDIRECT --to-ports 1\n").taken.remove(0);
        assert_eq!(delete(&rule), "iptables -t nat -D PREROUTING -p tcp -m tcp --dport 6381 -j REDIRECT --to-ports 1");
        let rule = nft("type filter hook input priority filter; policy accept;\ntcp dport 6381 drop").taken.remove(0);
        assert_eq!(
            delete(&rule),
            "nft -a list chain inet filter input shows its handle, then nft delete rule inet filter input handle HANDLE"
        );
        let accept = "-m conntrack --ctstate DNAT -j ACCEPT";
        for (chain, ports, wanted) in [
            (
                "inet filter input",
                &[6379][..],
                "nft insert rule inet filter input tcp dport 6379 ct status dnat accept",
            ),
            (
                "inet my in",
                &[6379, 7379],
                "nft insert rule inet my in tcp dport '{ 6379, 7379 }' ct status dnat accept",
            ),
            ("ip filter INPUT", &[7379], &format!("iptables -I INPUT -p tcp --dport 7379 {accept}")),
            // What INPUT leads to, which may have rules before it.
            ("ip filter LOGGING", &[6379], &format!("iptables -I INPUT -p tcp --dport 6379 {accept}")),
            ("ip filter input", &[6379], "nft insert rule ip filter input tcp dport 6379 ct status dnat accept"),
            ("ip6 filter INPUT", &[1, 2], &format!("ip6tables -I INPUT -p tcp -m multiport --dports 1,2 {accept}")),
        ] {
            assert_eq!(let_in(chain, ports), wanted);
        }
    }

    #[test]
    fn our_own_table_shuts_the_ports_that_it_has() {
        let mut ruleset = Ruleset::default();
        let text = "table inet rolegate-direct {\n\tcomment \"rolegate: x\"\n\n\tchain port-6379 {\n\t\tip saddr { 10.0.0.1, 10.0.0.2 } return\n\t\tmeta l4proto tcp reject with tcp reset\n\t}\n\n\tchain input {\n\t\ttype filter hook input priority filter - 10; policy accept;\n\t\tiif \"lo\" return\n\t\ttcp dport vmap { 6379 : jump port-6379 }\n\t}\n}\n";
        read_nft(text, &mut ruleset);
        let found = look(&ruleset, &[Ports::default()]);
        assert_eq!(found, Found { direct_shut: true, by_direct: true, ..Found::default() });
        let other = Ports { ro: 7380, rw: 7381, redis: 7379 };
        assert_eq!(look(&ruleset, &[Ports::default(), other]), Found::default());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_not(text in "(table inet f \\{\n|chain c \\{\n|\\}\n|type filter hook input; policy drop;\n|tcp dport |6379|-|,|notrack|drop|[a-z]{1,4}| |\n|\\*filter\n|:INPUT DROP\n|-A INPUT ){0,60}") {
            let mut ruleset = Ruleset::default();
            read_nft(&text, &mut ruleset);
            read_saved_by_nft("ip", &text, &mut ruleset);
            read_saved("ip", &text, &mut ruleset);
            _ = look(&ruleset, &[Ports::default()]);
        }
    }
}
