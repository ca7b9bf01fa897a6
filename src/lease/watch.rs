//! What looks at one Sentinel have shown of the other nodes' lines, and which nodes are free by that.

use std::collections::{BTreeMap, BTreeSet};

use super::{Mark, Moment, Seen, Span, Terms};

/// What one line of ours has seen of the other nodes' lines at one Sentinel.
///
/// A new line of ours needs a new watch: Sentinel may have restarted, and client ids begin anew. Several lines to one
/// Sentinel may share looks that were sent after they were made, on whatever connection: as long as the line lives, it is the same
/// Sentinel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Watch<N: Ord> {
    /// The first look after which none came too late, and the last one.
    looks: Option<Looks>,
    nodes: BTreeMap<N, Lines>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Looks {
    /// When the reply of the first one arrived: what it shows has been so since then at the latest.
    since: Moment,
    /// When the last one was sent: what it shows was still so then.
    last: Moment,
}

/// The lines of one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Lines {
    /// By client id, as the last look showed them.
    now: BTreeMap<u64, Line>,
    /// The reply of the first look since which there have been these and no others.
    since: Moment,
    /// The one boot in which every mark was set that any of its lines has borne, and the reply of the first look since which that is so. None
    /// where the last look with lines showed another mark, `closed` for example.
    boot: Option<(u32, Moment)>,
    /// Each length in a mark of a look before, and the reply of the look after that one: until then a lease of that
    /// length can have been asked for. (A mark in the last look only has not stood.)
    lengths: BTreeMap<Span, Moment>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Line {
    mark: Option<Mark>,
    /// The reply of the first look since which it has borne this mark.
    since: Moment,
}

impl<N: Ord> Default for Watch<N> {
    fn default() -> Self {
        Watch { looks: None, nodes: BTreeMap::new() }
    }
}

impl<N: Ord + Clone> Watch<N> {
    /// Nothing was seen yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A look: the request was sent at `sent`, its reply arrived at `received` and showed `lines`, all that other nodes
    /// have there.
    ///
    /// Between two looks, from the sending of one to the reply of the next, is less than [`Terms::look_gap`]; else
    /// all windows start anew, because lines can have come and gone. A look that was sent before the last one comes too late to
    /// tell anything: it is left out, and `false` is returned.
    pub fn look(&mut self, sent: Moment, received: Moment, lines: &[Seen<N>], terms: &Terms) -> bool {
        if self.looks.is_some_and(|looks| sent < looks.last) {
            return false;
        }
        let too_late = self
            .looks
            .is_none_or(|looks| received.checked_sub(looks.last).is_none_or(|between| between >= terms.look_gap()));
        let since = self.looks.filter(|_| !too_late).map_or(received, |looks| looks.since);
        self.looks = Some(Looks { since, last: sent });

        let mut now: BTreeMap<N, BTreeMap<u64, Option<Mark>>> = BTreeMap::new();
        for seen in lines {
            now.entry(seen.node.clone())
                .or_default()
                .entry(seen.line)
                // One line has one mark. Two are none.
                .and_modify(|mark| *mark = mark.filter(|mark| Some(*mark) == seen.mark))
                .or_insert(seen.mark);
        }
        for node in now.keys() {
            self.nodes.entry(node.clone()).or_default();
        }
        for (node, before) in &mut self.nodes {
            before.see(&now.remove(node).unwrap_or_default(), too_late, sent, received, terms);
        }
        true
    }

