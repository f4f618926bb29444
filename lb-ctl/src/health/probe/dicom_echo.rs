//! A DICOM association, C-ECHO, a query if one is asked for, release (R43): what proves that an archive answers.
//!
//! The answers decide. Once the server has given them, how it takes its leave does not: a release that goes wrong
//! shows in the time of its step, and does not fail the check. An association that was made is always released;
//! it is aborted when the server has stopped answering or the deadline leaves no time to ask.
#![forbid(unsafe_code)]

use dicom_ul::pdu::{AssociationAC, PDataValueType};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Peer, Stopwatch, Tools,
    association::{Answer, Association, Context, SopClass, not_dicom, refusal},
    command_set::{self, Operation, Response},
    connect::{self, Manner},
    failure, query,
};
use crate::model::{
    check::{DicomCheck, FindModel},
    health::{Failure, FailureReason},
};

/// Presentation contexts have odd numbers (PS3.8 9.3.2.2).
const VERIFICATION: Context =
    Context { id: 1, sop_class: SopClass { name: "Verification", uid: command_set::VERIFICATION } };
const QUERY_CONTEXT_ID: u8 = 3;

const ECHO_MESSAGE_ID: u16 = 1;
const FIND_MESSAGE_ID: u16 = 2;

/// One result is one too many, and has the query cancelled; a server that goes on for longer than this does not heed
/// that, and is not listened to any more.
const PATIENCE_RESULTS: usize = 1000;

/// Connects, and does what [`over`] does.
pub(super) async fn probe(
    peer: &Peer,
    check: &DicomCheck,
    tools: &Tools,
    clock: &mut Stopwatch,
) -> Result<(), Failure> {
    let stream = connect::open(peer, Manner::Ordinary, clock).await?;
    match &check.tls {
        Some(client) => {
            let name = peer.addr.ip().to_string();
            let stream = tools.tls.wrap(stream, client, &name, clock).await?;
            over(stream, check, clock).await
        }
        None => over(stream, check, clock).await,
    }
}

/// Associates, echoes, queries, releases, over a connection that stands. The step `release` is there only when all
/// else passed, so that the last step is where a failed check failed.
pub(super) async fn over<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    check: &DicomCheck,
    clock: &mut Stopwatch,
) -> Result<(), Failure> {
    let mut association = Association::over(stream);
    let outcome = converse(&mut association, check, clock).await;
    let leave = match &outcome {
        Ok(leave) => *leave,
        Err(failure) => leave_after(failure.reason),
    };
    match leave {
        Leave::Release => {
            association.release(clock).await;
            if outcome.is_ok() {
                clock.mark("release");
            }
        }
        Leave::Abort => association.abort(),
        Leave::Gone => {}
    }
    outcome.map(drop)
}

