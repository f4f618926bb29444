//! Who is told when a server or a VIP fails or comes back, and how.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::check::CaFamily;

/// `[alerts]`: what holds for all VIPs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Alerts {
    /// Mail; `None` = none is sent.
    pub mail: Option<Mail>,
    /// Addresses that are posted to.
    pub webhooks: Vec<Webhook>,
    /// Lines to the system's log as well.
    pub syslog: bool,
    /// Time in which what happens is gathered into one message.
    pub group: Duration,
    /// Time after which is told again what is still down; zero = never.
    pub repeat: Duration,
}

impl Default for Alerts {
    fn default() -> Self {
        Self {
            mail: None,
            webhooks: Vec::new(),
            syslog: false,
            group: Duration::from_secs(3),
            repeat: Duration::from_secs(24 * 3600),
        }
    }
}

impl Alerts {
    /// Authorities that servers are verified by; one way may name what another does.
    pub fn authorities(&self) -> impl Iterator<Item = &CaFamily> {
        let mail = self.mail.iter().filter_map(|mail| mail.ca.as_ref());
        mail.chain(self.webhooks.iter().filter_map(|webhook| webhook.ca.as_ref()))
    }
}

/// Mail (R82).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mail {
    /// Sender.
    pub from: String,
    /// Who gets what concerns any VIP.
    pub to: Vec<String>,
    /// How it leaves.
    pub route: MailRoute,
    /// Authorities by which a server's certificate is verified; `None` = the system's.
    pub ca: Option<CaFamily>,
}

/// How mail leaves.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum MailRoute {
    /// To the servers that the destination's domain names (MX); STARTTLS where offered.
    Mx,
    /// To a relay, the smart host.
    Relay {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
        /// Encryption.
        tls: RelayTls,
        /// Who we are there.
        login: Option<Login>,
    },
}

/// Encryption on the way to a relay.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum RelayTls {
    /// None.
    Off,
    /// By STARTTLS, or the mail is not sent.
    #[default]
    Starttls,
    /// From the first byte.
    Tls,
}

impl RelayTls {
    /// As in TOML.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Starttls => "starttls",
            Self::Tls => "tls",
        }
    }
}

/// A login at a relay.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Login {
    /// User.
    pub user: String,
    /// File whose first line is the password; read when it is needed, and shown nowhere.
    pub password_file: PathBuf,
}

/// An address that is posted to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Webhook {
    /// `http://` or `https://`.
    pub url: String,
    /// Authorities by which the server's certificate is verified; `None` = the system's.
    pub ca: Option<CaFamily>,
}

/// How a test of one way of telling went: an element of the answer to `POST /v1/alerts/test`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct TestedWay {
    /// A mail address, a webhook without what may be secret in its URL, the system's log.
    pub way: String,
    /// It was taken.
    pub ok: bool,
    /// By whom, or why not.
    pub text: String,
}
