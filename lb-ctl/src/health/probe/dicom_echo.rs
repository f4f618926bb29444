//! A DICOM association, C-ECHO, release (R43): what proves that an archive answers.
//!
//! The echo decides. Once the server has answered it, how it takes its leave does not: a release that goes wrong
//! shows in the time of its step, and does not fail the check. An association that was made is always released;
//! it is aborted when the server has stopped answering or the deadline leaves no time to ask.
#![forbid(unsafe_code)]

use std::time::Duration;

use dicom_ul::pdu::{
    AbortRQSource, AssociationAC, AssociationRQ, PDataValue, PDataValueType, Pdu,
    PresentationContextProposed, PresentationContextResultReason, UserVariableItem, write_pdu,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout_at,
};

use super::{
    Peer, Stopwatch, Tools, command_set,
    command_set::VERIFICATION,
    connect::{self, Manner},
    failure,
    pdu::{self, Fault, Incoming},
};
use crate::model::{
    check::DicomCheck,
    health::{Failure, FailureReason},
};

/// The DICOM application context (PS3.7 A.2.1).
const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// Every server must take it (PS3.5 10.1); command sets are encoded so in any case.
const IMPLICIT_VR_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";
/// Who we are (PS3.7 D.3.3.2), a UID derived from a UUID (PS3.5 B.2).
const IMPLEMENTATION_CLASS: &str = "2.25.256957231087055304027433095686626578854";
const IMPLEMENTATION_VERSION: &str = "LBD";

const CONTEXT_ID: u8 = 1;
const MESSAGE_ID: u16 = 1;

/// With less time than this left, the association is aborted: a release would only be cut off.
const RELEASE_MARGIN: Duration = Duration::from_millis(20);
/// More PDUs than this while waiting for one are not an answer, however fast they come.
const PATIENCE_PDUS: usize = 32;
/// A C-ECHO-RSP has about eighty bytes; fragments beyond this are not one.
const MAX_COMMAND_BYTES: usize = 16 * 1024;

/// Associates, echoes, releases. The step `release` is there only when the echo passed, so that the last step is
/// where a failed check failed.
pub(super) async fn probe(
    peer: &Peer,
    check: &DicomCheck,
    tools: &Tools,
    clock: &mut Stopwatch,
) -> Result<(), Failure> {
    let _ = tools;
    let DicomCheck { calling_aet, called_aet, .. } = check;
    let mut stream = connect::open(peer, Manner::Ordinary, clock).await?;
    match converse(&mut stream, calling_aet, called_aet, clock).await {
        Ok(()) => {
            release(&mut stream, clock).await;
            clock.mark("release");
            Ok(())
        }
        Err(failure) => {
            match leave_after(failure.reason) {
                Leave::Release => release(&mut stream, clock).await,
                Leave::Abort => abort(&stream),
                Leave::Gone => {}
            }
            Err(failure)
        }
    }
}

async fn converse(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    calling_aet: &str,
    called_aet: &str,
    clock: &mut Stopwatch,
) -> Result<(), Failure> {
    let associating = associate(stream, calling_aet, called_aet);
    clock.step("associate", FailureReason::AssociateTimeout, "", associating).await?;
    clock.step("echo", FailureReason::EchoTimeout, "", echo(stream)).await
}

/// How to part from a server after a failure.
enum Leave {
    /// It answers, and the association stands.
    Release,
    /// It may be waiting for us, but does not answer, or not sensibly.
    Abort,
    /// It has gone, or there is no association.
    Gone,
}

const fn leave_after(reason: FailureReason) -> Leave {
    match reason {
        FailureReason::VerificationNotAccepted | FailureReason::EchoFailed => Leave::Release,
        FailureReason::AssociateTimeout | FailureReason::EchoTimeout | FailureReason::ProtocolError => {
            Leave::Abort
        }
        _ => Leave::Gone,
    }
}

