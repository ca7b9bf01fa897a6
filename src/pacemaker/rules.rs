//! What a rule of a location constraint comes to for a node, now. As Pacemaker evaluates them (lib/pengine/rules.c of 2.1, lib/common/
//! rules.c of 3.0), for what operators and its own tools write; what is not understood is neither a yes nor a no.

use super::cib::{Dates, Node, Rule};

impl Rule {
    /// Whether its score keeps a resource away, whatever other scores there are.
    pub fn forbids(&self) -> bool {
        self.score.as_deref().is_some_and(is_minus_infinity)
    }

    /// Whether it looks at one of these node attributes.
    pub fn looks_at(&self, names: &[&str]) -> bool {
        self.expressions.iter().any(|(attribute, _, _)| names.contains(&attribute.as_str()))
    }

    /// Whether it holds for `node` at `now` (seconds since 1970); `None` where that cannot be told.
    pub fn holds(&self, node: &Node, now: i64) -> Option<bool> {
        let expressions = self.expressions.iter().map(|(attribute, operation, value)| {
            compare(of_node(node, attribute)?.as_deref(), operation, value.as_deref())
        });
        let dates = self.dates.iter().map(|dates| dates.hold(now));
        let all: Vec<Option<bool>> = expressions.chain(dates).chain(self.more.then_some(None)).collect();
        let (stops, ends) = if self.any { (true, false) } else { (false, true) };
        match all.contains(&Some(stops)) {
            true => Some(stops),
            false if all.contains(&None) => None,
            false => Some(ends),
        }
    }

    /// When it ends to hold by itself, as written, where it does.
    pub fn until(&self) -> Option<&str> {
        if self.any {
            return None;
        }
        self.dates.iter().find_map(|dates| dates.end.as_deref())
    }
}

/// Whether a score is -INFINITY (a million is, too).
pub fn is_minus_infinity(score: &str) -> bool {
    score == "-INFINITY" || score == "-infinity" || score.parse::<i64>().is_ok_and(|score| score <= -1_000_000)
}

/// An attribute's value, for rules; the outer `None` where it cannot be told.
fn of_node(node: &Node, attribute: &str) -> Option<Option<String>> {
    match attribute {
        "#uname" => Some(Some(node.name.clone())),
        "#id" => Some(Some(node.id.clone())),
        // #kind, #site-name and others of the cluster's own.
        name if name.starts_with('#') => None,
        name => Some(node.attribute(name).map(str::to_owned)),
    }
}

fn compare(found: Option<&str>, operation: &str, value: Option<&str>) -> Option<bool> {
    let order = || {
        let numbers = (found?.trim().parse::<f64>().ok()?, value?.trim().parse::<f64>().ok()?);
        numbers.0.partial_cmp(&numbers.1)
    };
    // Strings are compared without regard to case unless asked otherwise.
    let same = found.zip(value).is_some_and(|(found, value)| found.eq_ignore_ascii_case(value));
    match (operation, found) {
        ("defined", found) => Some(found.is_some()),
        ("not_defined", found) => Some(found.is_none()),
        ("eq", _) => Some(same),
        ("ne", _) => Some(!same),
        ("lt" | "gt" | "lte" | "gte", None) => Some(false),
        ("lt", _) => order().map(|order| order.is_lt()),
        ("gt", _) => order().map(|order| order.is_gt()),
        ("lte", _) => order().map(|order| order.is_le()),
        ("gte", _) => order().map(|order| order.is_ge()),
        _ => None,
    }
}

impl Dates {
    fn hold(&self, now: i64) -> Option<bool> {
        let at = |text: &Option<String>| text.as_deref().map(|text| moment(text).ok_or(()));
        // A time that cannot be read leaves it open; one that is not there says nothing.
        let (start, end) = (at(&self.start).transpose(), at(&self.end).transpose());
        let (Ok(start), Ok(end)) = (start, end) else { return None };
        match (self.operation.as_deref(), start, end) {
            (Some("lt"), _, Some(end)) => Some(now < end),
            (Some("gt"), Some(start), _) => Some(now > start),
            (None | Some("in_range"), Some(start), None) if !self.more => Some(now >= start),
            (None | Some("in_range"), start, Some(end)) => Some(start.is_none_or(|start| now >= start) && now <= end),
            _ => None,
        }
    }
}

