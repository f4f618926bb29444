//! The guides' deployments: what the proxy does in each of them.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use lb_ctl::{
    config::load,
    model::{
        config::{Sources, Vip},
        proxied::Proxies,
    },
};

use super::{golden, samples::serving};

#[test]
fn ge_ccw_is_written_as_before() {
    golden("ge-ccw", &deployment("ge-ccw", &["pki/client-cert.pem", "pki/ca-cert.pem"]));
}

#[test]
fn sectra_is_written_as_before() {
    let files = [
        "pki/shs.example.com.pem",
        "pki/uniview.example.com.pem",
        "pki/pathology.example.com.pem",
        "scripts/sectra-shs.sh",
        "scripts/sectra-uniview.sh",
        "scripts/sectra-pathology.sh",
    ];
    golden("sectra", &deployment("sectra", &files));
}

#[test]
fn mach7_is_written_as_before() {
    golden("mach7", &deployment("mach7", &[]));
}

#[test]
fn mach7_vna_is_written_as_before() {
    golden("mach7-vna", &deployment("mach7-vna", &[]));
}

#[test]
fn medical_imaging_is_written_as_before() {
    golden("medical-imaging", &deployment("medical-imaging", &[]));
}

/// The layer-7 VIPs of a deployment with these files beside it, no matter what is in them; all servers are up.
fn deployment(name: &str, files: &[&str]) -> Proxies {
    let dir = tempfile::tempdir().expect("a directory");
    let main = dir.path().join("lbd.toml");
    let shipped = format!("../config/deployments/{name}.toml");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(shipped), &main).expect("the deployment is shipped");
    for file in files {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().expect("a directory")).expect("it is made");
        fs::write(&path, "made up\n").expect("the file is written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("a script may be run");
    }
    let config = load(&Sources { main }).unwrap_or_else(|errors| panic!("{errors}")).config;
    let vips: Vec<Vip> = config.vips.into_iter().filter(|vip| vip.mode.is_layer7()).collect();
    assert!(!vips.is_empty(), "{name} has no layer-7 VIP");
    Proxies { settings: config.proxy, ..serving(vips) }
}
