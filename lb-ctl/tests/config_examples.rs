//! The shipped configurations load without a warning and mean what the guides say.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, like the tests")]

use std::{path::Path, time::Duration};

use lb_ctl::{
    config::{Loaded, Texts, load, load_texts, show},
    model::config::{
        Check, CheckKind, Fallback, Mode, Persist, Ports, Protocols, ReturnPath, Rip, Scheduler, Source,
        Sources, Vip,
    },
};

fn load_example(name: &str) -> Loaded {
    let main = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name);
    let loaded = load(&Sources { main }).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.warnings, [], "{name} warns");
    let shown = Texts::single("shown.toml", show(&loaded.config));
    let again = load_texts(shown).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(again.config, loaded.config, "{name}: what is shown does not mean the same");
    loaded
}

fn rip(name: &str, ip: &str) -> Rip {
    Rip { name: name.into(), ip: ip.parse().unwrap(), port: None, weight: 100 }
}

fn numbered(ports: &[u16]) -> Ports {
    Ports::Ranges(ports.iter().map(|port| *port..=*port).collect())
}

/// A layer-4 service of the guide: persistence 3600 s, everything else by default (R10 to R13).
fn guide_p(name: &str, ip: &str, ports: &[u16], check_port: Option<u16>, server: Rip) -> Vip {
    Vip {
        name: name.into(),
        mode: Mode::L4Dr,
        ip: ip.parse().unwrap(),
        ports: numbered(ports),
        protocols: Protocols::Tcp,
        interface: None,
        scheduler: Scheduler::Wrr,
        persist: Persist::SourceIp { prefix_v4: 32, prefix_v6: 128, timeout: Duration::from_secs(3600) },
        check: Check {
            kind: CheckKind::Connect,
            port: check_port,
            interval: Duration::from_secs(4),
            timeout: Duration::from_secs(3),
            rise: 2,
            fall: 2,
        },
        idle_timeout: Duration::from_secs(3600),
        fallback: Fallback::Reject,
        source: Source::default(),
        return_path: ReturnPath::default(),
        reset: true,
        enabled: true,
        rips: vec![server],
    }
}

#[test]
fn the_medical_imaging_guide_is_configured_value_by_value() {
    let vips = load_example("deployments/medical-imaging.toml").config.vips;
    let dicom_server = rip("DICOM1", "10.12.1.110");
    let dicom = guide_p("DICOM-Modalities", "10.12.1.100", &[104, 11112], Some(104), dicom_server);
    let xds = guide_p("XDS-Registry", "10.12.1.140", &[17035], None, rip("XDS1", "10.12.1.150"));
    assert_eq!(vips, [dicom, xds]);
}

#[test]
fn the_demo_is_what_the_lab_builds() {
    let vips = load_example("demo.toml").config.vips;
    let [vip] = vips.as_slice() else { panic!("{vips:?}") };
    assert_eq!((vip.name.as_str(), vip.mode, vip.scheduler), ("DICOM", Mode::L4Dr, Scheduler::Wrr));
    assert_eq!((vip.ip, &vip.ports), ("10.10.0.100".parse().unwrap(), &numbered(&[104, 11112])));
    assert_eq!(vip.rips, [rip("PACS1", "10.10.0.11"), rip("PACS2", "10.10.0.12")]);
    let check = Check {
        kind: CheckKind::DicomEcho { calling_aet: "LBD".into(), called_aet: "ORTHANC".into() },
        port: None,
        interval: Duration::from_millis(500),
        timeout: Duration::from_millis(400),
        rise: 2,
        fall: 2,
    };
    assert_eq!(vip.check, check);
}

#[test]
fn the_commented_example_states_true_defaults() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/lbd.toml");
    let text = std::fs::read_to_string(path).unwrap();
    // With each commented default made live the meaning must be the same, but for what has no default.
    let live: String = text.lines().map(|line| format!("{}\n", uncomment(line))).collect();
    for key in ["scheduler", "idle_timeout", "fallback", "enabled", "protocol", "flows_v4", "half_open"] {
        assert!(live.contains(&format!("\n{key} ")), "{key} is not among the defaults:\n{live}");
    }
    let before = load_example("lbd.toml").config;
    let loaded = load_texts(Texts::single("live.toml", live)).unwrap_or_else(|errors| panic!("{errors}"));
    let mut after = loaded.config;
    assert_eq!(after.node.name.take().as_deref(), Some("lb1"));
    assert_eq!(after.vips[0].interface.take().as_deref(), Some("eth0"));
    assert_eq!(after.vips[0].check.port.take(), Some(104));
    assert_eq!(after, before);
}

/// `# key = value` without its first `# `; anything else as it is.
fn uncomment(line: &str) -> &str {
    let Some(rest) = line.strip_prefix("# ") else {
        return line;
    };
    let Some((key, _)) = rest.split_once('=') else {
        return line;
    };
    let key = key.trim();
    let is_key = !key.is_empty() && key.bytes().all(|b| b.is_ascii_lowercase() || b"_46".contains(&b));
    if is_key { rest } else { line }
}
