//! Tests on real machines. One bed is raised for all of one kind, when the first needs it, and taken down when one of
//! another kind comes; they run one after the other, each on a bed that is whole again. Logs of a trial that failed are in
//! `target/bed-logs/`.
//!
//! A trial is a function in a file of `tests/on_bed/`, named in that file's `TRIALS`. It can run on each base (a Debian
//! release with Redis or Valkey); `tests/on_bed/mod.rs` says which do so unless asked for.

mod bed;
#[path = "configuration/facts.rs"]
mod facts;
mod on_bed;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use libtest_mimic::{Arguments, Failed, Trial};
use on_bed::Placed;

use bed::Bed;

/// What trials share, with its kind. The error is kept: what cannot be raised once is not tried again.
type Shared = Option<(on_bed::Kind, Result<Bed, String>)>;
static SHARED: Mutex<Shared> = Mutex::new(None);

/// A trial on the shared bed.
type OnBed = fn(&Bed) -> Result<()>;

fn main() -> ExitCode {
    bed::entry();
    if let Some(ended) = on_bed::itself::controller() {
        return ended;
    }
    let mut arguments = Arguments::from_args();
    // They share one bed, and a machine has few processors.
    arguments.test_threads = Some(1);
    let mut trials: Vec<Trial> =
        on_bed::itself::ALONE.iter().map(|(name, run)| Trial::test(*name, || run().map_err(failed))).collect();
    for trial in on_bed::all() {
        let (name, ignored) = (trial.name.clone(), trial.ignored);
        trials.push(Trial::test(name, move || on_shared(&trial).map_err(failed)).with_ignored_flag(ignored));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    if let Err(error) = end(&mut SHARED.lock().unwrap_or_else(PoisonError::into_inner)) {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

/// Takes down the shared bed, if there is one.
fn end(shared: &mut Shared) -> Result<()> {
    match shared.take() {
        Some((_, Ok(bed))) => bed.down().context("the bed was not taken down"),
        _ => Ok(()),
    }
}

fn failed(error: anyhow::Error) -> Failed {
    format!("{error:#}").into()
}

fn on_shared(trial: &Placed) -> Result<()> {
    let Placed { name, kind, run, .. } = trial;
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if shared.as_ref().is_some_and(|(of, _)| of != kind) {
        end(&mut shared)?;
    }
    let (_, bed) = shared.get_or_insert_with(|| {
        let options = kind.options(format!("tests-{}", std::process::id()));
        (*kind, Bed::up(options).map_err(|error| format!("{error:#}")))
    });
    let bed = bed.as_ref().map_err(|error| anyhow!("no bed: {error}"))?;
    let started = std::time::Instant::now();
    let done = bed.mend().and_then(|()| run(bed));
    bed.say(&format!("{name} took {:.1} s", started.elapsed().as_secs_f64()));
    if let Err(error) = &done {
        // Here too, not only at the end of all: who sees a part of what was printed sees why.
        eprintln!("{error:#}");
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("bed-logs").join(name.replace("::", "-"));
        match bed.collect_logs(&dir) {
            Ok(()) => eprintln!("logs are in {}", dir.display()),
            Err(error) => eprintln!("no logs: {error:#}"),
        }
        // The next one is to fail by itself, if it does.
        end(&mut shared)?;
    }
    done.with_context(|| name.clone())
}
