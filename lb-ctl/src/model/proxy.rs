//! Layer-7 VIPs as they are meant: what the companion proxy does with their connections.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::check::{CaFamily, ClientCert, Verify};

/// Words that begin a section of the proxy's configuration. A raw line must not.
pub const SECTIONS: [&str; 18] = [
    "backend",
    "cache",
    "crt-store",
    "defaults",
    "fcgi-app",
    "frontend",
    "global",
    "http-errors",
    "listen",
    "log-forward",
    "mailers",
    "peers",
    "program",
    "resolvers",
    "ring",
    "traces",
    "userlist",
    "log-profile",
];

/// What the proxy is for all VIPs: section `[proxy]`. The default is that of an absent section.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ProxySettings {
    /// Time limits of VIPs that say nothing else (R33).
    pub timeouts: Timeouts,
    /// Most connections of all VIPs together.
    pub max_connections: u32,
    /// Where the fallback page is served (R34, R70).
    pub fallback_listen: SocketAddr,
    /// The page; `None` = a plain one that names this load balancer.
    pub fallback_page: Option<PathBuf>,
    /// Where stick tables are handed from one process to the next, and to a peer (R62).
    pub table_sync: SocketAddr,
}

impl ProxySettings {
    /// Most connections when nothing is said.
    pub const MAX_CONNECTIONS: u32 = 40_000;
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            timeouts: Timeouts {
                connect: Duration::from_millis(4000),
                client: Duration::from_secs(3600),
                server: Duration::from_secs(3600),
            },
            max_connections: Self::MAX_CONNECTIONS,
            fallback_listen: SocketAddr::from(([127, 0, 0, 1], 9081)),
            fallback_page: None,
            table_sync: SocketAddr::from(([127, 0, 0, 1], 7778)),
        }
    }
}

/// Time limits of a connection through the proxy (R33).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timeouts {
    /// For a server to take a connection.
    pub connect: Duration,
    /// Silence of the client.
    pub client: Duration,
    /// Silence of the server.
    pub server: Duration,
}

/// What the proxy does for one VIP. What only HTTP has is at its default in mode `l7-tcp`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proxy {
    /// TLS that ends here (R21, R32).
    pub tls: Option<Termination>,
    /// TLS towards the servers (R29).
    pub backend_tls: Option<BackendTls>,
    /// Time limits, those of `[proxy]` where the VIP has none.
    pub timeouts: Timeouts,
    /// How HTTP is treated.
    pub http: Http,
    /// Status of the answer that sends clients without TLS to `https` (R28); `None` = they are served.
    pub https_redirect: Option<u16>,
    /// Header rules in their order (R26).
    pub headers: Vec<HeaderRule>,
    /// Which pool a connection or request goes to, the first that matches; the VIP's own servers if none does.
    pub switch: Vec<SwitchRule>,
    /// What becomes of a DICOM client that does not say in time, or intelligibly, which AE titles it means.
    pub unintelligible: Unintelligible,
    /// Clients are announced by a PROXY header, from the load balancer in front (R32).
    pub accept_proxy: bool,
    /// Servers are told of the client by a PROXY header.
    pub send_proxy: Option<ProxyHeader>,
    /// Servers see the client's address as the source (R83).
    pub transparent: bool,
    /// Most connections of this VIP; `None` = as many as all together may be.
    pub max_connections: Option<u32>,
    /// Raw lines for its section of the proxy's configuration (R27).
    pub extra: Vec<String>,
}

impl Proxy {
    /// A VIP of which nothing particular is said.
    #[must_use]
    pub fn new(settings: &ProxySettings) -> Self {
        Self {
            tls: None,
            backend_tls: None,
            timeouts: settings.timeouts,
            http: Http::default(),
            https_redirect: None,
            headers: Vec::new(),
            switch: Vec::new(),
            unintelligible: Unintelligible::default(),
            accept_proxy: false,
            send_proxy: None,
            transparent: false,
            max_connections: None,
            extra: Vec::new(),
        }
    }

    /// True when any rule reads AE titles, so that a connection is looked into before it is led anywhere.
    #[must_use]
    pub fn reads_ae_titles(&self) -> bool {
        self.switch.iter().any(|rule| matches!(rule.on, SwitchOn::CalledAet(_) | SwitchOn::CallingAet(_)))
    }
}

/// TLS that ends at the VIP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Termination {
    /// Port of the VIP's address.
    pub port: u16,
    /// Certificates, the first for clients that name no host or an unknown one.
    pub certs: Vec<ClientCert>,
    /// Whose certificates clients must have; `None` = clients need none.
    pub client_ca: Option<CaFamily>,
    /// False: a client without a certificate is let in, one with a bad one is not.
    pub client_required: bool,
    /// Which versions and ciphers are spoken (R32).
    pub security: Security,
    /// Whether the VIP's other ports are served without TLS. Off unless said, where clients need certificates: a port
    /// without TLS would be a side door.
    pub cleartext: bool,
}

/// Which versions and ciphers of TLS are spoken (R32).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Security {
    /// TLS 1.2 with forward secrecy and authenticated encryption, and TLS 1.3.
    #[default]
    High,
    /// TLS 1.0 and later, with the ciphers that old modalities know.
    Compatible,
    /// TLS 1.2 and 1.3 with the algorithms of FIPS 140 alone.
    Fips,
}

impl Security {
    /// As in TOML.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Compatible => "compatible",
            Self::Fips => "fips",
        }
    }
}

