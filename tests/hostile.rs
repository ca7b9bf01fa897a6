//! What comes from elsewhere, broken in every way: no panic, and nothing that takes for ever.
//!
//! Samples as the real programs write them are cut, doubled, nested and mixed with each other and with noise, thousands of
//! times, and given to whatever reads them.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rolegate::agent::params::{Params, read_port};
use rolegate::hook;
use rolegate::instance;
use rolegate::keeper::socket::{Report, Request};
use rolegate::layout;
use rolegate::lease::mark::Marks;
use rolegate::pacemaker::{cib, crm_mon};
use rolegate::permission::Store;
use rolegate::record::Record;
use rolegate::sentinel;
use rolegate::server::Value;
use rolegate::settings::Settings;
use rolegate::wire::Replies;

/// How long any one of them may take.
const AT_MOST: Duration = Duration::from_secs(2);

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

const CLIENTS: &str = "id=3 addr=10.0.0.2:40000 laddr=10.0.0.1:26379 fd=8 name=rolegate:mymaster:node2:closed age=5 idle=0 flags=N\n\
    id=4 addr=10.0.0.3:40001 fd=9 name=rolegate:mymaster:node3:2000000:17 age=5\nid=5 addr=10.0.0.9:1 name= age=1\n";

const SENTINELS: &str =
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa@10.0.0.1:26379 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb@[fd00::1]:26379";
const NODES: &str = "node1=10.0.0.1:6379 node2=10.0.0.2:6379 node3=[fd00::3]:6379";
const REQUEST: &str = r#"{"permission":"RedisGate"}"#;
const REPORT: &str = r#"[{"gate":"RedisGate","master":"mymaster","open":true,"why":"","other":null}]"#;
const PERMISSION: &str = "granted = \"promoted\"\nro_port = 6380\nrw_port = 6381\nredis_port = 6379\n";
const ARGUMENTS: &str = "mymaster leader start 10.0.0.1 6379 10.0.0.2 6379";
const PARAMETERS: &str = "master=mymaster\nrw_port=6381\nro_port=6380\nredis_port=6379\nlease=2s\nopen_for=20s\nro_max_stale=60s\nattribute=a\nport=rw";

const ALL: [&str; 13] = [
    CIB, CRM_MON, SETTINGS, INFO, REPLIES, CLIENTS, SENTINELS, NODES, REQUEST, REPORT, PERMISSION, ARGUMENTS,
    PARAMETERS,
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

/// Gives thousands of broken ones of `sample` to `read`.
fn all_ways(sample: &str, read: impl Fn(&[u8])) {
    let config = Config { cases: 3000, failure_persistence: None, ..Config::default() };
    let ways = breaks();
    TestRunner::new(config)
        .run(&ways, |how| {
            let bytes = broken(sample, &how);
            let started = Instant::now();
            read(&bytes);
            prop_assert!(started.elapsed() < AT_MOST, "{:?} for {} bytes", started.elapsed(), bytes.len());
            Ok(())
        })
        .unwrap();
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
        while let Ok(Some(reply)) = reader.next_reply() {
            all.push(reply);
        }
    }
    all
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
    assert!(
        Record::parse(SENTINELS, NODES).is_ok_and(|record| record.nodes().len() == 3)
            || Record::parse(SENTINELS, NODES).is_err()
    );
    assert!(serde_json::from_str::<Request>(REQUEST).is_ok() && serde_json::from_str::<Vec<Report>>(REPORT).is_ok());
    assert!(hook::read_call(&ARGUMENTS.split(' ').map(str::to_owned).collect::<Vec<_>>()).is_ok());
    let nodes = ["node1", "node2", "node3"].map(str::to_owned);
    assert_eq!(Marks::read(CLIENTS).of("mymaster", &nodes).len(), 2);
    assert!(settings(SETTINGS.as_bytes()));
    assert!(permission(PERMISSION.as_bytes()));
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
    });
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

#[test]
fn files_of_this_node() {
    all_ways(SETTINGS, |bytes| {
        let _understood = settings(bytes);
    });
    all_ways(PERMISSION, |bytes| {
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
