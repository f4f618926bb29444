//! The deployment `ge-ccw`: what its guide puts behind and before the balancer, with real servers in the places of the
//! application's.
//!
//! ```text
//!                        192.32.40.219 --- app1 .207, app2 .208     web, TLS with certificates on both sides
//! clients .50 --- lb .5 -+               - engine .209, emr .233     HL7 feeds
//!                        192.32.43.231 --- dicom1 .210, dicom2 .211  archives, direct routing
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use super::{
    app::{App, Listen},
    browser::Browser,
    deployment::{Deployment, Site},
    mllp::MllpServer,
    pki,
    servers::{Orthanc, StoreScp},
    topology::Segment,
};

/// Address of the web services and the feeds.
pub const WEB: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 32, 40, 219));
/// Address of the DICOM services.
pub const DICOM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 32, 43, 231));

/// Where it stands. One network holds both addresses, though the guide does not say how long its prefix is.
pub const SITE: Site<'_> = Site {
    name: "ge-ccw",
    segment: Segment { name: "ccw", number: 40, v4_begin: [192, 32, 40], v4_length: 22 },
    lb: 5,
    client: 50,
    servers: &[("app1", 207), ("app2", 208), ("engine", 209), ("dicom1", 210), ("dicom2", 211), ("emr", 233)],
};

/// A web service whose clients need a certificate.
#[derive(Clone, Copy, Debug)]
pub struct Secured {
    /// VIP.
    pub vip: &'static str,
    /// Port that the guide serves without TLS.
    pub cleartext: u16,
    /// Port with TLS, here and at the servers.
    pub tls: u16,
}

/// The web services whose clients need a certificate.
pub const SECURED: [Secured; 4] = [
    Secured { vip: "CCW_WEB_443", cleartext: 444, tls: 443 },
    Secured { vip: "CCW_WEB_8443", cleartext: 8444, tls: 8443 },
    Secured { vip: "CCW_WEB_44301", cleartext: 4431, tls: 44301 },
    Secured { vip: "CCW_NOTIFICATION", cleartext: 4430, tls: 44300 },
];

/// The web service without TLS, and its ports.
pub const OPEN: (&str, [u16; 3]) = ("CCW_WEB_8070-49200-49201", [8070, 49200, 49201]);

/// The DICOM services and their ports.
pub const ARCHIVES: [(&str, u16); 4] = [
    ("CCW_DICOMSERVICE_VS", 104),
    ("CCW_DICOMSERVER_VS", 1230),
    ("CCW_DICOM_1115", 1115),
    ("CCW_DICOM_1299", 1299),
];

/// An HL7 feed.
#[derive(Clone, Copy, Debug)]
pub struct Feed {
    /// VIP.
    pub vip: &'static str,
    /// Port there.
    pub port: u16,
    /// Who gets the messages.
    pub host: &'static str,
    /// Port there.
    pub server_port: u16,
}

/// The HL7 feeds.
pub const FEEDS: [Feed; 6] = [
    Feed { vip: "CCG_IB_2101", port: 2101, host: "engine", server_port: 5001 },
    Feed { vip: "CCG_IB_2102", port: 2102, host: "engine", server_port: 5002 },
    Feed { vip: "EMR_INBOUND", port: 4001, host: "emr", server_port: 2101 },
    Feed { vip: "PORT_EMR_IB", port: 4002, host: "emr", server_port: 6002 },
    Feed { vip: "PORT_CCG_IB_2103", port: 2103, host: "engine", server_port: 5001 },
    Feed { vip: "PORT_CCG_IB_2104", port: 2104, host: "engine", server_port: 5002 },
];

/// Who receives HL7 messages: host and port.
pub const RECEIVERS: [(&str, u16); 4] = [("engine", 5001), ("engine", 5002), ("emr", 2101), ("emr", 6002)];

/// The page by which an application says how it is, and what it says when all is well.
pub const HEALTH: (&str, &str) = ("/api/health/", "allServicesOperative");

/// The name in the certificate that the balancer shows to clients and servers.
pub const BALANCER_NAME: &str = "ccw.hospital.example";

/// The name in the certificate of a client.
pub const CLIENT_NAME: &str = "workstation";

/// The web applications and the archives.
#[derive(Debug)]
pub struct Servers<'lab> {
    /// Web applications on app1 and app2.
    pub apps: [App; 2],
    /// Archives on dicom1 and dicom2, port 104.
    pub archives: [Orthanc<'lab>; 2],
    /// What listens on the other three ports there.
    pub receivers: [[StoreScp; 2]; 3],
}

/// What a user has.
#[derive(Clone, Debug)]
pub struct User {
    /// With the certificate.
    pub browser: Browser,
    /// Without one.
    pub stranger: Browser,
    /// The authority's certificate.
    pub ca: PathBuf,
}

