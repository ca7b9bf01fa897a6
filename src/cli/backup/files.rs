//! The files of backups: their names, which of them are ours, and which are kept.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flate2::bufread::GzDecoder;

use crate::cli::fence::utc;
use crate::keeper::memory::file_name;

/// How each name begins.
const PREFIX: &str = "rolegate-";

const SUFFIX: &str = ".rdb.gz";

/// How the comment in the gzip header of each begins: what bears another one we did not make.
pub const COMMENT: &str = "rolegate backup of ";

/// What is being written; hidden, and removed by the next run where one did not end.
const UNFINISHED: &str = ".rolegate-unfinished-";

/// The name of a backup of `master` made `at` this second since 1970: `rolegate-mymaster-20261129T164500Z.rdb.gz`.
pub fn name(master: &str, at: u64) -> String {
    let time: String = utc(at).chars().filter(|c| !"-:".contains(*c)).collect();
    format!("{PREFIX}{}-{time}{SUFFIX}", file_name(master))
}

/// The second since 1970 in the name of a backup of `master`; none where it is no such name.
fn made_at(name: &str, master: &str) -> Option<u64> {
    let time = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?.strip_prefix(&file_name(master))?.strip_prefix('-')?;
    let digits = |range: std::ops::Range<usize>| -> Option<u64> {
        let text = time.get(range)?;
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    let (year, month, day) = (digits(0..4)?, digits(4..6)?, digits(6..8)?);
    let (hour, minute, second) = (digits(9..11)?, digits(11..13)?, digits(13..15)?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) {
        return None;
    }
    // Howard Hinnant's days_from_civil.
    let (shifted, of_year) = (year - u64::from(month <= 2), (month + 9) % 12);
    let (era, of_era) = (shifted / 400, shifted % 400);
    let days =
        era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + (153 * of_year + 2) / 5 + day.checked_sub(1)?;
    let at = days.checked_sub(719_468)? * 86_400 + hour * 3600 + minute * 60 + second;
    // The 31st of February is none of ours.
    (self::name(master, at) == name).then_some(at)
}

/// Which of `found` (names and the seconds in them) are no longer kept: all but the `keep` newest, and what is older than `keep_for`.
/// Never the newest.
fn outdated(mut found: Vec<(String, u64)>, now: u64, keep: usize, keep_for: Option<Duration>) -> Vec<String> {
    found.sort_by_key(|(_, at)| Reverse(*at));
    let is_old = |at: u64| keep_for.is_some_and(|age| now.saturating_sub(at) > age.as_secs());
    let out = found.into_iter().enumerate().skip(1).filter(|(n, (_, at))| *n >= keep || is_old(*at));
    out.map(|(_, (name, _))| name).collect()
}

/// Whether we made it: a regular file with our comment in its header.
fn is_ours(path: &Path) -> bool {
    let regular = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    let Some(file) = regular.then(|| File::open(path).ok()).flatten() else { return false };
    let decoder = GzDecoder::new(BufReader::new(file));
    let comment = decoder.header().and_then(|header| header.comment());
    comment.is_some_and(|comment| comment.starts_with(COMMENT.as_bytes()))
}

/// The backups of `master` in `directory`: their names, and the second since 1970 in each.
fn of(directory: &Path, master: &str) -> io::Result<Vec<(String, u64)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)?.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if let Some(at) = made_at(&name, master).filter(|_| is_ours(&entry.path())) {
            found.push((name, at));
        }
    }
    Ok(found)
}

/// When the newest backup of `master` in `directory` was made, in seconds since 1970. None where there is none, or none can be read.
pub fn newest(directory: &Path, master: &str) -> Option<u64> {
    of(directory, master).ok()?.into_iter().map(|(_, at)| at).max()
}

/// Removes what is no longer kept of `master` in `directory`. Gives what it removed, and what it could not.
pub fn remove_outdated(
    directory: &Path,
    master: &str,
    now: u64,
    keep: usize,
    keep_for: Option<Duration>,
) -> (Vec<PathBuf>, Vec<String>) {
    let (mut removed, mut trouble) = (Vec::new(), Vec::new());
    let found = of(directory, master).unwrap_or_else(|error| {
        trouble.push(format!("cannot read {}: {error}", directory.display()));
        Vec::new()
    });
    for name in outdated(found, now, keep, keep_for) {
        let path = directory.join(name);
        match fs::remove_file(&path) {
            Ok(()) => removed.push(path),
            Err(error) => trouble.push(format!("cannot remove {}: {error}", path.display())),
        }
    }
    (removed, trouble)
}

