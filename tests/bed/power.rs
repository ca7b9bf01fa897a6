//! STONITH on a bed: a fence agent for the nodes, which asks from within a node that another one's power be cut, and the thread
//! outside that does it. The two talk over files on the asking node's disk, which partitions of the bed's network do not cut: as a
//! power switch beside the cluster's network.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Bed, NODES};

/// Where Pacemaker finds fence agents.
const PROGRAM: &str = "usr/sbin/fence_bed";
const AGENT: &str = include_str!("fence_bed.sh");

/// Where the agent leaves what it asks for.
const DIRECTORY: &str = "var/lib/fence-bed";

/// How often somebody looks there.
const EACH: Duration = Duration::from_millis(50);

/// Installs the agent on all nodes, and has the cluster use it. A node whose power was cut stays off until somebody boots it.
pub fn configure(bed: &Bed) -> Result<()> {
    for node in bed.nodes() {
        let root = node.root();
        fs::write(root.join(PROGRAM), AGENT).context(PROGRAM)?;
        fs::set_permissions(root.join(PROGRAM), fs::Permissions::from_mode(0o755))?;
        fs::create_dir_all(root.join(DIRECTORY))?;
    }
    let script = format!(
        "pcs stonith create power fence_bed pcmk_host_list='{}' --wait=30
         pcs property set stonith-action=off stonith-enabled=true",
        NODES.join(" ")
    );
    let (made, _cut) = serving(bed, || bed.host(NODES[0])?.sh_within(Duration::from_secs(90), &script));
    made.map(drop)
}

/// Does `work`, and meanwhile what the nodes' fence agents ask for. Also the names of the nodes that were to be off, and are.
pub fn serving<T>(bed: &Bed, work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| serve(bed, &stop));
        let done = {
            let _end = End(&stop);
            work()
        };
        (done, server.join().unwrap_or_default())
    })
}

/// Tells the server to end, also when the work panics.
struct End<'s>(&'s AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn serve(bed: &Bed, stop: &AtomicBool) -> Vec<String> {
    let mut cut = Vec::new();
    let places: Vec<_> = bed.nodes().map(|node| (node.name(), node.root().join(DIRECTORY))).collect();
    // A bed without STONITH.
    if !places.iter().all(|(_, place)| place.is_dir()) {
        return cut;
    }
    while !stop.load(Ordering::Relaxed) {
        for (by, place) in &places {
            for asked in fs::read_dir(place).into_iter().flatten().flatten() {
                let path = asked.path();
                if path.extension().is_some_and(|extension| extension == "ask") {
                    let code = match answer(bed, by, &path, &mut cut) {
                        Ok(code) => code,
                        Err(error) => {
                            bed.say(&format!("power: {error:#}"));
                            1
                        }
                    };
                    // The asker may have lost its own power meanwhile.
                    let _gone = fs::remove_file(&path);
                    let _gone = fs::write(path.with_extension("part"), code.to_string())
                        .and_then(|()| fs::rename(path.with_extension("part"), path.with_extension("answer")));
                }
            }
        }
        thread::sleep(EACH);
    }
    cut
}

/// Does what stands in the file `asked`. The agent's exit code.
fn answer(bed: &Bed, by: &str, asked: &Path, cut: &mut Vec<String>) -> Result<i32> {
    let text = fs::read_to_string(asked)?;
    let Some((action, name)) = text.trim().split_once(' ') else { bail!("{by} asks for {text:?}") };
    let node = bed.host(name)?;
    if action != "status" {
        bed.say(&format!("power: {by} asks for {name} {action}"));
    }
    if matches!(action, "off" | "reboot") {
        if node.is_on()? {
            node.power_off()?;
        }
        if !cut.iter().any(|other| other == name) {
            cut.push(name.to_owned());
        }
    }
    match action {
        "status" => return Ok(if node.is_on()? { 0 } else { 2 }),
        "on" | "reboot" if !node.is_on()? => node.boot()?,
        _ => {}
    }
    Ok(0)
}