/// Seconds since 1970 of a time as Pacemaker's tools write it: date, a space or T, time, zone (`Z` or an offset). Without a zone it is the
/// local time of who reads it, which is not known here.
pub(crate) fn moment(text: &str) -> Option<i64> {
    let text = text.trim();
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix([' ', 'T'])?.trim_start();
    let zone_at = rest.find(['Z', '+', '-'])?;
    let (time, zone) = rest.split_at(zone_at);
    let number = |text: &str| -> Option<i64> {
        (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
    };
    let split = |text: &str, by: char| -> Option<Vec<i64>> { text.split(by).map(number).collect() };
    let [year, month, day] = split(date, '-')?.try_into().ok()?;
    let time = split(time.trim().split('.').next()?, ':')?;
    let (hour, minute, second) = match time.as_slice() {
        [hour, minute] => (*hour, *minute, 0),
        [hour, minute, second] => (*hour, *minute, *second),
        _ => return None,
    };
    let offset = match zone.trim() {
        "Z" => 0,
        zone => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let digits: String = zone[1..].chars().filter(|c| *c != ':').collect();
            let (hours, minutes) = digits.split_at_checked(2)?;
            let minutes = if minutes.is_empty() { 0 } else { number(minutes)? };
            sign * (number(hours)? * 3600 + minutes * 60)
        }
    };
    let right = (1..=12).contains(&month) && (1..=31).contains(&day) && hour <= 24 && minute < 60 && second <= 60;
    right.then(|| days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset)
}

