//! A password, typed unseen or read from a file. Never an argument: those are seen by everybody on the machine.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    path::Path,
};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

/// Longest password, in bytes.
const MAX_BYTES: usize = 1024;
/// What keys send (ECMA-48): end of text, end of transmission, erasing in either way.
const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const ERASE: [u8; 2] = [0x08, 0x7f];

/// The first line of a file.
///
/// # Errors
///
/// When it cannot be read.
pub(super) fn from_file(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let line = text.lines().next().unwrap_or_default();
    if line.len() > MAX_BYTES {
        return Err(format!("the first line of {shown} is longer than {MAX_BYTES} bytes: name another file"));
    }
    Ok(line.to_owned())
}

/// Asks the person at the terminal. Blocks.
///
/// # Errors
///
/// When there is no terminal, or the question was broken off.
pub(super) fn ask(question: &str) -> Result<String, String> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|error| {
        format!(
            "the password cannot be asked for: {error}: put it into a file and name that with --password-file"
        )
    })?;
    let failed = |error: &dyn std::fmt::Display| format!("the password cannot be asked for: {error}");
    // Unseen first: who answers at once is neither shown nor lost.
    let mut writer = &terminal;
    let unseen = Unseen::begin(&terminal).map_err(|error| failed(&error))?;
    let asked = write!(writer, "{question}: ").map_err(|error| failed(&error));
    let typed = asked.and_then(|()| read_line(&terminal));
    drop(unseen);
    writeln!(writer).map_err(|error| failed(&error))?;
    typed
}

fn read_line(mut terminal: &File) -> Result<String, String> {
    let mut typed = Vec::new();
    let mut byte = [0];
    while typed.len() <= MAX_BYTES {
        match terminal.read(&mut byte) {
            Ok(1) => {}
            Ok(_) | Err(_) => return Err("the terminal is gone: nothing was done".to_owned()),
        }
        match byte {
            [b'\n' | b'\r'] => {
                return String::from_utf8(typed)
                    .map_err(|_error| "the password is not UTF-8: put it into a file".to_owned());
            }
            [INTERRUPT | END] => return Err("broken off: nothing was done".to_owned()),
            [erase] if ERASE.contains(&erase) => {
                // A character of several bytes goes as a whole (RFC 3629, 3).
                while typed.pop().is_some_and(|last| last & 0xc0 == 0x80) {}
            }
            [other] => typed.push(other),
        }
    }
    Err(format!("the password is longer than {MAX_BYTES} bytes: nothing was done"))
}

/// A terminal that shows nothing of what is typed and gives each key at once, an interrupt too, so that it is put back
/// whatever is typed.
struct Unseen<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Unseen<'t> {
    fn begin(terminal: &'t File) -> rustix::io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut during = before.clone();
        during.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        during.special_codes[SpecialCodeIndex::VMIN] = 1;
        during.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(terminal, OptionalActions::Flush, &during)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing more.
        let _ = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}
