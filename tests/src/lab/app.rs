//! A web application behind the balancer: an nginx that tells in each answer who it is and whom it sees.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{topology::Host, web::Nginx};

/// A web application on one host. It can be killed and started again.
#[derive(Debug)]
pub struct App {
    host: Host,
    name: String,
    http: String,
    port: u16,
    pages: PathBuf,
    nginx: Option<Nginx>,
}

/// What an application listens on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listen<'a> {
    /// Ports without TLS.
    pub plain: &'a [u16],
    /// Ports with TLS; there must be a `pem` for them.
    pub tls: &'a [u16],
    /// Ports whose connections begin with a PROXY header.
    pub proxied: &'a [u16],
    /// Certificate and key.
    pub pem: Option<&'a Path>,
    /// Whose certificates clients must have on ports with TLS.
    pub client_ca: Option<&'a Path>,
}

/// What an application says of itself and of the request, a line each: `server app1`.
const SELF_PORTRAIT: [(&str, &str); 11] = [
    ("port", "$server_port"),
    ("peer", "$remote_addr"),
    ("proxied", "$proxy_protocol_addr"),
    ("certificate", "$ssl_client_s_dn"),
    ("method", "$request_method"),
    ("uri", "$request_uri"),
    ("host", "$http_host"),
    ("x-forwarded-proto", "$http_x_forwarded_proto"),
    ("x-forwarded-for", "$http_x_forwarded_for"),
    ("cookie", "$http_cookie"),
    ("connection", "$http_connection"),
];

impl App {
    /// Starts it on every IPv4 address of the host, and waits until it listens.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    pub fn start(host: &Host, listen: &Listen<'_>) -> Self {
        let Some(&port) = listen.plain.iter().chain(listen.tls).chain(listen.proxied).next() else {
            panic!("an application must listen on something");
        };
        let name = format!("app-{}-{port}", host.name);
        let pages = host.dir().join(&name);
        fs::create_dir_all(&pages).unwrap_or_else(|error| panic!("cannot make {}: {error}", pages.display()));
        let mut app = Self {
            host: host.clone(),
            http: http(&host.name, &pages, listen),
            name,
            port,
            pages,
            nginx: None,
        };
        app.start_again();
        app
    }

    /// Gives the page of this path another content than the self-portrait: `/api/health/`.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn set_page(&self, path: &str, body: &str) {
        let dir = self.pages.join(path.trim_matches('/'));
        fs::create_dir_all(&dir)
            .and_then(|()| fs::write(dir.join(PAGE), body))
            .unwrap_or_else(|error| panic!("cannot write a page in {}: {error}", dir.display()));
    }

    /// Kills it as a power cut would.
    pub fn kill(&mut self) {
        self.nginx = None;
    }

    /// Starts it again after [`Self::kill`].
    ///
    /// # Panics
    ///
    /// When it does not come up.
    pub fn start_again(&mut self) {
        let nginx = Nginx::start(&self.name, &self.host.netns, self.host.lab_dir(), &self.http, self.port);
        self.nginx = Some(nginx);
    }
}

/// File that a page is kept in, in a directory of its path.
const PAGE: &str = "page";

/// The directives of block `http`.
fn http(server: &str, pages: &Path, listen: &Listen<'_>) -> String {
    let ports = |ports: &[u16], word: &str| {
        ports.iter().map(|port| format!("listen {port}{word};\n")).collect::<String>()
    };
    let mut tls = String::new();
    if let Some(pem) = listen.pem {
        tls.push_str(&format!("ssl_certificate {pem};\nssl_certificate_key {pem};\n", pem = pem.display()));
    }
    if let Some(ca) = listen.client_ca {
        tls.push_str(&format!("ssl_verify_client on;\nssl_client_certificate {};\n", ca.display()));
    }
    let portrait: String = SELF_PORTRAIT.iter().map(|(name, value)| format!("{name} {value}\n")).collect();
    format!(
        "access_log off;
         default_type text/plain;
         server {{
             {}{}{}
             {tls}
             root {};
             location / {{ try_files $uri/{PAGE} @self; }}
             location @self {{ return 200 \"server {server}\n{portrait}\"; }}
         }}",
        ports(listen.plain, ""),
        ports(listen.tls, " ssl"),
        ports(listen.proxied, " proxy_protocol"),
        pages.display(),
    )
}
