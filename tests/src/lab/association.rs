//! A DICOM association that lives as long as it is wanted and echoes all the while: it tells whether anything between
//! client and server ever broke it.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    scu::{CALLED, CALLING},
    topology::Host,
};

/// No answer for this long breaks the association.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Verification SOP Class (PS3.4 A.4).
const VERIFICATION: &str = "1.2.840.10008.1.1";
/// Implicit VR Little Endian (PS3.5 A.1).
const IMPLICIT_LITTLE_ENDIAN: &str = "1.2.840.10008.1.2";
/// DICOM application context (PS3.7 A.2.1).
const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";
/// The one presentation context proposed.
const CONTEXT: u8 = 1;

/// PDU types (PS3.8 9.3).
const ASSOCIATE_RQ: u8 = 1;
const ASSOCIATE_AC: u8 = 2;
const P_DATA: u8 = 4;
const RELEASE_RQ: u8 = 5;
const RELEASE_RP: u8 = 6;

/// A C-ECHO every so often on one association, on a thread of its own.
#[derive(Debug)]
pub struct EchoLoop {
    echoes: Arc<AtomicU64>,
    /// Dropped, it ends the loop.
    stop: Sender<()>,
    thread: JoinHandle<Report>,
}

/// What became of the association.
#[derive(Debug)]
pub struct Report {
    /// Echoes answered with success.
    pub echoes: u64,
    /// The longest wait for an answer.
    pub slowest: Duration,
    /// What broke the association; `None` when it was released in peace.
    pub broken: Option<io::Error>,
}

impl EchoLoop {
    /// Opens the association from `client` and echoes every `interval`.
    ///
    /// # Panics
    ///
    /// When the server does not accept the association.
    #[must_use]
    pub fn start(client: &Host, to: SocketAddr, interval: Duration) -> Self {
        let mut association = client
            .netns
            .enter(|| Association::open(to))
            .unwrap_or_else(|error| panic!("cannot open an association with {to}: {error}"));
        let (stop, stopped) = channel();
        let echoes = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&echoes);
        let thread = thread::spawn(move || echo_until(&mut association, interval, &stopped, &count));
        Self { echoes, stop, thread }
    }

    /// Echoes answered so far.
    #[must_use]
    pub fn echoes(&self) -> u64 {
        self.echoes.load(Ordering::Relaxed)
    }

    /// True when the association has broken.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Releases the association and tells how it went.
    ///
    /// # Panics
    ///
    /// When the loop itself did.
    #[must_use]
    pub fn finish(self) -> Report {
        drop(self.stop);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn echo_until(
    association: &mut Association,
    interval: Duration,
    stopped: &Receiver<()>,
    count: &AtomicU64,
) -> Report {
    let mut report = Report { echoes: 0, slowest: Duration::ZERO, broken: None };
    while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        let begun = Instant::now();
        // Message ids may come round again once answered (PS3.7 E.1).
        match association.echo((report.echoes % 0xffff) as u16 + 1) {
            Ok(()) => report.echoes = count.fetch_add(1, Ordering::Relaxed) + 1,
            Err(error) => {
                report.broken = Some(error);
                return report;
            }
        }
        report.slowest = report.slowest.max(begun.elapsed());
    }
    report.broken = association.release().err();
    report
}

/// An open association.
struct Association {
    stream: TcpStream,
}

impl Association {
    /// Connects and negotiates.
    fn open(to: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&to, ANSWER_DEADLINE)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        stream.set_nodelay(true)?;
        let mut association = Self { stream };
        association.stream.write_all(&request_pdu(CALLING, CALLED))?;
        let accept = association.receive(ASSOCIATE_AC)?;
        if context_accepted(&accept) {
            return Ok(association);
        }
        Err(bad("the server does not accept Verification"))
    }

    /// C-ECHO and its answer (PS3.7 9.3.5).
    fn echo(&mut self, message_id: u16) -> io::Result<()> {
        self.send(P_DATA, &echo_request(message_id))?;
        let answer = self.receive(P_DATA)?;
        // PDV: length (4), context (1), header (1); then the command set.
        let command = answer.get(6..).unwrap_or_default();
        if us_element(command, 0x0120) != Some(message_id) {
            return Err(bad("the answer is to another message"));
        }
        match us_element(command, 0x0900) {
            Some(0) => Ok(()),
            status => Err(bad(&format!("C-ECHO answered with status {status:04x?}"))),
        }
    }

    /// A-RELEASE and its answer.
    fn release(&mut self) -> io::Result<()> {
        self.send(RELEASE_RQ, &[0; 4])?;
        self.receive(RELEASE_RP).map(drop)
    }

    fn send(&mut self, kind: u8, body: &[u8]) -> io::Result<()> {
        self.stream.write_all(&pdu(kind, body))
    }

    /// Body of the next PDU, which must be of `kind`.
    fn receive(&mut self, kind: u8) -> io::Result<Vec<u8>> {
        let mut head = [0; 6];
        self.stream.read_exact(&mut head)?;
        let [found, _, length @ ..] = head;
        let mut body = vec![0; u32::from_be_bytes(length).min(1 << 20) as usize];
        self.stream.read_exact(&mut body)?;
        if found == kind {
            return Ok(body);
        }
        Err(bad(&format!("the server sent a PDU of type {found:#04x} {body:02x?}, not {kind:#04x}")))
    }
}

