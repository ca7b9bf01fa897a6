//! What comes from elsewhere, broken in every way: no panic, nothing that takes for ever, and no more memory than it is worth.
//!
//! Samples as the real programs write them are cut, doubled, nested and mixed with each other and with noise, thousands of
//! times, and given to whatever reads them. Each run draws others; one that fails says how to have the same again.

#[path = "hostile/allocated.rs"]
mod allocated;

use std::hash::{BuildHasher, RandomState};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};
use rolegate::commands;
use rolegate::hook;
use rolegate::instance;
use rolegate::keeper::behind::Behind;
use rolegate::keeper::events;
use rolegate::keeper::history::History;
use rolegate::keeper::memory::Memory;
use rolegate::keeper::socket::{self, Asked, Report, Request};
use rolegate::keeper::stand::Standing;
use rolegate::keeper::timeline;
use rolegate::layout;
use rolegate::lease::mark::Marks;
use rolegate::logging::Subject;
use rolegate::pacemaker::{cib, crm_mon};
use rolegate::params::{Params, read_port};
use rolegate::permission::Store;
use rolegate::record::Record;
use rolegate::sentinel;
use rolegate::server::Value;
use rolegate::settings::Settings;
use rolegate::switchover;
use rolegate::transfer::Transfer;
use rolegate::wire::{self, LONGEST_REPLY, Replies, Reply};

/// How much of a processor any one of them may take.
const AT_MOST: Duration = Duration::from_secs(2);

/// How much memory any one of them may take: some to begin with, and some for each byte that came.
const MEMORY: usize = 256 << 10;
const MEMORY_PER_BYTE: usize = 256;

/// How much one reply may take, whatever it is. It comes from who may be anybody. What takes most is a list of clients that all are keepers.
const REPLY_MEMORY: usize = 8 * LONGEST_REPLY;

/// The variable that has what is drawn by lot drawn again.
const SEED: &str = "HOSTILE_SEED";

const CIB: &str = r#"<cib crm_feature_set="3.16.2" have-quorum="1" dc-uuid="1"><configuration>
<crm_config><cluster_property_set id="o"><nvpair id="o1" name="stonith-enabled" value="false"/></cluster_property_set></crm_config>
<nodes><node id="1" uname="node1"><instance_attributes id="n1"><nvpair id="n1-r" name="redis_role" value="primary"/></instance_attributes></node>
<node id="2" uname="node2"/></nodes>
<resources><template id="t" class="ocf" provider="rolegate" type="gate"/>
<clone id="RedisGate-clone"><meta_attributes id="m"><nvpair id="m1" name="promotable" value="true"/></meta_attributes>
<primitive id="RedisGate" class="ocf" provider="rolegate" type="gate"><instance_attributes id="i">
<nvpair id="i1" name="nodes" value="node1=10.0.0.1:6379 node2=[fd00::2]:6379"/><nvpair id="i2" name="sentinels"
value="aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@10.0.0.1:26379"/><nvpair id="i3" name="rw_port" value="6381"/></instance_attributes></primitive></clone>
<clone id="W"><primitive id="RedisLBWriteBlock" class="ocf" provider="rolegate" type="block"><instance_attributes id="w">
<nvpair id="w1" name="port" value="rw"/></instance_attributes></primitive></clone>
<group id="g"><primitive id="vip" class="ocf" provider="heartbeat" type="IPaddr2"><instance_attributes id="v"><nvpair id="v1" name="ip"
value="10.0.0.100"/></instance_attributes></primitive></group></resources>
<constraints><rsc_location id="l" rsc="RedisGate-clone" role="Promoted" node="node1" score="-INFINITY"/><rsc_location id="l1" rsc="RedisGate-clone">
<rule id="r" role="Promoted" score="INFINITY"><expression id="e" operation="eq" attribute="redis_role" value="primary"/></rule></rsc_location></constraints>
</configuration><status><node_state id="1" uname="node1"><transient_attributes id="1"><instance_attributes id="s">
<nvpair id="s1" name="fail-count-RedisGate#promote_0" value="INFINITY"/></instance_attributes></transient_attributes></node_state></status></cib>"#;

