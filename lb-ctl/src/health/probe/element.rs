//! Elements of data sets in implicit VR little endian: tag, length, value (PS3.5 7.1.3).
#![forbid(unsafe_code)]

/// Group and element.
pub(super) type Tag = (u16, u16);

/// Appends an element.
pub(super) fn push(out: &mut Vec<u8>, tag: Tag, value: &[u8]) {
    out.extend_from_slice(&tag.0.to_le_bytes());
    out.extend_from_slice(&tag.1.to_le_bytes());
    out.extend_from_slice(&length_of(value).to_le_bytes());
    out.extend_from_slice(value);
}

/// Appends a UID, which is padded with a null when its length is odd (PS3.5 9.1).
pub(super) fn push_uid(out: &mut Vec<u8>, tag: Tag, uid: &str) {
    push_padded(out, tag, uid, 0);
}

/// Appends text, which is padded with a space when its length is odd (PS3.5 6.2).
pub(super) fn push_text(out: &mut Vec<u8>, tag: Tag, text: &str) {
    push_padded(out, tag, text, b' ');
}

fn push_padded(out: &mut Vec<u8>, tag: Tag, text: &str, padding: u8) {
    let mut value = text.as_bytes().to_vec();
    if !value.len().is_multiple_of(2) {
        value.push(padding);
    }
    push(out, tag, &value);
}

/// Our own values are a few dozen bytes.
pub(super) fn length_of(value: &[u8]) -> u32 {
    u32::try_from(value.len()).unwrap_or(u32::MAX)
}