async fn associate(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    calling_aet: &str,
    called_aet: &str,
) -> Result<(), Failure> {
    let request = Pdu::AssociationRQ(AssociationRQ {
        protocol_version: 1,
        calling_ae_title: calling_aet.to_owned(),
        called_ae_title: called_aet.to_owned(),
        application_context_name: APPLICATION_CONTEXT.to_owned(),
        presentation_contexts: vec![PresentationContextProposed {
            id: CONTEXT_ID,
            abstract_syntax: VERIFICATION.to_owned(),
            transfer_syntaxes: vec![IMPLICIT_VR_LITTLE_ENDIAN.to_owned()],
        }],
        user_variables: vec![
            UserVariableItem::MaxLength(pdu::ANNOUNCED_PDU_BYTES),
            UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS.to_owned()),
            UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION.to_owned()),
        ],
    });
    send(stream, &request, "associate").await?;
    match receive(stream, "associate").await? {
        Incoming::Accept(accept) => accepted(&accept),
        Incoming::Reject { source, reason } => Err(rejected(source, reason, calling_aet, called_aet)),
        Incoming::Data(_) | Incoming::ReleaseRp | Incoming::ReleaseRq | Incoming::Abort { .. } => {
            Err(not_dicom("associate", "it answered A-ASSOCIATE-RQ with neither -AC nor -RJ"))
        }
    }
}

/// Whether the answer to our one presentation context is yes (PS3.8 table 9-18).
fn accepted(accept: &AssociationAC) -> Result<(), Failure> {
    let why = match accept.presentation_contexts.iter().find(|context| context.id == CONTEXT_ID) {
        Some(context) if context.reason == PresentationContextResultReason::Acceptance => return Ok(()),
        Some(context) => context.reason.to_string(),
        None => "no word about it".to_owned(),
    };
    Err(failure(
        FailureReason::VerificationNotAccepted,
        format!("A-ASSOCIATE-AC: Verification ({VERIFICATION}) not accepted: {why}"),
    ))
}

/// Source and reason of A-ASSOCIATE-RJ in words (PS3.8 table 9-21).
fn rejected(source: u8, reason: u8, calling_aet: &str, called_aet: &str) -> Failure {
    use FailureReason::{Rejected, RejectedBusy, RejectedCalledAet, RejectedCallingAet};
    let (class, why) = match (source, reason) {
        (1, 3) => (RejectedCallingAet, format!("calling AE title not recognised ({calling_aet})")),
        (1, 7) => (RejectedCalledAet, format!("called AE title not recognised ({called_aet})")),
        (3, 1) => (RejectedBusy, "temporary congestion".to_owned()),
        (3, 2) => (RejectedBusy, "local limit exceeded, too many associations".to_owned()),
        (1, 2) => (Rejected, "application context name not supported".to_owned()),
        (2, 2) => (Rejected, "protocol version not supported".to_owned()),
        (1 | 2, 1) => (Rejected, "no reason given".to_owned()),
        _ => (Rejected, format!("source {source}, reason {reason}, which the standard does not list")),
    };
    failure(class, format!("A-ASSOCIATE-RJ: {why}"))
}

async fn echo(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), Failure> {
    let request = Pdu::PData {
        data: vec![PDataValue {
            presentation_context_id: CONTEXT_ID,
            value_type: PDataValueType::Command,
            is_last: true,
            data: command_set::echo_request(MESSAGE_ID),
        }],
    };
    send(stream, &request, "echo").await?;
    let command = receive_command(stream).await?;
    let response = command_set::parse_echo_response(&command).map_err(|why| not_dicom("echo", &why))?;
    if response.message_id != MESSAGE_ID {
        let why = format!("it answered message {}, we sent {MESSAGE_ID}", response.message_id);
        return Err(not_dicom("echo", &why));
    }
    if response.status == 0 {
        return Ok(());
    }
    let meaning = status_in_words(response.status);
    let comment = if response.comment.is_empty() { String::new() } else { format!(": {}", response.comment) };
    Err(failure(
        FailureReason::EchoFailed,
        format!("C-ECHO: status {:#06x}, {meaning}{comment}", response.status),
    ))
}