const CRM_MON: &str = r#"<pacemaker-result api-version="2.25" request="crm_mon -1 --output-as=xml"><summary>
<current_dc present="true" with_quorum="true"/><cluster_options maintenance-mode="false"/></summary>
<nodes><node name="node1" id="1" online="true" standby="false" maintenance="false" pending="false" unclean="false"/></nodes>
<resources><clone id="RedisGate-clone"><resource id="RedisGate" resource_agent="ocf:rolegate:gate" role="Promoted" active="true" blocked="false"
managed="true" failed="false"><node name="node1" id="1" cached="false"/></resource></clone></resources>
<node_attributes><node name="node1"><attribute name="redis_role" value="primary"/></node></node_attributes>
<failures><failure op_key="RedisGate_promote_0" node="node1" exitcode="1" exitreason="no" status="complete"/></failures>
<status code="0" message="OK"/></pacemaker-result>"#;

const SETTINGS: &str = "[redis]\nuser = \"rolegate\"\nanswer_within_ms = 800\n[sentinel]\naddress = \"127.0.0.1:26379\"\n\
    [firewall]\nbackend = \"nft\"\nwithin_ms = 5000\n[log]\nlevel = \"info\"\n";

const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nrun_id:1a0404ce9c2ea9091efe395090994c841e3a1854\r\nuptime_in_seconds:7\r\n\
    # Replication\r\nrole:master\r\nconnected_slaves:2\r\nslave0:ip=10.0.0.2,port=6379,state=online,offset=100,lag=0\r\n\
    slave1:ip=10.0.0.3,port=6379,state=online,offset=90,lag=1\r\nmaster_replid:aa\r\nmaster_repl_offset:100\r\nloading:0\r\n";

const REPLIES: &str = "*2\r\n$8\r\n10.0.0.1\r\n$4\r\n6379\r\n*6\r\n$2\r\nip\r\n$8\r\n10.0.0.1\r\n$4\r\nport\r\n$4\r\n6379\r\n$5\r\nflags\r\n\
    $6\r\nmaster\r\n$40\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n-NOPERM no\r\n%1\r\n+a\r\n:1\r\n";

/// As a Sentinel gives them to `rolegate init`: of the primary, of itself, of the other Sentinels, of the replicas.
const SURVEY: &str = "*2\r\n$8\r\n10.0.0.1\r\n$4\r\n6379\r\n*4\r\n$2\r\nip\r\n$8\r\n10.0.0.1\r\n$4\r\nport\r\n$4\r\n6379\r\n\
    $40\r\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n*1\r\n*8\r\n$2\r\nip\r\n$8\r\n10.0.0.2\r\n$4\r\nport\r\n$5\r\n26379\r\n\
    $5\r\nrunid\r\n$40\r\nbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n$5\r\nflags\r\n$8\r\nsentinel\r\n\
    *2\r\n*12\r\n$2\r\nip\r\n$8\r\n10.0.0.2\r\n$4\r\nport\r\n$4\r\n6379\r\n$5\r\nflags\r\n$25\r\nslave,s_down,disconnected\r\n\
    $12\r\ninfo-refresh\r\n$3\r\n612\r\n$13\r\nrole-reported\r\n$5\r\nslave\r\n$14\r\nslave-priority\r\n$3\r\n100\r\n\
    %2\r\n+ip\r\n+redis3\r\n+port\r\n:6379\r\n";

const CLIENTS: &str = "id=3 addr=10.0.0.2:40000 laddr=10.0.0.1:26379 fd=8 name=rolegate:mymaster:node2:closed age=5 idle=0 flags=N\n\
    id=4 addr=10.0.0.3:40001 fd=9 name=rolegate:mymaster:node3:2000000:17 age=5\nid=5 addr=10.0.0.9:1 name= age=1\n";

const SENTINELS: &str =
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@10.0.0.1:26379 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb@[fd00::1]:26379";
const NODES: &str = "node1=10.0.0.1:6379 node2=10.0.0.2:6379 node3=[fd00::3]:6379";
const REQUEST: &str = r#"{"permission":"RedisGate"}"#;
const REPORT: &str = r#"[{"gate":"RedisGate","master":"mymaster","open":true,"why":"","other":null}]"#;
const PERMISSION: &str = "version = 1\ngranted = \"promoted\"\nro_port = 6380\nrw_port = 6381\nredis_port = 6379\n";
const EVENTS: &str = "*4\r\n$8\r\npmessage\r\n$2\r\n+*\r\n$30\r\n+failover-state-wait-promotion\r\n\
    $58\r\nslave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379\r\n>4\r\n+pmessage\r\n+*\r\n+-failover-abort-no-good-slave\r\n\
    +master mymaster 10.0.0.1 6379\r\n*4\r\n+pmessage\r\n+*\r\n++switch-master\r\n+mymaster 10.0.0.1 6379 10.0.0.2 6379\r\n";
