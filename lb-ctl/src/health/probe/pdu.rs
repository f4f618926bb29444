//! PDUs from a stream (PS3.8 9.3), with a bound on what a server can make us hold.
//!
//! dicom-ul reads what has structure (A-ASSOCIATE-AC, P-DATA-TF). The four bytes of A-ASSOCIATE-RJ and A-ABORT are
//! read here: its reader refuses codes that the standard does not list, and a rejection with an odd code is still
//! a rejection.
#![forbid(unsafe_code)]

use std::io;

use dicom_ul::pdu::{AssociationAC, PDU_HEADER_SIZE, PDataValue, Pdu, read_pdu};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Longest PDU body taken. An A-ASSOCIATE-AC has some hundred bytes, a C-ECHO-RSP about eighty.
const MAX_PDU_BYTES: u32 = 64 * 1024;

/// Longest body of a P-DATA-TF that we tell the server to send (PS3.8 D.1).
pub(super) const ANNOUNCED_PDU_BYTES: u32 = 16 * 1024;

/// A PDU from the server.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A-ABORT (PS3.8 table 9-26).
    Abort {
        /// 0 the application, 2 its DICOM library.
        source: u8,
        /// Why, if it was the library.
        reason: u8,
    },
    /// A-ASSOCIATE-AC.
    Accept(AssociationAC),
    /// P-DATA-TF.
    Data(Vec<PDataValue>),
    /// A-ASSOCIATE-RJ (PS3.8 table 9-21).
    Reject {
        /// Who rejected.
        source: u8,
        /// Why.
        reason: u8,
    },
    /// A-RELEASE-RP.
    ReleaseRp,
    /// A-RELEASE-RQ.
    ReleaseRq,
}

/// Why there is no PDU.
#[derive(Debug)]
pub(super) enum Fault {
    /// The connection ended.
    Closed,
    /// What the kernel said.
    Io(io::Error),
    /// The bytes are no PDU, or none that a server may send; the end of a sentence.
    NotDicom(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Closed } else { Self::Io(error) }
    }
}

/// Reads one PDU. Memory grows with the bytes that came, never with a length that was claimed.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Incoming, Fault> {
    let mut header = [0_u8; PDU_HEADER_SIZE as usize];
    stream.read_exact(&mut header).await?;
    let [kind, _, l0, l1, l2, l3] = header;
    if !(0x02..=0x07).contains(&kind) {
        return Err(Fault::NotDicom(describe_stranger(header)));
    }
    let length = u32::from_be_bytes([l0, l1, l2, l3]);
    if length > MAX_PDU_BYTES {
        return Err(Fault::NotDicom(format!(
            "it announced a PDU of {length} bytes, more than the {MAX_PDU_BYTES} that a check takes"
        )));
    }
    let mut pdu = header.to_vec();
    let body = stream.take(length.into()).read_to_end(&mut pdu).await?;
    if body < length as usize {
        return Err(Fault::Closed);
    }
    match kind {
        0x03 => body_codes(&pdu).map(|[source, reason]| Incoming::Reject { source, reason }),
        0x05 => Ok(Incoming::ReleaseRq),
        0x06 => Ok(Incoming::ReleaseRp),
        0x07 => body_codes(&pdu).map(|[source, reason]| Incoming::Abort { source, reason }),
        _ => structured(&pdu),
    }
}

/// Source and reason stand in bytes 9 and 10 of A-ASSOCIATE-RJ and A-ABORT alike.
fn body_codes(pdu: &[u8]) -> Result<[u8; 2], Fault> {
    match pdu {
        [_, _, _, _, _, _, _, _, source, reason, ..] => Ok([*source, *reason]),
        _ => Err(Fault::NotDicom("it sent a PDU too short for what it is".to_owned())),
    }
}

fn structured(pdu: &[u8]) -> Result<Incoming, Fault> {
    match read_pdu(pdu, MAX_PDU_BYTES, true) {
        Ok(Some(Pdu::AssociationAC(accept))) => Ok(Incoming::Accept(accept)),
        Ok(Some(Pdu::PData { data })) => Ok(Incoming::Data(data)),
        Ok(_) => Err(Fault::NotDicom("it sent a PDU that contradicts itself".to_owned())),
        Err(error) => Err(Fault::NotDicom(format!("it sent a malformed PDU: {error}"))),
    }
}

/// Names what answered, as far as six bytes tell.
fn describe_stranger(header: [u8; 6]) -> String {
    if header[0] == 0x15 && header[1] == 3 {
        "it answered with a TLS alert: the port wants TLS".to_owned()
    } else if header.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
        format!("it answered with text: {:?}", String::from_utf8_lossy(&header))
    } else {
        format!("it answered with a PDU of type {:#04x}", header[0])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads until the bytes are used up or wrong; a server that says nothing more has closed.
    fn read_all(mut bytes: &[u8]) -> (usize, Fault) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut count = 0;
            loop {
                match read(&mut bytes).await {
                    Ok(_) => count += 1,
                    Err(fault) => return (count, fault),
                }
            }
        })
    }

    #[test]
    fn a_length_beyond_the_bound_is_refused_before_anything_is_read() {
        let (_, fault) = read_all(&[0x02, 0, 0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(fault, Fault::NotDicom(text) if text.contains("4294967295 bytes")));
    }

    #[test]
    fn a_pdu_cut_short_is_a_closed_connection() {
        assert!(matches!(read_all(&[0x02, 0, 0, 0, 0, 9, 1, 2]), (0, Fault::Closed)));
        assert!(matches!(read_all(&[0x06, 0]), (0, Fault::Closed)));
    }

    #[test]
    fn rejections_with_unlisted_codes_are_rejections() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let mut bytes: &[u8] = &[0x03, 0, 0, 0, 0, 4, 0, 9, 8, 77];
        let pdu = runtime.block_on(read(&mut bytes)).unwrap();
        assert!(matches!(pdu, Incoming::Reject { source: 8, reason: 77 }), "{pdu:?}");
    }

    #[test]
    fn strangers_are_named() {
        let said = |bytes: &[u8]| match read_all(bytes) {
            (0, Fault::NotDicom(text)) => text,
            other => panic!("{other:?}"),
        };
        assert!(said(b"HTTP/1.1 400 Bad Request").contains("\"HTTP/1\""));
        assert!(said(&[0x15, 3, 1, 0, 2, 2, 40]).contains("TLS"));
        assert!(said(&[0xfe; 9]).contains("0xfe"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_end_in_a_fault(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            read_all(&bytes);
        }

        #[test]
        fn arbitrary_bodies_behind_a_right_header_end_in_a_fault(
            kind in 1_u8..8,
            body in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let mut bytes = vec![kind, 0, 0, 0];
            bytes.extend_from_slice(&u16::try_from(body.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(&body);
            read_all(&bytes);
        }
    }
}
