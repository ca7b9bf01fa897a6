//! What keepers cost, with one master name and with many: their own time and memory, and that of the Sentinels which they ask. And
//! whether they keep their leases on a busy machine.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::bench::Figures;
use super::load::{Bounds, Load, Writer};
use super::watch::Watch;
use super::{Bed, CLIENTS, Host, NODES, address, jail, wait_every};

/// How many master names there are in the end.
const MANY: usize = 64;

/// How long one reading of what a process used takes.
const READING: Duration = Duration::from_secs(10);

/// How many subscribers a Sentinel has while it is looked at.
const SUBSCRIBERS: usize = 2000;

/// What a keeper may take, in percent of a core: less than this with one master name, and with [`MANY`].
const ONE_TAKES: f64 = 1.0;
const MANY_TAKE: f64 = 5.0;

/// What a look may cost such a Sentinel, in milliseconds of its thread: less than this.
const LOOK_COSTS: f64 = 1.0;

/// How long the soak lasts, in seconds, unless told otherwise.
pub const SOAK: u64 = 600;

/// Measures keepers and Sentinels on a bed with its gate.
///
/// # Errors
/// When something cannot be measured, or is more than it may be: when all is measured, and by medians, for this machine has other things to do.
pub fn keeper(bed: &Bed, figures: &mut Figures) -> Result<()> {
    bed.say("what keepers cost");
    let mut costs =
        vec![(format!("a look at a Sentinel with {SUBSCRIBERS} subscribers (ms)"), look(bed, figures)?, LOOK_COSTS)];
    let mut keepers = |names: usize, most: f64| -> Result<()> {
        let each = used(bed, figures, names)?.into_iter();
        costs.extend(
            each.map(|(node, percent)| (format!("{node}'s keeper, {names} master names (% core)"), percent, most)),
        );
        Ok(())
    };
    keepers(1, ONE_TAKES)?;
    bed.say(&format!("{MANY} master names"));
    many(bed)?;
    keepers(MANY, MANY_TAKE)?;
    let too_much = costs.into_iter().filter(|(_, cost, most)| cost >= most);
    let too_much: Vec<String> =
        too_much.map(|(what, cost, most)| format!("{what}: {cost:.2}, less than {most} is wanted")).collect();
    ensure!(too_much.is_empty(), "{}", too_much.join("; "));
    Ok(())
}

/// Whether the lease is kept while something else wants all processors, and how near it comes to its end.
///
/// # Errors
/// When something cannot be measured, or the lease was lost.
#[allow(clippy::print_stdout)] // The benchmark's product.
pub fn soak(bed: &Bed, figures: &mut Figures, lasts: Duration) -> Result<()> {
    bed.say(&format!("{} s with all processors kept busy", lasts.as_secs()));
    let node = bed.primary()?;
    let target = SocketAddr::new(node.address().parse()?, 6381);
    let writer = Writer::to("soak", CLIENTS[0], target);
    let begun = Instant::now();
    let busy = AtomicBool::new(true);
    let (seen, written) = thread::scope(|scope| -> Result<_> {
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while busy.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let watched = || -> Result<_> {
            let watch = Watch::start(bed);
            let load = Load::start(bed, &[writer], Bounds { rate: 100, time: lasts * 2 })?;
            while begun.elapsed() < lasts && !jail::interrupted() {
                thread::sleep(Duration::from_millis(100));
            }
            let written = load.stop()?;
            Ok((watch.stop()?, written))
        };
        let watched = watched();
        busy.store(false, Ordering::Relaxed);
        watched
    })?;
    ensure!(!jail::interrupted(), "interrupted");
    let gaps = seen.renewals(node.name());
    let millis: Vec<f64> = gaps.iter().map(|gap| gap.as_secs_f64() * 1e3).collect();
    figures.add("from one renewal of the lease to the next, all processors busy", "ms", millis)?;
    println!("{}", histogram(&gaps));
    let pause = seen.pauses().longest.as_secs_f64() * 1e3;
    figures.add("longest time between two looks at a firewall, all processors busy", "ms", vec![pause])?;
    let closed = seen.none_open(begun + Duration::from_secs(1));
    figures.add("6381 closed, all processors busy", "ms", vec![closed.as_secs_f64() * 1e3])?;
    let outage = written.outage(begun, |_| true).as_secs_f64() * 1e3;
    figures.add("longest time without an acknowledgement, all processors busy", "ms", vec![outage])?;
    ensure!(closed.is_zero(), "6381 was closed for {closed:?}");
    Ok(())
}

