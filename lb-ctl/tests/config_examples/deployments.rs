//! The guides' deployments, which load without a warning once their files are there, mean what the guides say.

use std::time::Duration;

use lb_ctl::model::{
    check::{BodyMatch, CheckKind, Verify},
    config::{Config, Fallback, Mode, Persist, Scheduler, Vip},
    proxy::{HeaderAction, HeaderOf, Security},
};

use crate::load_with;

fn deployment(name: &str, files: &[&str]) -> Config {
    load_with(&format!("deployments/{name}"), files).config
}

/// `VIP IP:PORTS(TLS) MODE PERSIST CHECK FALLBACK SCHEDULER: SERVER ADDRESS:PORT, ..`.
fn line(vip: &Vip) -> String {
    let tls = vip.proxy.as_ref().and_then(|proxy| proxy.tls.as_ref());
    let tls = tls.map_or_else(String::new, |tls| format!("({})", tls.port));
    let persist = match &vip.persist {
        Persist::Cookie { .. } => "cookie".to_owned(),
        Persist::LastSuccessful { timeout } => format!("last-successful {timeout:?}"),
        Persist::None => "none".to_owned(),
        Persist::SourceIp { timeout, .. } => format!("source-ip {timeout:?}"),
        Persist::UrlParam { name, timeout, entries, key_len } => {
            format!("url-param {name} {timeout:?} {entries} {key_len}")
        }
    };
    let rips: Vec<_> = vip
        .rips
        .iter()
        .map(|rip| {
            assert_eq!(rip.weight, 100);
            let port = rip.port.map_or_else(|| "blank".to_owned(), |port| port.to_string());
            format!("{} {}:{port}", rip.name, rip.ip)
        })
        .collect();
    format!(
        "{} {}:{}{tls} {} {persist} {} {} {}: {}",
        vip.name,
        vip.ip,
        vip.ports,
        vip.mode.name(),
        vip.check.kind.name(),
        vip.fallback,
        vip.scheduler.name(),
        rips.join(", ")
    )
}

fn sorted(config: &Config) -> Vec<String> {
    let mut lines: Vec<_> = config.vips.iter().map(line).collect();
    lines.sort();
    lines
}

#[rustfmt::skip]
const GE_CCW: [&str; 15] = [
    "CCG_IB_2101 192.32.40.219:2101 l7-tcp last-successful Some(43200s) connect reject first: CCW_INT_5001 192.32.40.209:5001",
    "CCG_IB_2102 192.32.40.219:2102 l7-tcp last-successful Some(43200s) connect reject first: CCW_INT_5002 192.32.40.209:5002",
    "CCW_DICOMSERVER_VS 192.32.43.231:1230 l4-dr none dicom-echo reject wlc: DICOM_Server_1 192.32.40.210:blank, DICOM_Server_2 192.32.40.211:blank",
    "CCW_DICOMSERVICE_VS 192.32.43.231:104 l4-dr none dicom-echo reject wlc: DICOM_Server_1 192.32.40.210:blank, DICOM_Server_2 192.32.40.211:blank",
    "CCW_DICOM_1115 192.32.43.231:1115 l4-dr none dicom-echo reject wlc: DICOM_Server_1 192.32.40.210:blank, DICOM_Server_2 192.32.40.211:blank",
    "CCW_DICOM_1299 192.32.43.231:1299 l4-dr none dicom-echo reject wlc: DICOM_Server_1 192.32.40.210:blank, DICOM_Server_2 192.32.40.211:blank",
    "CCW_NOTIFICATION 192.32.40.219:4430(44300) l7-tcp last-successful Some(43200s) https page first: CCW_App_Server_1 192.32.40.207:44300, CCW_App_Server_2 192.32.40.208:44300",
    "CCW_WEB_443 192.32.40.219:444(443) l7-tcp source-ip 3600s connect page wlc: CCW_App_Server_1 192.32.40.207:443, CCW_App_Server_2 192.32.40.208:443",
    "CCW_WEB_44301 192.32.40.219:4431(44301) l7-tcp source-ip 3600s connect page wlc: CCW_App_Server_1 192.32.40.207:44301, CCW_App_Server_2 192.32.40.208:44301",
    "CCW_WEB_8070-49200-49201 192.32.40.219:8070,49200,49201 l7-tcp source-ip 3600s connect reject wlc: CCW_App_Server_1 192.32.40.207:blank, CCW_App_Server_2 192.32.40.208:blank",
    "CCW_WEB_8443 192.32.40.219:8444(8443) l7-http cookie connect page wlc: CCW_App_Server_1 192.32.40.207:8443, CCW_App_Server_2 192.32.40.208:8443",
    "EMR_INBOUND 192.32.40.219:4001 l7-tcp last-successful Some(43200s) connect reject first: CLOVERLEAF_OB 192.32.40.233:2101",
    "PORT_CCG_IB_2103 192.32.40.219:2103 l7-tcp last-successful Some(43200s) connect reject first: Port_CCW_5001 192.32.40.209:5001",
    "PORT_CCG_IB_2104 192.32.40.219:2104 l7-tcp last-successful Some(43200s) connect reject first: CCW_INT_5002 192.32.40.209:5002",
    "PORT_EMR_IB 192.32.40.219:4002 l7-tcp last-successful Some(43200s) connect reject first: PORT_CL_OB 192.32.40.233:6002",
];

