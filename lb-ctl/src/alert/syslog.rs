//! Lines to the system's log, as syslog(3) writes them (RFC 3164): who receives them adds time and host.

use std::{io, os::unix::net::UnixDatagram, path::Path};

/// Where the system's log listens.
pub(super) const SOCKET: &str = "/dev/log";

/// Facility `daemon` (RFC 3164 4.1.1).
const DAEMON: u8 = 3;

/// How bad it is (RFC 3164 4.1.1).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Severity {
    /// Something fails.
    Error = 3,
    /// It is worth knowing.
    Notice = 5,
}

/// Writes lines. A log that does not keep up is not waited for.
///
/// # Errors
///
/// When nobody listens, or not fast enough: the first line that was not taken ends it.
pub(super) fn write(socket: &Path, lines: &[(Severity, String)]) -> io::Result<()> {
    let log = UnixDatagram::unbound()?;
    log.set_nonblocking(true)?;
    let id = std::process::id();
    for (severity, line) in lines {
        let priority = DAEMON * 8 + *severity as u8;
        log.send_to(format!("<{priority}>lbd[{id}]: {line}").as_bytes(), socket)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_priority_and_program_and_a_log_that_is_away_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(
            write(&path, &[(Severity::Error, "x".into())]).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let log = UnixDatagram::bind(&path).unwrap();
        write(&path, &[(Severity::Error, "DOWN: R1".into()), (Severity::Notice, "UP: R1".into())]).unwrap();
        let mut buffer = [0; 256];
        for expected in ["<27>lbd[", "<29>lbd["] {
            let length = log.recv(&mut buffer).unwrap();
            let line = std::str::from_utf8(&buffer[..length]).unwrap();
            assert!(line.starts_with(expected), "{line}");
            assert!(line.ends_with(": R1"), "{line}");
        }
    }
}
