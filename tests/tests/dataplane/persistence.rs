//! Persistence entries: how they end, stay, are shown and cleared.

use aya::maps::HashMap;
use lb_common::{
    flow::{Bucket4, Decision, State},
    net::addr4,
    persist::{PersistEntry, PersistKey},
};
use lb_ctl::dataplane::{PersistFilter, Persisted};

use super::{
    sweep::{entry4, now},
    *,
};

type Entries = HashMap<MapData, PersistKey, PersistEntry>;

/// Who the flows of [`entry4`] come from, as it stands in a key: cut to 24 bits.
fn client_of_flows() -> u64 {
    u64::from(addr4([192, 168, 0, 0].into()))
}

const fn key_of(client: u64, group: u32) -> PersistKey {
    PersistKey { client: [client, 0], group, family: 4 }
}

root_tests! {
    a_sweep_removes_persistence_that_no_longer_counts {
        let fs = BpfFs::mount();
        let (mut writer, _reader) = fs.open();
        apply(&mut writer, &[put_service(SERVICE), put_backend(SLOT, "DICOM1", GENERATION)]);
        let now = now(&fs);
        let mut persist: HashMap<MapData, PersistKey, PersistEntry> = fs.map(map::PERSIST);
        let good = PersistEntry { slot: SLOT, generation: GENERATION, last_seen: now };
        let key = |client: u64, group| PersistKey { client: [client, 0], group, family: 4 };
        let group = record().persist_group;
        // More than one read's worth that stay.
        for client in 0..5000 {
            persist.insert(key(client, group), good, 0).unwrap();
        }
        let past = PersistEntry { last_seen: now.wrapping_sub(1100), ..good };
        let void = PersistEntry { generation: GENERATION - 1, ..good };
        persist.insert(key(10_001, group), past, 0).unwrap();
        persist.insert(key(10_002, group), void, 0).unwrap();
        persist.insert(key(10_003, group + 1), good, 0).unwrap();
        let census = writer.sweep().unwrap();
        assert_eq!((census.persistent(), census.retired), (5000, 3));
        assert!(persist.get(&key(10_001, group), 0).is_err());
        assert!(persist.get(&key(77, group), 0).is_ok());
    }

    an_entry_whose_client_has_a_flow_lives_on_with_it {
        let fs = BpfFs::mount();
        let (mut writer, _reader) = fs.open();
        apply(&mut writer, &[
            put_service(SERVICE),
            put_service(SERVICE + 1),
            put_backend(SLOT, "DICOM1", GENERATION),
        ]);
        let mut persist: Entries = fs.map(map::PERSIST);
        let group = record().persist_group;
        let ended = |now: u32| PersistEntry {
            slot: SLOT,
            generation: GENERATION,
            last_seen: now.wrapping_sub(record().persist_ticks),
        };
        let mut table = fs.array::<Bucket4>(map::FLOWS_V4);
        let ours = Decision::new(mode::DR, SERVICE, SLOT, GENERATION);
        let other_vip = Decision::new(mode::DR, SERVICE + 1, SLOT, GENERATION);
        // Of several flows the newest counts, also one by another VIP of the group; one that is closing does not.
        for (state, newest, decision, stays) in [
            (State::Established, 5, ours, true),
            (State::Datagrams, 5, other_vip, true),
            (State::Closing, 5, ours, false),
            (State::Established, 2000, ours, false),
        ] {
            let now = now(&fs);
            let entries = [
                entry4(state, now.wrapping_sub(newest), 1, decision),
                entry4(State::Established, now.wrapping_sub(1500), 2, ours),
                entry4(State::Closing, now, 3, ours),
                [0; 8],
            ];
            table.set(0, Bucket4(entries), 0).unwrap();
            persist.insert(key_of(client_of_flows(), group), ended(now), 0).unwrap();
            // Another client, who has none.
            persist.insert(key_of(77, group), ended(now), 0).unwrap();
            // What is too old goes when it is past its time by the pause between two looks.
            let past = PersistEntry { last_seen: ended(now).last_seen.wrapping_sub(20), ..ended(now) };
            persist.insert(key_of(78, group), past, 0).unwrap();
            let census = writer.sweep().unwrap();
            assert_eq!(census.persistent() + census.retired, 3);
            assert!(persist.get(&key_of(78, group), 0).is_err());
            // Without a flow nothing keeps it; when exactly it goes is up to the clock.
            let alone = |client| persist.get(&key_of(client, group), 0).is_ok_and(|entry| entry != ended(now));
            assert!(!alone(77), "{state:?}");
            if stays {
                let kept = PersistEntry { last_seen: now.wrapping_sub(newest), ..ended(now) };
                assert_eq!(persist.get(&key_of(client_of_flows(), group), 0).unwrap(), kept, "{state:?}");
            } else {
                assert!(!alone(client_of_flows()), "{state:?}");
            }
        }
    }

    entries_are_listed_and_cleared_by_client_server_and_group {
        let fs = BpfFs::mount();
        let (mut writer, mut reader) = fs.open();
        let v6: IpAddr = "2001:db8::100".parse().unwrap();
        apply(&mut writer, &[
            put_service(SERVICE),
            put_backend(SLOT, "DICOM1", GENERATION),
            put_backend(8, "DICOM2", GENERATION),
            Op::PutKey { key: key(vip(), 104, Protocol::Tcp), service: SERVICE },
            Op::PutKey { key: key(v6, 104, Protocol::Tcp), service: SERVICE },
        ]);
        let now = now(&fs);
        let group = record().persist_group;
        let subnet = |n: u8| u64::from(addr4([10, 0, n, 0].into()));
        let fill = || {
            let (mut proved, mut new): (Entries, Entries) = (fs.map(map::PERSIST), fs.map(map::PERSIST_NEW));
            for (n, slot) in [(1, SLOT), (2, SLOT), (3, 8)] {
                let entry = PersistEntry { slot, generation: GENERATION, last_seen: now };
                proved.insert(key_of(subnet(n), group), entry, 0).unwrap();
                new.insert(key_of(subnet(n), group), entry, 0).unwrap();
            }
        };
        let left = |name: &str| {
            let map: Entries = fs.map(name);
            let mut left: Vec<u8> =
                map.keys().map(|key| (key.unwrap().client[0] as u32).to_ne_bytes()[2]).collect();
            left.sort_unstable();
            left
        };
        fill();
        let (listed, total) = reader.persistence(2).unwrap();
        assert_eq!((listed.len(), total), (2, 3));
        let (listed, _) = reader.persistence(10).unwrap();
        let found = listed.iter().find(|p| p.client == IpAddr::from([10, 0, 3, 0])).unwrap();
        assert_eq!(*found, Persisted {
            client: [10, 0, 3, 0].into(), group, slot: 8, generation: GENERATION, idle_millis: found.idle_millis,
        });
        assert!(found.idle_millis < 60_000, "{found:?}");

        let client = |text: &str| Some(text.parse().unwrap());
        for (which, expected) in [
            (PersistFilter { client: client("10.0.2.77"), ..PersistFilter::default() }, &[1, 3][..]),
            (PersistFilter { slots: Some([SLOT].into()), ..PersistFilter::default() }, &[3]),
            (PersistFilter { group: Some(group), ..PersistFilter::default() }, &[]),
            (PersistFilter { group: Some(group + 1), ..PersistFilter::default() }, &[1, 2, 3]),
            (PersistFilter { client: client("2001:db8::1"), ..PersistFilter::default() }, &[1, 2, 3]),
            (
                PersistFilter { client: client("10.0.2.1"), slots: Some([8].into()), group: Some(group) },
                &[1, 2, 3],
            ),
            (PersistFilter::default(), &[]),
        ] {
            fill();
            assert_eq!(writer.clear_persistence(&which).unwrap(), 3 - expected.len() as u64, "{which:?}");
            assert_eq!(left(map::PERSIST), expected, "{which:?}");
            assert_eq!(left(map::PERSIST_NEW), expected, "{which:?}: a client that is new would come back");
        }
    }
}