#[test]
fn ge_ccw_has_fifteen_services() {
    let config = deployment("ge-ccw.toml", &["pki/client-cert.pem", "pki/ca-cert.pem"]);
    assert_eq!(sorted(&config), GE_CCW);
    for vip in config.vips.iter().filter(|vip| vip.mode == Mode::L4Dr) {
        let CheckKind::DicomEcho(echo) = &vip.check.kind else { panic!("{vip:?}") };
        assert_eq!((echo.calling_aet.as_str(), echo.called_aet.as_str()), ("LOADBALANCER", "LB-SCP"));
    }
}

#[test]
fn ge_ccw_lets_nobody_in_without_a_certificate() {
    let config = deployment("ge-ccw.toml", &["pki/client-cert.pem", "pki/ca-cert.pem"]);
    let mut names = Vec::new();
    for vip in &config.vips {
        let Some(proxy) = vip.proxy.as_ref().filter(|proxy| proxy.tls.is_some()) else { continue };
        let (tls, towards) = (proxy.tls.as_ref().unwrap(), proxy.backend_tls.as_ref().unwrap());
        assert_eq!(tls.certs.iter().map(|cert| cert.name.as_str()).collect::<Vec<_>>(), ["client-cert"]);
        assert_eq!(tls.client_ca.as_ref().unwrap().name, "mTLS");
        assert!(tls.client_required && !tls.cleartext && tls.security == Security::High, "{}", vip.name);
        let Verify::Family(family) = &towards.verify else { panic!("{towards:?}") };
        assert_eq!((family.name.as_str(), family.pems.len()), ("mTLS", 1));
        assert_eq!(towards.client_cert.as_ref().unwrap().name, "client-cert");
        names.push(vip.name.as_str());
    }
    names.sort_unstable();
    assert_eq!(names, ["CCW_NOTIFICATION", "CCW_WEB_443", "CCW_WEB_44301", "CCW_WEB_8443"]);
}

#[test]
fn ge_ccw_asks_for_notifications_as_the_guide_does() {
    let config = deployment("ge-ccw.toml", &["pki/client-cert.pem", "pki/ca-cert.pem"]);
    let vip = config.vips.iter().find(|vip| vip.name == "CCW_NOTIFICATION").unwrap();
    let CheckKind::Http(http) = &vip.check.kind else { panic!("{vip:?}") };
    assert_eq!((http.method.as_str(), http.path.as_str()), ("GET", "/api/health/"));
    assert_eq!(http.body, Some(BodyMatch::Equals("allServicesOperative".to_owned())));
    assert_eq!(http.tls.as_ref().unwrap().client_cert.as_ref().unwrap().name, "client-cert");
    let timeouts = vip.proxy.as_ref().unwrap().timeouts;
    let long = Duration::from_secs(12 * 3600);
    assert_eq!((timeouts.connect, timeouts.client, timeouts.server), (Duration::from_secs(4), long, long));
}

