//! Real DICOM clients: dcmtk's storescu and echoscu.

use std::{net::SocketAddr, path::Path};

use super::{proc::Finished, topology::Host};

/// Called AE title of the archives in the lab.
pub const CALLED: &str = "ORTHANC";
/// Calling AE title of the clients.
pub const CALLING: &str = "MODALITY";

/// Stores files in one association. Exit code 0 means that every one was taken.
///
/// storescu exits 0 though an instance was refused with a status; such a run is turned into a failure here.
#[must_use]
pub fn store(client: &Host, to: SocketAddr, files: &[&Path]) -> Finished {
    store_as(client, to, CALLING, CALLED, files)
}

/// [`store`] with these AE titles.
#[must_use]
pub fn store_as(client: &Host, to: SocketAddr, calling: &str, called: &str, files: &[&Path]) -> Finished {
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let (ip, port) = (to.ip().to_string(), to.port().to_string());
    let mut args =
        vec!["-v", "-to", "5", "-ta", "10", "-td", "10", "-aet", calling, "-aec", called, &ip, &port];
    args.extend(files.iter().map(String::as_str));
    let mut run = client.run("storescu", &args);
    let taken = [&run.stdout, &run.stderr].iter().map(|text| text.matches(STORED).count()).sum::<usize>();
    if run.code == Some(0) && taken != files.len() {
        run.code = None;
        run.stderr.push_str(&format!("{taken} of {} instances were stored\n", files.len()));
    }
    run
}

/// One C-ECHO in an association of its own.
#[must_use]
pub fn echo(client: &Host, to: SocketAddr) -> Finished {
    echo_as(client, to, CALLING, CALLED)
}

/// [`echo`] with these AE titles.
#[must_use]
pub fn echo_as(client: &Host, to: SocketAddr, calling: &str, called: &str) -> Finished {
    let (ip, port) = (to.ip().to_string(), to.port().to_string());
    client.run("echoscu", &["-to", "5", "-ta", "5", "-td", "5", "-aet", calling, "-aec", called, &ip, &port])
}

/// What storescu says of an instance that was stored, with `-v`.
const STORED: &str = "Received Store Response (Success)";
