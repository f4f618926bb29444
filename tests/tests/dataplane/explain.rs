//! The program on a copy of its tables: it says what the one in use would, and leaves everything in use as it is.

use std::net::SocketAddr;

use aya::maps::HashMap;
use lb_common::{
    flow::{Bucket4, Control, Decision, Ends, Hop, Rewrite, State, kind},
    hash,
    load::Load,
    persist::{PersistEntry, PersistKey},
};
use lb_ctl::dataplane::explain::{Probe, Rehearsal, Sent, Verdict};

use super::*;

const OTHER: u16 = 8;
const LAST_SEEN: u32 = 100;

/// A data plane with one service of two servers, reached by `va`.
struct Bench {
    writer: BpfWriter,
    reader: BpfReader,
    fs: BpfFs,
    namespace: Namespace,
}

impl Bench {
    fn new(record: Service) -> Self {
        let namespace = Namespace::enter();
        // The kernel would look for neighbours and routers, and these frames would be counted.
        let quiet = "net.ipv6.conf.all.disable_ipv6=1";
        run("ip", &["netns", "exec", &namespace.name, "sysctl", "-qw", quiet]);
        let fs = BpfFs::mount();
        let (mut writer, reader) = fs.open();
        let ifindex = namespace.ifindex("va");
        let identity = service_identity("DICOM");
        apply(
            &mut writer,
            &[
                Op::AttachLink { ifindex },
                Op::PutLink { ifindex, record: link_record() },
                Op::PutService { service: SERVICE, identity, record },
                Op::PutTable {
                    service: SERVICE,
                    table: table_spec(Filling::RoundRobin, &[(SLOT, 100), (OTHER, 100)]),
                },
                Op::PutKey { key: key(vip(), 104, Protocol::Tcp), service: SERVICE },
                Op::PutKey { key: key(vip(), 0, Protocol::Udp), service: SERVICE },
                Op::SetFilter { addresses: [vip()].into(), servers: [rip(7), rip(8)].into() },
            ],
        );
        let mut bench = Self { writer, reader, fs, namespace };
        bench.put_server(SLOT, "va");
        bench.put_server(OTHER, "va");
        bench
    }

    fn put_server(&mut self, slot: u16, device: &str) {
        let Op::PutBackend { identity, mut backend, .. } = nat_backend(slot, Some(8080), GENERATION) else {
            unreachable!()
        };
        backend.ifindex = self.namespace.ifindex(device);
        backend.dst_mac = Mac([2, 0, 0, 0, 0, slot as u8]);
        apply(&mut self.writer, &[Op::PutBackend { slot, identity, backend }]);
    }

    /// What is in use: counters, flows, persistence, loads.
    fn in_use(&mut self) -> String {
        let flows = self.reader.flows(usize::MAX).unwrap().0.into_iter();
        let flows: Vec<_> = flows.map(|flow| lb_ctl::dataplane::Flow { idle_millis: 0, ..flow }).collect();
        let persist: HashMap<MapData, PersistKey, PersistEntry> = self.fs.map(map::PERSIST);
        let new: HashMap<MapData, PersistKey, PersistEntry> = self.fs.map(map::PERSIST_NEW);
        let loads: Array<MapData, [u64; 4]> = self.fs.array(map::LOADS);
        let turns: PerCpuArray<MapData, ServiceTraffic> = self.fs.map(map::SERVICE_TRAFFIC);
        format!(
            "{:?} {flows:?} {:?} {:?} {:?} {:?}",
            self.reader.counters().unwrap(),
            persist.iter().map(Result::unwrap).collect::<Vec<_>>(),
            new.iter().map(Result::unwrap).collect::<Vec<_>>(),
            [SLOT, OTHER].map(|slot| loads.get(&u32::from(slot), 0).unwrap()),
            turns.get(&u32::from(SERVICE), 0).unwrap().to_vec(),
        )
    }

    /// What the copy says; what is in use must not change.
    fn rehearse(&mut self, client: &str, to: ServiceKey) -> Rehearsal {
        let before = self.in_use();
        let probe =
            Probe { client: client.parse().unwrap(), to, ingress: Some(self.namespace.ifindex("va")) };
        let rehearsal = self.writer.explainer().rehearse(&probe, self.writer.installed());
        assert_eq!(self.in_use(), before);
        rehearsal.unwrap_or_else(|error| panic!("{}", error.line()))
    }