#[test]
fn sectra_has_three_services_with_scripts_of_their_own() {
    let names = ["shs", "uniview", "pathology"];
    let files =
        names.map(|name| [format!("pki/{name}.example.com.pem"), format!("scripts/sectra-{name}.sh")]);
    let files: Vec<_> = files.iter().flatten().map(String::as_str).collect();
    let config = deployment("sectra.toml", &files);
    #[rustfmt::skip]
    let expected = [
        "Sectra_IDS7 192.168.85.150:80(443) l7-http none script page wlc: SHS_1 192.168.85.200:blank, SHS_2 192.168.85.201:blank, SHS_3 192.168.85.202:blank",
        "Sectra_Pathology 192.168.85.170:80(443) l7-http url-param shardKey 1800s 10240 128 script page wlc: Pathology_1 192.168.85.220:blank, Pathology_2 192.168.85.221:blank, Pathology_3 192.168.85.222:blank",
        "Sectra_UniView 192.168.85.160:80(443) l7-http cookie script page wlc: UniView_1 192.168.85.210:blank, UniView_2 192.168.85.211:blank, UniView_3 192.168.85.212:blank",
    ];
    assert_eq!(sorted(&config), expected);
    for vip in &config.vips {
        let proxy = vip.proxy.as_ref().unwrap();
        assert_eq!(proxy.https_redirect, Some(308));
        assert!(proxy.http.accept_invalid && proxy.http.request_timeout.is_none(), "{}", vip.name);
        assert!(proxy.tls.as_ref().unwrap().cleartext, "{}: nobody would be redirected", vip.name);
        let CheckKind::Script(script) = &vip.check.kind else { panic!("{vip:?}") };
        let cert = &proxy.tls.as_ref().unwrap().certs[0].name;
        let name = script.name.strip_prefix("sectra-").unwrap().strip_suffix(".sh").unwrap();
        assert_eq!(*cert, format!("{name}.example.com"));
        let set: Vec<_> =
            proxy.headers.iter().map(|rule| (rule.of, rule.name.as_str(), &rule.action)).collect();
        let (https, host) = (HeaderAction::Set("https".to_owned()), HeaderAction::Set("%fi:443".to_owned()));
        let expected = [(HeaderOf::Request, "X-Forwarded-Proto", &https), (HeaderOf::Request, "Host", &host)];
        assert_eq!(set, if vip.name == "Sectra_IDS7" { &expected[..] } else { &[] });
    }
}

#[test]
fn mach7_has_four_services() {
    let config = deployment("mach7.toml", &[]);
    #[rustfmt::skip]
    let expected = [
        "DICOM 192.168.110.100:11112 l7-tcp source-ip 3600s connect reject wlc: DICOM1 192.168.110.150:blank, DICOM2 192.168.110.151:blank",
        "DMWL 192.168.110.102:5104 l7-tcp source-ip 3600s connect reject wlc: DMWL1 192.168.110.150:blank, DMWL2 192.168.110.151:blank",
        "HL7 192.168.110.101:6667 l7-tcp source-ip 3600s connect reject wlc: HL71 192.168.110.150:blank, HL72 192.168.110.151:blank",
        "HTTPS 192.168.110.103:443 l7-tcp source-ip 3600s connect reject wlc: HTTPS 192.168.110.151:blank, HTTPS2 192.168.110.150:blank",
    ];
    assert_eq!(sorted(&config), expected);
}

#[test]
fn the_archive_of_mach7_has_three_services() {
    let config = deployment("mach7-vna.toml", &[]);
    #[rustfmt::skip]
    let expected = [
        "DMWL 192.168.0.184:5104 l7-tcp source-ip 3600s connect reject wlc: MWL1 192.168.0.60:blank, MWL2 192.168.0.61:blank",
        "HL7 192.168.0.189:6667 l7-tcp source-ip 3600s connect reject wlc: Corepoint1 192.168.0.50:blank, Corepoint2 192.168.0.51:blank",
        "VNA_DICOM 192.168.0.188:11112 l7-tcp source-ip 3600s connect reject wlc: VNA1 192.168.0.40:blank, VNA2 192.168.0.42:blank",
    ];
    assert_eq!(sorted(&config), expected);
}

#[test]
fn the_medical_imaging_guide_has_four_services() {
    let config = deployment("medical-imaging.toml", &[]);
    #[rustfmt::skip]
    let expected = [
        "DICOM-Modalities 10.12.1.100:104,11112 l4-dr source-ip 3600s connect reject wlc: DICOM1 10.12.1.110:blank",
        "HL7 10.12.1.120:2575 l7-tcp source-ip 3600s connect reject wlc: HL71 10.12.1.130:2575",
        "HTTPS-Viewer 10.12.1.160:443 l7-tcp source-ip 3600s connect reject wlc: VIEWER1 10.12.1.170:443, VIEWER2 10.12.1.171:443",
        "XDS-Registry 10.12.1.140:17035 l4-dr source-ip 3600s connect reject wlc: XDS1 10.12.1.150:blank",
    ];
    assert_eq!(sorted(&config), expected);
    let (limits, hour) = (config.proxy.timeouts, Duration::from_secs(3600));
    assert_eq!((limits.connect, limits.client, limits.server), (Duration::from_millis(4000), hour, hour));
    // The page is for those who speak HTTP, and nobody here does.
    assert!(
        config.vips.iter().all(|vip| vip.fallback == Fallback::Reject && vip.scheduler == Scheduler::Wlc)
    );
}