/// Days since 1970-01-01 (Howard Hinnant's days_from_civil).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::super::cib;
    use super::*;
    use proptest::prelude::*;

    // 2026-11-21T23:30:00Z
    const NOW: i64 = 1_795_303_800;

    /// What the first rule of a constraint with this inside comes to for node1, which has rack=a and load=7.
    fn holds(rule: &str) -> Option<bool> {
        let cib = cib::parse(&format!(
            "<cib><configuration><nodes><node id=\"1\" uname=\"node1\"><instance_attributes id=\"n\"><nvpair id=\"a\" name=\"rack\" value=\"a\"/>\
             <nvpair id=\"b\" name=\"load\" value=\"7\"/></instance_attributes></node></nodes>\
             <constraints><rsc_location id=\"l\" rsc=\"g\">{rule}</rsc_location></constraints></configuration></cib>"
        ))
        .unwrap();
        cib.locations[0].rules[0].holds(&cib.nodes[0], NOW)
    }

    #[test]
    fn rules_hold_as_pacemaker_says() {
        let with = |inside: &str| holds(&format!("<rule id=\"r\" score=\"-INFINITY\">{inside}</rule>"));
        let expression = |text: &str| with(&format!("<expression id=\"e\" {text}/>"));
        let date = |text: &str| with(&format!("<date_expression id=\"d\" {text}/>"));
        for (text, wanted) in [
            ("attribute=\"#uname\" operation=\"eq\" value=\"NODE1\"", Some(true)),
            ("attribute=\"#uname\" operation=\"ne\" value=\"node2\"", Some(true)),
            ("attribute=\"#uname\" operation=\"eq\" value=\"node2\"", Some(false)),
            ("attribute=\"#kind\" operation=\"eq\" value=\"remote\"", None),
            ("attribute=\"rack\" operation=\"defined\"", Some(true)),
            ("attribute=\"site\" operation=\"not_defined\"", Some(true)),
            ("attribute=\"site\" operation=\"eq\" value=\"a\"", Some(false)),
            ("attribute=\"site\" operation=\"ne\" value=\"a\"", Some(true)),
            ("attribute=\"load\" operation=\"gt\" value=\"6\"", Some(true)),
            ("attribute=\"load\" operation=\"lte\" value=\"6\" type=\"number\"", Some(false)),
            ("attribute=\"rack\" operation=\"lt\" value=\"b\"", None),
            ("attribute=\"rack\" operation=\"like\" value=\"b\"", None),
        ] {
            assert_eq!(expression(text), wanted, "{text}");
        }
        for (text, wanted) in [
            ("operation=\"lt\" end=\"2026-11-21 23:31:00Z\"", Some(true)),
            ("operation=\"lt\" end=\"2026-11-21 23:29:59 +00:00\"", Some(false)),
            ("operation=\"lt\" end=\"2026-11-22 01:29:59 +02:00\"", Some(false)),
            ("operation=\"lt\" end=\"2026-11-22 01:30:01 +02:00\"", Some(true)),
            ("operation=\"gt\" start=\"2026-11-21T20:00:00-03:00\"", Some(true)),
            ("operation=\"in_range\" start=\"2026-11-21 23:00Z\" end=\"2026-11-22 00:00Z\"", Some(true)),
            ("operation=\"in_range\" start=\"2026-11-21 23:31Z\" end=\"2026-11-22 00:00Z\"", Some(false)),
            ("operation=\"lt\" end=\"2026-11-21 23:31:00\"", None),
            ("operation=\"lt\" end=\"tomorrow\"", None),
            ("operation=\"date_spec\"", None),
        ] {
            assert_eq!(date(text), wanted, "{text}");
        }
    }

    #[test]
    fn several_expressions_are_all_or_any() {
        let (yes, no) = (
            "<expression id=\"e\" attribute=\"rack\" operation=\"defined\"/>",
            "<expression id=\"f\" attribute=\"site\" operation=\"defined\"/>",
        );
        let unknown = "<rule id=\"x\"/>";
        let both = |a: &str, b: &str, operation: &str| holds(&format!("<rule id=\"r\" {operation}>{a}{b}</rule>"));
        let (and, or) = ("boolean-op=\"and\"", "boolean-op=\"or\"");
        assert_eq!((both(yes, no, and), both(yes, no, ""), both(yes, no, or)), (Some(false), Some(false), Some(true)));
        assert_eq!((both(yes, unknown, and), both(no, unknown, and)), (None, Some(false)));
        assert_eq!((both(yes, unknown, or), both(no, unknown, or)), (Some(true), None));
    }

    #[test]
    fn a_ban_with_a_lifetime_as_crm_resource_writes_it() {
        // `crm_resource --ban -r RedisGate-clone --promoted -N node1 --lifetime PT10M` of Pacemaker 2.1.5.
        let rule = |end: &str| {
            holds(&format!(
                "<rule id=\"cli-ban-RedisGate-clone-on-node1-rule\" score=\"-INFINITY\" boolean-op=\"and\">\
                 <expression id=\"e\" attribute=\"#uname\" operation=\"eq\" value=\"node1\" type=\"string\"/>\
                 <date_expression id=\"d\" operation=\"lt\" end=\"{end}\"/></rule>"
            ))
        };
        assert_eq!(rule("2026-11-21 23:40:00Z"), Some(true));
        assert_eq!(rule("2026-11-21 23:20:00Z"), Some(false));
        assert_eq!(rule("some day"), None);
    }

    #[test]
    fn scores_are_infinite_from_a_million_on() {
        for (score, wanted) in
            [("-INFINITY", true), ("-1000000", true), ("-999999", false), ("INFINITY", false), ("x", false)]
        {
            assert_eq!(is_minus_infinity(score), wanted, "{score}");
        }
    }

    proptest! {
        #[test]
        fn any_time_is_read_or_not(text in "[0-9]{0,5}[-:TZ+ .0-9é]{0,30}") {
            _ = moment(&text);
        }
    }
}
