//! Mail over SMTP (RFC 5321): to a relay, or to the servers of the recipient's domain.

use std::time::{Duration, SystemTime};

use lettre::{
    Address, Message,
    address::Envelope,
    message::{
        Mailbox,
        header::{ContentType, Header, HeaderName, HeaderValue},
    },
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::AsyncSmtpConnection,
        extension::ClientId,
    },
};

use super::{
    mx,
    spool::Content,
    trust::{Trust, root, tls_fault},
};
use crate::model::{
    alerts::{Login, Mail, MailRoute, RelayTls},
    check::CaFamily,
};

/// Time to connect to one address.
const CONNECT: Duration = Duration::from_secs(10);
/// Port between mail servers.
const SMTP: u16 = 25;
/// Ways to log in, the ones that every server has.
const MECHANISMS: [Mechanism; 2] = [Mechanism::Plain, Mechanism::Login];

/// One mail to one recipient.
#[derive(Clone, Copy, Debug)]
pub(super) struct Letter<'a> {
    /// Who gets it.
    pub(super) to: &'a str,
    /// Number of the message.
    pub(super) number: u64,
    /// Seconds since the epoch at which it was made.
    pub(super) at_epoch_secs: u64,
    /// What it says.
    pub(super) content: &'a Content,
}

/// Sends one mail; says who took it. Has no deadline of its own.
///
/// # Errors
///
/// Who did not take it and why, with the cure.
pub(super) async fn send(mail: &Mail, letter: Letter<'_>) -> Result<String, String> {
    let post = Post::of(mail, letter)?;
    match &mail.route {
        MailRoute::Relay { host, port, tls, login } => {
            let relay = Relay { host, port: *port, tls: *tls, login: login.as_ref() };
            post.by_relay(relay, Trust::by(mail.ca.as_ref()).await?).await
        }
        MailRoute::Mx => post.by_mx(mail.ca.as_ref()).await,
    }
}

/// A mail as it goes over the wire.
struct Post {
    hello: ClientId,
    domain: String,
    envelope: Envelope,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy)]
struct Relay<'a> {
    host: &'a str,
    port: u16,
    tls: RelayTls,
    login: Option<&'a Login>,
}

impl Post {
    fn of(mail: &Mail, letter: Letter<'_>) -> Result<Self, String> {
        let Letter { to, number, at_epoch_secs, content } = letter;
        let from = address(&mail.from, "alerts.from")?;
        let to = address(to, "alerts.to` or `alert_to")?;
        let node = host_part(&content.node);
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(at_epoch_secs);
        let mut message = Message::builder()
            .from(Mailbox::new(None, from.clone()))
            .subject(content.subject.clone())
            .date(made)
            // With the time, since a machine whose state was wiped counts anew.
            .message_id(Some(format!("<lbd.{at_epoch_secs}.{number}.{node}@{}>", from.domain())))
            .header(AutoSubmitted)
            .header(ContentType::TEXT_PLAIN);
        for name in &content.all {
            message = message.to(Mailbox::new(None, address(name, "alerts.to` or `alert_to")?));
        }
        let message = message
            .body(content.text.clone())
            .map_err(|error| format!("the mail cannot be written: {error}"))?;
        let domain = to.domain().to_owned();
        let envelope = Envelope::new(Some(from), vec![to]).map_err(|error| error.to_string())?;
        Ok(Self { hello: ClientId::Domain(node), domain, envelope, bytes: message.formatted() })
    }