/// Statuses that a C-ECHO-RSP may have (PS3.7 9.1.5.1.4 and C.5).
const fn status_in_words(status: u16) -> &'static str {
    match status {
        0x0122 => "SOP class not supported",
        0x0210 => "duplicate invocation",
        0x0211 => "unrecognised operation",
        0x0212 => "mistyped argument",
        _ => "not success",
    }
}

/// The fragments of one command set, joined (PS3.8 E.2).
async fn receive_command(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<Vec<u8>, Failure> {
    let mut command = Vec::new();
    for _ in 0..PATIENCE_PDUS {
        match receive(stream, "echo").await? {
            Incoming::Data(values) => {
                for value in values {
                    if value.presentation_context_id != CONTEXT_ID
                        || value.value_type != PDataValueType::Command
                    {
                        return Err(not_dicom("echo", "it sent data that nobody asked for"));
                    }
                    command.extend_from_slice(&value.data);
                    if command.len() > MAX_COMMAND_BYTES {
                        return Err(not_dicom("echo", "its answer is too long for a C-ECHO-RSP"));
                    }
                    if value.is_last {
                        return Ok(command);
                    }
                }
            }
            Incoming::ReleaseRq => {
                send(stream, &Pdu::ReleaseRP, "echo").await?;
                return Err(failure(
                    FailureReason::ConnectionClosed,
                    "echo: the server released the association in place of an answer".to_owned(),
                ));
            }
            Incoming::Accept(_) | Incoming::Reject { .. } | Incoming::ReleaseRp | Incoming::Abort { .. } => {
                return Err(not_dicom("echo", "it answered C-ECHO with a PDU of another phase"));
            }
        }
    }
    Err(not_dicom("echo", "it sent fragment after fragment and no end"))
}

/// Asks for the release and waits for the answer until the deadline; aborts where that is not to be had.
async fn release(stream: &mut TcpStream, clock: &Stopwatch) {
    if clock.remaining() > RELEASE_MARGIN {
        let released = timeout_at(clock.deadline(), ask_release(stream)).await;
        if matches!(released, Ok(Ok(()))) {
            return;
        }
    }
    abort(stream);
}

/// A-RELEASE-RQ, and whatever comes until the association is over (PS3.8 7.2). A server may release, abort or
/// close at the same moment: then it is over too.
async fn ask_release(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), Failure> {
    send(stream, &Pdu::ReleaseRQ, "release").await?;
    for _ in 0..PATIENCE_PDUS {
        match pdu::read(stream).await {
            Ok(Incoming::ReleaseRp | Incoming::Abort { .. }) | Err(Fault::Closed) => return Ok(()),
            // Both asked at once (PS3.8 9.2.3, AR-8 and AR-9): answer, and wait for the server's answer.
            Ok(Incoming::ReleaseRq) => send(stream, &Pdu::ReleaseRP, "release").await?,
            Ok(Incoming::Data(_)) => {}
            Ok(Incoming::Accept(_) | Incoming::Reject { .. }) => break,
            Err(fault) => return Err(fault_in("release", fault)),
        }
    }
    Err(not_dicom("release", "it sent something else in place of A-RELEASE-RP"))
}

/// A-ABORT, without waiting: nothing of ours is on the way, so ten bytes fit into the socket. When they do not, the
/// connection is broken, and closing it, which comes next, says all that can be said.
fn abort(stream: &TcpStream) {
    let mut bytes = Vec::new();
    if write_pdu(&mut bytes, &Pdu::AbortRQ { source: AbortRQSource::ServiceUser }).is_ok() {
        let _closing_anyway = stream.try_write(&bytes);
    }
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), pdu: &Pdu, step: &str) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    // Writing into memory fails for one thing only: an AE title that is empty, too long or not ASCII.
    write_pdu(&mut bytes, pdu).map_err(|error| {
        failure(FailureReason::Local, format!("{step}: not tried, {error}: check calling_aet and called_aet"))
    })?;
    stream.write_all(&bytes).await.map_err(|error| fault_in(step, Fault::from(error)))
}