    /// Puts an entry where the packet path would.
    fn put_flow(&self, ends: &Ends, decision: Decision, rewrite: &Rewrite) {
        let words = ends.key_v4();
        let bucket = (hash::flow4(self.fs.settings().flow_seed, words[0], words[1]) >> 32) as u32 & 1023;
        let mut table = self.fs.array::<Bucket4>(map::FLOWS_V4);
        let mut there = table.get(&bucket, 0).unwrap();
        let entry = there.0.iter_mut().find(|entry| entry[0] == 0).unwrap();
        entry[0] = Control::new(1, 1, State::Established, LAST_SEEN).0;
        entry[1..3].copy_from_slice(&words);
        entry[3] = decision.0;
        entry[4..].copy_from_slice(&rewrite.words_v4());
        table.set(bucket, there, 0).unwrap();
    }
}

fn direct() -> Service {
    Service { mode: mode::DR, pick: pick::HASH_FLOW, ..Service::default() }
}

fn dicom() -> ServiceKey {
    key(vip(), 104, Protocol::Tcp)
}

fn client_ends(port: u16) -> Ends {
    Ends::between(SocketAddr::from(([192, 168, 0, 9], port)), SocketAddr::new(vip(), 104), 6)
}

root_tests! {
    a_new_connection_gets_a_server_of_the_table_and_its_frame_that_servers_mac {
        let mut bench = Bench::new(direct());
        let rehearsal = bench.rehearse("192.168.0.9:40000", dicom());
        assert_eq!((rehearsal.sent, rehearsal.verdict), (Sent::Syn, Verdict::Transmit));
        let slot = rehearsal.slot.expect("it is forwarded");
        assert_eq!(rehearsal.frame[..6], [2, 0, 0, 0, 0, slot as u8]);
        assert_eq!((rehearsal.reasons, rehearsal.flow), (vec![], None));
        assert_eq!(rehearsal.service, Some((SERVICE, direct())));
        assert_eq!(rehearsal.loads.keys().copied().collect::<Vec<_>>(), [SLOT, OTHER]);
    }

    a_port_is_made_up_and_no_flow_has_it {
        let mut bench = Bench::new(direct());
        assert_eq!(bench.rehearse("192.168.0.9:0", dicom()).client.port(), 49_152);
        bench.put_flow(&client_ends(49_152), Decision::new(kind::DR, SERVICE, SLOT, GENERATION), &Rewrite::default());
        let rehearsal = bench.rehearse("192.168.0.9:0", dicom());
        assert_eq!((rehearsal.client.port(), rehearsal.flow), (49_153, None));
    }

    a_connection_in_progress_stays_where_it_is {
        let mut bench = Bench::new(direct());
        for slot in [SLOT, OTHER] {
            let port = 50_000 + slot;
            let decision = Decision::new(kind::DR, SERVICE, slot, GENERATION);
            bench.put_flow(&client_ends(port), decision, &Rewrite::default());
            let rehearsal = bench.rehearse(&format!("192.168.0.9:{port}"), dicom());
            assert_eq!((rehearsal.sent, rehearsal.slot), (Sent::Ack, Some(slot)));
            let flow = rehearsal.flow.expect("it is known");
            assert_eq!((flow.slot, flow.client.1, flow.state), (slot, port, State::Established));
        }
    }

    a_translated_connection_in_progress_is_copied_with_its_other_half {
        let mut bench = Bench::new(Service { mode: mode::NAT, ..direct() });
        let client = client_ends(50_000);
        let server = Ends { dst: words(rip(8)), ports: client.ports & 0xffff | u32::from(8080u16.to_be()) << 16, ..client };
        let hop = Hop { mac: Mac([2, 0, 0, 0, 0, 0x77]), ifindex: bench.namespace.ifindex("va") as u16, ..Hop::default() };
        let there = Rewrite::new(&client, &server, hop);
        let back = Rewrite::new(&server.reversed(), &client.reversed(), hop);
        bench.put_flow(&client, Decision::new(kind::NAT, SERVICE, OTHER, GENERATION), &there);
        bench.put_flow(&server.reversed(), Decision::new(kind::REPLY, SERVICE, OTHER, GENERATION), &back);
        let rehearsal = bench.rehearse("192.168.0.9:50000", dicom());
        assert_eq!((rehearsal.sent, rehearsal.verdict, rehearsal.slot), (Sent::Ack, Verdict::Transmit, Some(OTHER)));
        // It came as the client's packets do: neither its hop nor its other half is missed.
        assert_eq!(rehearsal.reasons, []);
        assert_eq!(rehearsal.frame[30..34], [10, 12, 1, 8]);
        assert_eq!(rehearsal.frame[36..38], 8080u16.to_be_bytes());
    }

    a_new_translated_connection_is_rewritten_and_leaves_by_the_servers_interface {
        let mut bench = Bench::new(Service { mode: mode::NAT, ..direct() });
        let ifindex = bench.namespace.ifindex("vb");
        apply(&mut bench.writer, &[Op::AttachLink { ifindex }, Op::PutLink { ifindex, record: link_record() }]);
        bench.put_server(SLOT, "vb");
        bench.put_server(OTHER, "vb");
        let rehearsal = bench.rehearse("192.168.0.9:50000", dicom());
        assert_eq!((rehearsal.verdict, rehearsal.reasons), (Verdict::Redirect, vec![]));
        assert_eq!(rehearsal.frame[36..38], 8080u16.to_be_bytes());
        assert_eq!(rehearsal.frame[22], 63, "it took a hop");
    }

    persistence_is_told_and_whether_it_counts {
        let record = Service { persist_prefix: 24, persist_ticks: u32::MAX / 4, persist_group: 11, ..direct() };
        let mut bench = Bench::new(record);
        let mut entries: HashMap<MapData, PersistKey, PersistEntry> = bench.fs.map(map::PERSIST);
        let key = PersistKey { client: words([192, 168, 0, 0].into()), group: 11, family: 4 };
        for (slot, generation, counts) in [(SLOT, GENERATION, true), (OTHER, GENERATION, true), (SLOT, GENERATION + 1, false)] {
            // Jiffies start five minutes before they wrap: what was seen at the end of them was seen of late.
            entries.insert(key, PersistEntry { slot, generation, last_seen: 0 }, 0).unwrap();
            let rehearsal = bench.rehearse("192.168.0.9:0", dicom());
            let persisted = rehearsal.persisted.expect("it is known");
            assert_eq!((persisted.slot, persisted.proved, persisted.counts), (Some(slot), true, counts));
            if counts {
                assert_eq!(rehearsal.slot, Some(slot));
            }
        }
        assert_eq!(bench.rehearse("192.168.1.9:0", dicom()).persisted, None);
    }

    datagrams_meet_the_key_of_every_port_and_others_meet_none {
        let mut bench = Bench::new(direct());
        let rehearsal = bench.rehearse("192.168.0.9:0", key(vip(), 514, Protocol::Udp));
        assert_eq!((rehearsal.sent, rehearsal.verdict), (Sent::Datagram, Verdict::Transmit));
        let rehearsal = bench.rehearse("192.168.0.9:0", key(vip(), 105, Protocol::Tcp));
        assert_eq!((rehearsal.verdict, rehearsal.reasons), (Verdict::Pass, vec![Reason::NoService]));
        assert_eq!((rehearsal.service, rehearsal.slot), (None, None));
    }

    limits_and_connections_are_those_in_use {
        let mut bench = Bench::new(direct());
        let load = Load { active: 12, limits: 0, full: 1, syn_repeats: 0 };
        let mut loads: Array<MapData, [u64; 4]> = bench.fs.array(map::LOADS);
        loads.set(u32::from(OTHER), [load.active, load.limits, load.full, load.syn_repeats], 0).unwrap();
        let rehearsal = bench.rehearse("192.168.0.9:0", dicom());
        assert_eq!((rehearsal.loads[&OTHER].active, rehearsal.loads[&OTHER].full), (12, true));
        assert_eq!((rehearsal.loads[&SLOT].active, rehearsal.loads[&SLOT].full), (0, false));
    }
}