/// How to part from a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
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
        FailureReason::VerificationNotAccepted | FailureReason::EchoFailed | FailureReason::FindFailed => {
            Leave::Release
        }
        FailureReason::AssociateTimeout
        | FailureReason::EchoTimeout
        | FailureReason::AnswerTimeout
        | FailureReason::ProtocolError => Leave::Abort,
        _ => Leave::Gone,
    }
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    association: &mut Association<S>,
    check: &DicomCheck,
    clock: &mut Stopwatch,
) -> Result<Leave, Failure> {
    let query = check.find.map(|model| (model, query_context(model)));
    let contexts: Vec<Context> =
        [VERIFICATION].into_iter().chain(query.map(|(_, context)| context)).collect();
    let asking = association.ask(check, &contexts);
    let accept = match clock.step("associate", FailureReason::AssociateTimeout, "", asking).await? {
        Answer::Accepted(accept) => accept,
        Answer::Rejected(rejection) if check.accept_reject => {
            clock.note = Some(format!("{}: an answer, which is all that is asked", rejection.text));
            return Ok(Leave::Gone);
        }
        Answer::Rejected(rejection) => return Err(rejection),
    };
    if let Some(why) = refusal(&accept, VERIFICATION) {
        return Err(failure(FailureReason::VerificationNotAccepted, why));
    }
    clock.step("echo", FailureReason::EchoTimeout, "", echo(association)).await?;
    let Some((model, context)) = query else { return Ok(Leave::Release) };
    let finding = find(association, &accept, model, context);
    match clock.step("find", FailureReason::AnswerTimeout, "", finding).await? {
        Found::Ended => Ok(Leave::Release),
        Found::Endless => {
            clock.note = Some(format!(
                "C-FIND: more than {PATIENCE_RESULTS} results for a patient that does not exist, in spite of \
                 C-CANCEL: the association is aborted"
            ));
            Ok(Leave::Abort)
        }
    }
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(association: &mut Association<S>) -> Result<(), Failure> {
    let request = command_set::echo_request(ECHO_MESSAGE_ID);
    association.say("echo", VERIFICATION, request, None).await?;
    let response = respond(association, "echo", VERIFICATION, Operation::Echo, ECHO_MESSAGE_ID).await?;
    if response.status == 0 {
        return Ok(());
    }
    Err(failure(FailureReason::EchoFailed, unsuccessful(Operation::Echo, &response)))
}

const fn query_context(model: FindModel) -> Context {
    Context { id: QUERY_CONTEXT_ID, sop_class: query::sop_class(model) }
}

/// How a query that was answered ended.
enum Found {
    /// With a last response.
    Ended,
    /// It did not.
    Endless,
}

/// Queries for nobody. Whoever finds somebody nevertheless has answered, and is told that it is enough.
async fn find<S: AsyncRead + AsyncWrite + Unpin>(
    association: &mut Association<S>,
    accept: &AssociationAC,
    model: FindModel,
    context: Context,
) -> Result<Found, Failure> {
    if let Some(why) = refusal(accept, context) {
        return Err(failure(FailureReason::FindFailed, why));
    }
    let request = command_set::find_request(FIND_MESSAGE_ID, context.sop_class.uid);
    association.say("find", context, request, Some(query::identifier(model))).await?;
    for results in 0..PATIENCE_RESULTS {
        let response = respond(association, "find", context, Operation::Find, FIND_MESSAGE_ID).await?;
        if response.has_data_set {
            association.hear("find", context, &PDataValueType::Data).await?;
        }
        match response.status {
            0 => return Ok(Found::Ended),
            query::CANCELLED if results > 0 => return Ok(Found::Ended),
            pending if query::is_pending(pending) => {
                if results == 0 {
                    let cancel = command_set::cancel_request(FIND_MESSAGE_ID);
                    association.say("find", context, cancel, None).await?;
                }
            }
            _ => return Err(failure(FailureReason::FindFailed, unsuccessful(Operation::Find, &response))),
        }
    }
    Ok(Found::Endless)
}

/// The next response to a message of ours.
async fn respond<S: AsyncRead + AsyncWrite + Unpin>(
    association: &mut Association<S>,
    step: &str,
    context: Context,
    operation: Operation,
    message_id: u16,
) -> Result<Response, Failure> {
    let command = association.hear(step, context, &PDataValueType::Command).await?;
    let response = command_set::parse_response(operation, &command).map_err(|why| not_dicom(step, &why))?;
    if response.message_id == message_id {
        return Ok(response);
    }
    let why = format!("it answered message {}, we sent {message_id}", response.message_id);
    Err(not_dicom(step, &why))
}

fn unsuccessful(operation: Operation, response: &Response) -> String {
    let Response { status, comment, .. } = response;
    let meaning = status_in_words(*status);
    let comment = if comment.is_empty() { String::new() } else { format!(": {comment}") };
    format!("{}: status {status:#06x}, {meaning}{comment}", operation.name())
}

/// Statuses that a response to C-ECHO or C-FIND may have (PS3.7 9.1.2.1.5, 9.1.5.1.4 and C; PS3.4 C.4.1.1.4).
const fn status_in_words(status: u16) -> &'static str {
    match status {
        0x0122 => "SOP class not supported",
        0x0124 => "not authorised",
        0x0210 => "duplicate invocation",
        0x0211 => "unrecognised operation",
        0x0212 => "mistyped argument",
        0xa700 => "out of resources",
        0xa900 => "identifier does not match SOP class",
        0xc000..=0xcfff => "unable to process",
        query::CANCELLED => "cancelled, which nobody asked for",
        _ => "not success",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dicom_ul::pdu::{
        PDataValue, Pdu, PresentationContextResult, PresentationContextResultReason, UserVariableItem,
        write_pdu,
    };
    use proptest::prelude::*;

    use super::{super::association::PATIENCE_PDUS, *};

    /// An acceptance of Verification, and an answer like this to the query's context.
    fn accept_both(query: PresentationContextResultReason) -> Vec<u8> {
        let contexts = [(1, PresentationContextResultReason::Acceptance), (3, query)];
        let mut bytes = Vec::new();
        let accept = AssociationAC {
            protocol_version: 1,
            calling_ae_title: "LOADBALANCER".to_owned(),
            called_ae_title: "LB-SCP".to_owned(),
            application_context_name: "1.2.840.10008.3.1.1.1".to_owned(),
            presentation_contexts: contexts
                .into_iter()
                .map(|(id, reason)| PresentationContextResult {
                    id,
                    reason,
                    transfer_syntax: "1.2.840.10008.1.2".to_owned(),
                })
                .collect(),
            user_variables: vec![UserVariableItem::MaxLength(16_384)],
        };
        write_pdu(&mut bytes, &Pdu::AssociationAC(accept)).unwrap();
        bytes
    }

    fn accept_bytes() -> Vec<u8> {
        accept_both(PresentationContextResultReason::AbstractSyntaxNotSupported)
    }

    /// How the check parts from a server that says exactly this, whatever it is asked, and closes; and the note.
    fn parting(check: &DicomCheck, said: &[u8]) -> (Result<Leave, Failure>, Option<String>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut association = Association::over(tokio::io::join(said, tokio::io::sink()));
            let mut clock = Stopwatch::start(Duration::from_secs(60));
            let outcome = converse(&mut association, check, &mut clock).await;
            (outcome, clock.note)
        })
    }

    /// What an echo makes of such a server.
    fn outcome(said: &[u8]) -> Result<(), Failure> {
        parting(&DicomCheck::new("LOADBALANCER", "LB-SCP"), said).0.map(drop)
    }

    fn find_check() -> DicomCheck {
        DicomCheck { find: Some(FindModel::Study), ..DicomCheck::new("LOADBALANCER", "LB-SCP") }
    }

    /// A P-DATA-TF with one fragment.
    fn fragment(context: u8, value_type: PDataValueType, data: &[u8], is_last: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        let value = PDataValue { presentation_context_id: context, value_type, is_last, data: data.to_vec() };
        write_pdu(&mut bytes, &Pdu::PData { data: vec![value] }).unwrap();
        bytes
    }

    /// A C-FIND-RSP with this status, and a data set if it is pending.
    fn find_bytes(status: u16) -> Vec<u8> {
        let pending = query::is_pending(status);
        let mut command = vec![0, 0, 0, 1, 2, 0, 0, 0, 0x20, 0x80];
        command.extend_from_slice(&[0, 0, 0x20, 1, 2, 0, 0, 0, 2, 0]);
        command.extend_from_slice(&[0, 0, 0, 8, 2, 0, 0, 0, 1, u8::from(!pending)]);
        command.extend_from_slice(&[0, 0, 0, 9, 2, 0, 0, 0]);
        command.extend_from_slice(&status.to_le_bytes());
        let mut bytes = fragment(3, PDataValueType::Command, &command, true);
        if pending {
            bytes.extend(fragment(3, PDataValueType::Data, &query::identifier(FindModel::Study), true));
        }
        bytes
    }

    /// A C-ECHO-RSP with this status, in two fragments, in two PDUs.
    fn response_bytes(status: u16) -> Vec<u8> {
        let mut command = vec![0, 0, 0, 1, 2, 0, 0, 0, 0x30, 0x80];
        command.extend_from_slice(&[0, 0, 0x20, 1, 2, 0, 0, 0, 1, 0]);
        command.extend_from_slice(&[0, 0, 0, 9, 2, 0, 0, 0]);
        command.extend_from_slice(&status.to_le_bytes());
        let (first, second) = command.split_at(13);
        [(first, false), (second, true)]
            .into_iter()
            .flat_map(|(part, is_last)| fragment(1, PDataValueType::Command, part, is_last))
            .collect()
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
            said.extend_from_slice(&[4, 0, 0, 0, 0, 6, 0, 0, 0, 2, 1, 1]);
        }
        assert_eq!(outcome(&said).unwrap_err().reason, FailureReason::ProtocolError);
    }

    #[test]
    fn an_ae_title_that_cannot_be_sent_is_our_fault() {
        let check = DicomCheck::new("LOADBALANCER", "SEVENTEEN-LETTERS");
        let failure = parting(&check, b"").0.unwrap_err();
        assert_eq!(failure.reason, FailureReason::Local);
    }

    #[test]
    fn a_rejection_passes_where_an_answer_is_all_that_is_asked() {
        let rejection = [3, 0, 0, 0, 0, 4, 0, 1, 1, 7];
        let check = DicomCheck { accept_reject: true, ..DicomCheck::new("LOADBALANCER", "LB-SCP") };
        let (outcome, note) = parting(&check, &rejection);
        assert_eq!(outcome, Ok(Leave::Gone));
        assert_eq!(
            note.unwrap(),
            "A-ASSOCIATE-RJ: called AE title not recognised (LB-SCP): an answer, which is all that is asked"
        );
    }

    #[test]
    fn a_query_that_finds_nothing_or_somebody_has_been_answered() {
        let greeting = [accept_both(PresentationContextResultReason::Acceptance), response_bytes(0)].concat();
        for answers in [&[0_u16][..], &[0xff00, 0], &[0xff01, 0xff00, query::CANCELLED]] {
            let found = answers.iter().flat_map(|status| find_bytes(*status)).collect();
            let (outcome, note) = parting(&find_check(), &[greeting.clone(), found].concat());
            assert_eq!((outcome, note), (Ok(Leave::Release), None), "{answers:x?}");
        }
    }

    #[test]
    fn results_without_end_have_the_association_aborted() {
        let greeting = [accept_both(PresentationContextResultReason::Acceptance), response_bytes(0)].concat();
        let said = [greeting, find_bytes(0xff00).repeat(PATIENCE_RESULTS)].concat();
        let (outcome, note) = parting(&find_check(), &said);
        assert_eq!(outcome, Ok(Leave::Abort));
        assert!(note.unwrap().contains("in spite of C-CANCEL"));
    }

    #[test]
    fn a_query_that_fails_says_how() {
        let greeting = [accept_both(PresentationContextResultReason::Acceptance), response_bytes(0)].concat();
        for (status, text) in [
            (0xa700, "C-FIND: status 0xa700, out of resources"),
            (0xc001, "C-FIND: status 0xc001, unable to process"),
            (query::CANCELLED, "C-FIND: status 0xfe00, cancelled, which nobody asked for"),
        ] {
            let said = [greeting.clone(), find_bytes(status)].concat();
            let failure = parting(&find_check(), &said).0.unwrap_err();
            assert_eq!((failure.reason, failure.text.as_str()), (FailureReason::FindFailed, text));
        }
    }

    #[test]
    fn a_model_that_is_not_accepted_is_named() {
        let said = [accept_bytes(), response_bytes(0)].concat();
        let failure = parting(&find_check(), &said).0.unwrap_err();
        assert_eq!(failure.reason, FailureReason::FindFailed);
        assert_eq!(
            failure.text,
            "A-ASSOCIATE-AC: Study Root FIND (1.2.840.10008.5.1.4.1.2.2.1) not accepted: abstract syntax not supported"
        );
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
