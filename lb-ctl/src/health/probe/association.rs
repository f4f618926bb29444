//! An association: asked for, talked over, released or aborted (PS3.8 7 and 9.3).
#![forbid(unsafe_code)]

use std::{collections::VecDeque, time::Duration};

use dicom_ul::pdu::{
    AbortRQSource, AssociationAC, AssociationRQ, PDataValue, PDataValueType, Pdu,
    PresentationContextProposed, PresentationContextResultReason, UserVariableItem, write_pdu,
};
use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    task::unconstrained,
    time::timeout_at,
};

use super::{
    Stopwatch, failure,
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

/// With less time than this left, the association is aborted: a release would only be cut off.
const RELEASE_MARGIN: Duration = Duration::from_millis(20);
/// More PDUs than this while waiting for one thing are not an answer, however fast they come.
pub(super) const PATIENCE_PDUS: usize = 32;
/// Responses and what they find are some hundred bytes; fragments beyond this are neither.
const MAX_PART_BYTES: usize = 16 * 1024;

/// A service that is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct SopClass {
    /// For people.
    pub(super) name: &'static str,
    /// For servers.
    pub(super) uid: &'static str,
}

/// A presentation context: a service by a number (PS3.8 7.1.1.13).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Context {
    /// Odd.
    pub(super) id: u8,
    pub(super) sop_class: SopClass,
}

/// How an association was answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// A-ASSOCIATE-AC.
    Accepted(AssociationAC),
    /// A-ASSOCIATE-RJ, in words.
    Rejected(Failure),
}

