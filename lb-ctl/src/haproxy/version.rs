//! Which HAProxy this machine has.
#![forbid(unsafe_code)]

use std::{fmt, io, process::Stdio, time::Duration};

use tokio::{process::Command, time::timeout};

/// Name of the program.
pub const PROGRAM: &str = "haproxy";
/// The oldest that understands what is written for it.
const OLDEST: Version = Version { major: 2, minor: 6 };
/// Time that it has to name itself.
const DEADLINE: Duration = Duration::from_secs(5);

/// Major and minor version.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version {
    /// The first number.
    pub major: u16,
    /// The second.
    pub minor: u16,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The version that is installed, and its own words for it.
///
/// # Errors
///
/// When there is none, or one that cannot be used, with the cure.
pub async fn installed() -> Result<String, String> {
    let mut command = Command::new(PROGRAM);
    command.arg("-v").stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(DEADLINE, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err("haproxy is not installed, and layer-7 VIPs need it: apt install haproxy".to_owned());
        }
        Ok(Err(error)) => return Err(format!("haproxy cannot be run: {error}; see `haproxy -v`")),
        Err(_elapsed) => {
            return Err(format!(
                "haproxy does not say its version within {} s: see `haproxy -v`",
                DEADLINE.as_secs()
            ));
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text.lines().next().unwrap_or_default().trim();
    match parse(words) {
        Some(version) if version >= OLDEST => Ok(words.to_owned()),
        Some(version) => {
            Err(format!("haproxy is {version}, and layer-7 VIPs need {OLDEST} or newer: upgrade it"))
        }
        None => Err(format!(
            "haproxy names itself {words:?}, which is no version: reinstall it (apt install --reinstall haproxy)"
        )),
    }
}

/// `HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/`.
fn parse(words: &str) -> Option<Version> {
    let mut after = words.split_whitespace().skip_while(|word| *word != "version");
    let mut numbers = after.nth(1)?.split(|c: char| !c.is_ascii_digit());
    Some(Version { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let debian = "HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/";
        assert_eq!(parse(debian), Some(Version { major: 2, minor: 6 }));
        assert!(parse("HA-Proxy version 1.8.19-1+deb10u3 2020/08/01").unwrap() < OLDEST);
        assert!(parse("HAProxy version 3.0.0").unwrap() > OLDEST);
        assert_eq!(parse("something else"), None);
    }
}
