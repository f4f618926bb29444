//! HL7 version 2 messages, as far as an acknowledgment has to be understood: segments, and fields in them.
#![forbid(unsafe_code)]

/// A message that begins with a header.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a> {
    text: &'a str,
    /// What stands between fields: the fourth character (HL7 2.5, 2.5.4).
    separator: char,
}

impl<'a> Message<'a> {
    /// `None` when the text does not begin as every message does.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let separator = text.strip_prefix("MSH")?.chars().next()?;
        (!separator.is_alphanumeric() && !separator.is_control()).then_some(Self { text, separator })
    }

    /// A field of the first segment of that name, counted as the standard does; empty when there is none.
    pub(super) fn field(self, segment: &str, number: usize) -> &'a str {
        // The separator itself is the first field of a header.
        let index = if segment == "MSH" { number.saturating_sub(1) } else { number };
        self.segment(segment).and_then(|found| found.split(self.separator).nth(index)).unwrap_or_default()
    }

    /// The first segment of that name. Segments end with CR; LF, which some senders use, does no harm.
    pub(super) fn segment(self, name: &str) -> Option<&'a str> {
        self.text.split(['\r', '\n']).find(|segment| segment.split(self.separator).next() == Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_as_the_standard_does() {
        let text = "MSH|^~\\&|A|B|C|D|20260101||ACK|M7|P|2.5\rMSA|AE|M7|no such patient\r";
        let message = Message::read(text).unwrap();
        assert_eq!(message.field("MSH", 10), "M7");
        assert_eq!(message.field("MSA", 1), "AE");
        assert_eq!(message.field("MSA", 3), "no such patient");
        assert_eq!(message.field("MSA", 9), "");
        assert_eq!(message.field("ERR", 1), "");
    }

    #[test]
    fn a_message_has_the_separator_that_its_header_names() {
        let message = Message::read("MSH!^~\\&!A\nMSAX!XX\nMSA!AA!7\n").unwrap();
        assert_eq!((message.field("MSA", 1), message.field("MSA", 2)), ("AA", "7"));
    }

    #[test]
    fn what_begins_otherwise_is_no_message() {
        for text in ["", "MSH", "MSA|AA", "MSHAA", "\rMSH|"] {
            assert!(Message::read(text).is_none(), "{text:?}");
        }
    }
}
