//! `lbctl check test`: any check of any address, from here.

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::{
    super::{
        Done, RunError, Terminal,
        args::{TestArgs, TestKind},
    },
    print::outcome_into,
};
use crate::{
    health::run_once,
    model::{
        check::{
            BodyMatch, CaFamily, Check, CheckKind, ClientCert, DicomCheck, HttpCheck, MllpCheck, ScriptCheck,
            TlsClient, Verify,
        },
        checks::Attempt,
        health::{RipId, Target},
    },
};

/// Our AE title, where none is given.
const CALLING_AET: &str = "LOADBALANCER";
/// Bytes of a web page that are read at most, as where the configuration does not say.
const MAX_BODY_BYTES: u32 = 65_536;

pub(super) async fn test(
    terminal: &mut Terminal<impl Write, impl Write>,
    args: &TestArgs,
) -> Result<Done, RunError> {
    let target = target(args).await.map_err(RunError::Local)?;
    let result = run_once(&target).await;
    let addr = target.addr;
    let whom = if addr.port() == 0 { addr.ip().to_string() } else { addr.to_string() };
    let who = format!("{} {whom}", target.check.kind.name());
    outcome_into(&mut terminal.out, &who, &Attempt::from(&result), terminal.colour)?;
    Ok(if result.failure.is_some() { Done::Degraded } else { Done::Well })
}

async fn target(args: &TestArgs) -> Result<Target, String> {
    refuse_idle_options(args)?;
    let addr = SocketAddr::new(args.server.ip, port(args)?);
    let check =
        Check { kind: kind(args).await?, source: args.source, timeout: args.timeout, ..Check::default() };
    let id = RipId { vip: "test".to_owned(), rip: addr.to_string() };
    let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let target = Target::new(id, addr, check);
    Ok(Target { vip: args.vip.unwrap_or(nowhere), ..target })
}

fn port(args: &TestArgs) -> Result<u16, String> {
    let usual = match args.kind {
        TestKind::Http => Some(80),
        TestKind::Https => Some(443),
        TestKind::DicomEcho => Some(104),
        TestKind::Mllp => Some(2575),
        TestKind::Ping | TestKind::Script => Some(0),
        TestKind::Connect | TestKind::Agent => None,
    };
    args.server.port.or(usual).ok_or_else(|| {
        let ip = args.server.ip;
        format!("this check asks a port, and there is no usual one: write {}", SocketAddr::new(ip, 104))
    })
}

async fn kind(args: &TestArgs) -> Result<CheckKind, String> {
    Ok(match args.kind {
        TestKind::Connect => CheckKind::Connect,
        TestKind::Ping => CheckKind::Ping,
        TestKind::Agent => CheckKind::Agent,
        TestKind::Http => CheckKind::Http(Box::new(http(args, None))),
        TestKind::Https => CheckKind::Http(Box::new(http(args, Some(tls(args)?)))),
        TestKind::DicomEcho => {
            let called = args.called.as_ref();
            let called = called.ok_or("dicom-echo asks for an AE title: name the server's with --called")?;
            CheckKind::DicomEcho(DicomCheck {
                tls: if args.tls { Some(tls(args)?) } else { None },
                find: args.find.map(Into::into),
                ..DicomCheck::new(args.calling.as_deref().unwrap_or(CALLING_AET), called)
            })
        }
        TestKind::Mllp => CheckKind::Mllp(MllpCheck { message: message(args).await?, accept: Vec::new() }),
        TestKind::Script => {
            let path = args.script.as_ref().ok_or("which script? name its file with --script")?;
            let path = absolute(path)?;
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            CheckKind::Script(ScriptCheck { name, path })
        }
    })
}

fn http(args: &TestArgs, tls: Option<TlsClient>) -> HttpCheck {
    HttpCheck {
        tls,
        method: "GET".to_owned(),
        path: args.path.clone().unwrap_or_else(|| "/".to_owned()),
        host: args.host.clone(),
        status: vec![200..=299],
        body: args.expect.clone().map(BodyMatch::Contains),
        max_body_bytes: MAX_BODY_BYTES,
    }
}

fn tls(args: &TestArgs) -> Result<TlsClient, String> {
    let verify = match args.verify.as_deref() {
        None | Some("off") => Verify::Off,
        Some("system") => Verify::System,
        Some(file) => {
            Verify::Family(CaFamily { name: file.to_owned(), pems: vec![absolute(Path::new(file))?] })
        }
    };
    let client_cert = match &args.client_cert {
        Some(file) => Some(ClientCert { name: file.display().to_string(), pem: absolute(file)? }),
        None => None,
    };
    Ok(TlsClient { verify, client_cert, sni: args.sni.clone() })
}

async fn message(args: &TestArgs) -> Result<Option<String>, String> {
    let Some(file) = &args.message else {
        return Ok(None);
    };
    let text = tokio::fs::read_to_string(file).await;
    text.map(Some).map_err(|error| format!("cannot read {}: {error}: --message names a file", file.display()))
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("cannot tell where {} is: {error}", path.display()))
}

/// Refuses options that mean nothing for the kind.
fn refuse_idle_options(args: &TestArgs) -> Result<(), String> {
    use TestKind::{DicomEcho, Http, Https, Mllp, Script};
    let over_tls = args.kind == Https || args.kind == DicomEcho && args.tls;
    let is = |kinds: &[TestKind]| kinds.contains(&args.kind);
    let options = [
        ("--calling", args.calling.is_some(), is(&[DicomEcho])),
        ("--called", args.called.is_some(), is(&[DicomEcho])),
        ("--find", args.find.is_some(), is(&[DicomEcho])),
        ("--tls", args.tls, is(&[DicomEcho])),
        ("--verify", args.verify.is_some(), over_tls),
        ("--client-cert", args.client_cert.is_some(), over_tls),
        ("--sni", args.sni.is_some(), over_tls),
        ("--path", args.path.is_some(), is(&[Http, Https])),
        ("--host", args.host.is_some(), is(&[Http, Https])),
        ("--expect", args.expect.is_some(), is(&[Http, Https])),
        ("--message", args.message.is_some(), is(&[Mllp])),
        ("--script", args.script.is_some(), is(&[Script])),
        ("--vip", args.vip.is_some(), is(&[Script])),
    ];
    match options.iter().find(|(_, given, means)| *given && !*means) {
        Some((option, _, _)) => Err(format!("{option} means nothing for this check: leave it out")),
        None => Ok(()),
    }
}