const MEMORY_FILE: &str =
    r#"{"version":1,"boot":"b","held":true,"last":{"run_id":"1a04","replication_id":"aa","held_at":7}}"#;
const RECORD_FILE: &str = r#"{"version":1,"boot":"b","on":{"sentinels":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@10.0.0.1:26379","nodes":"node1=10.0.0.1:6379 node2=[fd00::2]:6379","lease_ms":2000},
"last":{"sentinels":"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@10.0.0.1:26379","nodes":"node1=10.0.0.1:6379","lease_ms":2000}}"#;
const HISTORY: &str = r#"{"version":1,"master":"mymaster","last":{"at":7,"from":"10.0.0.1:6379","to":"[fd00::2]:6379","cause":{"keeper":"why"}}}"#;
/// As 7.0.15 describes one with parts.
const OF_A_COMMAND: &str = "*1\r\n*10\r\n$6\r\nxgroup\r\n:-2\r\n*0\r\n:0\r\n:0\r\n:0\r\n*1\r\n+@slow\r\n*0\r\n*0\r\n*1\r\n*10\r\n$13\r\n\
    xgroup|create\r\n:-5\r\n*2\r\n+write\r\n+denyoom\r\n:2\r\n:2\r\n:1\r\n*3\r\n+@write\r\n+@stream\r\n+@slow\r\n*0\r\n*1\r\n*6\r\n$5\r\nflags\r\n\
    *2\r\n+RW\r\n+insert\r\n$12\r\nbegin_search\r\n*4\r\n$4\r\ntype\r\n$5\r\nindex\r\n$4\r\nspec\r\n*2\r\n$5\r\nindex\r\n:2\r\n$9\r\nfind_keys\r\n*0\r\n*0\r\n";
const COPY: &str =
    "\n\n$EOF:0123456789abcdef0123456789abcdef01234567\r\nREDIS0010\u{3}0123456789abcdef0123456789abcdef01234567*1\r\n";
const COPY_WITH_LENGTH: &str = "\n$13\r\nREDIS0010\u{3}abc*1\r\n$4\r\nPING\r\n";
/// As CONFIG GET gives a setting, in either protocol.
const SETTING: &str =
    "*2\r\n$21\r\nmin-replicas-to-write\r\n$10\r\n1239410001\r\n%1\r\n$16\r\nreplica-priority\r\n$3\r\n100\r\n";
const NOTES: &str = r#"{"version":1,"master":"mymaster","node":"node1"}
{"at":1000,"what":"begun","nodes":{"node1":"10.0.0.1:6379","node2":"[fd00::2]:6379"}}
{"at":2000,"what":"sentinel","sentinel":"10.0.0.1:26379","says":"tried"}
{"at":3000,"what":"sentinel","sentinel":"10.0.0.1:26379","says":{"switched":{"from":"10.0.0.1:6379","to":"[fd00::2]:6379"}}}
{"at":3001,"what":"closed","node":"node1","why":"Sentinels name node2"}
{"at":3400,"what":"seen-open","node":"node2"}"#;
const ARGUMENTS: &str = "mymaster leader start 10.0.0.1 6379 10.0.0.2 6379";
const PARAMETERS: &str = "master=mymaster\nrw_port=6381\nro_port=6380\nredis_port=6379\nlease=2s\nopen_for=20s\nro_max_stale=60s\nattribute=a\nport=rw";

const ALL: [&str; 23] = [
    CIB,
    CRM_MON,
    SETTINGS,
    INFO,
    REPLIES,
    SURVEY,
    CLIENTS,
    SENTINELS,
    NODES,
    REQUEST,
    REPORT,
    PERMISSION,
    ARGUMENTS,
    PARAMETERS,
    EVENTS,
    MEMORY_FILE,
    RECORD_FILE,
    HISTORY,
    OF_A_COMMAND,
    COPY,
    COPY_WITH_LENGTH,
    NOTES,
    SETTING,
];