/// Our end of an association.
#[derive(Debug)]
pub(super) struct Association<S> {
    stream: S,
    /// Fragments that came in one PDU with others.
    unread: VecDeque<PDataValue>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Association<S> {
    /// Over a connection, on which nothing has been said yet.
    pub(super) const fn over(stream: S) -> Self {
        Self { stream, unread: VecDeque::new() }
    }

    /// A-ASSOCIATE-RQ and what it is answered with.
    pub(super) async fn ask(&mut self, check: &DicomCheck, contexts: &[Context]) -> Result<Answer, Failure> {
        let DicomCheck { calling_aet, called_aet, .. } = check;
        let proposed = |context: &Context| PresentationContextProposed {
            id: context.id,
            abstract_syntax: context.sop_class.uid.to_owned(),
            transfer_syntaxes: vec![IMPLICIT_VR_LITTLE_ENDIAN.to_owned()],
        };
        let request = Pdu::AssociationRQ(AssociationRQ {
            protocol_version: 1,
            calling_ae_title: calling_aet.clone(),
            called_ae_title: called_aet.clone(),
            application_context_name: APPLICATION_CONTEXT.to_owned(),
            presentation_contexts: contexts.iter().map(proposed).collect(),
            user_variables: vec![
                UserVariableItem::MaxLength(pdu::ANNOUNCED_PDU_BYTES),
                UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS.to_owned()),
                UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION.to_owned()),
            ],
        });
        self.send(&[request], "associate").await?;
        match self.receive("associate").await? {
            Incoming::Accept(accept) => Ok(Answer::Accepted(accept)),
            Incoming::Reject { source, reason } => {
                Ok(Answer::Rejected(rejected(source, reason, calling_aet, called_aet)))
            }
            Incoming::Data(_) | Incoming::ReleaseRp | Incoming::ReleaseRq | Incoming::Abort { .. } => {
                Err(not_dicom("associate", "it answered A-ASSOCIATE-RQ with neither -AC nor -RJ"))
            }
        }
    }

    /// Sends a message: a command set, and the data set that belongs to it.
    pub(super) async fn say(
        &mut self,
        step: &str,
        context: Context,
        command: Vec<u8>,
        data_set: Option<Vec<u8>>,
    ) -> Result<(), Failure> {
        // A PDU each, as servers are used to, though one could carry both (PS3.8 E.1). Ours are shorter than any limit
        // that a server may set.
        let part = |value_type, data| Pdu::PData {
            data: vec![PDataValue { presentation_context_id: context.id, value_type, is_last: true, data }],
        };
        let mut pdus = vec![part(PDataValueType::Command, command)];
        pdus.extend(data_set.map(|data_set| part(PDataValueType::Data, data_set)));
        self.send(&pdus, step).await
    }

    /// The fragments of a command set or of a data set, joined (PS3.8 E.2).
    pub(super) async fn hear(
        &mut self,
        step: &str,
        context: Context,
        part: &PDataValueType,
    ) -> Result<Vec<u8>, Failure> {
        let mut whole = Vec::new();
        for _ in 0..PATIENCE_PDUS {
            while let Some(value) = self.unread.pop_front() {
                if value.presentation_context_id != context.id || value.value_type != *part {
                    return Err(not_dicom(step, "it sent data that nobody asked for"));
                }
                whole.extend_from_slice(&value.data);
                if whole.len() > MAX_PART_BYTES {
                    return Err(not_dicom(step, "its answer is too long for what was asked"));
                }
                if value.is_last {
                    return Ok(whole);
                }
            }
            match self.receive(step).await? {
                Incoming::Data(values) => self.unread.extend(values),
                Incoming::ReleaseRq => {
                    self.send(&[Pdu::ReleaseRP], step).await?;
                    return Err(failure(
                        FailureReason::ConnectionClosed,
                        format!("{step}: the server released the association in place of an answer"),
                    ));
                }
                Incoming::Accept(_)
                | Incoming::Reject { .. }
                | Incoming::ReleaseRp
                | Incoming::Abort { .. } => {
                    return Err(not_dicom(step, "it answered with a PDU of another phase"));
                }
            }
        }
        Err(not_dicom(step, "it sent fragment after fragment and no end"))
    }

    /// Asks for the release and waits for the answer until the deadline; aborts where that is not to be had.
    pub(super) async fn release(&mut self, clock: &Stopwatch) {
        if clock.remaining() > RELEASE_MARGIN {
            let released = timeout_at(clock.deadline(), self.ask_release()).await;
            if matches!(released, Ok(Ok(()))) {
                return;
            }
        }
        self.abort();
    }

    /// A-RELEASE-RQ, and whatever comes until the association is over (PS3.8 7.2). A server may release, abort or
    /// close at the same moment: then it is over too.
    async fn ask_release(&mut self) -> Result<(), Failure> {
        self.send(&[Pdu::ReleaseRQ], "release").await?;
        for _ in 0..PATIENCE_PDUS {
            match pdu::read(&mut self.stream).await {
                Ok(Incoming::ReleaseRp | Incoming::Abort { .. }) => {
                    // The side that asked closes (PS3.8 9.2.3, AR-3); what goes wrong with that, dropping it mends.
                    let _dropped_next = self.stream.shutdown().await;
                    return Ok(());
                }
                Err(Fault::Closed) => return Ok(()),
                // Both asked at once (PS3.8 9.2.3, AR-8 and AR-9): answer, and wait for the server's answer.
                Ok(Incoming::ReleaseRq) => self.send(&[Pdu::ReleaseRP], "release").await?,
                Ok(Incoming::Data(_)) => {}
                Ok(Incoming::Accept(_) | Incoming::Reject { .. }) => break,
                Err(fault) => return Err(fault_in("release", fault)),
            }
        }
        Err(not_dicom("release", "it sent something else in place of A-RELEASE-RP"))
    }

    /// A-ABORT, without waiting: nothing of ours is on the way, so ten bytes fit into the socket. When they do not,
    /// the connection is broken, and closing it, which comes next, says all that can be said.
    pub(super) fn abort(&mut self) {
        let mut bytes = Vec::new();
        if write_pdu(&mut bytes, &Pdu::AbortRQ { source: AbortRQSource::ServiceUser }).is_ok() {
            let sending = async {
                self.stream.write_all(&bytes).await?;
                self.stream.flush().await
            };
            let _closing_anyway = unconstrained(sending).now_or_never();
        }
    }

    /// Together, lest the second wait for the kernel to learn that the first has arrived.
    async fn send(&mut self, pdus: &[Pdu], step: &str) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        for pdu in pdus {
            // Writing into memory fails for one thing only: an AE title that is empty, too long or not ASCII.
            write_pdu(&mut bytes, pdu).map_err(|error| {
                failure(
                    FailureReason::Local,
                    format!("{step}: not tried, {error}: check calling_aet and called_aet"),
                )
            })?;
        }
        let sending = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        sending.await.map_err(|error| fault_in(step, Fault::from(error)))
    }

    async fn receive(&mut self, step: &str) -> Result<Incoming, Failure> {
        match pdu::read(&mut self.stream).await {
            Ok(Incoming::Abort { source, reason }) => Err(aborted(step, source, reason)),
            Ok(pdu) => Ok(pdu),
            Err(fault) => Err(fault_in(step, fault)),
        }
    }
}

/// Why a context that was asked for is not to be had (PS3.8 table 9-18); `None` = it is.
pub(super) fn refusal(accept: &AssociationAC, context: Context) -> Option<String> {
    let why = match accept.presentation_contexts.iter().find(|answer| answer.id == context.id) {
        Some(answer) if answer.reason == PresentationContextResultReason::Acceptance => return None,
        Some(answer) => answer.reason.to_string(),
        None => "no word about it".to_owned(),
    };
    let SopClass { name, uid } = context.sop_class;
    Some(format!("A-ASSOCIATE-AC: {name} ({uid}) not accepted: {why}"))
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

/// A failure of a server that does not keep to the protocol.
pub(super) fn not_dicom(step: &str, why: &str) -> Failure {
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