    /// Whether the node is free, by the last look: it holds no lease, and can take none without our seeing it, or its
    /// seeing our mark.
    ///
    /// For the window W ([`Terms::window`]), counted from the reply of the first look to the sending of the last, its
    /// lines have been the same ones, or there was none; and in the last look each of them is marked closed or bears the
    /// mark that it bore for all of W.
    ///
    /// W is that of the longest lease in the node's marks, or of `longest_in_record` ([`super::Lengths::longest`]).
    pub fn free(&self, node: &N, longest_in_record: Span, terms: &Terms) -> bool {
        let Some(looks) = self.looks else { return false };
        let stood = |since: Moment, window: Span| looks.last.checked_sub(since).is_some_and(|age| age >= window);
        let Some(lines) = self.nodes.get(node) else {
            return stood(looks.since, terms.window(longest_in_record));
        };
        let longest = lines.lengths.keys().copied().fold(longest_in_record, Span::max);
        let window = terms.window(longest);
        stood(lines.since, window)
            && lines.now.values().all(|line| match line.mark {
                Some(Mark::Closed) => true,
                Some(Mark::Held { .. }) => stood(line.since, window),
                None => false,
            })
    }
}

impl<N: Ord + Clone> Watch<N> {
    /// Whether the node holds no lease, and can take none without our seeing it, if its boot `dead` is over for certain: STONITH or a person has
    /// confirmed that it is off, or was.
    ///
    /// For the window W every line of it that was seen has borne marks of that boot, whichever lines there were and whatever they said. What
    /// is alive of it asks on a line that was there for G, with another mark on it; a look would have shown that. Lines of a machine that
    /// is off can stay listed, or go, at any time: here nobody waits for that.
    pub fn gone(&self, node: &N, dead: u32, longest_in_record: Span, terms: &Terms) -> bool {
        let (Some(looks), Some(lines)) = (self.looks, self.nodes.get(node)) else { return false };
        let Some((boot, since)) = lines.boot else { return false };
        let longest = lines.lengths.keys().copied().fold(longest_in_record, Span::max);
        boot == dead && looks.last.checked_sub(since).is_some_and(|age| age >= terms.window(longest))
    }
}