/// One way of breaking a text; places are parts of 1000 of its length.
#[derive(Debug, Clone)]
enum Break {
    Cut(usize, usize),
    Double(usize, usize, usize),
    Noise(usize, Vec<u8>),
    Other(usize, usize, usize, usize),
    /// Something that nests.
    Deep(usize, usize, u16),
    Number(usize, u64),
}

fn breaks() -> impl Strategy<Value = Vec<Break>> {
    let place = || 0..1000_usize;
    let one = prop_oneof![
        4 => (place(), 0..60_usize).prop_map(|(at, length)| Break::Cut(at, length)),
        2 => (place(), 0..200_usize, 1..40_usize).prop_map(|(at, length, times)| Break::Double(at, length, times)),
        3 => (place(), proptest::collection::vec(any::<u8>(), 1..12)).prop_map(|(at, bytes)| Break::Noise(at, bytes)),
        2 => (place(), 0..ALL.len(), place(), 1..80_usize).prop_map(|(at, of, from, length)| Break::Other(at, of, from, length)),
        1 => (place(), 0..NESTS.len(), 1..20_000_u16).prop_map(|(at, what, times)| Break::Deep(at, what, times)),
        2 => (place(), any::<u64>()).prop_map(|(at, number)| Break::Number(at, number)),
    ];
    proptest::collection::vec(one, 0..6)
}

const NESTS: [&str; 7] = ["<a>", "[", "{\"a\":", "*1\r\n", "%1\r\n", "<clone id=\"a\">", "&a;"];

fn broken(sample: &str, how: &[Break]) -> Vec<u8> {
    let mut bytes = sample.as_bytes().to_vec();
    for one in how {
        let place = |part: usize, of: usize| part * of / 1000;
        let length = bytes.len();
        match one {
            Break::Cut(at, many) => {
                let at = place(*at, length);
                bytes.drain(at..(at + many).min(length));
            }
            Break::Double(at, many, times) => {
                let at = place(*at, length);
                let piece = bytes[at..(at + many).min(length)].repeat(*times);
                bytes.splice(at..at, piece);
            }
            Break::Noise(at, noise) => {
                let at = place(*at, length);
                bytes.splice(at..(at + noise.len()).min(length), noise.iter().copied());
            }
            Break::Other(at, of, from, many) => {
                let other = ALL[*of].as_bytes();
                let from = place(*from, other.len());
                let at = place(*at, length);
                bytes.splice(at..at, other[from..(from + many).min(other.len())].iter().copied());
            }
            Break::Deep(at, what, times) => {
                let at = place(*at, length);
                bytes.splice(at..at, NESTS[*what].as_bytes().repeat(usize::from(*times)));
            }
            Break::Number(at, number) => {
                let at = place(*at, length);
                let digits = bytes[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                bytes.splice(at..at + digits, number.to_string().into_bytes());
            }
        }
    }
    bytes
}

/// A number that another run does not draw, or the one that is asked for.
fn seed() -> u64 {
    match std::env::var(SEED) {
        Ok(seed) => seed.parse().unwrap_or_else(|_| panic!("{SEED}={seed} is no number")),
        Err(_) => RandomState::new().hash_one(0),
    }
}

/// What of a processor this thread has had.
fn worked() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// Gives thousands of broken ones of `sample` to `read`.
fn all_ways(sample: &str, read: impl Fn(&[u8])) {
    some_ways(3000, sample, read);
}

fn some_ways(cases: u32, sample: &str, read: impl Fn(&[u8])) {
    let seed = seed();
    let config = Config { cases, failure_persistence: None, rng_seed: RngSeed::Fixed(seed), ..Config::default() };
    let outcome = TestRunner::new(config).run(&breaks(), |how| {
        let bytes = broken(sample, &how);
        let before = worked();
        let ((), memory) = allocated::most(|| read(&bytes));
        let took = worked() - before;
        prop_assert!(took < AT_MOST, "{took:?} for {} bytes", bytes.len());
        let most = MEMORY + MEMORY_PER_BYTE * bytes.len();
        prop_assert!(memory <= most, "{memory} bytes of memory for {} bytes, at most {most}", bytes.len());
        Ok(())
    });
    let trial = std::thread::current().name().unwrap_or_default().to_owned();
    let again = format!("again: {SEED}={seed} cargo test --test hostile {trial}");
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(why, how)) => panic!("{why}\nby {how:?}\n{again}"),
        Err(TestError::Abort(why)) => panic!("{why}\n{again}"),
    }
}

