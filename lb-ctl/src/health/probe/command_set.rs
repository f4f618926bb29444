//! The DIMSE messages of Verification and of queries, as command sets: group 0000, implicit VR little endian (PS3.7 6.3.1).
#![forbid(unsafe_code)]

use super::element;

/// Verification SOP class (PS3.4 A.4).
pub(super) const VERIFICATION: &str = "1.2.840.10008.1.1";

// Elements of group 0000 (PS3.7 E.1).
const GROUP: u16 = 0x0000;
const GROUP_LENGTH: u16 = 0x0000;
const AFFECTED_SOP_CLASS_UID: u16 = 0x0002;
const COMMAND_FIELD: u16 = 0x0100;
const MESSAGE_ID: u16 = 0x0110;
const MESSAGE_ID_BEING_RESPONDED_TO: u16 = 0x0120;
const PRIORITY: u16 = 0x0700;
const COMMAND_DATA_SET_TYPE: u16 = 0x0800;
const STATUS: u16 = 0x0900;
const ERROR_COMMENT: u16 = 0x0902;

const C_ECHO_RQ: u16 = 0x0030;
const C_ECHO_RSP: u16 = 0x8030;
const C_FIND_RQ: u16 = 0x0020;
const C_FIND_RSP: u16 = 0x8020;
const C_CANCEL_RQ: u16 = 0x0fff;
/// No data set follows; any other value says that one does (PS3.7 E.1).
const NO_DATA_SET: u16 = 0x0101;
const DATA_SET: u16 = 0x0001;
const MEDIUM: u16 = 0x0000;

/// What is asked.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Operation {
    /// C-ECHO.
    Echo,
    /// C-FIND.
    Find,
}

impl Operation {
    /// As the standard writes it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Echo => "C-ECHO",
            Self::Find => "C-FIND",
        }
    }

    const fn response_field(self) -> u16 {
        match self {
            Self::Echo => C_ECHO_RSP,
            Self::Find => C_FIND_RSP,
        }
    }
}

/// What a response says (PS3.7 9.3.2.2 and 9.3.5.2).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Response {
    /// Message that it answers.
    pub(super) message_id: u16,
    /// 0 = success (PS3.7 C).
    pub(super) status: u16,
    /// What the server says about a failure, printable ASCII; mostly empty.
    pub(super) comment: String,
    /// A data set follows.
    pub(super) has_data_set: bool,
}

/// C-ECHO-RQ (PS3.7 9.3.5.1).
pub(super) fn echo_request(message_id: u16) -> Vec<u8> {
    let mut elements = Vec::new();
    element::push_uid(&mut elements, (GROUP, AFFECTED_SOP_CLASS_UID), VERIFICATION);
    push_number(&mut elements, COMMAND_FIELD, C_ECHO_RQ);
    push_number(&mut elements, MESSAGE_ID, message_id);
    push_number(&mut elements, COMMAND_DATA_SET_TYPE, NO_DATA_SET);
    with_length(&elements)
}

/// C-FIND-RQ (PS3.7 9.3.2.1); the identifier follows.
pub(super) fn find_request(message_id: u16, sop_class: &str) -> Vec<u8> {
    let mut elements = Vec::new();
    element::push_uid(&mut elements, (GROUP, AFFECTED_SOP_CLASS_UID), sop_class);
    push_number(&mut elements, COMMAND_FIELD, C_FIND_RQ);
    push_number(&mut elements, MESSAGE_ID, message_id);
    push_number(&mut elements, PRIORITY, MEDIUM);
    push_number(&mut elements, COMMAND_DATA_SET_TYPE, DATA_SET);
    with_length(&elements)
}

/// C-CANCEL-RQ (PS3.7 9.3.2.3), which has no answer of its own: the operation's last response comes sooner.
pub(super) fn cancel_request(message_id: u16) -> Vec<u8> {
    let mut elements = Vec::new();
    push_number(&mut elements, COMMAND_FIELD, C_CANCEL_RQ);
    push_number(&mut elements, MESSAGE_ID_BEING_RESPONDED_TO, message_id);
    push_number(&mut elements, COMMAND_DATA_SET_TYPE, NO_DATA_SET);
    with_length(&elements)
}

