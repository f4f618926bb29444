//! The two DIMSE messages of Verification, as command sets: group 0000, implicit VR little endian (PS3.7 6.3.1).
#![forbid(unsafe_code)]

/// Verification SOP class (PS3.4 A.4).
pub(super) const VERIFICATION: &str = "1.2.840.10008.1.1";

// Elements of group 0000 (PS3.7 E.1).
const GROUP_LENGTH: u16 = 0x0000;
const AFFECTED_SOP_CLASS_UID: u16 = 0x0002;
const COMMAND_FIELD: u16 = 0x0100;
const MESSAGE_ID: u16 = 0x0110;
const MESSAGE_ID_BEING_RESPONDED_TO: u16 = 0x0120;
const COMMAND_DATA_SET_TYPE: u16 = 0x0800;
const STATUS: u16 = 0x0900;
const ERROR_COMMENT: u16 = 0x0902;

const C_ECHO_RQ: u16 = 0x0030;
const C_ECHO_RSP: u16 = 0x8030;
const NO_DATA_SET: u16 = 0x0101;

/// What a C-ECHO-RSP says (PS3.7 9.3.5.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct EchoResponse {
    /// Message that it answers.
    pub(super) message_id: u16,
    /// 0 = success (PS3.7 9.1.5.1.4).
    pub(super) status: u16,
    /// What the server says about a failure, printable ASCII; mostly empty.
    pub(super) comment: String,
}

/// C-ECHO-RQ (PS3.7 9.3.5.1).
pub(super) fn echo_request(message_id: u16) -> Vec<u8> {
    let mut uid = VERIFICATION.as_bytes().to_vec();
    if !uid.len().is_multiple_of(2) {
        uid.push(0); // PS3.5 9.1: a UID of odd length is padded with a null.
    }
    let mut elements = Vec::new();
    push(&mut elements, AFFECTED_SOP_CLASS_UID, &uid);
    push(&mut elements, COMMAND_FIELD, &C_ECHO_RQ.to_le_bytes());
    push(&mut elements, MESSAGE_ID, &message_id.to_le_bytes());
    push(&mut elements, COMMAND_DATA_SET_TYPE, &NO_DATA_SET.to_le_bytes());
    let mut command = Vec::new();
    push(&mut command, GROUP_LENGTH, &length_of(&elements).to_le_bytes());
    command.extend_from_slice(&elements);
    command
}

/// Reads a command set that should be a C-ECHO-RSP.
///
/// # Errors
///
/// What is wrong with it, as the end of a sentence.
pub(super) fn parse_echo_response(command: &[u8]) -> Result<EchoResponse, String> {
    let (mut field, mut message_id, mut status, mut comment) = (None, None, None, String::new());
    let mut rest = command;
    while !rest.is_empty() {
        let Some((element, value, after)) = take(rest) else {
            return Err("its command set ends in the middle of an element".to_owned());
        };
        match element {
            COMMAND_FIELD => field = number(value),
            MESSAGE_ID_BEING_RESPONDED_TO => message_id = number(value),
            STATUS => status = number(value),
            ERROR_COMMENT => comment = printable(value),
            _ => {}
        }
        rest = after;
    }
    match (field, message_id, status) {
        (Some(C_ECHO_RSP), Some(message_id), Some(status)) => {
            Ok(EchoResponse { message_id, status, comment })
        }
        (Some(C_ECHO_RSP), _, _) => Err("its C-ECHO-RSP lacks the message id or the status".to_owned()),
        (Some(other), _, _) => Err(format!("it sent command {other:#06x} in place of C-ECHO-RSP")),
        (None, _, _) => Err("its command set names no command".to_owned()),
    }
}

fn push(out: &mut Vec<u8>, element: u16, value: &[u8]) {
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&element.to_le_bytes());
    out.extend_from_slice(&length_of(value).to_le_bytes());
    out.extend_from_slice(value);
}

/// Our own values are a few dozen bytes.
fn length_of(value: &[u8]) -> u32 {
    u32::try_from(value.len()).unwrap_or(u32::MAX)
}

/// The first element of a command set: its number, its value, and what comes after it.
fn take(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<8>()?;
    let [g0, g1, e0, e1, l0, l1, l2, l3] = *header;
    if u16::from_le_bytes([g0, g1]) != 0 {
        return None;
    }
    let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).ok()?;
    let (value, after) = rest.split_at_checked(length)?;
    Some((u16::from_le_bytes([e0, e1]), value, after))
}

fn number(value: &[u8]) -> Option<u16> {
    value.try_into().ok().map(u16::from_le_bytes)
}

/// A comment is 64 characters at most (PS3.7 E.1, VR LO); more, or controls, would only garble a log line.
fn printable(value: &[u8]) -> String {
    let text: String = value
        .iter()
        .filter(|b| b.is_ascii_graphic() || **b == b' ')
        .take(64)
        .map(|b| char::from(*b))
        .collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(status: u16, comment: &str) -> Vec<u8> {
        let mut command = Vec::new();
        push(&mut command, COMMAND_FIELD, &C_ECHO_RSP.to_le_bytes());
        push(&mut command, MESSAGE_ID_BEING_RESPONDED_TO, &7_u16.to_le_bytes());
        push(&mut command, COMMAND_DATA_SET_TYPE, &NO_DATA_SET.to_le_bytes());
        push(&mut command, STATUS, &status.to_le_bytes());
        push(&mut command, ERROR_COMMENT, comment.as_bytes());
        command
    }

    #[test]
    fn a_request_has_the_bytes_of_the_standard() {
        let mut expected = vec![0, 0, 0, 0, 4, 0, 0, 0, 56, 0, 0, 0];
        expected.extend_from_slice(&[0, 0, 2, 0, 18, 0, 0, 0]);
        expected.extend_from_slice(b"1.2.840.10008.1.1\0");
        expected.extend_from_slice(&[0, 0, 0, 1, 2, 0, 0, 0, 0x30, 0]);
        expected.extend_from_slice(&[0, 0, 0x10, 1, 2, 0, 0, 0, 1, 0]);
        expected.extend_from_slice(&[0, 0, 0, 8, 2, 0, 0, 0, 1, 1]);
        assert_eq!(echo_request(1), expected);
    }

    #[test]
    fn a_response_gives_status_and_comment() {
        assert_eq!(
            parse_echo_response(&response(0x0122, "no\x1b such class ")),
            Ok(EchoResponse { message_id: 7, status: 0x0122, comment: "no such class".to_owned() })
        );
    }

    #[test]
    fn a_request_is_not_a_response() {
        let error = parse_echo_response(&echo_request(1)).unwrap_err();
        assert!(error.contains("0x0030"), "{error}");
    }

    proptest! {
        #[test]
        fn no_cut_response_passes(cut in 0_usize..74) {
            let whole = response(0, "");
            prop_assume!(cut < whole.len() - 8);
            prop_assert!(parse_echo_response(&whole[..cut]).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_echo_response(&bytes);
        }
    }
}
