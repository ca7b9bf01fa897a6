//! Users of a Redis or a Sentinel and what they may do, as `ACL LIST` shows them and configuration files define them. Pure. Passwords are
//! dropped when a line is read.

/// The channel on which Sentinels tell each other what to believe.
pub const HELLO: &str = "__sentinel__:hello";

/// The categories of `PUBLISH` (ACL of Redis 6 to 8).
const OF_PUBLISH: [&str; 3] = ["all", "pubsub", "fast"];

/// The categories of `CONFIG REWRITE` and of `REPLICAOF`.
const OF_ADMIN: [&str; 4] = ["all", "admin", "slow", "dangerous"];

/// A user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Whether it can log in.
    pub on: bool,
    /// Whether it needs no password.
    pub nopass: bool,
    /// The rules of the user itself, then those of each selector: each by itself allows what it allows.
    rules: Vec<Vec<String>>,
}

/// The users that the lines of a configuration file or of `ACL LIST` define; other lines are passed over.
pub fn read(text: &str) -> Vec<User> {
    text.lines().filter_map(line).collect()
}

/// One user: `user NAME RULES...`.
fn line(text: &str) -> Option<User> {
    let mut words = text.split_whitespace().map(|word| word.trim_matches('"'));
    words.next().filter(|word| word.eq_ignore_ascii_case("user"))?;
    let mut user = User { name: words.next()?.to_owned(), rules: vec![Vec::new()], ..User::default() };
    let mut in_selector = false;
    for word in words {
        let begins = word.starts_with('(');
        if begins {
            user.rules.push(Vec::new());
            in_selector = true;
        }
        let ends = word.ends_with(')');
        let rule = word.trim_start_matches('(').trim_end_matches(')');
        match rule.to_ascii_lowercase().as_str() {
            "on" => user.on = true,
            "off" => user.on = false,
            "nopass" => user.nopass = true,
            "resetpass" => user.nopass = false,
            "reset" => {
                (user.on, user.nopass) = (false, false);
                user.rules = vec![Vec::new()];
            }
            // Passwords and their hashes.
            word if word.starts_with(['>', '<', '#', '!']) => user.nopass &= !word.starts_with(['>', '#']),
            _ if in_selector => user.rules.last_mut()?.push(rule.to_owned()),
            _ => user.rules.first_mut()?.push(rule.to_owned()),
        }
        in_selector &= !ends;
    }
    Some(user)
}

impl User {
    /// Whether it may publish what Sentinels believe.
    pub fn may_forge(&self) -> bool {
        self.on && self.rules.iter().any(|rules| allows(rules, "publish", None, &OF_PUBLISH) && reaches(rules, HELLO))
    }

    /// Whether it may `CONFIG REWRITE`.
    pub fn may_rewrite(&self) -> bool {
        self.on && self.rules.iter().any(|rules| allows(rules, "config", Some("rewrite"), &OF_ADMIN))
    }

    /// Whether it may `REPLICAOF NO ONE`.
    pub fn may_promote(&self) -> bool {
        self.on && self.rules.iter().any(|rules| allows(rules, "replicaof", None, &OF_ADMIN))
    }
}

/// Whether rules, the last that speaks of it being the one that counts, allow a command of these categories.
fn allows(rules: &[String], command: &str, subcommand: Option<&str>, categories: &[&str]) -> bool {
    let mut allowed = false;
    for rule in rules.iter().map(|rule| rule.to_ascii_lowercase()) {
        let (sign, of) = match rule.as_str() {
            "allcommands" => (true, "@all"),
            "nocommands" => (false, "@all"),
            rule => match (rule.strip_prefix('+'), rule.strip_prefix('-')) {
                (Some(of), _) => (true, of),
                (_, Some(of)) => (false, of),
                _ => continue,
            },
        };
        let speaks = match (of.strip_prefix('@'), of.split_once('|')) {
            (Some(category), _) => categories.contains(&category),
            (_, Some((of, sub))) => of == command && Some(sub) == subcommand,
            _ => of == command,
        };
        if speaks {
            allowed = sign;
        }
    }
    allowed
}

