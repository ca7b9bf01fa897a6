//! That the writers count right: against a failover that is known to lose writes, because nothing
//! keeps clients off the old primary's own port.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::OnBed;
use crate::bed::load::{Bounds, Load, Report, Writer};
use crate::bed::{Bed, NODES, address, wait_for};

pub const TRIALS: &[(&str, OnBed)] =
    &[("writers_count_what_a_failover_loses_on_6379", loses), ("writers_lose_nothing_when_nothing_happens", quiet)];

/// Redis' own port, which no gate guards.
fn redis(node: &str) -> Result<SocketAddr> {
    Ok(SocketAddr::new(address(node).parse()?, 6379))
}

fn verify(bed: &Bed, load: Load) -> Result<Report> {
    let written = load.stop()?;
    written.verify(bed, "client1", redis(bed.primary()?.name())?)
}

fn loses(bed: &Bed) -> Result<()> {
    let old = bed.primary()?.name();
    let mut writers = Vec::new();
    for node in NODES {
        writers.push(Writer::to(node, "client1", redis(node)?));
    }
    let load = Load::start(bed, &writers, Bounds { rate: 100, time: Duration::from_secs(60) })?;
    thread::sleep(Duration::from_secs(1));
    bed.host(old)?.redis(26379, &["SENTINEL", "FAILOVER", "mymaster"])?;
    // Sentinel makes the old primary a replica some 10 s later; until then both take writes.
    wait_for("the old primary's end", Duration::from_secs(40), || {
        ensure!(bed.primary()?.name() != old, "{old} is still the only one");
        bed.check()
    })?;
    let report = verify(bed, load)?;
    let of = |node: &str| report.writers.iter().find(|writer| writer.name == node).context("its writer");
    let new = bed.primary()?.name();
    ensure!(of(old)?.lost > 100 && of(old)?.stale > 100, "what {old} took after the promotion is lost: {report:?}");
    ensure!(of(new)?.acknowledged > 100 && of(new)?.lost == 0 && of(new)?.stale == 0, "{new}: {report:?}");
    for replica in NODES.into_iter().filter(|node| *node != old && *node != new) {
        ensure!(of(replica)?.acknowledged == 0 && of(replica)?.errors > 100, "a replica takes no writes: {report:?}");
    }
    ensure!(of(old)?.servers == [old] && of(new)?.servers == [new], "{report:?}");
    Ok(())
}

fn quiet(bed: &Bed) -> Result<()> {
    let primary = bed.primary()?.name();
    let plain = Writer::to("plain", "client1", redis(primary)?);
    let waiting = Writer::to("waiting", "client2", redis(primary)?).waiting();
    let load = Load::start(bed, &[plain, waiting], Bounds { rate: 200, time: Duration::from_secs(30) })?;
    thread::sleep(Duration::from_secs(3));
    let report = verify(bed, load)?;
    ensure!((report.lost, report.stale) == (0, 0), "{report:?}");
    for writer in &report.writers {
        // A machine that stands still for a moment is no failure: only that a gap is measured and not made up.
        ensure!(writer.acknowledged > 100 && writer.errors == 0 && writer.longest_gap_ms < 3000, "{report:?}");
    }
    Ok(())
}
