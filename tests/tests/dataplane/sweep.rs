//! Sweeps of the flow tables.

use lb_common::{
    flow::{Bucket4, Bucket6, Control, Decision, Ends, Hop, Rewrite, State, kind},
    hash,
};

use super::*;

/// The tick that it was when the writer last told the packet path that it lives.
pub(super) fn now(fs: &BpfFs) -> u32 {
    fs.array::<u64>(map::HEARTBEAT).get(&0, 0).unwrap() as u32
}

pub(super) fn entry4(state: State, last_seen: u32, client_port: u16, decision: Decision) -> [u64; 8] {
    let ends = Ends::between(([192, 168, 0, 9], client_port).into(), (vip(), 104).into(), 6);
    let [addrs, ports] = ends.key_v4();
    [Control::new(5, 1, state, last_seen).0, addrs, ports, decision.0, 0, 0, 0, 0]
}

root_tests! {
    a_sweep_retires_by_time_and_by_server_and_counts_the_rest {
        let fs = BpfFs::mount();
        let (mut writer, mut reader) = fs.open();
        apply(&mut writer, &[
            put_service(SERVICE),
            put_backend(SLOT, "DICOM1", GENERATION),
            put_backend(8, "HALTED", 1),
        ]);
        let Op::PutBackend { slot, identity, backend } = put_backend(8, "HALTED", 1) else { unreachable!() };
        apply(&mut writer, &[
            Op::PutBackend { slot, identity, backend: Backend { state: state::DEAD, ..backend } },
        ]);
        let now = now(&fs);
        let ago = |secs: u32| now.wrapping_sub(fs.settings().ticks(secs));
        let ours = Decision::new(mode::DR, SERVICE, SLOT, GENERATION);
        let established = [
            // A flow that stays, and one that was idle for an hour and a minute.
            entry4(State::Established, ago(3500), 1, ours),
            entry4(State::Established, ago(3660), 2, ours),
            entry4(State::Closing, ago(100), 3, ours),
            entry4(State::Closing, ago(140), 4, ours),
            // Its server was replaced; halted; its service is gone.
            entry4(State::Established, ago(1), 5, Decision::new(mode::DR, SERVICE, SLOT, GENERATION - 1)),
            entry4(State::Established, ago(1), 6, Decision::new(mode::DR, SERVICE, 8, 1)),
            entry4(State::Datagrams, ago(1), 7, Decision::new(mode::DR, SERVICE + 1, SLOT, GENERATION)),
            entry4(State::Datagrams, ago(1), 8, ours),
        ];
        let mut flows_v4 = fs.array::<Bucket4>(map::FLOWS_V4);
        for (bucket, entries) in (100..).zip(established.chunks_exact(4)) {
            flows_v4.set(bucket, Bucket4(entries.try_into().unwrap()), 0).unwrap();
        }
        let mut half_open = Bucket4([[0; 8]; 4]);
        half_open.0[0] = entry4(State::New, ago(20), 9, ours);
        half_open.0[1] = entry4(State::New, ago(40), 10, ours);
        // Somebody is writing here: not ours to judge.
        half_open.0[2] = entry4(State::Busy, ago(1000), 11, ours);
        fs.array(map::HALF_OPEN_V4).set(0, half_open, 0).unwrap();
        let mut v6 = Bucket6([[0; 16]; 4]);
        let (client, vip6) = ("[2001:db8::9]:40000".parse().unwrap(), "[2001:db8::100]:11112".parse().unwrap());
        v6.0[3][0] = Control::new(1, 2, State::Established, ago(5)).0;
        v6.0[3][1..6].copy_from_slice(&Ends::between(client, vip6, 6).key_v6());
        v6.0[3][6] = ours.0;
        fs.array(map::FLOWS_V6).set(255, v6, 0).unwrap();

        assert_eq!(reader.flows(1).unwrap().1, 11);
        let census = writer.sweep().unwrap();
        assert_eq!(census.retired, 6);
        assert_eq!((census.established_v4, census.established_v6, census.half_open), (3, 1, 1));
        assert_eq!(census.active_by_slot, [(SLOT, 3)].into());
        assert_eq!(census.closing_by_slot, [(SLOT, 1)].into());
        assert_eq!(census.capacity, [4096, 1024, 1024]);
        assert_eq!(writer.sweep().unwrap().retired, 0);

        let (flows, total) = reader.flows(usize::MAX).unwrap();
        assert_eq!(total, 5);
        let ports: BTreeSet<u16> = flows.iter().map(|f| f.client.1).collect();
        assert_eq!(ports, [1, 3, 8, 9, 40_000].into());
        let sixth = flows.iter().find(|f| f.client.0.is_ipv6()).unwrap();
        assert_eq!((sixth.client.0, sixth.vip.0, sixth.vip.1), (
            "2001:db8::9".parse().unwrap(), "2001:db8::100".parse().unwrap(), 11112
        ));
        assert!((4000..7000).contains(&sixth.idle_millis), "{}", sixth.idle_millis);
        // A retired entry keeps its claim counter.
        let freed = Control(flows_v4.get(&100, 0).unwrap().0[1][0]);
        assert_eq!((freed.seq(), freed.state()), (5, State::Free as u8));
        // A flow whose service is cleared goes with the next sweep.
        apply(&mut writer, &[Op::ClearService { service: SERVICE }]);
        assert_eq!(writer.sweep().unwrap().retired, 5);
        assert_eq!(reader.flows(9).unwrap(), (Vec::new(), 0));
    }

    a_sweep_finds_the_other_half_of_a_flow_in_the_kernels_tables {
        let fs = BpfFs::mount();
        let (mut writer, mut reader) = fs.open();
        apply(&mut writer, &[put_service(SERVICE), put_backend(SLOT, "WEB", GENERATION)]);
        let now = now(&fs);
        let seed = fs.settings().flow_seed;
        let ago = |secs: u32| now.wrapping_sub(fs.settings().ticks(secs));
        let decision = |kind| Decision::new(kind, SERVICE, SLOT, GENERATION);
        // Where the packet path would put it.
        let put4 = |ends: &Ends, rewrite: &Rewrite, kind: u8, seen: u32| {
            let key = ends.key_v4();
            let bucket = (hash::flow4(seed, key[0], key[1]) >> 32) as u32 & 1023;
            let mut table = fs.array::<Bucket4>(map::FLOWS_V4);
            let mut there = table.get(&bucket, 0).unwrap();
            let way = there.0.iter_mut().find(|way| way[0] == 0).unwrap();
            way[0] = Control::new(1, 1, State::Established, seen).0;
            way[1..3].copy_from_slice(&key);
            way[3] = decision(kind).0;
            way[4..].copy_from_slice(&rewrite.words_v4());
            table.set(bucket, there, 0).unwrap();
        };
        let put6 = |ends: &Ends, rewrite: &Rewrite, kind: u8, seen: u32| {
            let bucket = (hash::flow6(seed, ends.src, ends.dst, ends.ports_word()) >> 32) as u32 & 255;
            let mut table = fs.array::<Bucket6>(map::FLOWS_V6);
            let mut there = table.get(&bucket, 0).unwrap();
            let way = there.0.iter_mut().find(|way| way[0] == 0).unwrap();
            way[0] = Control::new(1, 1, State::Established, seen).0;
            way[1..6].copy_from_slice(&ends.key_v6());
            way[6] = decision(kind).0;
            way[7..14].copy_from_slice(&rewrite.words_v6());
            table.set(bucket, there, 0).unwrap();
        };
        let pair = |client: u16, v6: bool| {
            let ends = |src: (&str, u16), dst: (&str, u16)| {
                let at = |(ip, port): (&str, u16)| (ip.parse::<IpAddr>().unwrap(), port).into();
                Ends::between(at(src), at(dst), 6)
            };
            let (seen, sent) = if v6 {
                let server = ("2001:db8::7", 8080);
                (ends(("2001:db8:9::9", client), ("2001:db8::100", 80)), ends(("2001:db8::1", client), server))
            } else {
                (ends(("10.0.0.1", client), ("10.12.1.100", 80)), ends(("10.12.1.2", client), ("10.12.1.7", 8080)))
            };
            let rewrite = Rewrite::new(&seen, &sent, Hop::default());
            let reply = sent.reversed();
            (seen, rewrite, reply, Rewrite::new(&reply, &seen.reversed(), Hop::default()))
        };
        for (v6, put) in [(false, &put4 as &dyn Fn(&Ends, &Rewrite, u8, u32)), (true, &put6)] {
            // Only the server's side was seen of late; neither was; the other half is missing.
            for (client, ours, theirs) in [(1, 3700, Some(5)), (2, 3700, Some(3700)), (3, 5, None)] {
                let (seen, rewrite, reply, back) = pair(client, v6);
                put(&seen, &rewrite, kind::SNAT, ago(ours));
                if let Some(theirs) = theirs {
                    put(&reply, &back, kind::REPLY, ago(theirs));
                }
            }
        }
        // Whether a pair is whole is looked up in one of eight sweeps.
        let retired: u64 = (0..8).map(|_| writer.sweep().unwrap().retired).sum();
        assert_eq!(retired, 2 * 3);
        let census = writer.sweep().unwrap();
        assert_eq!((census.established_v4, census.established_v6), (1, 1));
        assert_eq!((census.replies_v4, census.replies_v6), (1, 1));
        assert_eq!(census.active_by_slot, [(SLOT, 2)].into());
        assert_eq!(census.sources_in_use, [(SERVICE, 2)].into());
        let (flows, total) = reader.flows(usize::MAX).unwrap();
        assert_eq!((flows.len(), total), (2, 2));
        let ends = flows.iter().map(|f| (f.server.unwrap(), f.source.unwrap()));
        let expected = [("10.12.1.7", "10.12.1.2"), ("2001:db8::7", "2001:db8::1")];
        let expected = expected.map(|(server, source)| ((server.parse().unwrap(), 8080), (source.parse().unwrap(), 1)));
        assert_eq!(ends.collect::<Vec<_>>(), expected);
    }
}