async fn receive(stream: &mut (impl AsyncRead + Unpin), step: &str) -> Result<Incoming, Failure> {
    match pdu::read(stream).await {
        Ok(Incoming::Abort { source, reason }) => Err(aborted(step, source, reason)),
        Ok(pdu) => Ok(pdu),
        Err(fault) => Err(fault_in(step, fault)),
    }
}

/// Source and reason of A-ABORT in words (PS3.8 table 9-26).
fn aborted(step: &str, source: u8, reason: u8) -> Failure {
    let why = match (source, reason) {
        (0, _) => "by the server's application",
        (2, 1) => "unrecognised PDU",
        (2, 2) => "unexpected PDU",
        (2, 4) => "unrecognised PDU parameter",
        (2, 5) => "unexpected PDU parameter",
        (2, 6) => "invalid PDU parameter value",
        _ => "no reason given",
    };
    failure(FailureReason::Aborted, format!("{step}: A-ABORT from the server: {why}"))
}

fn not_dicom(step: &str, why: &str) -> Failure {
    failure(
        FailureReason::ProtocolError,
        format!("{step}: the server does not speak DICOM as expected: {why}"),
    )
}

fn fault_in(step: &str, fault: Fault) -> Failure {
    let ended = |how: &str| {
        failure(FailureReason::ConnectionClosed, format!("{step}: connection {how} by the server"))
    };
    match fault {
        Fault::Closed => ended("closed"),
        Fault::NotDicom(why) => not_dicom(step, &why),
        Fault::Io(error) => match error.raw_os_error() {
            Some(libc::ECONNRESET | libc::EPIPE) => ended("reset"),
            Some(libc::ETIMEDOUT | libc::EHOSTUNREACH | libc::ENETUNREACH) => {
                failure(FailureReason::Unreachable, format!("{step}: the server became unreachable: {error}"))
            }
            _ => failure(FailureReason::Local, format!("{step}: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accept_bytes() -> Vec<u8> {
        let mut bytes = Vec::new();
        let accept = AssociationAC {
            protocol_version: 1,
            calling_ae_title: "LOADBALANCER".to_owned(),
            called_ae_title: "LB-SCP".to_owned(),
            application_context_name: APPLICATION_CONTEXT.to_owned(),
            presentation_contexts: vec![dicom_ul::pdu::PresentationContextResult {
                id: CONTEXT_ID,
                reason: PresentationContextResultReason::Acceptance,
                transfer_syntax: IMPLICIT_VR_LITTLE_ENDIAN.to_owned(),
            }],
            user_variables: vec![UserVariableItem::MaxLength(16_384)],
        };
        write_pdu(&mut bytes, &Pdu::AssociationAC(accept)).unwrap();
        bytes
    }

    /// What the check makes of a server that says exactly this, whatever it is asked, and closes.
    fn outcome(said: &[u8]) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut stream = tokio::io::join(said, tokio::io::sink());
            let mut clock = Stopwatch::start(Duration::from_secs(60));
            converse(&mut stream, "LOADBALANCER", "LB-SCP", &mut clock).await
        })
    }

    /// A C-ECHO-RSP with this status, in two fragments, in two PDUs.
    fn response_bytes(status: u16) -> Vec<u8> {
        let mut command = vec![0, 0, 0, 1, 2, 0, 0, 0, 0x30, 0x80];
        command.extend_from_slice(&[0, 0, 0x20, 1, 2, 0, 0, 0, 1, 0]);
        command.extend_from_slice(&[0, 0, 0, 9, 2, 0, 0, 0]);
        command.extend_from_slice(&status.to_le_bytes());
        let (first, second) = command.split_at(13);
        let mut bytes = Vec::new();
        for (fragment, is_last) in [(first, false), (second, true)] {
            let value = PDataValue {
                presentation_context_id: CONTEXT_ID,
                value_type: PDataValueType::Command,
                is_last,
                data: fragment.to_vec(),
            };
            write_pdu(&mut bytes, &Pdu::PData { data: vec![value] }).unwrap();
        }
        bytes
    }

    #[test]
    fn an_answer_in_fragments_passes() {
        assert_eq!(outcome(&[accept_bytes(), response_bytes(0)].concat()), Ok(()));
    }

    #[test]
    fn a_status_other_than_success_fails_with_its_meaning() {
        let failure = outcome(&[accept_bytes(), response_bytes(0x0122)].concat()).unwrap_err();
        assert_eq!(failure.reason, FailureReason::EchoFailed);
        assert_eq!(failure.text, "C-ECHO: status 0x0122, SOP class not supported");
    }

    #[test]
    fn every_rejection_of_the_standard_has_its_words() {
        let said = |source, reason| {
            let failure = outcome(&[3, 0, 0, 0, 0, 4, 0, 1, source, reason]).unwrap_err();
            (failure.reason, failure.text)
        };
        use FailureReason::{Rejected, RejectedBusy, RejectedCalledAet, RejectedCallingAet};
        for (source, reason, class, text) in [
            (1, 1, Rejected, "no reason given"),
            (1, 2, Rejected, "application context name not supported"),
            (1, 3, RejectedCallingAet, "calling AE title not recognised (LOADBALANCER)"),
            (1, 7, RejectedCalledAet, "called AE title not recognised (LB-SCP)"),
            (2, 1, Rejected, "no reason given"),
            (2, 2, Rejected, "protocol version not supported"),
            (3, 1, RejectedBusy, "temporary congestion"),
            (3, 2, RejectedBusy, "local limit exceeded, too many associations"),
            (1, 9, Rejected, "source 1, reason 9, which the standard does not list"),
        ] {
            assert_eq!(said(source, reason), (class, format!("A-ASSOCIATE-RJ: {text}")));
        }
    }

    #[test]
    fn an_abort_is_told_from_a_closed_connection() {
        let abort = [7, 0, 0, 0, 0, 4, 0, 0, 2, 2];
        let failure = outcome(&[&accept_bytes(), &abort[..]].concat()).unwrap_err();
        assert_eq!(failure.reason, FailureReason::Aborted);
        assert_eq!(failure.text, "echo: A-ABORT from the server: unexpected PDU");
        let failure = outcome(&accept_bytes()).unwrap_err();
        assert_eq!(failure.reason, FailureReason::ConnectionClosed);
        assert_eq!(failure.text, "echo: connection closed by the server");
    }

    #[test]
    fn fragments_without_end_are_given_up() {
        let mut said = accept_bytes();
        for _ in 0..PATIENCE_PDUS * 2 {
            said.extend_from_slice(&[4, 0, 0, 0, 0, 6, 0, 0, 0, 2, CONTEXT_ID, 1]);
        }
        assert_eq!(outcome(&said).unwrap_err().reason, FailureReason::ProtocolError);
    }

    #[test]
    fn an_ae_title_that_cannot_be_sent_is_our_fault() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let failure = runtime.block_on(async {
            let mut stream = tokio::io::join(&b""[..], tokio::io::sink());
            associate(&mut stream, "LOADBALANCER", "SEVENTEEN-LETTERS").await.unwrap_err()
        });
        assert_eq!(failure.reason, FailureReason::Local);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_fail_the_check_and_nothing_else(said in prop::collection::vec(any::<u8>(), 0..800)) {
            prop_assert!(outcome(&said).is_err());
        }

        #[test]
        fn a_right_conversation_with_bytes_changed_never_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        ) {
            let mut said = [accept_bytes(), response_bytes(0)].concat();
            for (index, value) in changes {
                let at = index.index(said.len());
                said[at] = value;
            }
            let _ = outcome(&said);
        }

        #[test]
        fn no_part_of_a_right_conversation_passes(cut in any::<prop::sample::Index>()) {
            let said = [accept_bytes(), response_bytes(0)].concat();
            prop_assert!(outcome(&said[..cut.index(said.len())]).is_err());
        }
    }
}