/// The same for what reads text.
fn all_texts(sample: &str, read: impl Fn(&str)) {
    all_ways(sample, |bytes| read(&String::from_utf8_lossy(bytes)));
}

fn replies(bytes: &[u8]) -> Vec<Value> {
    let mut reader = Replies::default();
    let mut all = Vec::new();
    // As they come from a network: in pieces.
    for piece in bytes.chunks(1000) {
        reader.received(piece);
        loop {
            match reader.next_reply() {
                Ok(Some(reply)) => all.push(reply),
                Ok(None) => break,
                // Whoever reads gives the connection up.
                Err(_) => return all,
            }
        }
    }
    all
}

/// As the keeper has them, which reads them where they lie: whole ones only.
fn kept(bytes: &[u8]) -> Vec<u8> {
    let mut reader = Replies::default();
    for piece in bytes.chunks(1000) {
        reader.received(piece);
        loop {
            match reader.pass() {
                Ok(Some(_)) => {}
                Ok(None) => break,
                // As above.
                Err(_) => return reader.take(),
            }
        }
    }
    reader.take()
}

#[test]
fn the_samples_are_understood() {
    let cib = cib::parse(CIB).unwrap();
    assert_eq!((cib.gates.len(), cib.blocks.len(), cib.locations.len(), cib.managed_addresses.len()), (1, 1, 2, 1));
    assert_eq!(crm_mon::parse(CRM_MON).unwrap().failures.len(), 1);
    let info = Value::BulkString(INFO.as_bytes().to_vec());
    assert!(instance::read(&[info]).unwrap().is_primary());
    assert_eq!(replies(REPLIES.as_bytes()).len(), 5);
    assert!(sentinel::read_answer(&replies(REPLIES.as_bytes())[..3]).is_ok());
    assert!(sentinel::read_answer(wire::replies(&kept(REPLIES.as_bytes())).unwrap().drain(..3)).is_ok());
    let survey = sentinel::read_survey(&replies(SURVEY.as_bytes())).unwrap();
    assert_eq!((survey.peers.len(), survey.replicas.len()), (1, 2));
    let record = Record::parse(SENTINELS, NODES).unwrap();
    assert_eq!((record.sentinels().len(), record.nodes().len()), (2, 3));
    assert!(serde_json::from_str::<Request>(REQUEST).is_ok() && serde_json::from_str::<Vec<Report>>(REPORT).is_ok());
    assert!(hook::read_call(&ARGUMENTS.split(' ').map(str::to_owned).collect::<Vec<_>>()).is_ok());
    let nodes = ["node1", "node2", "node3"].map(str::to_owned);
    assert_eq!(Marks::read(CLIENTS).of("mymaster", &nodes).len(), 2);
    assert_eq!(
        replies(SETTING.as_bytes()).iter().filter_map(switchover::number).collect::<Vec<_>>(),
        [1_239_410_001, 100]
    );
    assert!(settings(SETTINGS.as_bytes()));
    assert!(permission(PERMISSION.as_bytes()));
    assert_eq!(replies(EVENTS.as_bytes()).iter().filter_map(events::understood).count(), 3);
    assert!(matches!(judged(OF_A_COMMAND.as_bytes()), Some(commands::Kind::MayWrite(_))));
    assert_eq!((taken(COPY.as_bytes()), taken(COPY_WITH_LENGTH.as_bytes())), (Some((10, true)), Some((13, true))));
    let notes = timeline::read(NOTES).unwrap();
    assert_eq!((notes.events.len(), timeline::stories(&notes.events).len(), notes.not_understood), (5, 1, 0));
    assert_eq!(stands_on(RECORD_FILE.as_bytes()), 2);
    assert!(remembers(MEMORY_FILE.as_bytes()) && knows_a_failover(HISTORY.as_bytes()));
}

