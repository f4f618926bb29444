//! Kernel parameters below `/proc/sys`. What stands there under `net` is that of the network namespace of whoever
//! reads or writes it.
#![forbid(unsafe_code)]

use std::io::ErrorKind;

use tokio::fs;

use super::wanted::Parameter;

/// Gives a parameter its value, and says so in the log when it had another.
pub(super) async fn ensure(parameter: &Parameter) -> Result<(), String> {
    let Parameter { path, value, why, of_interface } = parameter;
    let file = format!("/proc/sys/{path}");
    let name = parameter.name();
    let refused = |what: &str, error: std::io::Error| {
        format!(
            "{name} {what}: {error}; {why}: give lbd write access to /proc/sys (its unit must not set \
             ProtectKernelTunables), or set {name}={value} in /etc/sysctl.d yourself"
        )
    };
    let before = match fs::read_to_string(&file).await {
        Ok(text) => text,
        // The interface went just now: what is wanted changes with the next facts.
        Err(error) if *of_interface && error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused("cannot be read", error)),
    };
    let before = before.trim();
    if before == *value {
        return Ok(());
    }
    match fs::write(&file, value).await {
        Ok(()) => {
            tracing::info!(
                "set {name} from {before} to {value}, which lbd never takes back: without it {why}"
            );
            Ok(())
        }
        Err(error) => Err(refused(&format!("is {before} and cannot be set to {value}"), error)),
    }
}
