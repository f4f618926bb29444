//! A mail server and a web server that keep what they get, on aiosmtpd and Python's own.

use std::{fs, net::SocketAddr, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    proc::{Proc, wait_for},
    servers::listens,
    topology::Host,
};

/// The distribution's Python: its packages are for no other.
const PYTHON: &str = "/usr/bin/python3";

/// A mail server. Dropped, it is away.
#[derive(Debug)]
pub struct MailServer {
    kept: PathBuf,
    _proc: Proc,
}

/// How a mail server speaks.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MailTls {
    /// In the open.
    Off,
    /// With STARTTLS, and no mail without.
    Starttls,
    /// Encrypted from the first byte.
    Tls,
}

/// A mail as it came.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub struct Received {
    /// Sender of the envelope.
    pub from: String,
    /// Recipients of the envelope.
    pub to: Vec<String>,
    /// Name that the client gave.
    pub hello: String,
    /// It came encrypted.
    pub tls: bool,
    /// It came after a login.
    pub login: bool,
    /// Its text, decoded.
    pub text: String,
    /// Its headers, decoded.
    pub headers: Vec<(String, String)>,
}

impl Received {
    /// A header.
    ///
    /// # Panics
    ///
    /// When the mail has none of this name, or several.
    #[must_use]
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let mut found = self.headers.iter().filter(|(is, _)| is.eq_ignore_ascii_case(name));
        let (_, value) = found.next().unwrap_or_else(|| panic!("no {name} in {self:?}"));
        assert!(found.next().is_none(), "several {name} in {self:?}");
        value
    }
}

/// Who may hand in mail.
#[derive(Clone, Copy, Debug)]
pub struct MailLogin<'a> {
    /// User; empty = nobody has to log in.
    pub user: &'a str,
    /// Password.
    pub password: &'a str,
}

impl MailLogin<'_> {
    /// Nobody has to log in.
    pub const NONE: Self = Self { user: "", password: "" };
}

impl MailServer {
    /// Starts one, or starts it again with the mail that it has.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn start(
        host: &Host,
        at: SocketAddr,
        tls: MailTls,
        identity: &Identity,
        login: MailLogin<'_>,
    ) -> Self {
        let dir = host.dir();
        let kept = dir.join(format!("mail-{}.jsonl", at.port()));
        let tls = match tls {
            MailTls::Off => "off",
            MailTls::Starttls => "starttls",
            MailTls::Tls => "tls",
        };
        let mut command = host.netns.command(PYTHON);
        command.args(["-c", MAIL_SERVER, &at.ip().to_string(), &at.port().to_string()]);
        command.args([kept.as_path(), identity.pem.as_path()]).args([tls, login.user, login.password]);
        let name = format!("mail-{}-{}", host.name, at.port());
        let mut proc = Proc::spawn(&name, &host.netns, host.lab_dir(), &mut command);
        proc.wait_ready(|_| listens(host, at.port()));
        Self { kept, _proc: proc }
    }

    /// Everything that came.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        read_lines(&self.kept)
    }

    /// Waits until so many mails have come, and gives them all.
    ///
    /// # Panics
    ///
    /// When they do not come.
    #[must_use]
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Received> {
        wait_for(
            super::lbd::SETTLE,
            || format!("{count} mails; instead: {:?}", self.received()),
            || Some(self.received()).filter(|received| received.len() >= count),
        )
    }
}

/// A web server that keeps what is posted to it, and answers with one status.
#[derive(Debug)]
pub struct HookServer {
    kept: PathBuf,
    _proc: Proc,
}

/// What was posted.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Posted {
    /// Path of the URL.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: std::collections::BTreeMap<String, String>,
    /// JSON.
    pub body: serde_json::Value,
}

impl HookServer {
    /// Starts one that speaks TLS with `identity`, if there is one.
    ///
    /// # Panics
    ///
    /// When it does not start.
    #[must_use]
    pub fn start(host: &Host, at: SocketAddr, identity: Option<&Identity>, status: u16) -> Self {
        let kept = host.dir().join(format!("posted-{}.jsonl", at.port()));
        let pem = identity.map(|identity| identity.pem.clone()).unwrap_or_default();
        let mut command = host.netns.command(PYTHON);
        command.args(["-c", HOOK_SERVER, &at.ip().to_string(), &at.port().to_string()]);
        command.args([&kept, &pem]).arg(status.to_string());
        let name = format!("hook-{}-{}", host.name, at.port());
        let mut proc = Proc::spawn(&name, &host.netns, host.lab_dir(), &mut command);
        proc.wait_ready(|_| listens(host, at.port()));
        Self { kept, _proc: proc }
    }