fn judged(bytes: &[u8]) -> Option<commands::Kind> {
    let words = [b"XGROUP".to_vec(), b"CREATE".to_vec()];
    replies(bytes).first().map(|reply| commands::judge(&words, reply))
}

/// How much of it is data, and whether all is there.
fn taken(bytes: &[u8]) -> Option<(usize, bool)> {
    let (mut transfer, mut data, mut done) = (Transfer::default(), Vec::new(), false);
    for piece in bytes.chunks(7) {
        done = transfer.received(piece, &mut data).ok()?;
    }
    Some((data.len(), done))
}

#[test]
fn what_a_server_says_of_a_command_and_sends_of_its_data() {
    all_ways(OF_A_COMMAND, |bytes| drop(judged(bytes)));
    for sample in [COPY, COPY_WITH_LENGTH] {
        all_ways(sample, |bytes| assert!(taken(bytes).is_none_or(|(data, _)| data <= bytes.len())));
    }
}

#[test]
fn the_cluster_s_xml() {
    all_texts(CIB, |text| {
        if let Ok(cib) = cib::parse(text) {
            let _guards = layout::guards(&cib);
        }
    });
    all_texts(CRM_MON, |text| drop(crm_mon::parse(text)));
}

#[test]
fn replies_of_redis_and_sentinel() {
    all_ways(REPLIES, |bytes| {
        let all = replies(bytes);
        for from in 0..all.len().min(8) {
            let _answer = sentinel::read_answer(&all[from..(from + 3).min(all.len())]);
            let _instance = instance::read(&all[from..]);
        }
        let kept = kept(bytes);
        let Ok(lying) = wire::replies(&kept) else { return };
        assert_eq!(lying.len(), all.len());
        let three = lying.len().min(3);
        // RESP3's are left to the redis crate, and are none of those that a keeper has asked for.
        if lying[..three].iter().all(|reply| !matches!(reply, Reply::Other(_)) || reply.is_error()) {
            let lying = sentinel::read_answer(lying[..three].iter().cloned());
            assert_eq!(lying, sentinel::read_answer(&all[..three]));
        }
        let _instance = instance::read(lying);
    });
    let known = replies(SURVEY.as_bytes());
    all_ways(SURVEY, |bytes| {
        let all = replies(bytes);
        let _survey = sentinel::read_survey(&all[..all.len().min(5)]);
        // What is broken in one reply hides nothing that is broken in another.
        for reply in all.into_iter().take(8) {
            let mut five = known.clone();
            five[3..].fill(reply);
            let _survey = sentinel::read_survey(&five);
        }
    });
    all_ways(EVENTS, |bytes| replies(bytes).iter().for_each(|reply| drop(events::understood(reply))));
    all_ways(SETTING, |bytes| replies(bytes).iter().for_each(|reply| _ = switchover::number(reply)));
    all_ways(INFO, |bytes| drop(instance::read(&[Value::BulkString(bytes.to_vec())])));
    all_texts(CLIENTS, |text| {
        let nodes = ["node1", "node2", "node3"].map(str::to_owned);
        let _seen = Marks::read(text).of("mymaster", &nodes);
    });
}

fn settings(bytes: &[u8]) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("rolegate.toml");
    std::fs::write(&file, bytes).unwrap();
    Settings::load_from(&file).is_ok()
}

fn permission(bytes: &[u8]) -> bool {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("permission-RedisGate"), bytes).unwrap();
    Store::under(directory.path(), "RedisGate").read().unwrap().is_some()
}

fn remembers(bytes: &[u8]) -> bool {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("lease-RedisGate"), bytes).unwrap();
    Memory::under(directory.path(), "RedisGate", &Behind::begin(), "b").read().last.is_some()
}

/// By how many records a lease may be held.
fn stands_on(bytes: &[u8]) -> usize {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("record-RedisGate"), bytes).unwrap();
    let standing = Standing::under(Subject::default(), directory.path(), "b", ("RedisGate", "mymaster"), None);
    [standing.on, standing.last].iter().flatten().count()
}

fn knows_a_failover(bytes: &[u8]) -> bool {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("failover-mymaster"), bytes).unwrap();
    History::under(directory.path(), &Behind::begin()).last("mymaster").is_some()
}

#[test]
fn notes_of_failovers() {
    all_texts(NOTES, |text| {
        if let Ok(file) = timeline::read(text) {
            _ = timeline::stories(&file.events);
        }
    });
}

