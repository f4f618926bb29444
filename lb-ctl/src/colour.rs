//! Whether a stream gets colours: a terminal does, unless its user wants none (no-color.org).
#![forbid(unsafe_code)]

use std::{env, ffi::OsStr, io::IsTerminal};

/// True when colours may be written to the stream.
#[must_use]
pub fn is_wanted(stream: &impl IsTerminal) -> bool {
    is_wanted_for(stream.is_terminal(), env::var_os("NO_COLOR").as_deref())
}

/// Any value of `NO_COLOR` but the empty one means no colour.
fn is_wanted_for(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_whose_user_does_not_refuse_them() {
        let refused = Some(OsStr::new("1"));
        assert!(is_wanted_for(true, None) && is_wanted_for(true, Some(OsStr::new(""))));
        assert!(!is_wanted_for(true, refused));
        assert!(!is_wanted_for(false, None) && !is_wanted_for(false, refused));
    }
}