    /// Everything that was posted, whatever the answer was.
    #[must_use]
    pub fn posted(&self) -> Vec<Posted> {
        read_lines(&self.kept)
    }

    /// Waits until so much was posted, and gives it all.
    ///
    /// # Panics
    ///
    /// When it is not.
    #[must_use]
    #[track_caller]
    pub fn wait_for(&self, count: usize) -> Vec<Posted> {
        wait_for(
            super::lbd::SETTLE,
            || format!("{count} posts; instead: {:?}", self.posted()),
            || Some(self.posted()).filter(|posted| posted.len() >= count),
        )
    }
}

/// A certificate with its key and the authority that signed it, as files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Certificate and key.
    pub pem: PathBuf,
    /// Certificate of the authority.
    pub authority: PathBuf,
}

impl Identity {
    /// Makes both for a server that is addressed as `name`, in files that begin with `label`.
    ///
    /// # Panics
    ///
    /// When they cannot be made or written.
    #[must_use]
    pub fn make(host: &Host, label: &str, name: &str) -> Self {
        let make = || -> Result<[String; 2], rcgen::Error> {
            let mut of_authority = CertificateParams::new(Vec::new())?;
            of_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let authority_key = KeyPair::generate()?;
            let authority = of_authority.self_signed(&authority_key)?;
            let key = KeyPair::generate()?;
            let issuer = Issuer::new(of_authority, authority_key);
            let server = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &issuer)?;
            Ok([format!("{}{}", server.pem(), key.serialize_pem()), authority.pem()])
        };
        let [server, authority] = make().unwrap_or_else(|error| panic!("no certificate for {name}: {error}"));
        let path = |kind: &str| host.dir().join(format!("{label}-{kind}.pem"));
        let made = Self { pem: path("server"), authority: path("authority") };
        for (path, text) in [(&made.pem, server), (&made.authority, authority)] {
            fs::write(path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        }
        made
    }
}

/// Whole lines only: the last one may be half written.
fn read_lines<T: DeserializeOwned>(path: &PathBuf) -> Vec<T> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    whole.lines().map(parse).collect()
}

/// Arguments: address, port, file that is appended to, PEM, `off|starttls|tls`, user, password.
const MAIL_SERVER: &str = r#"
import asyncio, email, email.policy, json, ssl, sys
from aiosmtpd.smtp import AuthResult, SMTP

address, port, kept, pem, tls, user, password = sys.argv[1:]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(pem)

class Keep:
    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        line = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "hello": session.host_name,
            "tls": server.transport.get_extra_info("ssl_object") is not None,
            "login": bool(session.authenticated),
            "text": mail.get_content(),
            "headers": list((name, str(value)) for name, value in mail.items()),
        }
        with open(kept, "a") as file:
            file.write(json.dumps(line) + "\n")
        return "250 kept"

    async def handle_RCPT(self, server, session, envelope, to, options):
        if to.startswith("nobody@"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(to)
        return "250 fine"

def authenticate(server, session, envelope, mechanism, given):
    right = given.login == user.encode() and given.password == password.encode()
    return AuthResult(success=right, handled=False)

def speak():
    return SMTP(
        Keep(),
        hostname="mail",
        tls_context=context if tls == "starttls" else None,
        require_starttls=tls == "starttls",
        authenticator=authenticate,
        auth_required=user != "",
        auth_require_tls=tls == "starttls",
    )

async def serve():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(speak, address, int(port), ssl=context if tls == "tls" else None)
    await server.serve_forever()

asyncio.run(serve())
"#;

/// Arguments: address, port, file that is appended to, PEM or nothing, status.
const HOOK_SERVER: &str = r#"
import http.server, json, ssl, sys

address, port, kept, pem, status = sys.argv[1:]

class Keep(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = dict((name.lower(), value) for name, value in self.headers.items())
        with open(kept, "a") as file:
            file.write(json.dumps({"path": self.path, "headers": headers, "body": body}) + "\n")
        self.send_response(int(status))
        self.end_headers()
        self.wfile.write(b"said by the hook")

server = http.server.ThreadingHTTPServer((address, int(port)), Keep)
if pem:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"#;
