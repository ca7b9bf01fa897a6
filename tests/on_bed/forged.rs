//! A client that may publish on a Redis' `__sentinel__:hello` tells Sentinels what to believe. What they believe then opens nothing: it
//! is no address of the record.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::moves::{settled, with_gate};
use crate::OnBed;
use crate::bed::gates::{open_gates, role};
use crate::bed::{Bed, Host, NODES, wait_for};

pub const TRIALS: &[(&str, OnBed)] =
    &[("a_forged_hello_closes_changes_no_attribute_and_opens_no_gate", changes_nothing)];

/// For so long nobody may open and no attribute change: behind the lease and all that follows a failover, before Sentinels take the
/// forged one for down.
const WHILE: Duration = Duration::from_secs(4);

fn changes_nothing(bed: &Bed) -> Result<()> {
    // A stranger, whom nobody can reach, and what to each Sentinel is the Redis beside it.
    for (epoch, forged) in [(1000, "10.77.0.99"), (2000, "127.0.0.1")] {
        let old = with_gate(bed)?;
        publish(bed, &old, forged, epoch)?;
        let tried = believed(bed, &old, forged).with_context(|| format!("{forged} announced"));
        // As it came, so it goes.
        publish(bed, &old, &old.address(), epoch + 1)?;
        // They keep it for a replica, until they forget all and look anew.
        for node in bed.nodes() {
            node.redis(26379, &["SENTINEL", "RESET", "mymaster"])?;
        }
        tried?;
        let primary = settled(bed)?;
        ensure!(primary.name() == old.name(), "{} is primary: nothing was wrong with {}", primary.name(), old.name());
    }
    Ok(())
}

/// Announces `address` as the primary, as the Sentinels of two nodes: one that hears itself does not listen.
fn publish(bed: &Bed, to: &Host, address: &str, epoch: u64) -> Result<()> {
    for name in &NODES[..2] {
        let sender = bed.host(name)?;
        let (ip, id) = (sender.address(), sender.redis(26379, &["SENTINEL", "MYID"])?);
        let hello = format!("{ip},26379,{id},{epoch},mymaster,{address},6379,{epoch}");
        to.redis(6379, &["PUBLISH", "__sentinel__:hello", &hello])?;
    }
    Ok(())
}

/// Whether each Sentinel gives `address` as the primary's.
fn all_name(bed: &Bed, address: &str) -> Result<bool> {
    for node in bed.nodes() {
        let said = node.redis(26379, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"])?;
        if said.lines().next() != Some(address) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn believed(bed: &Bed, old: &Host, forged: &str) -> Result<()> {
    let roles = || bed.nodes().map(|node| role(&node)).collect::<Result<Vec<_>>>();
    let before = roles()?;
    wait_for("the Sentinels to believe it", Duration::from_secs(10), || {
        ensure!(all_name(bed, forged)?, "they do not");
        Ok(())
    })?;
    let began = Instant::now();
    let mut closed = false;
    while began.elapsed() < WHILE {
        let (roles, open) = (roles()?, open_gates(bed)?);
        // Else what was seen may be what follows.
        ensure!(all_name(bed, forged)?, "after {:?} the Sentinels believe something else", began.elapsed());
        ensure!(roles == before, "an attribute has changed: {before:?}, {roles:?}");
        ensure!(open.is_empty() || open == [old.name()] && !closed, "{open:?} opened");
        closed |= open.is_empty();
        thread::sleep(Duration::from_millis(100));
    }
    ensure!(closed, "{} is still open, though nobody names it", old.name());
    Ok(())
}
