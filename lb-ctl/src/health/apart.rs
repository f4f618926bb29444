//! The engine on a thread and a runtime of its own.
//!
//! Nothing that the rest of the daemon is busy with makes a server look late, and no wake-up is one of another processor.
#![forbid(unsafe_code)]

use std::{future::Future, io, thread};

use tokio::{runtime, sync::oneshot};

use super::{Connections, Engine};

/// Runs the engine until `shutdown` is ready.
///
/// # Errors
///
/// When there can be no thread, or it panicked.
pub async fn run(
    connections: Connections,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (end, ended) = oneshot::channel();
    thread::Builder::new().name("checks".to_owned()).spawn(move || {
        runtime.block_on(Engine::new(connections).run(shutdown));
        // Who waited for it may have gone.
        let _ = end.send(());
    })?;
    ended.await.map_err(|_panicked| io::Error::other("the thread that checks run on panicked"))
}