impl Lines {
    fn see(
        &mut self,
        now: &BTreeMap<u64, Option<Mark>>,
        too_late: bool,
        sent: Moment,
        received: Moment,
        terms: &Terms,
    ) {
        let before = std::mem::take(&mut self.now);
        if too_late || !before.keys().eq(now.keys()) {
            self.since = received;
        }
        let boots: BTreeSet<Option<u32>> = now.values().map(|mark| mark.as_ref().and_then(Mark::boot)).collect();
        self.boot = match (boots.len(), boots.first().copied().flatten()) {
            (0, _) => self.boot.map(|(boot, since)| (boot, if too_late { received } else { since })),
            (1, Some(boot)) => match self.boot {
                Some((before, since)) if before == boot && !too_late => Some((boot, since)),
                _ => Some((boot, received)),
            },
            _ => None,
        };
        self.now = now
            .iter()
            .map(|(&id, &mark)| match before.get(&id) {
                Some(line) if line.mark == mark && !too_late => (id, *line),
                _ => (id, Line { mark, since: received }),
            })
            .collect();
        self.lengths.retain(|&length, &mut gone| sent.saturating_sub(gone) < terms.window(length));
        for line in before.values() {
            if let Some(Mark::Held { length, .. }) = line.mark {
                self.lengths.insert(length, received);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms { length: 20, arm: 4, settle: 10 };
    const HELD: Option<Mark> = Some(Mark::Held { length: 20, nonce: 1 });
    const OTHER: Option<Mark> = Some(Mark::Held { length: 20, nonce: 2 });
    const CLOSED: Option<Mark> = Some(Mark::Closed);
    /// TERMS.window(20): 1.1 (20 + 4).
    const W: Moment = 27;

    type Line = (u64, Option<Mark>);

    fn show(watch: &mut Watch<char>, sent: Moment, received: Moment, lines: &[Line]) {
        let lines: Vec<_> = lines.iter().map(|&(line, mark)| Seen { line, node: 'b', mark }).collect();
        watch.look(sent, received, &lines, &TERMS);
    }

    /// Looks at once answered, at each moment of `at`, and whether b is free after each.
    fn free(looks: &[(Moment, &[Line])]) -> Vec<bool> {
        let mut watch = Watch::new();
        looks
            .iter()
            .map(|&(at, lines)| {
                show(&mut watch, at, at, lines);
                watch.free(&'b', 20, &TERMS)
            })
            .collect()
    }

    #[test]
    fn a_node_without_lines_is_free_after_the_window() {
        assert!(!Watch::new().free(&'b', 20, &TERMS));
        assert_eq!(free(&[(0, &[]), (8, &[]), (16, &[]), (24, &[]), (26, &[]), (27, &[])])[3..], [false, false, true]);
    }

    #[test]
    fn the_window_counts_from_the_first_reply_to_the_last_sending() {
        for (reply, sending, is_free) in [(5, W + 5, true), (6, W + 5, false), (5, W + 4, false)] {
            let mut watch = Watch::new();
            show(&mut watch, 0, reply, &[]);
            for at in [8, 16, 24] {
                show(&mut watch, at, at, &[]);
            }
            show(&mut watch, sending, sending, &[]);
            assert_eq!(watch.free(&'b', 20, &TERMS), is_free, "{reply} {sending}");
        }
    }

    #[test]
    fn a_mark_that_stands_frees_after_the_window_and_one_that_changes_does_not() {
        let stands: [Line; 1] = [(1, HELD)];
        let changed: [Line; 1] = [(1, OTHER)];
        let looks = |last| free(&[(0, &stands[..]), (8, &stands), (16, &stands), (24, &stands), (W, last)])[4];
        assert!(looks(&stands));
        assert!(!looks(&changed));
        assert!(looks(&[(1, CLOSED)]), "closed at once frees: the line was there all along");
        assert!(!looks(&[(1, None)]), "what cannot be understood frees nobody");
    }

    #[test]
    fn a_line_that_comes_or_goes_starts_anew() {
        let closed: [Line; 1] = [(1, CLOSED)];
        let two: [Line; 2] = [(1, CLOSED), (2, CLOSED)];
        for (before, after) in [(&closed[..], &two[..]), (&two, &closed), (&closed, &[]), (&[], &closed)] {
            let looks = [(0, before), (8, before), (16, after), (24, after), (32, after), (40, after), (16 + W, after)];
            assert_eq!(free(&looks), [false, false, false, false, false, false, true], "{before:?} {after:?}");
        }
    }

    #[test]
    fn all_lines_count_and_not_the_newest() {
        let lines: [Line; 2] = [(1, HELD), (2, CLOSED)];
        let moved: [Line; 2] = [(1, OTHER), (2, CLOSED)];
        assert!(!free(&[(0, &lines), (8, &lines), (16, &lines), (24, &moved), (W, &moved)])[4]);
        assert!(free(&[(0, &lines), (8, &lines), (16, &lines), (24, &lines), (W, &lines)])[4]);
    }

    #[test]
    fn closed_counts_in_the_last_look_only() {
        let closed: [Line; 1] = [(1, CLOSED)];
        assert_eq!(
            free(&[(0, &closed), (8, &closed), (16, &closed), (24, &closed), (27, &closed), (28, &[(1, HELD)])])[4..],
            [true, false]
        );
    }

    #[test]
    fn looks_too_far_apart_start_anew() {
        // From the sending of one, at 16, to the reply of the next: 0.9 G is 9.
        for (reply, is_free) in [(24, true), (25, false)] {
            let mut watch = Watch::new();
            for at in [0, 8, 16] {
                show(&mut watch, at, at, &[(1, CLOSED)]);
            }
            show(&mut watch, 17, reply, &[(1, CLOSED)]);
            show(&mut watch, 24, 24, &[(1, CLOSED)]);
            show(&mut watch, W, W, &[(1, CLOSED)]);
            assert_eq!(watch.free(&'b', 20, &TERMS), is_free, "{reply}");
        }
    }

    #[test]
    fn a_look_that_comes_after_a_later_one_tells_nothing() {
        let mut watch = Watch::new();
        for at in [0, 8, 16, 24, W] {
            show(&mut watch, at, at, &[(1, CLOSED)]);
        }
        let before = watch.clone();
        assert!(!watch.look(W - 1, W + 1, &[Seen { line: 1, node: 'b', mark: HELD }], &TERMS));
        assert_eq!(watch, before);
        show(&mut watch, W, W + 1, &[(1, HELD)]);
        assert!(!watch.free(&'b', 20, &TERMS), "one of the same moment does");
    }

    #[test]
    fn each_node_by_itself() {
        let mut watch = Watch::new();
        for at in [0, 8, 16, 24, W] {
            let mark = Some(Mark::Held { length: 20, nonce: at });
            watch.look(at, at, &[Seen { line: 1, node: 'b', mark }, Seen { line: 2, node: 'c', mark: CLOSED }], &TERMS);
        }
        assert!(!watch.free(&'b', 20, &TERMS) && watch.free(&'c', 20, &TERMS) && watch.free(&'d', 20, &TERMS));
    }

    #[test]
    fn the_longest_lease_of_record_and_marks_is_waited_for() {
        let closed: [Line; 1] = [(1, CLOSED)];
        let mut watch = Watch::new();
        let looks = |watch: &mut Watch<char>, from: Moment, to: Moment, lines: &[Line]| {
            for at in from..=to {
                show(watch, at, at, lines);
            }
        };
        looks(&mut watch, 0, W, &closed);
        assert!(watch.free(&'b', 20, &TERMS));
        assert!(!watch.free(&'b', 30, &TERMS), "the last record had a longer lease");
        let mut long = watch.clone();
        looks(&mut long, W + 1, 2 * W + 1, &[(1, Some(Mark::Held { length: 100, nonce: 1 }))]);
        assert!(!long.free(&'b', 20, &TERMS), "its mark says that it has a longer one");
        // Opened by hand for 100, and its keeper gone: 1.1 (100 + 4) from then on.
        looks(&mut watch, W + 1, W + 1, &[(1, Some(Mark::Held { length: 100, nonce: 1 }))]);
        let gone = W + 2;
        looks(&mut watch, gone, gone + 114, &[]);
        assert!(!watch.free(&'b', 20, &TERMS));
        looks(&mut watch, gone + 115, gone + 115, &[]);
        assert!(watch.free(&'b', 20, &TERMS));
        // And then it is forgotten.
        looks(&mut watch, gone + 116, gone + 116, &closed);
        looks(&mut watch, gone + 117, gone + 116 + W, &closed);
        assert!(watch.free(&'b', 20, &TERMS));
    }

    /// A mark of a boot.
    fn of(boot: u32, n: u32) -> Option<Mark> {
        Some(Mark::held(20, boot, n))
    }

    #[test]
    fn of_a_boot_that_is_over_any_marks_and_lines_will_do() {
        let gone = |looks: &[(Moment, &[Line])]| {
            let mut watch = Watch::new();
            looks.iter().for_each(|&(at, lines)| show(&mut watch, at, at, lines));
            watch.gone(&'b', 7, 20, &TERMS)
        };
        let (one, two, other): ([Line; 1], [Line; 2], [Line; 1]) =
            ([(1, of(7, 1))], [(1, of(7, 2)), (2, of(7, 3))], [(3, of(8, 1))]);
        assert!(gone(&[(0, &one), (8, &two), (16, &one), (24, &two), (W, &[])]));
        assert!(!gone(&[(0, &one), (8, &two), (16, &one), (24, &two), (W - 1, &[])]), "for the window");
        assert!(!gone(&[(0, &one), (8, &other), (16, &one), (24, &two), (W, &[])]), "it has booted again");
        assert!(!gone(&[(0, &one), (8, &[(1, CLOSED)]), (16, &one), (24, &two), (W, &[])]), "of which boot?");
        assert!(!gone(&[(0, &one), (8, &one), (16, &one), (24, &one), (W, &other)]));
        assert!(!gone(&[(0, &one), (8, &one), (17, &one), (24, &one), (W, &one)]), "looks too far apart");
    }

    #[test]
    fn two_marks_of_one_line_are_none() {
        let lines: [Line; 2] = [(1, CLOSED), (1, HELD)];
        assert!(!free(&[(0, &lines), (8, &lines), (16, &lines), (24, &lines), (W, &lines)])[4]);
    }

    /// The rule as the design words it, over the whole history.
    fn by_the_book(looks: &[(Moment, Moment, Vec<Line>)]) -> bool {
        let Some((last_sent, _, last)) = looks.last() else { return false };
        let first = (1..looks.len()).rev().find(|&i| looks[i].1 - looks[i - 1].0 >= TERMS.look_gap()).unwrap_or(0);
        (first..looks.len()).any(|from| {
            let window = &looks[from..];
            let ids = |lines: &[Line]| lines.iter().map(|line| line.0).collect::<Vec<_>>();
            window[0].1 + W <= *last_sent
                && window.iter().all(|look| ids(&look.2) == ids(last))
                && last
                    .iter()
                    .all(|line| line.1 == CLOSED || line.1.is_some() && window.iter().all(|look| look.2.contains(line)))
        })
    }

    fn lines() -> impl Strategy<Value = Vec<Line>> {
        let mark = prop_oneof![6 => Just(HELD), 1 => Just(OTHER), 2 => Just(CLOSED), 1 => Just(None)];
        prop_oneof![
            6 => Just(vec![(1, HELD)]),
            1 => proptest::collection::btree_map(1..3u64, mark, 0..3).prop_map(|map| map.into_iter().collect()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn gone_is_who_showed_marks_of_one_boot_only(
            looks in proptest::collection::vec(
                (1..8u64, proptest::collection::btree_map(1..3u64, prop_oneof![8 => (1..4u32).prop_map(|n| of(7, n)), 1 => Just(of(8, 1)), 1 => Just(CLOSED)], 0..3)), 1..16),
        ) {
            let mut watch = Watch::new();
            let (mut history, mut now): (Vec<(Moment, Vec<Line>)>, _) = (Vec::new(), 0);
            for (pause, lines) in looks {
                now += pause;
                let lines: Vec<Line> = lines.into_iter().collect();
                show(&mut watch, now, now, &lines);
                history.push((now, lines));
                let first = (1..history.len()).rev().find(|&i| history[i].0 - history[i - 1].0 >= TERMS.look_gap()).unwrap_or(0);
                let only_it = |look: &(Moment, Vec<Line>)| look.1.iter().all(|line| line.1.and_then(|mark| mark.boot()) == Some(7));
                let by_the_book = (first..history.len()).any(|from| {
                    history[from].0 + W <= now && history[from..].iter().all(only_it)
                });
                // Where there was no line at all it says nothing: such a node is free.
                let gone = watch.gone(&'b', 7, 20, &TERMS);
                prop_assert!(!gone || by_the_book, "{:?}", history);
                let listed = history[first..].iter().find(|look| look.0 + W <= now && !look.1.is_empty());
                let since_then = |at: Moment| history.iter().filter(|look| look.0 >= at).all(only_it);
                prop_assert!(gone || !listed.is_some_and(|look| since_then(look.0)), "{:?}", history);
            }
        }

        #[test]
        fn free_as_the_design_words_it(
            looks in proptest::collection::vec((1..8u64, prop_oneof![9 => 0..2u64, 1 => 0..9u64], lines()), 0..16),
        ) {
            let mut watch = Watch::new();
            let (mut history, mut now) = (Vec::new(), 0);
            for (pause, takes, lines) in looks {
                let sent = now + pause;
                now = sent + takes;
                show(&mut watch, sent, now, &lines);
                history.push((sent, now, lines));
                prop_assert_eq!(watch.free(&'b', 20, &TERMS), by_the_book(&history), "{:?}", history);
            }
        }
    }
}