/// Where one that is to be called `name` is written first: beside it, so that it is there in one step.
pub fn unfinished(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{UNFINISHED}{name}"))
}

/// Removes what runs before left unfinished. The caller holds the lock.
///
/// # Errors
/// The system's.
pub fn remove_unfinished(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, GzBuilder};
    use proptest::prelude::*;
    use std::io::Write;

    #[test]
    fn a_name_says_what_and_when_and_only_ours_are_read() {
        let at = 1_795_970_700;
        assert_eq!(name("mymaster", at), "rolegate-mymaster-20261129T164500Z.rdb.gz");
        assert_eq!(made_at(&name("a/b", at), "a/b"), Some(at));
        for other in [
            "rolegate-mymaster-20261129T164500Z.rdb",
            "rolegate-mymaster-20261129T164500Z.rdb.gz.old",
            "rolegate-mymaster-20260230T164500Z.rdb.gz",
            "rolegate-mymaster-20261329T164500Z.rdb.gz",
            "rolegate-mymaster-20261129T164560Z.rdb.gz",
            "rolegate-mymaster-20261129 164500Z.rdb.gz",
            "rolegate-mymaster-0000+129T164500Z.rdb.gz",
            "rolegate-mymaster--.rdb.gz",
            "rolegate-mymasters-20261129T164500Z.rdb.gz",
            "rolegate-other-20261129T164500Z.rdb.gz",
            "dump.rdb.gz",
        ] {
            assert_eq!(made_at(other, "mymaster"), None, "{other}");
        }
        // Of a master name that begins like another one.
        assert_eq!(made_at(&name("mymaster-2", at), "mymaster"), None);
    }

    proptest! {
        #[test]
        fn each_second_has_its_name(at in 0_u64..253_402_300_800) {
            prop_assert_eq!(made_at(&name("m", at), "m"), Some(at));
        }

        #[test]
        fn the_newest_stays_whatever_is_asked(
            times in proptest::collection::btree_set(0_u64..1000, 1..20), keep in 1..10_usize, age in prop::option::of(1_u64..1000)
        ) {
            let found: Vec<(String, u64)> = times.iter().map(|at| (name("m", *at), *at)).collect();
            let gone = outdated(found, 1000, keep, age.map(Duration::from_secs));
            let newest = name("m", *times.last().unwrap());
            prop_assert!(!gone.contains(&newest));
            let left: Vec<u64> = times.iter().copied().filter(|at| !gone.contains(&name("m", *at))).collect();
            prop_assert!(left.len() <= keep);
            for at in &left[..left.len() - 1] {
                prop_assert!(age.is_none_or(|age| 1000 - at <= age));
            }
            // No more than asked.
            let young = times.iter().filter(|at| age.is_none_or(|age| 1000 - *at <= age)).count();
            prop_assert!(left.len() >= young.min(keep));
        }
    }

    #[test]
    fn what_we_did_not_make_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = |at: u64| directory.path().join(name("m", at));
        let write = |at: u64, comment: &str| {
            let file = File::create(path(at)).unwrap();
            let mut gz = GzBuilder::new().comment(comment).write(file, Compression::fast());
            gz.write_all(b"REDIS").unwrap();
            gz.finish().unwrap();
        };
        for at in [1000, 2000, 3000] {
            write(at, "rolegate backup of m");
        }
        write(500, "another program's");
        fs::write(path(600), "REDIS").unwrap();
        fs::create_dir(path(700)).unwrap();
        write(9000, "another program's");
        assert_eq!((newest(directory.path(), "m"), newest(directory.path(), "other")), (Some(3000), None));
        assert_eq!(newest(&directory.path().join("none"), "m"), None);
        std::os::unix::fs::symlink(path(3000), path(800)).unwrap();
        fs::write(unfinished(directory.path(), "x"), "").unwrap();
        let (removed, trouble) = remove_outdated(directory.path(), "m", 4000, 2, None);
        assert_eq!((removed, trouble), (vec![path(1000)], vec![]));
        let (removed, _) = remove_outdated(directory.path(), "m", 9000, 2, Some(Duration::from_secs(1)));
        assert_eq!(removed, [path(2000)]);
        let (removed, _) = remove_outdated(directory.path(), "m", 9000, 1, Some(Duration::from_secs(1)));
        assert!(removed.is_empty() && path(3000).exists());
        remove_unfinished(directory.path()).unwrap();
        assert!(!unfinished(directory.path(), "x").exists());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 6);
    }
}
