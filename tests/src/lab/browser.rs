//! curl as a browser: an authority that it trusts, a certificate of its own, cookies.

use std::path::{Path, PathBuf};

use super::{proc::Finished, topology::Host};

/// A user's browser. Clones share its cookies.
#[derive(Clone, Debug)]
pub struct Browser {
    host: Host,
    args: Vec<String>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Page {
    /// Status of the answer.
    pub status: u16,
    /// Headers in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: String,
}

impl Browser {
    /// One on `host` that trusts nobody, shows no certificate and keeps no cookies.
    #[must_use]
    pub fn new(host: &Host) -> Self {
        let args = ["-sS", "-i", "--http1.1", "--max-time", "10"].map(str::to_owned).into();
        Self { host: host.clone(), args }
    }

    /// The same with further options of curl.
    #[must_use]
    pub fn with(&self, args: &[&str]) -> Self {
        let args = self.args.iter().map(String::as_str).chain(args.iter().copied());
        Self { host: self.host.clone(), args: args.map(str::to_owned).collect() }
    }

    /// The same, trusting an authority.
    #[must_use]
    pub fn trusting(&self, ca: &Path) -> Self {
        self.with(&["--cacert", &ca.display().to_string()])
    }

    /// The same, showing a certificate.
    #[must_use]
    pub fn showing(&self, pem: &Path) -> Self {
        self.with(&["--cert", &pem.display().to_string()])
    }

    /// The same, keeping cookies under this name.
    #[must_use]
    pub fn keeping(&self, cookies: &str) -> Self {
        let jar: PathBuf = self.host.dir().join(format!("cookies-{cookies}"));
        let jar = jar.display().to_string();
        self.with(&["-b", &jar, "-c", &jar])
    }

    /// The same, from this address of its host.
    #[must_use]
    pub fn from(&self, address: impl ToString) -> Self {
        self.with(&["--interface", &address.to_string()])
    }

    /// Asks for a page; redirects are not followed.
    ///
    /// # Errors
    ///
    /// When nothing came that is HTTP: what curl said.
    pub fn get(&self, url: &str) -> Result<Page, Finished> {
        let mut args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        args.push(url);
        let run = self.host.run("curl", &args);
        match Page::read(&run.stdout) {
            Some(page) if run.success() => Ok(page),
            _ => Err(run),
        }
    }

    /// Asks for a page that must be there.
    ///
    /// # Panics
    ///
    /// When it is not answered with status 200: with all that came.
    #[track_caller]
    #[must_use]
    pub fn page(&self, url: &str) -> Page {
        let page = self.get(url).unwrap_or_else(|run| {
            panic!("{} came to {:?}: {}{}", run.command, run.code, run.stdout, run.stderr)
        });
        assert_eq!(page.status, 200, "{url}: {page:?}");
        page
    }
}

impl Page {
    /// What a web application says of itself, or of the request: see [`super::app`]. Empty when it says nothing.
    #[must_use]
    pub fn says(&self, what: &str) -> &str {
        let line = |line: &'_ str| line.strip_prefix(what).is_some_and(|rest| rest.starts_with(' '));
        self.body.lines().find(|text| line(text)).map_or("", |text| text[what.len()..].trim())
    }

    /// Name of the server that answered.
    #[must_use]
    pub fn server(&self) -> &str {
        self.says("server")
    }

    /// A header's value, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Reads an answer as it came, and as `curl -i` prints it.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        Some(Self { status, headers, body: body.to_owned() })
    }
}