    async fn by_relay(&self, relay: Relay<'_>, trust: Trust) -> Result<String, String> {
        let Relay { host, port, tls, login } = relay;
        let name = format!("relay {host}:{port}");
        let wrapped = match tls {
            RelayTls::Tls => Some(trust.clone().parameters(host).await?),
            RelayTls::Starttls | RelayTls::Off => None,
        };
        let mut server =
            self.connect(host, port, wrapped).await.map_err(|error| cannot_reach(&name, &error))?;
        if tls == RelayTls::Starttls {
            if !server.can_starttls() {
                server.abort().await;
                return Err(format!(
                    "{name} offers no STARTTLS: check the port, or set `alerts.tls` to \"tls\" or \"off\""
                ));
            }
            let parameters = trust.parameters(host).await?;
            server.starttls(parameters, &self.hello).await.map_err(|error| cannot_reach(&name, &error))?;
        }
        if let Some(login) = login {
            let password = password(login).await?;
            let credentials = Credentials::new(login.user.clone(), password);
            if let Err(error) = server.auth(&MECHANISMS, &credentials).await {
                server.abort().await;
                return Err(refused_login(&name, login, &error));
            }
        }
        self.hand_over(server).await.map_err(|error| refused_mail(&name, &error))?;
        Ok(format!("taken by {name}"))
    }

    /// Tries the domain's servers in turn. Encryption is opportunistic (RFC 7435), since who is named by DNS proves
    /// nothing by a certificate for that name; unless authorities are named, who then must have signed it.
    async fn by_mx(&self, ca: Option<&CaFamily>) -> Result<String, String> {
        let mut last = String::new();
        for host in mx::servers(&self.domain).await? {
            let name = format!("mail server {host} of {}", self.domain);
            match self.to_server(&host, &name, ca).await {
                Ok(()) => return Ok(format!("taken by {name}")),
                Err(NotTaken::Refused(why)) => return Err(why),
                Err(NotTaken::NotNow(why)) => last = why,
            }
        }
        Err(last)
    }

    async fn to_server(&self, host: &str, name: &str, ca: Option<&CaFamily>) -> Result<(), NotTaken> {
        let unreachable = |error: &Error| NotTaken::NotNow(cannot_reach(name, error));
        let mut server = self.connect(host, SMTP, None).await.map_err(|error| unreachable(&error))?;
        if server.can_starttls() {
            let trust = if ca.is_some() { Trust::by(ca).await } else { Ok(Trust::Anybody) };
            let parameters = trust.map_err(NotTaken::NotNow)?.parameters(host).await;
            let parameters = parameters.map_err(NotTaken::NotNow)?;
            if let Err(error) = server.starttls(parameters, &self.hello).await {
                if ca.is_some() {
                    return Err(unreachable(&error));
                }
                // A server whose TLS does not work gets it as it would without.
                tracing::debug!("{name}: {}: sending without", cannot_reach(name, &error));
                server = self.connect(host, SMTP, None).await.map_err(|error| unreachable(&error))?;
            }
        } else if ca.is_some() {
            server.abort().await;
            return Err(NotTaken::NotNow(format!(
                "{name} offers no STARTTLS: remove `alerts.ca`, or set `alerts.relay`"
            )));
        }
        self.hand_over(server).await.map_err(|error| {
            let why = refused_mail(name, &error);
            if error.is_permanent() { NotTaken::Refused(why) } else { NotTaken::NotNow(why) }
        })
    }

    async fn connect(
        &self,
        host: &str,
        port: u16,
        wrapped: Option<lettre::transport::smtp::client::TlsParameters>,
    ) -> Result<AsyncSmtpConnection, Error> {
        AsyncSmtpConnection::connect_tokio1((host, port), Some(CONNECT), &self.hello, wrapped, None).await
    }

    async fn hand_over(&self, mut server: AsyncSmtpConnection) -> Result<(), Error> {
        server.send(&self.envelope, &self.bytes).await?;
        // The mail is theirs now, however they say goodbye.
        let _ = server.quit().await;
        Ok(())
    }
}

/// Why a server did not take a mail.
enum NotTaken {
    /// Another might.
    NotNow(String),
    /// Nobody would.
    Refused(String),
}

/// Keeps vacation notices and ticket systems from answering (RFC 3834 5).
#[derive(Clone, Copy, Debug)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