/// Reads a command set that should be a response to `operation`.
///
/// # Errors
///
/// What is wrong with it, as the end of a sentence.
pub(super) fn parse_response(operation: Operation, command: &[u8]) -> Result<Response, String> {
    let (mut field, mut message_id, mut status) = (None, None, None);
    let (mut comment, mut has_data_set) = (String::new(), false);
    let mut rest = command;
    while !rest.is_empty() {
        let Some((number, value, after)) = take(rest) else {
            return Err("its command set ends in the middle of an element".to_owned());
        };
        match number {
            COMMAND_FIELD => field = unsigned(value),
            MESSAGE_ID_BEING_RESPONDED_TO => message_id = unsigned(value),
            COMMAND_DATA_SET_TYPE => has_data_set = unsigned(value) != Some(NO_DATA_SET),
            STATUS => status = unsigned(value),
            ERROR_COMMENT => comment = printable(value),
            _ => {}
        }
        rest = after;
    }
    let name = operation.name();
    match (field, message_id, status) {
        (Some(field), Some(message_id), Some(status)) if field == operation.response_field() => {
            Ok(Response { message_id, status, comment, has_data_set })
        }
        (Some(field), _, _) if field == operation.response_field() => {
            Err(format!("its {name}-RSP lacks the message id or the status"))
        }
        (Some(other), _, _) => Err(format!("it sent command {other:#06x} in place of {name}-RSP")),
        (None, _, _) => Err("its command set names no command".to_owned()),
    }
}

fn with_length(elements: &[u8]) -> Vec<u8> {
    let mut command = Vec::new();
    element::push(&mut command, (GROUP, GROUP_LENGTH), &element::length_of(elements).to_le_bytes());
    command.extend_from_slice(elements);
    command
}

fn push_number(out: &mut Vec<u8>, number: u16, value: u16) {
    element::push(out, (GROUP, number), &value.to_le_bytes());
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

fn unsigned(value: &[u8]) -> Option<u16> {
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
        push_number(&mut command, COMMAND_FIELD, C_ECHO_RSP);
        push_number(&mut command, MESSAGE_ID_BEING_RESPONDED_TO, 7);
        push_number(&mut command, COMMAND_DATA_SET_TYPE, NO_DATA_SET);
        push_number(&mut command, STATUS, status);
        element::push(&mut command, (GROUP, ERROR_COMMENT), comment.as_bytes());
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
            parse_response(Operation::Echo, &response(0x0122, "no\x1b such class ")),
            Ok(Response {
                message_id: 7,
                status: 0x0122,
                comment: "no such class".to_owned(),
                has_data_set: false
            })
        );
    }

    #[test]
    fn a_request_is_not_a_response() {
        let error = parse_response(Operation::Echo, &echo_request(1)).unwrap_err();
        assert!(error.contains("0x0030"), "{error}");
    }

    #[test]
    fn a_response_to_another_operation_is_none() {
        let error = parse_response(Operation::Find, &response(0, "")).unwrap_err();
        assert_eq!(error, "it sent command 0x8030 in place of C-FIND-RSP");
    }

    #[test]
    fn a_query_and_its_cancellation_have_the_bytes_of_the_standard() {
        let mut expected = vec![0, 0, 0, 0, 4, 0, 0, 0, 76, 0, 0, 0];
        expected.extend_from_slice(&[0, 0, 2, 0, 28, 0, 0, 0]);
        expected.extend_from_slice(b"1.2.840.10008.5.1.4.1.2.2.1\0");
        expected.extend_from_slice(&[0, 0, 0, 1, 2, 0, 0, 0, 0x20, 0]);
        expected.extend_from_slice(&[0, 0, 0x10, 1, 2, 0, 0, 0, 2, 0]);
        expected.extend_from_slice(&[0, 0, 0, 7, 2, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0, 0, 0, 8, 2, 0, 0, 0, 1, 0]);
        assert_eq!(find_request(2, "1.2.840.10008.5.1.4.1.2.2.1"), expected);
        let mut expected = vec![0, 0, 0, 0, 4, 0, 0, 0, 30, 0, 0, 0];
        expected.extend_from_slice(&[0, 0, 0, 1, 2, 0, 0, 0, 0xff, 0x0f]);
        expected.extend_from_slice(&[0, 0, 0x20, 1, 2, 0, 0, 0, 2, 0]);
        expected.extend_from_slice(&[0, 0, 0, 8, 2, 0, 0, 0, 1, 1]);
        assert_eq!(cancel_request(2), expected);
    }

    proptest! {
        #[test]
        fn no_cut_response_passes(cut in 0_usize..74) {
            let whole = response(0, "");
            prop_assume!(cut < whole.len() - 8);
            prop_assert!(parse_response(Operation::Echo, &whole[..cut]).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_response(Operation::Echo, &bytes);
        }
    }
}