/// A-ASSOCIATE-RQ that proposes Verification (PS3.8 9.3.2).
#[must_use]
pub fn request_pdu(calling: &str, called: &str) -> Vec<u8> {
    pdu(ASSOCIATE_RQ, &associate_request(calling, called))
}

/// True when this is the beginning of A-ASSOCIATE-AC.
#[must_use]
pub fn accepts(answer: &[u8]) -> bool {
    answer.first() == Some(&ASSOCIATE_AC)
}

/// Body of A-ASSOCIATE-RQ.
fn associate_request(calling: &str, called: &str) -> Vec<u8> {
    let context = [
        vec![CONTEXT, 0, 0, 0],
        item(0x30, VERIFICATION.as_bytes()),
        item(0x40, IMPLICIT_LITTLE_ENDIAN.as_bytes()),
    ]
    .concat();
    // The longest P-DATA that we take, and our implementation's identifier (PS3.8 D.1, PS3.7 D.3.3.2).
    let user = [item(0x51, &16384_u32.to_be_bytes()), item(0x52, b"2.25.1")].concat();
    [
        vec![0, 1, 0, 0],
        format!("{called:16}{calling:16}").into_bytes(),
        vec![0; 32],
        item(0x10, APPLICATION_CONTEXT.as_bytes()),
        item(0x20, &context),
        item(0x50, &user),
    ]
    .concat()
}

/// Body of the P-DATA-TF that carries C-ECHO-RQ (PS3.8 9.3.5, PS3.7 table 9.3-12).
fn echo_request(message_id: u16) -> Vec<u8> {
    let mut uid = VERIFICATION.as_bytes().to_vec();
    uid.push(0);
    let elements = [
        element(0x0002, &uid),
        element(0x0100, &0x0030_u16.to_le_bytes()),
        element(0x0110, &message_id.to_le_bytes()),
        element(0x0800, &0x0101_u16.to_le_bytes()),
    ]
    .concat();
    let group_length = u32::try_from(elements.len()).unwrap_or(u32::MAX);
    let command = [element(0x0000, &group_length.to_le_bytes()), elements].concat();
    // Message control header 3: a command, and its last fragment (PS3.8 E.2).
    let value_length = u32::try_from(command.len() + 2).unwrap_or(u32::MAX);
    [value_length.to_be_bytes().to_vec(), vec![CONTEXT, 3], command].concat()
}

/// True when A-ASSOCIATE-AC accepts our presentation context (PS3.8 9.3.3.2).
fn context_accepted(body: &[u8]) -> bool {
    let mut items = body.get(68..).unwrap_or_default();
    while let [kind, _, high, low, rest @ ..] = items {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (value, after) = rest.split_at(length);
        if *kind == 0x21 && value.first() == Some(&CONTEXT) {
            return value.get(2) == Some(&0);
        }
        items = after;
    }
    false
}

/// A PDU: type, length, body.
fn pdu(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[kind, 0], &length[..], body].concat()
}

/// An item of the association PDUs: type, length, value.
fn item(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[kind, 0], &length[..], value].concat()
}

/// An element of a command set: group 0000 in Implicit VR Little Endian (PS3.7 6.3.1).
fn element(number: u16, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes();
    [&[0, 0], &number.to_le_bytes()[..], &length[..], value].concat()
}

/// A 16-bit element of a command set.
fn us_element(mut command: &[u8], wanted: u16) -> Option<u16> {
    loop {
        let (head, rest) = command.split_at_checked(8)?;
        let number = u16::from_le_bytes([*head.get(2)?, *head.get(3)?]);
        let length = u32::from_le_bytes([*head.get(4)?, *head.get(5)?, *head.get(6)?, *head.get(7)?]);
        let (value, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        if number == wanted {
            return Some(u16::from_le_bytes([*value.first()?, *value.get(1)?]));
        }
        command = after;
    }
}

fn bad(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
