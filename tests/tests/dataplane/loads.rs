//! How busy servers are and may be, and that the controller lives.

use lb_common::{
    flow::{Bucket4, Decision, State},
    load::flags::CLOSED,
};

use super::{
    sweep::{entry4, now},
    *,
};

/// Active flows, limits, whether it counts as full.
fn load(fs: &BpfFs, slot: u16) -> (u64, Limits, u64) {
    let [active, limits, full, _] = fs.array::<[u64; 4]>(map::LOADS).get(&u32::from(slot), 0).unwrap();
    (active, Limits::of(limits), full)
}

/// Counts as the packet path would.
fn count(fs: &BpfFs, slot: u16, active: u64, full: u64) {
    let mut loads = fs.array::<[u64; 4]>(map::LOADS);
    let [_, limits, ..] = loads.get(&u32::from(slot), 0).unwrap();
    loads.set(u32::from(slot), [active, limits, full, 0], 0).unwrap();
}

root_tests! {
    limits_stand_in_their_word_and_belong_to_the_server {
        let fs = BpfFs::mount();
        let (mut writer, _) = fs.open();
        apply(&mut writer, &[
            put_service(SERVICE),
            put_backend(SLOT, "DICOM1", GENERATION),
            Op::PutLoad { slot: SLOT, limits: limits() },
        ]);
        count(&fs, SLOT, 9, 1);
        let closed = Limits { flags: CLOSED, ..limits() };
        apply(&mut writer, &[Op::PutLoad { slot: SLOT, limits: closed }]);
        assert_eq!(load(&fs, SLOT), (9, closed, 1), "nothing else changes");
        // Another name is another name.
        apply(&mut writer, &[put_backend(SLOT, "RENAMED", GENERATION)]);
        assert_eq!(load(&fs, SLOT), (9, closed, 1));
        // Flows of an older generation do not count any more.
        apply(&mut writer, &[put_backend(SLOT, "RENAMED", GENERATION + 1)]);
        assert_eq!(load(&fs, SLOT), (0, closed, 0));
        count(&fs, SLOT, 9, 1);
        apply(&mut writer, &[Op::ClearBackend { slot: SLOT }]);
        assert_eq!(load(&fs, SLOT), (0, Limits::default(), 0));
        assert!(writer.installed().loads.is_empty());
        // What a crash may have left for the next owner.
        fs.array::<[u64; 4]>(map::LOADS).set(u32::from(SLOT), [9, limits().word(), 1, 0], 0).unwrap();
        apply(&mut writer, &[put_backend(SLOT, "OTHER", GENERATION + 2)]);
        assert_eq!(load(&fs, SLOT), (0, Limits::default(), 0));
    }

    a_sweep_corrects_what_the_packet_path_counted {
        let fs = BpfFs::mount();
        let (mut writer, _reader) = fs.open();
        apply(&mut writer, &[
            put_service(SERVICE),
            put_backend(SLOT, "DICOM1", GENERATION),
            put_backend(8, "DICOM2", GENERATION),
            Op::PutLoad { slot: SLOT, limits: limits() },
        ]);
        let now = now(&fs);
        let to = |slot| Decision::new(mode::DR, SERVICE, slot, GENERATION);
        let entries = [
            entry4(State::Established, now, 1, to(SLOT)),
            entry4(State::Datagrams, now, 2, to(SLOT)),
            entry4(State::Closing, now, 3, to(SLOT)),
            entry4(State::Established, now, 4, Decision::new(mode::DR, SERVICE, 8, GENERATION - 1)),
        ];
        fs.array(map::FLOWS_V4).set(0, Bucket4(entries), 0).unwrap();
        // Flows fell silent; flows were there before the counts; and one was taken away too many.
        for (counted, other) in [(9, 7), (0, 0), (2, -3i64 as u64)] {
            count(&fs, SLOT, counted, 1);
            count(&fs, 8, other, 0);
            let census = writer.sweep().unwrap();
            assert_eq!(census.active_by_slot, [(SLOT, 2)].into());
            assert_eq!(load(&fs, SLOT), (2, limits(), 1), "full is the packet path's");
            assert_eq!(load(&fs, 8).0, 0);
        }
    }

    the_packet_path_is_told_that_a_controller_lives_from_its_start_on {
        let fs = BpfFs::mount();
        let (mut writer, _reader) = fs.open();
        let first = now(&fs);
        assert_ne!(first, 0);
        let mut beats = fs.array::<u64>(map::HEARTBEAT);
        // Long ago, as after a pause of the controller.
        beats.set(0, 7, 0).unwrap();
        writer.sweep().unwrap();
        let ticks = now(&fs).wrapping_sub(first);
        assert!(ticks < fs.settings().ticks(60), "{first} and {ticks} ticks");
        beats.set(0, 7, 0).unwrap();
        drop(writer);
        let _open = fs.open();
        assert!(now(&fs).wrapping_sub(first) < fs.settings().ticks(60));
    }
}