/// How many renewals came after how long, in steps of 100 ms.
fn histogram(gaps: &[Duration]) -> String {
    let mut counts = std::collections::BTreeMap::<u128, usize>::new();
    for gap in gaps {
        *counts.entry(gap.as_millis() / 100).or_default() += 1;
    }
    let line =
        |(step, count): (&u128, &usize)| format!("  {:>5} to {:>5} ms  {count:>6}\n", step * 100, step * 100 + 99);
    counts.iter().map(line).collect()
}

/// One look at a Sentinel with as many subscribers as a large application has, against its shortest answer: how long it takes from
/// another host, and how long the Sentinel's thread runs for it: the latter's median, in milliseconds.
fn look(bed: &Bed, figures: &mut Figures) -> Result<f64> {
    const ROUNDS: usize = 200;
    const TIMES: usize = 5;
    let sentinel = SocketAddr::new(address(NODES[1]).parse()?, 26379);
    let subscribers = bed.in_net(CLIENTS[0], || -> Result<Vec<TcpStream>> {
        (0..SUBSCRIBERS)
            .map(|_| {
                let mut stream = TcpStream::connect_timeout(&sentinel, Duration::from_secs(5))?;
                stream.write_all(b"SUBSCRIBE +switch-master\r\n")?;
                Ok(stream)
            })
            .collect()
    })??;
    let each = |question: &str, ends: fn(&[u8]) -> bool| -> Result<Vec<f64>> {
        bed.in_net(CLIENTS[0], || {
            let mut stream = TcpStream::connect_timeout(&sentinel, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.set_nodelay(true)?;
            let mut times = Vec::new();
            for _ in 0..ROUNDS {
                let begun = Instant::now();
                stream.write_all(question.as_bytes())?;
                let (mut reply, mut piece) = (Vec::new(), [0; 64 << 10]);
                while !ends(&reply) {
                    let read = stream.read(&mut piece)?;
                    ensure!(read > 0, "the Sentinel has closed the connection");
                    reply.extend_from_slice(&piece[..read]);
                }
                times.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            Ok(times)
        })?
    };
    let node = bed.host(NODES[1])?;
    let unit = bed.server().sentinel();
    // The first field of /proc/PID/schedstat: for how long the thread ran, in nanoseconds.
    let ran = || -> Result<f64> {
        let text = node.sh(&format!("cat /proc/$(systemctl show -P MainPID {unit})/schedstat"))?.text();
        text.split_whitespace().next().and_then(|ns| ns.parse().ok()).with_context(|| text.clone())
    };
    type Question = (&'static str, fn(&[u8]) -> bool);
    let questions: [Question; 2] =
        [("CLIENT LIST TYPE normal", |reply| reply.ends_with(b"\n\r\n")), ("PING", |reply| reply.ends_with(b"\r\n"))];
    let (mut took, mut used) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..TIMES {
        for (n, (question, ends)) in questions.iter().enumerate() {
            let before = ran()?;
            took[n].extend(each(&format!("{question}\r\n"), *ends)?);
            used[n].push((ran()? - before) / ROUNDS as f64 / 1e6);
        }
    }
    let name = |what: &str, question: &str| format!("{question}, {what}, Sentinel with {SUBSCRIBERS} subscribers");
    let mut costs = f64::INFINITY;
    for (what, times) in [("from another host", took), ("time of the Sentinel's thread", used)] {
        let [ours, ping] = times;
        let ours = figures.add(&name(what, questions[0].0), "ms", ours)?;
        let ping = figures.add(&name(what, questions[1].0), "ms", ping)?;
        figures.ratio(&format!("a look against a PING, {what}"), ours, ping);
        // The last one is the thread's.
        costs = ours.median;
    }
    drop(subscribers);
    Ok(costs)
}

/// What each node's keeper and Sentinel use: in percent of a core, and in MiB. The median percents of the keepers, with their nodes.
fn used(bed: &Bed, figures: &mut Figures, names: usize) -> Result<Vec<(String, f64)>> {
    const KEEPER: &str = "rolegate-keeper";
    let sentinel = bed.server().sentinel();
    let each: Vec<(&str, Host)> =
        [KEEPER, sentinel].into_iter().flat_map(|unit| bed.nodes().map(move |node| (unit, node))).collect();
    // utime and stime of proc_pid_stat(5), in hundredths of a second, behind the name, which may hold spaces.
    let cpu = |(unit, node): &(&str, Host)| -> Result<(Instant, f64)> {
        let script = format!(
            "set -- $(sed 's/.*) //' /proc/$(systemctl show -P MainPID {unit})/stat); echo $(( ${{12}} + ${{13}} ))"
        );
        Ok((Instant::now(), node.sh(&script)?.text().trim().parse::<f64>()? / 100.0))
    };
    let mut percents = vec![Vec::new(); each.len()];
    let mut before = each.iter().map(cpu).collect::<Result<Vec<_>>>()?;
    for _ in 0..3 {
        thread::sleep(READING);
        let now = each.iter().map(cpu).collect::<Result<Vec<_>>>()?;
        for ((percent, (at, used)), (earlier, less)) in percents.iter_mut().zip(&now).zip(&before) {
            percent.push((used - less) / (*at - *earlier).as_secs_f64() * 100.0);
        }
        before = now;
    }
    let mut keepers = Vec::new();
    for ((unit, node), percent) in each.iter().zip(percents) {
        let used = figures.add(&format!("{unit}, {} ({names} master names): time", node.name()), "% core", percent)?;
        if *unit == KEEPER {
            keepers.push((node.name().to_owned(), used.median));
        }
        let text = node.sh(&format!("grep VmRSS /proc/$(systemctl show -P MainPID {unit})/status"))?.text();
        let kib: f64 = text.split_whitespace().nth(1).with_context(|| text.clone())?.parse()?;
        figures.add(&format!("{unit}, {} ({names} master names): memory", node.name()), "MiB", vec![kib / 1024.0])?;
    }
    Ok(keepers)
}

/// As many master names as [`MANY`], all with their primary on the first node: a Redis for each on every node, watched by the same
/// Sentinels, and a gate like that of the first.
fn many(bed: &Bed) -> Result<()> {
    let ports = |n: usize| [20_000 + n, 21_000 + n, 22_000 + n];
    for node in bed.nodes() {
        let mut script = String::from("mkdir -p /tmp/many; cd /tmp/many\n");
        for n in 1..MANY {
            let [redis, ..] = ports(n);
            write!(
                script,
                "redis-server --port {redis} --daemonize yes --save '' --protected-mode no --logfile /dev/null --hz 2"
            )?;
            if node.name() != NODES[0] {
                write!(script, " --replicaof {} {redis}", address(NODES[0]))?;
            }
            script.push('\n');
        }
        node.sh_within(Duration::from_secs(60), &script)?;
        let mut script = String::new();
        for n in 1..MANY {
            let [redis, ..] = ports(n);
            let cli = "redis-cli -p 26379 SENTINEL";
            write!(
                script,
                "{cli} MONITOR m{n} {} {redis} 2; {cli} SET m{n} down-after-milliseconds 5000;",
                address(NODES[0])
            )?;
        }
        node.sh_within(Duration::from_secs(60), &script)?;
    }
    // A gate for each, like the one that there is.
    let node = bed.host(NODES[0])?;
    let cib = node.ask("cibadmin", &["-Q"])?;
    let part = |begin: &str, end: &str| -> Result<&str> {
        let at = cib.find(begin).with_context(|| format!("no {begin} in {cib}"))?;
        let length = cib[at..].find(end).with_context(|| format!("no {end}"))?;
        Ok(&cib[at..at + length + end.len()])
    };
    let gate = part("<clone id=\"RedisGate-clone\"", "</clone>")?;
    // Three nodes share this machine's processors, and Pacemaker's monitors of all gates would take them all: they are none of the keeper's.
    let gate = gate.replace("interval=\"5s\"", "interval=\"605s\"").replace("interval=\"6s\"", "interval=\"606s\"");
    let constraints = part("<constraints>", "</constraints>").unwrap_or_default();
    let constraints = constraints.trim_start_matches("<constraints>").trim_end_matches("</constraints>");
    let (mut gates, mut rules) = (String::new(), String::new());
    for n in 1..MANY {
        let [redis, ro, rw] = ports(n);
        let name = format!("Gate{n}");
        let own: String = [
            ("master", format!("m{n}")),
            ("attribute", format!("redis_role-m{n}")),
            ("ro_port", ro.to_string()),
            ("rw_port", rw.to_string()),
            ("redis_port", redis.to_string()),
        ]
        .iter()
        .map(|(key, value)| format!("<nvpair id=\"{name}-own-{key}\" name=\"{key}\" value=\"{value}\"/>"))
        .collect();
        let of = |text: &str| {
            let text = text.replace("RedisGate", &name).replace(":6379", &format!(":{redis}"));
            text.replace("\"redis_role\"", &format!("\"redis_role-m{n}\""))
        };
        gates += &of(&gate).replacen("</instance_attributes>", &format!("{own}</instance_attributes>"), 1);
        rules += &of(constraints);
    }
    // Each role that a keeper writes would have Pacemaker calculate all of it again.
    let mut cib = cib.clone();
    for node in bed.nodes() {
        let id = node.ask("crm_node", &["-i"])?;
        let role = if node.name() == NODES[0] { "primary" } else { "replica" };
        let first = format!("<nvpair id=\"nodes-{id}-redis_role\"");
        let nvpair =
            |n| format!("<nvpair id=\"nodes-{id}-redis_role-m{n}\" name=\"redis_role-m{n}\" value=\"{role}\"/>");
        let all: String = (1..MANY).map(nvpair).collect();
        ensure!(cib.contains(&first), "no {first} in {cib}");
        cib = cib.replacen(&first, &format!("{all}{first}"), 1);
    }
    let whole = cib.replacen("</resources>", &format!("{gates}</resources>"), 1);
    let whole = match rules.is_empty() {
        true => whole,
        false => whole.replacen("</constraints>", &format!("{rules}</constraints>"), 1),
    };
    std::fs::write(node.root().join("root/many.xml"), whole)?;
    node.sh_within(Duration::from_secs(60), "cibadmin --replace --xml-file /root/many.xml")?;
    wait_every(Duration::from_secs(2), "all gates to be open", Duration::from_secs(600), || {
        let open = bed.in_net(CLIENTS[0], || {
            (1..MANY)
                .filter(|n| {
                    let target = SocketAddr::from(([10, 77, 0, 1], ports(*n)[2] as u16));
                    TcpStream::connect_timeout(&target, Duration::from_millis(300)).is_ok()
                })
                .count()
        })?;
        ensure!(open == MANY - 1, "{open} of {} are open", MANY - 1);
        Ok(())
    })?;
    // What began just now is over.
    thread::sleep(Duration::from_secs(15));
    Ok(())
}