/// TLS towards the servers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BackendTls {
    /// Whose certificates count.
    pub verify: Verify,
    /// The name that the certificate must have; `None` = any, which the authority vouches for.
    pub name: Option<String>,
    /// The name that the server is asked by (SNI); `None` = none.
    pub sni: Option<String>,
    /// Certificate that servers are shown.
    pub client_cert: Option<ClientCert>,
}

/// How HTTP is treated (R24, R25).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Http {
    /// What becomes of connections after a request.
    pub keep_alive: KeepAlive,
    /// Requests and answers that break the standard are let through.
    pub accept_invalid: bool,
    /// Time for a whole request header; `None` = as long as the client's limit.
    pub request_timeout: Option<Duration>,
    /// Servers are told the client's address by `X-Forwarded-For`.
    pub forwarded_for: bool,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            keep_alive: KeepAlive::default(),
            accept_invalid: false,
            request_timeout: Some(Duration::from_secs(5)),
            forwarded_for: true,
        }
    }
}

/// What becomes of connections after a request (R24).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepAlive {
    /// Both stay.
    #[default]
    Both,
    /// Both are closed.
    Off,
    /// The client's stays, the server's is closed.
    Client,
    /// The client's stays, and the server is told that its does, whatever its answer says (R25, "broken close").
    Pretend,
}

impl KeepAlive {
    /// As in TOML.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Off => "off",
            Self::Client => "client",
            Self::Pretend => "pretend",
        }
    }
}

/// A change of a header (R26).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HeaderRule {
    /// Of requests or of answers.
    pub of: HeaderOf,
    /// What is done.
    pub action: HeaderAction,
    /// Header.
    pub name: String,
}

/// Which headers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HeaderOf {
    /// Those of requests.
    Request,
    /// Those of answers.
    Response,
}

/// What is done to a header. Values are formats of the proxy: `%fi:443` is the VIP's address with a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HeaderAction {
    /// One more of that name.
    Add(String),
    /// This in place of all of that name.
    Set(String),
    /// None of that name.
    Delete,
    /// What a regular expression matches becomes something else.
    Replace {
        /// Regular expression.
        pattern: String,
        /// In its place; `\1` is the first group.
        with: String,
    },
}

/// Most groups in the pattern of a header rule: of the nine that the proxy knows, three are what is round them.
pub const MAX_GROUPS: usize = 6;

/// Groups in a regular expression that have a number.
#[must_use]
pub fn groups(pattern: &str) -> usize {
    let mut groups = 0;
    let mut in_class = false;
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        match c {
            '\\' => drop(rest.next()),
            '[' if !in_class => {
                in_class = true;
                // The first sign of a class does not end it.
                let class = rest.as_str();
                let first = class.strip_prefix('^').unwrap_or(class);
                if let Some(behind) = first.strip_prefix(']') {
                    rest = behind.chars();
                }
            }
            ']' => in_class = false,
            '(' if !in_class => {
                let rest = rest.as_str();
                let is_named = ["?P<", "?'"].iter().any(|name| rest.starts_with(name))
                    || rest.starts_with("?<") && !rest.starts_with("?<=") && !rest.starts_with("?<!");
                groups += usize::from(!rest.starts_with(['?', '*']) || is_named);
            }
            _ => {}
        }
    }
    groups
}

/// Which pool a connection or request goes to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SwitchRule {
    /// What is compared.
    pub on: SwitchOn,
    /// Pool; servers of the VIP with that [`Rip::pool`](super::config::Rip::pool).
    pub pool: String,
}

/// What a switch rule compares.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SwitchOn {
    /// Called AE title of an A-ASSOCIATE-RQ (PS3.8, 9.3.2), one of these; spaces at either end do not count.
    CalledAet(Vec<String>),
    /// Calling AE title, one of these.
    CallingAet(Vec<String>),
    /// Host of an HTTP request, one of these, without its port.
    Host(Vec<String>),
    /// Path of an HTTP request begins with one of these.
    PathPrefix(Vec<String>),
    /// Host that a TLS client names (RFC 6066, 3), one of these; TLS may end here or pass through.
    Sni(Vec<String>),
}

/// What becomes of a client whose A-ASSOCIATE-RQ does not come in time, or is none.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unintelligible {
    /// It goes to the VIP's own servers, which answer as they see fit.
    #[default]
    Default,
    /// Its connection is closed.
    Refuse,
}

/// PROXY header towards servers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProxyHeader {
    /// The line of text.
    V1,
    /// Binary.
    V2,
    /// Binary, with what is known of the client's TLS.
    V2Ssl,
    /// The same, with the name in the client's certificate.
    V2SslCn,
}

impl ProxyHeader {
    /// As in TOML.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::V2Ssl => "v2-ssl",
            Self::V2SslCn => "v2-ssl-cn",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::groups;

    #[test]
    fn groups_are_those_that_have_a_number() {
        for (pattern, expected) in [
            ("^http:", 0),
            ("(a)(b)", 2),
            ("((a)b)", 2),
            (r"\(a\)(b)", 1),
            ("(?:a)(?i)(?=b)(?<=c)(?<!d)", 0),
            ("(?<x>a)(?P<y>b)(?'z'c)", 3),
            ("[(](a)[)(]", 1),
            ("[]((](a)", 1),
            ("[^](](a)", 1),
            (r"[\](](a)", 1),
        ] {
            assert_eq!(groups(pattern), expected, "{pattern}");
        }
    }
}