/// Whether channel patterns reach a channel.
fn reaches(rules: &[String], channel: &str) -> bool {
    let mut reached = false;
    for rule in rules {
        match rule.to_ascii_lowercase().as_str() {
            "allchannels" => reached = true,
            "resetchannels" => reached = false,
            _ => reached |= rule.strip_prefix('&').is_some_and(|pattern| fits(pattern, channel)),
        }
    }
    reached
}

/// Whether a pattern of Redis fits. A class in brackets is taken to fit anything, which is the safe side here.
fn fits(pattern: &str, text: &str) -> bool {
    let mut pattern = pattern.chars();
    match pattern.next() {
        None => text.is_empty(),
        Some('*') => {
            let rest = pattern.as_str();
            (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| fits(rest, &text[at..]))
        }
        Some(first) => {
            let mut left = text.chars();
            let Some(next) = left.next() else { return false };
            match first {
                '?' => fits(pattern.as_str(), left.as_str()),
                '[' => {
                    let after = pattern.as_str().split_once(']').map_or("", |(_, after)| after);
                    fits(after, left.as_str())
                }
                '\\' => pattern.next() == Some(next) && fits(pattern.as_str(), left.as_str()),
                one => one == next && fits(pattern.as_str(), left.as_str()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn user(rules: &str) -> User {
        line(&format!("user app {rules}")).unwrap()
    }

    #[test]
    fn who_may_publish_what_sentinels_believe() {
        for (rules, may) in [
            ("on nopass ~* &* +@all", true),
            ("on >secret ~* allchannels allcommands", true),
            ("off nopass ~* &* +@all", false),
            ("on nopass ~* +@all", false),
            ("on nopass ~* resetchannels +@all", false),
            ("on nopass ~* &news:* +@all", false),
            ("on nopass ~* &__sentinel__* +@pubsub", true),
            ("on nopass ~* &__sent[a-z]nel__:hello +publish", true),
            ("on nopass ~* &* +@all -@pubsub", false),
            ("on nopass ~* &* +@all -publish", false),
            ("on nopass ~* &* -@all +@read (~* &* +publish)", true),
            ("on nopass ~* &* -@all +@read (~x +set)", false),
            ("on nopass &* +@all reset on +@read", false),
            ("on nopass &* resetchannels +@all", false),
            ("on nopass &* allcommands nocommands", false),
        ] {
            assert_eq!(user(rules).may_forge(), may, "{rules}");
        }
    }

    #[test]
    fn the_least_rights_of_the_manual_are_enough() {
        assert!(user("on >S -@all +info +config|get +config|set +config|rewrite +replicaof").may_promote());
        assert!(!user("on >S -@all +info +config|get +config|set +config|rewrite +slaveof").may_promote());
        assert!(user("on >S -@all +info +config|get +config|set +config|rewrite").may_rewrite());
        assert!(!user("on >S -@all +info +config|get +config|set").may_rewrite());
        assert!(user("on >S +@all").may_rewrite() && !user("on >S +@all -@dangerous").may_rewrite());
        assert!(user("on >S -@all +config").may_rewrite() && !user("off +@all").may_rewrite());
    }

    #[test]
    fn only_lines_of_users_are_read_and_no_password_stays() {
        let text =
            "bind 0.0.0.0\nuser default on #abcdef hunter ~* +@all\n# user gone on\nUSER app off >hunter2 -@all\n";
        let users = read(text);
        assert_eq!(
            users.iter().map(|user| (user.name.as_str(), user.on)).collect::<Vec<_>>(),
            [("default", true), ("app", false)]
        );
        let shown = format!("{users:?}");
        assert!(!shown.contains("abcdef") && !shown.contains("hunter2"), "{shown}");
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_not(text in "(user |on |nopass |\\(|\\)|&|\\*|\\[|[a-z+@|-]{1,5}| |\\\\){0,30}") {
            for user in read(&text) {
                _ = (user.may_forge(), user.may_rewrite());
            }
        }
    }
}