#[test]
fn files_of_this_node() {
    some_ways(1000, MEMORY_FILE, |bytes| {
        let _understood = remembers(bytes);
    });
    some_ways(1000, RECORD_FILE, |bytes| {
        let _understood = stands_on(bytes);
    });
    some_ways(1000, HISTORY, |bytes| {
        let _understood = knows_a_failover(bytes);
    });
    some_ways(1000, SETTINGS, |bytes| {
        let _understood = settings(bytes);
    });
    some_ways(1000, PERMISSION, |bytes| {
        let _understood = permission(bytes);
    });
}

#[test]
fn parameters_arguments_and_the_keeper_s_socket() {
    all_texts(SENTINELS, |text| drop(Record::parse(text, NODES)));
    all_texts(NODES, |text| drop(Record::parse(SENTINELS, text)));
    all_texts(PARAMETERS, |text| {
        let get = |name: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        let _params = (Params::read(get), read_port(get));
    });
    all_texts(ARGUMENTS, |text| drop(hook::read_call(&text.split(' ').map(str::to_owned).collect::<Vec<_>>())));
    all_ways(REQUEST, |bytes| drop(serde_json::from_slice::<Request>(bytes)));
    all_ways(REPORT, |bytes| drop(serde_json::from_slice::<Vec<Report>>(bytes)));
}

/// The largest and the most deceptive replies that there can be: what a server that may be anybody makes us allocate is bounded,
/// and what it only announces costs nothing.
#[test]
fn a_reply_costs_no_more_memory_than_its_bound() {
    let line = "x".repeat(60_000);
    let bulk = |bytes: usize| format!("${bytes}\r\n{}\r\n", "x".repeat(bytes));
    let nested = |kind: &str, inner: &str| format!("*65536\r\n{}", format!("{kind}1\r\n{inner}").repeat(65_536));
    let large = [
        bulk(LONGEST_REPLY - 100),
        format!("*131072\r\n{}", ":1\r\n".repeat(131_072)),
        format!("*131072\r\n{}", "$1\r\nx\r\n".repeat(131_072)),
        format!("*131072\r\n{}", "*0\r\n".repeat(131_072)),
        format!("*131072\r\n{}", "-ERR no\r\n".repeat(131_072)),
        format!("%65536\r\n{}", "+k\r\n*0\r\n".repeat(65_536)),
        format!(">131072\r\n+pmessage\r\n{}", "*0\r\n".repeat(131_071)),
        nested("*", ":1\r\n"),
        nested("~", "-ERR no\r\n"),
        format!("*200\r\n{}", format!("+{line}\r\n").repeat(200)),
        format!("*16\r\n{}", bulk(1 << 20).repeat(15)),
        // As a list of Sentinels, or replicas.
        format!("*26214\r\n{}", "*4\r\n+ip\r\n+a\r\n+port\r\n+1\r\n".repeat(26_214)),
        // As a list of clients, each a keeper's.
        {
            let clients = "id=3 addr=10.0.0.2:40000 name=rolegate:m:n:closed age=5\n".repeat(LONGEST_REPLY / 60);
            format!("${}\r\n{clients}\r\n", clients.len())
        },
        format!("*131073\r\n{}", ":1\r\n".repeat(131_073)),
        "+".repeat(LONGEST_REPLY),
        "*1\r\n".repeat(1 << 20),
    ];
    let announced = [
        "$16777216\r\n",
        "*131072\r\n",
        "%65536\r\n",
        "*131072\r\n*131072\r\n",
        ">131072\r\n+a\r\n",
        "=16777216\r\ntxt:",
    ];
    let nodes = ["n".to_owned()];
    let read = |reply: &str| {
        let ((), memory) = allocated::most(|| {
            let mut all = replies(reply.as_bytes());
            all.extend([Value::Nil, Value::BulkString(Vec::new())]);
            let _answer = (sentinel::read_answer(&all[..3.min(all.len())]), instance::read(&all));
            for reply in &all {
                let _event = events::understood(reply);
                if let Value::BulkString(bytes) = reply {
                    let _seen = Marks::read(&String::from_utf8_lossy(bytes)).of("m", &nodes);
                }
            }
            let mut five = replies(SURVEY.as_bytes());
            five[3] = all.swap_remove(0);
            let _survey = sentinel::read_survey(&five);
        });
        memory
    };
    for reply in &large {
        let memory = read(reply);
        let begins = &reply[..reply.len().min(30)];
        println!("{begins:?}: {} bytes, {memory} of memory", reply.len());
        assert!(memory <= REPLY_MEMORY, "{begins:?}..., {} bytes, makes us allocate {memory}", reply.len());
    }
    for reply in announced {
        let memory = read(reply);
        assert!(memory <= 64 << 10, "{reply:?} makes us allocate {memory} bytes");
    }
}

