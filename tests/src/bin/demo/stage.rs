//! What every demonstration stands on: one voice, one place, and nothing left behind.

use std::{
    fs, panic,
    path::Path,
    process,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result};
use lb_tests::lab::{Lbd, bpffs, netns, proc};
use tokio::signal::unix::{SignalKind, signal};

/// How the names of its namespaces, directories and pins begin.
pub(crate) const NAME: &str = "lbdemo";
/// Logs, archives, socket; in memory, and gone with the demonstration.
pub(crate) const DIR: &str = "/run/lbdemo";
/// Set once the program has been told to end, and cleans up.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Prints the overview as an operator sees it.
pub(crate) fn overview(lbd: &Lbd) {
    println!("\n{}", lbd.ctl(&["status"]).stdout);
}

/// Prints a line of the story with the time since its begin.
pub(crate) fn tell(text: &str) {
    static BEGUN: OnceLock<Instant> = OnceLock::new();
    println!("[{:4.1} s] {text}", BEGUN.get_or_init(Instant::now).elapsed().as_secs_f32());
}

/// Ends a demonstration of which all held: leaves it running and says how to look at it and how to be the client, or
/// cleans up.
pub(crate) fn end(keep: bool, lbd: &Lbd, clients: &str) {
    tell("All of it held.");
    if keep {
        let own = std::env::current_exe().unwrap_or_else(|_| "demo".into());
        println!("\nEverything is left running. To look at it:\n  {}", lbd.ctl_line());
        println!("To be the client:\n{clients}");
        println!("To take it all away:\n  {} --clean", own.display());
        // Without unwinding: nothing is dropped, so nothing is taken away.
        process::exit(0);
    }
    tell("Cleaning up.");
}

/// Says in one line why a demonstration failed.
pub(crate) fn tell_failures() {
    panic::set_hook(Box::new(|failure| {
        // An interrupted demonstration fails because its parts are being taken away: that is no news.
        while INTERRUPTED.load(Ordering::Relaxed) {
            thread::park();
        }
        let text = failure.payload_as_str().unwrap_or("no reason given");
        eprintln!("\nThe demonstration failed: {text}");
    }));
}

/// Takes away whatever a demonstration left: processes, pins, namespaces (addresses and XDP go with them), files.
pub(crate) fn clean() {
    proc::kill_recorded(Path::new(DIR));
    // What is not there needs no removal; what cannot be removed stops the next lab with a clear error.
    let _ = fs::remove_dir_all(bpffs::path(&format!("{NAME}-lb")));
    netns::delete_all(&format!("{NAME}-"));
    let _ = fs::remove_dir_all(DIR);
}

/// Cleans up and ends the program when it is interrupted: then nothing is unwound.
pub(crate) fn clean_when_interrupted() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot watch for signals")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        INTERRUPTED.store(true, Ordering::Relaxed);
        eprintln!("\nInterrupted: cleaning up.");
        clean();
        process::exit(130);
    });
    Ok(())
}