/// Lays the hosts out, and puts the files of the configuration in their places.
///
/// # Panics
///
/// When the kernel refuses a part.
#[must_use]
pub fn deployment(kept_as: Option<(&str, &Path)>) -> Deployment {
    let deployment = Deployment::new(&SITE, kept_as);
    let web = WEB.to_string();
    let pem = deployment.authority().issue_for_both_sides(BALANCER_NAME, &[BALANCER_NAME, &web]);
    deployment.add_file("pki/client-cert.pem", &pem);
    deployment.add_file("pki/ca-cert.pem", &deployment.authority().pem());
    deployment
}

impl<'lab> Servers<'lab> {
    /// Starts them all, and waits until they listen.
    ///
    /// # Panics
    ///
    /// When one does not.
    #[must_use]
    pub fn start(deployment: &'lab Deployment) -> Self {
        let dicom = ["dicom1", "dicom2"];
        for host in dicom {
            deployment.server(host).carry_vip(DICOM);
        }
        Self {
            apps: ["app1", "app2"].map(|host| application(deployment, host)),
            archives: dicom.map(|host| Orthanc::start(deployment.lab(), host, ARCHIVES[0].1)),
            receivers: [1, 2, 3]
                .map(|at| dicom.map(|host| StoreScp::start(deployment.lab(), host, ARCHIVES[at].1))),
        }
    }

    /// Instances stored by a DICOM service on either server, by its place in [`ARCHIVES`].
    ///
    /// # Panics
    ///
    /// When an archive does not say.
    #[must_use]
    pub fn instances(&self, service: usize) -> [Vec<String>; 2] {
        match service.checked_sub(1) {
            None => self.archives.each_ref().map(Orthanc::instances),
            Some(at) => self.receivers[at].each_ref().map(StoreScp::instances),
        }
    }
}

/// The web application on one host: it wants certificates of its clients and says that all is well.
fn application(deployment: &Deployment, name: &str) -> App {
    let host = deployment.server(name);
    let (ca, pem) =
        (deployment.ca_file(host), deployment.cert_file(host, name, &[name, &host.v4.to_string()]));
    let tls = SECURED.map(|service| service.tls);
    let app = App::start(
        host,
        &Listen { plain: &OPEN.1, tls: &tls, pem: Some(&pem), client_ca: Some(&ca), ..Listen::default() },
    );
    app.set_page(HEALTH.0, HEALTH.1);
    app
}

/// Who receives HL7 messages, in the order of [`RECEIVERS`].
///
/// # Panics
///
/// When a host cannot listen.
#[must_use]
pub fn receivers(deployment: &Deployment) -> Vec<MllpServer> {
    RECEIVERS.iter().map(|&(host, port)| MllpServer::start(deployment.server(host), port)).collect()
}

impl User {
    /// A user at the clients' host.
    ///
    /// # Panics
    ///
    /// When the certificate cannot be written.
    #[must_use]
    pub fn new(deployment: &Deployment) -> Self {
        let client = deployment.client();
        let ca = deployment.ca_file(client);
        let pem = deployment.cert_file(client, CLIENT_NAME, &[CLIENT_NAME]);
        let stranger = Browser::new(client).trusting(&ca);
        Self { browser: stranger.showing(&pem), stranger, ca }
    }

    /// The user's browser at another address: one that persistence leads to this application at CCW_WEB_443.
    ///
    /// # Panics
    ///
    /// When none of eight is led there.
    #[must_use]
    pub fn of_app(&self, deployment: &Deployment, app: &str) -> Browser {
        let url = format!("https://{WEB}:{}/", SECURED[0].tls);
        (80..88)
            .map(|octet| self.browser.from(deployment.another_client(octet)))
            .find(|browser| browser.page(&url).server() == app)
            .unwrap_or_else(|| panic!("none of eight clients is led to {app}"))
    }

    /// The same with the certificate of an authority that nobody here knows.
    ///
    /// # Panics
    ///
    /// When the certificate cannot be written.
    #[must_use]
    pub fn impostor(&self, deployment: &Deployment) -> Browser {
        let pem = pki::Authority::new("Elsewhere").issue(CLIENT_NAME, &[CLIENT_NAME], pki::Validity::Now);
        self.stranger.showing(&pki::write(&deployment.client().dir(), "impostor.pem", &pem))
    }
}

/// A port of the DICOM services.
#[must_use]
pub const fn dicom(port: u16) -> SocketAddr {
    SocketAddr::new(DICOM, port)
}

/// A port of the web services and the feeds.
#[must_use]
pub const fn web(port: u16) -> SocketAddr {
    SocketAddr::new(WEB, port)
}
