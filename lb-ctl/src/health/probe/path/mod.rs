//! The VIP at the server, by the way that clients' packets go under direct routing: frames with the VIP as their
//! destination, to the server's MAC. The kernel's own TCP cannot send them, since the VIP is this machine's too; for the
//! same reason it drops what comes back (a source that is an address of its own), and leaves it to us.
//!
//! ```text
//! Wires (a packet socket and its reader for each interface) <-> Conversation (TCP) <-> the echo of DICOM, or nothing
//! ```
#![forbid(unsafe_code)]

mod conversation;
mod frame;
mod told;
mod wires;

use std::time::Duration;

use tokio::{
    io::AsyncWriteExt as _,
    time::{Instant, timeout_at},
};

use self::conversation::Conversation;
pub(in crate::health) use self::wires::Wires;
use super::{Stopwatch, dicom_echo};
use crate::model::health::{DirectPath, Failure};

/// Longest wait for a server to close its side once all is said.
const PARTING: Duration = Duration::from_millis(200);

/// Tries the VIP at a server.
pub(super) async fn probe(path: &DirectPath, wires: &Wires, clock: &mut Stopwatch) -> Result<(), Failure> {
    let mut talk = Conversation::open(path, wires, path.echo.is_none())?;
    let opened = timeout_at(clock.deadline(), talk.opened()).await;
    clock.mark("vip connect");
    clock.note = talk.note();
    opened.unwrap_or_else(|_elapsed| Err(told::unanswered(path, clock.timeout)))?;
    let Some(check) = &path.echo else { return Ok(()) };
    let before = clock.steps.len();
    let answered = dicom_echo::over(&mut talk, check, clock).await;
    for step in clock.steps.iter_mut().skip(before) {
        step.name.insert_str(0, "vip ");
    }
    answered.map_err(|failure| told::beyond(path, failure))?;
    // How a server takes its leave does not decide; one that does not close gets a RST.
    let patience = clock.deadline().min(Instant::now() + PARTING);
    let parting = async {
        drop(talk.shutdown().await);
        talk.closed().await;
    };
    drop(timeout_at(patience, parting).await);
    Ok(())
}