fn address(text: &str, key: &str) -> Result<Address, String> {
    text.parse().map_err(|error| format!("{text:?} is no mail address ({error}): correct `{key}`"))
}

/// A node's name as part of a message's and as we introduce ourselves.
fn host_part(node: &str) -> String {
    let name: String =
        node.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() { "lbd".to_owned() } else { name.to_owned() }
}

async fn password(login: &Login) -> Result<String, String> {
    let path = login.password_file.display();
    let text = tokio::fs::read_to_string(&login.password_file).await.map_err(|error| {
        format!("cannot read the password of {}: {path}: {error}: check `alerts.password_file`", login.user)
    })?;
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok(password.to_owned()),
        Some(_) | None => Err(format!(
            "no password of {} in the first line of {path}: check `alerts.password_file`",
            login.user
        )),
    }
}

fn cannot_reach(name: &str, error: &Error) -> String {
    match (tls_fault(error), error.status()) {
        (Some(fault), _) => format!("{name}: {fault}"),
        (None, Some(code)) => format!("{name} does not serve us: {code} {}", root(error)),
        (None, None) => {
            format!("cannot reach {name}: {}: check `alerts.relay` and the way there", root(error))
        }
    }
}

fn refused_login(name: &str, login: &Login, error: &Error) -> String {
    let Login { user, password_file } = login;
    match error.status() {
        Some(code) => format!(
            "{name} refused the login of {user} ({code} {}): check `alerts.user` and {}",
            root(error),
            password_file.display()
        ),
        None if error.is_client() => {
            format!(
                "{name} offers no login by PLAIN or LOGIN: check `alerts.tls`, or leave out `alerts.user`"
            )
        }
        None => format!("{name} broke off at the login of {user}: {}", root(error)),
    }
}

fn refused_mail(name: &str, error: &Error) -> String {
    match error.status() {
        Some(code) => format!(
            "{name} refused the mail ({code} {}): check `alerts.from` and the address it goes to",
            root(error)
        ),
        None => format!("{name} broke off in the middle of the mail: {}", root(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail() -> Mail {
        Mail { from: "lb@hospital.example".into(), to: Vec::new(), route: MailRoute::Mx, ca: None }
    }

    fn content() -> Content {
        Content {
            node: "lb 1".into(),
            subject: "[lb1] DOWN: DICOM/DICOM1 (Gerät antwortet nicht)".into(),
            text: "first\n.\nlast\n".into(),
            all: vec!["pacs@hospital.example".into(), "it@hospital.example".into()],
        }
    }

    #[test]
    fn a_mail_says_when_it_was_made_by_whom_and_that_nobody_should_answer() {
        let content = content();
        let letter =
            Letter { to: "it@hospital.example", number: 7, at_epoch_secs: 1_778_243_841, content: &content };
        let post = Post::of(&mail(), letter).unwrap();
        let text = String::from_utf8(post.bytes).unwrap();
        for line in [
            "From: lb@hospital.example",
            "To: pacs@hospital.example, it@hospital.example",
            "Message-ID: <lbd.1778243841.7.lb-1@hospital.example>",
            "Date: Fri, 08 May 2026 12:37:21 +0000",
            "Auto-Submitted: auto-generated",
        ] {
            assert!(text.contains(&format!("{line}\r\n")), "{line} is not in {text}");
        }
        assert_eq!(post.envelope.to(), ["it@hospital.example".parse::<Address>().unwrap()]);
        assert!(text.is_ascii(), "{text}");
    }

    #[test]
    fn an_address_that_is_none_is_named_with_its_key() {
        let content = content();
        let error =
            Post::of(&mail(), Letter { to: "nobody", number: 0, at_epoch_secs: 0, content: &content })
                .err()
                .unwrap();
        assert!(error.contains("\"nobody\" is no mail address") && error.contains("alert_to"), "{error}");
    }
}
