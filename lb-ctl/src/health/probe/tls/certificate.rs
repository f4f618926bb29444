//! What people want to know of an X.509 certificate: whose it is, who signed it, and when it counts. Enough of DER for
//! that and no more; whether a certificate is sound is for rustls to say.
#![forbid(unsafe_code)]

use std::time::SystemTime;

use super::super::legible;

/// Longest name that is shown.
const MAX_NAME_CHARS: usize = 80;

/// Tags of DER (X.690 8.1.2) that stand in a certificate (RFC 5280 4.1).
const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const BMP_STRING: u8 = 0x1e;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;

/// `commonName`, `organizationalUnitName`, `organizationName` (RFC 5280 A.1): the first that is there names somebody.
const NAMING: [(&[u8], &str); 3] = [(&[0x55, 4, 3], "CN"), (&[0x55, 4, 11], "OU"), (&[0x55, 4, 10], "O")];

/// A certificate, for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Facts {
    /// `CN=archive`.
    pub(super) subject: String,
    /// `CN=Hospital CA`.
    pub(super) issuer: String,
    /// Subject and issuer are one.
    pub(super) is_self_signed: bool,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Facts {
    /// Reads a certificate; `None` when it is none.
    pub(super) fn of(certificate: &[u8]) -> Option<Self> {
        let mut outer = Der(certificate).inside(SEQUENCE)?;
        let mut fields = outer.inside(SEQUENCE)?;
        if fields.0.first() == Some(&VERSION) {
            fields.inside(VERSION)?;
        }
        fields.inside(INTEGER)?;
        fields.inside(SEQUENCE)?;
        let issuer = fields.inside(SEQUENCE)?;
        let mut validity = fields.inside(SEQUENCE)?;
        let subject = fields.inside(SEQUENCE)?;
        Some(Self {
            is_self_signed: issuer.0 == subject.0,
            subject: name(subject),
            issuer: name(issuer),
            not_before: validity.time()?,
            not_after: validity.time()?,
        })
    }
}

/// `2026-01-02`.
pub(super) fn day(time: SystemTime) -> String {
    let mut text = String::new();
    // The crate's formatter refuses years beyond 9999, where `to_string` would panic.
    match std::fmt::write(&mut text, format_args!("{}", humantime::format_rfc3339_seconds(time))) {
        Ok(()) => text.split('T').next().unwrap_or_default().to_owned(),
        Err(std::fmt::Error) => "the year 10000".to_owned(),
    }
}

/// The attribute that names somebody best: `CN=archive`.
fn name(relative_names: Der<'_>) -> String {
    let mut found: [Option<String>; NAMING.len()] = [const { None }; NAMING.len()];
    let mut rest = relative_names;
    while let Some(mut set) = rest.inside(SET) {
        while let Some(mut attribute) = set.inside(SEQUENCE) {
            let Some(kind) = attribute.inside(OBJECT_IDENTIFIER) else { break };
            let Some((tag, value)) = attribute.element() else { break };
            let place = NAMING.iter().position(|(oid, _)| *oid == kind.0);
            if let Some(slot) = place.and_then(|at| found.get_mut(at)) {
                slot.get_or_insert_with(|| string(tag, value));
            }
        }
    }
    let mut named =
        NAMING.iter().zip(found).filter_map(|((_, key), value)| Some(format!("{key}={}", value?)));
    named.next().unwrap_or_else(|| "no name".to_owned())
}

fn string(tag: u8, value: &[u8]) -> String {
    let text = if tag == BMP_STRING {
        let pairs = value.chunks_exact(2).map(|pair| pair.iter().fold(0, |n, b| n << 8 | u16::from(*b)));
        char::decode_utf16(pairs).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    } else {
        String::from_utf8_lossy(value).into_owned()
    };
    legible(&text, MAX_NAME_CHARS)
}

/// What is left to read of something in DER.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Takes one element, whatever it is.
    fn element(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, mut rest) = rest.split_first()?;
        let length = match first {
            0..=0x7f => usize::from(first),
            // So many bytes of length follow (X.690 8.1.3.5); no certificate needs more than three.
            0x81..=0x83 => {
                let (bytes, after) = rest.split_at_checked(usize::from(first & 0x7f))?;
                rest = after;
                bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte))
            }
            _ => return None,
        };
        let (value, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, value))
    }

    /// Takes one element, which must be this, and looks into it.
    fn inside(&mut self, tag: u8) -> Option<Self> {
        let mut rest = *self;
        let (found, value) = rest.element()?;
        if found != tag {
            return None;
        }
        *self = rest;
        Some(Self(value))
    }

    /// Takes a time (RFC 5280 4.1.2.5).
    fn time(&mut self) -> Option<SystemTime> {
        let (tag, value) = self.element()?;
        let digits = std::str::from_utf8(value).ok()?.strip_suffix('Z')?;
        let (year, rest) = match tag {
            // Two digits stand for 1950 to 2049.
            UTC_TIME => {
                let (year, rest) = digits.split_at_checked(2)?;
                let century = if year < "50" { "20" } else { "19" };
                (format!("{century}{year}"), rest)
            }
            GENERALIZED_TIME => {
                let (year, rest) = digits.split_at_checked(4)?;
                (year.to_owned(), rest)
            }
            _ => return None,
        };
        let part = |at: usize| rest.get(at..at + 2);
        let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
        let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z");
        // Before 1970 the crate has no time; for "expired" that makes no difference.
        Some(humantime::parse_rfc3339(&text).unwrap_or(SystemTime::UNIX_EPOCH))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn made(names: &[(DnType, &str)], from: i32, to: i32) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in names {
            params.distinguished_name.push(kind.clone(), *value);
        }
        params.not_before = date_time_ymd(from, 1, 2);
        params.not_after = date_time_ymd(to, 12, 31);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn a_certificate_says_whose_it_is_and_when_it_counts() {
        let der =
            made(&[(DnType::OrganizationName, "Hospital"), (DnType::CommonName, "archive")], 2020, 2060);
        let facts = Facts::of(&der).unwrap();
        assert_eq!((facts.subject.as_str(), facts.issuer.as_str()), ("CN=archive", "CN=archive"));
        assert!(facts.is_self_signed);
        // The one is UTCTime, the other GeneralizedTime.
        assert_eq!((day(facts.not_before), day(facts.not_after)), ("2020-01-02".into(), "2060-12-31".into()));
    }

    #[test]
    fn who_has_no_common_name_is_known_by_another() {
        let subject = |names: &[_]| Facts::of(&made(names, 1999, 2020)).unwrap().subject;
        assert_eq!(subject(&[(DnType::OrganizationName, "Hospital")]), "O=Hospital");
        assert_eq!(subject(&[(DnType::CountryName, "DE")]), "no name");
        assert_eq!(subject(&[(DnType::CommonName, "a\u{1b}[31m")]), "CN=a?[31m", "no escapes for a terminal");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_certificate(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(Facts::of(&bytes), None);
        }

        #[test]
        fn a_certificate_with_bytes_changed_never_panics(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        ) {
            let mut der = made(&[(DnType::CommonName, "archive")], 2020, 2060);
            for (index, value) in changes {
                let at = index.index(der.len());
                der[at] = value;
            }
            let _ = Facts::of(&der).map(|facts| (day(facts.not_before), day(facts.not_after)));
        }
    }
}