/// The socket of the keeper as it is, with one that answers behind it.
#[test]
fn the_keeper_s_socket_itself() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keeper.sock");
    let (ready, listening) = std::sync::mpsc::channel();
    let at = path.clone();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let (sender, mut receiver) = tokio::sync::mpsc::channel::<Asked>(1);
            tokio::spawn(socket::serve(socket::listen(&at).unwrap(), sender));
            ready.send(()).unwrap();
            while let Some((_, reply)) = receiver.recv().await {
                let _gone = reply.send(Vec::new());
            }
        });
    });
    listening.recv().unwrap();
    let said = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // It may have had enough before the end.
        let _whole = stream.write_all(bytes).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
        let mut text = String::new();
        let end = stream.read_to_string(&mut text);
        let slow = end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!slow, "the socket neither answers nor ends");
        text
    };
    assert_eq!(said(REQUEST.as_bytes()), "[]");
    some_ways(1000, REQUEST, |bytes| {
        let answered = said(bytes);
        let right = bytes.len() as u64 <= socket::LONGEST && serde_json::from_slice::<Request>(bytes).is_ok();
        assert_eq!(answered, if right { "[]" } else { "" });
    });
    let padded = |length: u64, end: &str| {
        let spaces = " ".repeat(length as usize - REQUEST.len() - end.len());
        said(format!("{REQUEST}{spaces}{end}").as_bytes())
    };
    assert_eq!(padded(socket::LONGEST, ""), "[]");
    for (length, end) in [(socket::LONGEST + 1, ""), (socket::LONGEST + 1, "x"), (1 << 20, "x")] {
        assert_eq!(padded(length, end), "", "{length} {end:?}");
    }
    // More than it takes, without an end, and for ever by the byte.
    assert_eq!(said(&[b' '; 1 << 20]), "");
    let mut slow = UnixStream::connect(&path).unwrap();
    let began = Instant::now();
    while slow.write_all(b" ").is_ok() {
        assert!(began.elapsed() < Duration::from_secs(20), "it still listens");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(said(REQUEST.as_bytes()), "[]");
}

/// Sentinel's hook, called with words that are commands to a shell or options to a program, where PATH has spies: none of them is run, and no word is
/// taken for a file's name. What becomes of names in the CIB is tested where it is written (src/pacemaker).
#[test]
fn the_hook_s_arguments_run_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let spies = directory.path().join("spies");
    std::fs::create_dir(&spies).unwrap();
    for name in ["sh", "bash", "touch", "crm_node", "crm_attribute", "cibadmin", "crm_mon", "crm_resource"] {
        let spy = spies.join(name);
        std::fs::write(&spy, format!("#!/bin/sh\necho {name} >> {}/called\n", directory.path().display())).unwrap();
        std::fs::set_permissions(&spy, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let hostile = [
        "mymaster",
        "$(touch called)",
        "`touch called`",
        "; touch called #",
        "a\ntouch called\n",
        "' touch called '",
        "\" | touch called | \"",
        "> called",
        "-D",
        "--force",
        "../../called",
        "' or '1'='1",
        "\"/><nvpair id=\"x",
    ];
    for word in hostile {
        let args = [word; 7];
        let hook = std::process::Command::new(env!("CARGO_BIN_EXE_rolegate-hook"))
            .args(args)
            .env("PATH", &spies)
            .current_dir(directory.path())
            .output()
            .unwrap();
        // There is no cluster here: to be tried again, or never where Pacemaker's tools are missing.
        assert!([1, 2].iter().any(|code| hook.status.code() == Some(*code)), "{args:?}: {hook:?}");
        let there: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(there, ["spies"], "{args:?}: {hook:?}");
    }
}
