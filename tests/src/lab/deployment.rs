//! A published deployment on one machine: its configuration from `config/deployments` as it is shipped, hosts with the
//! addresses that it names, and certificates for the files that it names.

use std::{
    fs,
    net::Ipv4Addr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use super::{
    lbd::{Lbd, Programs},
    pki::{self, Authority, Validity},
    topology::{Host, Lab, Segment, Wire},
};

/// Where a deployment stands.
#[derive(Clone, Copy, Debug)]
pub struct Site<'a> {
    /// Name of its file in `config/deployments`.
    pub name: &'a str,
    /// The one segment that it is on.
    pub segment: Segment,
    /// Last octet of the balancer's own address.
    pub lb: u8,
    /// Last octet of the clients' address.
    pub client: u8,
    /// Servers: name, and last octet of the address.
    pub servers: &'a [(&'a str, u8)],
}

/// The hosts of a deployment, with an authority for all its certificates.
#[derive(Debug)]
pub struct Deployment {
    name: String,
    segment: Segment,
    lab: Lab,
    authority: Authority,
}

impl Deployment {
    /// Lays it out; `kept_as` is fixed name and directory of one that may outlive this program.
    ///
    /// # Panics
    ///
    /// When the kernel refuses a part.
    #[must_use]
    pub fn new(site: &Site<'_>, kept_as: Option<(&str, &Path)>) -> Self {
        let hosts = [("client", site.client), (BALANCER, site.lb)];
        let wires: Vec<_> = hosts
            .iter()
            .chain(site.servers)
            .map(|&(host, octet)| Wire { host, dev: "eth0", segment: site.segment, octet })
            .collect();
        let lab = Lab::wire(&wires, kept_as);
        Self { name: site.name.to_owned(), segment: site.segment, lab, authority: Authority::new("Hospital") }
    }

    /// The lab beneath.
    #[must_use]
    pub const fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The clients.
    #[must_use]
    pub fn client(&self) -> &Host {
        self.lab.host("client")
    }

    /// The balancer.
    #[must_use]
    pub fn lb(&self) -> &Host {
        self.lab.host(BALANCER)
    }

    /// The server called `name`.
    ///
    /// # Panics
    ///
    /// When the site has none.
    #[must_use]
    pub fn server(&self, name: &str) -> &Host {
        self.lab.host(name)
    }

    /// Gives the clients one more address of the segment.
    ///
    /// # Panics
    ///
    /// When the kernel refuses.
    pub fn another_client(&self, octet: u8) -> Ipv4Addr {
        let ip = self.segment.v4(octet);
        self.client().netns.ip(&format!("addr add {ip}/{} dev eth0", self.segment.v4_length));
        ip
    }

    /// Who signs every certificate here.
    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The authority's own certificate, as a file of `host`.
    #[must_use]
    pub fn ca_file(&self, host: &Host) -> PathBuf {
        pki::write(&host.dir(), "ca.pem", &self.authority.pem())
    }

    /// A certificate with its key, as a file of `host`, for hosts by name or address.
    ///
    /// # Panics
    ///
    /// When a host is neither.
    #[must_use]
    pub fn cert_file(&self, host: &Host, common_name: &str, hosts: &[&str]) -> PathBuf {
        let pem = self.authority.issue(common_name, hosts, Validity::Now);
        pki::write(&host.dir(), &format!("{common_name}.pem"), &pem)
    }

    /// The configuration as it is shipped.
    ///
    /// # Panics
    ///
    /// When there is none of that name.
    #[must_use]
    pub fn shipped_config(&self) -> String {
        let path = format!("{DEPLOYMENTS}/{}.toml", self.name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
    }

    /// Puts a file where the configuration's relative paths lead: `pki/ca-cert.pem`, `scripts/sectra-shs.sh`.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn add_file(&self, relative: &str, content: &str) {
        let path = self.lb().dir().join(relative);
        let dir = path.parent().unwrap_or(&path);
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(&path, content))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Puts a program of the check scripts where the configuration looks for it.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    pub fn add_script(&self, name: &str, content: &str) {
        let relative = format!("scripts/{name}");
        self.add_file(&relative, content);
        let path = self.lb().dir().join(relative);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
            .unwrap_or_else(|error| panic!("cannot make {} executable: {error}", path.display()));
    }

    /// Writes a configuration and starts nothing.
    ///
    /// # Panics
    ///
    /// When it cannot be written.
    #[must_use]
    pub fn prepare(&self, toml: &str, programs: Programs) -> Lbd {
        Lbd::prepare(&self.lab, self.lb(), toml, programs)
    }

    /// Starts the daemon with a configuration, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn start(&self, toml: &str) -> Lbd {
        let mut lbd = self.prepare(toml, Programs::find());
        lbd.start_again();
        lbd
    }
}

/// The balancer's host.
const BALANCER: &str = "lb";
/// The configurations that are shipped.
const DEPLOYMENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/deployments");
