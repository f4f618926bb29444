//! What a query asks for, and what the answers' statuses mean.
//!
//! The query names a patient that does not exist: every archive has to look it up, none has anything to send.
#![forbid(unsafe_code)]

use super::{
    association::SopClass,
    element::{Tag, push, push_text, push_uid},
};
use crate::model::check::FindModel;

/// A patient identifier that no patient has: legal (PS3.5 6.2, LO), without wildcards, and telling to whoever reads
/// the archive's log.
const NOBODY: &str = "LBD-CHECK-NO-PATIENT";
/// A day on which no step of a procedure is scheduled. Some worklists do not match by patient.
const LONG_AGO: &str = "19000101";

const MODALITY: Tag = (0x0008, 0x0060);
const QUERY_RETRIEVE_LEVEL: Tag = (0x0008, 0x0052);
const PATIENT_ID: Tag = (0x0010, 0x0020);
const STUDY_INSTANCE_UID: Tag = (0x0020, 0x000d);
const SCHEDULED_STATION_AE_TITLE: Tag = (0x0040, 0x0001);
const SCHEDULED_STEP_START_DATE: Tag = (0x0040, 0x0002);
const SCHEDULED_STEP_SEQUENCE: Tag = (0x0040, 0x0100);
const ITEM: Tag = (0xfffe, 0xe000);

/// The SOP class of a model's queries (PS3.4 C.3 and K.6.1).
pub(super) const fn sop_class(model: FindModel) -> SopClass {
    match model {
        FindModel::Patient => SopClass { name: "Patient Root FIND", uid: "1.2.840.10008.5.1.4.1.2.1.1" },
        FindModel::Study => SopClass { name: "Study Root FIND", uid: "1.2.840.10008.5.1.4.1.2.2.1" },
        FindModel::Worklist => SopClass { name: "Modality Worklist FIND", uid: "1.2.840.10008.5.1.4.31" },
    }
}

/// The identifier: keys that match nobody, and the model's unique key (PS3.4 C.4.1.1.3 and K.6.1.2).
pub(super) fn identifier(model: FindModel) -> Vec<u8> {
    let mut keys = Vec::new();
    match model {
        FindModel::Patient => {
            push_text(&mut keys, QUERY_RETRIEVE_LEVEL, "PATIENT");
            push_text(&mut keys, PATIENT_ID, NOBODY);
        }
        FindModel::Study => {
            push_text(&mut keys, QUERY_RETRIEVE_LEVEL, "STUDY");
            push_text(&mut keys, PATIENT_ID, NOBODY);
            push_uid(&mut keys, STUDY_INSTANCE_UID, "");
        }
        FindModel::Worklist => {
            push_text(&mut keys, PATIENT_ID, NOBODY);
            let mut step = Vec::new();
            push_text(&mut step, MODALITY, "");
            push_text(&mut step, SCHEDULED_STATION_AE_TITLE, "");
            push_text(&mut step, SCHEDULED_STEP_START_DATE, LONG_AGO);
            // A sequence of one item, both of explicit length (PS3.5 7.5.1).
            let mut item = Vec::new();
            push(&mut item, ITEM, &step);
            push(&mut keys, SCHEDULED_STEP_SEQUENCE, &item);
        }
    }
    keys
}

/// True while results are coming (PS3.4 C.4.1.1.4).
pub(super) const fn is_pending(status: u16) -> bool {
    matches!(status, 0xff00 | 0xff01)
}

/// Ended because we cancelled it (PS3.4 C.4.1.1.4).
pub(super) const CANCELLED: u16 = 0xfe00;

#[cfg(test)]
mod tests {
    use super::*;

    /// Tags at the top of a data set, and the length of each value.
    fn outline(mut bytes: &[u8]) -> Vec<(Tag, usize)> {
        let mut found = Vec::new();
        while let Some((head, rest)) = bytes.split_first_chunk::<8>() {
            let [g0, g1, e0, e1, length @ ..] = *head;
            let length = u32::from_le_bytes(length) as usize;
            found.push(((u16::from_le_bytes([g0, g1]), u16::from_le_bytes([e0, e1])), length));
            bytes = &rest[length..];
        }
        assert!(bytes.is_empty());
        found
    }

    #[test]
    fn keys_stand_in_order_and_have_even_lengths() {
        for (model, count) in [(FindModel::Patient, 2), (FindModel::Study, 3), (FindModel::Worklist, 2)] {
            let found = outline(&identifier(model));
            assert!(found.is_sorted_by_key(|(tag, _)| *tag), "{found:?}");
            assert!(found.iter().all(|(_, length)| length.is_multiple_of(2)), "{found:?}");
            assert_eq!(found.len(), count);
        }
    }

    #[test]
    fn an_identifier_has_the_bytes_of_the_standard() {
        let mut expected = vec![8, 0, 0x52, 0, 8, 0, 0, 0];
        expected.extend_from_slice(b"PATIENT ");
        expected.extend_from_slice(&[0x10, 0, 0x20, 0, 20, 0, 0, 0]);
        expected.extend_from_slice(b"LBD-CHECK-NO-PATIENT");
        assert_eq!(identifier(FindModel::Patient), expected);
    }
}
