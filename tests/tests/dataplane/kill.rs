//! Flows that an operator ends.

use lb_common::flow::{
    Bucket4, Bucket6, Control, Decision, Ends, Hop, Rewrite, State, VOID_GENERATION, kind,
};
use lb_ctl::dataplane::FlowFilter;

use super::{
    sweep::{entry4, now},
    *,
};

const fn generation(words: &[u64; 8]) -> u16 {
    Decision(words[3]).generation()
}

root_tests! {
    flows_end_by_service_server_and_client_and_no_others_do {
        let fs = BpfFs::mount();
        let (mut writer, _reader) = fs.open();
        apply(&mut writer, &[
            put_service(SERVICE),
            put_service(SERVICE + 1),
            put_backend(SLOT, "DICOM1", GENERATION),
            put_backend(8, "DICOM2", GENERATION),
        ]);
        let mut table = fs.array::<Bucket4>(map::FLOWS_V4);
        let client: IpAddr = [192, 168, 0, 9].into();
        let all = FlowFilter::default();
        for (which, ended) in [
            (FlowFilter { services: Some([SERVICE].into()), ..all.clone() }, [true, true, false, true]),
            (FlowFilter { slots: Some([8].into()), ..all.clone() }, [false, true, false, false]),
            (FlowFilter { client: Some((client, None)), ..all.clone() }, [true; 4]),
            (FlowFilter { client: Some((client, Some(3))), ..all.clone() }, [false, false, true, false]),
            (FlowFilter { client: Some(([192, 168, 0, 8].into(), None)), ..all.clone() }, [false; 4]),
            (
                FlowFilter { services: Some([SERVICE].into()), slots: Some([SLOT].into()), client: None },
                [true, false, false, true],
            ),
            (all, [true; 4]),
        ] {
            let now = now(&fs);
            let entries = [
                entry4(State::Established, now, 1, Decision::new(mode::DR, SERVICE, SLOT, GENERATION)),
                entry4(State::Closing, now, 2, Decision::new(mode::DR, SERVICE, 8, GENERATION)),
                entry4(State::Established, now, 3, Decision::new(mode::DR, SERVICE + 1, SLOT, GENERATION)),
                entry4(State::Established, now, 4, Decision::new(mode::DR, SERVICE, SLOT, GENERATION)),
            ];
            table.set(5, Bucket4(entries), 0).unwrap();
            let killed = writer.kill(&which).unwrap();
            let count = ended.iter().filter(|ended| **ended).count();
            assert_eq!(killed.flows, count as u64, "{which:?}");
            assert!(killed.pairs.is_empty(), "direct routing sees one direction");
            let Bucket4(ways) = table.get(&5, 0).unwrap();
            for ((before, after), ended) in entries.iter().zip(&ways).zip(ended) {
                assert_eq!(generation(after), if ended { VOID_GENERATION } else { GENERATION }, "{which:?}");
                assert_eq!((after[0], &after[1..3]), (before[0], &before[1..3]), "all else stays");
            }
            assert_eq!(writer.kill(&which).unwrap().flows, 0, "each ends once");
            // They wait for who still sends into them, and are nobody's connections.
            let census = writer.sweep().unwrap();
            let active: u64 = census.active_by_slot.values().chain(census.closing_by_slot.values()).sum();
            assert_eq!((census.retired, active), (0, 4 - count as u64), "{which:?}");
        }
    }

    a_pair_ends_as_a_whole_and_its_ends_are_named {
        let fs = BpfFs::mount();
        let (mut writer, _reader) = fs.open();
        apply(&mut writer, &[put_service(SERVICE), put_backend(SLOT, "WEB", GENERATION)]);
        let now = now(&fs);
        let seed = fs.settings().flow_seed;
        let decision = |kind| Decision::new(kind, SERVICE, SLOT, GENERATION).0;
        let hop = Hop { mac: Mac([2, 0, 0, 0, 0, 0x11]), ifindex: 4, ..Hop::default() };
        for (proto, state) in [(6, State::Established), (17, State::Datagrams)] {
            for v6 in [false, true] {
                let ends = |src: &str, dst: &str| Ends::between(src.parse().unwrap(), dst.parse().unwrap(), proto);
                let (seen, sent) = if v6 {
                    (ends("[2001:db8:9::9]:40000", "[2001:db8::100]:80"), ends("[2001:db8::1]:7", "[2001:db8::7]:8080"))
                } else {
                    (ends("10.0.0.1:40000", "10.12.1.100:80"), ends("10.12.1.2:7", "10.12.1.7:8080"))
                };
                let reply = sent.reversed();
                for (ends, to, kind) in [(&seen, &sent, kind::SNAT), (&reply, &seen.reversed(), kind::REPLY)] {
                    let rewrite = Rewrite::new(ends, to, hop);
                    let control = Control::new(1, 1, state, now).0;
                    if v6 {
                        let hash = lb_common::hash::flow6(seed, ends.src, ends.dst, ends.ports_word());
                        let mut table = fs.array::<Bucket6>(map::FLOWS_V6);
                        let bucket = (hash >> 32) as u32 & 255;
                        let mut there = table.get(&bucket, 0).unwrap();
                        let way = there.0.iter_mut().find(|way| Control(way[0]).state() == State::Free as u8).unwrap();
                        way[0] = control;
                        way[1..6].copy_from_slice(&ends.key_v6());
                        way[6] = decision(kind);
                        way[7..14].copy_from_slice(&rewrite.words_v6());
                        table.set(bucket, there, 0).unwrap();
                    } else {
                        let [addrs, ports] = ends.key_v4();
                        let mut table = fs.array::<Bucket4>(map::FLOWS_V4);
                        let bucket = (lb_common::hash::flow4(seed, addrs, ports) >> 32) as u32 & 1023;
                        let mut there = table.get(&bucket, 0).unwrap();
                        let way = there.0.iter_mut().find(|way| Control(way[0]).state() == State::Free as u8).unwrap();
                        way[..4].copy_from_slice(&[control, addrs, ports, decision(kind)]);
                        way[4..].copy_from_slice(&rewrite.words_v4());
                        table.set(bucket, there, 0).unwrap();
                    }
                }
                let killed = writer.kill(&FlowFilter::default()).unwrap();
                assert_eq!(killed.flows, 1);
                if proto == 6 {
                    let [pair] = killed.pairs[..] else { panic!("{:?}", killed.pairs) };
                    assert_eq!((pair.client, pair.server, pair.hop), (seen, sent, hop));
                    assert_eq!((pair.slot, pair.generation), (SLOT, GENERATION));
                    assert!(writer.pairs().stands(&pair), "it is there to be told of");
                    // Both entries wait for their ends to speak.
                    let void = BTreeSet::from([(SLOT, VOID_GENERATION)]);
                    assert_eq!(writer.pairs().flows_of(&void, 9).1, 1);
                    assert_eq!(writer.sweep().unwrap().retired, 0);
                    assert!(writer.sweep().unwrap().active_by_slot.is_empty());
                    // The next round begins with empty tables.
                    apply(&mut writer, &[Op::ClearService { service: SERVICE }]);
                    assert_eq!(writer.sweep().unwrap().retired, 2);
                    apply(&mut writer, &[put_service(SERVICE)]);
                } else {
                    assert!(killed.pairs.is_empty(), "UDP has no answer");
                    assert_eq!(writer.sweep().unwrap().retired, 0);
                    let census = writer.sweep().unwrap();
                    assert_eq!((census.established_v4, census.replies_v4, census.established_v6), (0, 0, 0));
                }
            }
        }
    }
}
