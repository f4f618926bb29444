//! The configuration: from TOML files to [`Config`], and back.
//!
//! ```text
//! Texts::read -> texts -> file (trees with places) -> sections (profiles merged) -> drafts -> rules -> Config
//! ```
//!
//! Reading files and understanding texts are apart, so that an edited text is checked before it is written. Every
//! fault of every file is reported at once, with its line, a caret and a cure.
//!
//! **Merging.** A VIP takes from its `profile` what it does not say itself, key by key into tables; a profile may rest
//! on another. `check = "connect"` is short for `check = { type = "connect" }`; where the types of VIP and profile
//! differ, keys that mean nothing for the VIP's type fall away. A VIP's own `servers` replace its profile's `pool`. What a
//! server says of its `check` is laid upon the VIP's in the same way.
//!
//! **Names.** Checks name certificates and families of `[pki]`, scripts and VIPs, and VIPs of layer 7 the former; a name
//! that leads nowhere is a fault. A file that cannot be read is a warning: it may come later, and what needs it says so
//! again.
//!
//! **Modes.** One word moves a deployment from direct routing to NAT to SNAT. Keys that mean nothing in a VIP's mode
//! are checked and then left alone, with a warning; only ports of servers are refused with direct routing (R01).
//!
//! **Defaults.** `protocol` tcp, `scheduler` wlc, `persist` none (`source-ip`: 300 s, whole address), `check` connect
//! to the server's port or the VIP's first (interval 4 s, timeout 3 s or the interval if shorter, rise 2, fall 2, of
//! `track` 1 and 1; `dr_path` true, `syn_repeats` show; calling AE title LOADBALANCER; method GET, path `/`, status
//! 200-299, 65536 bytes of body; certificates not verified), `alerts` none (group 3 s, repeat 24 h), `idle_timeout` 1 h, `fallback` reject, `slow_start` 0 s, `unattended` serve,
//! `source` interface, `source_ports` 10240-32767, `return` last-hop, `reset` true, `enabled` true; of a server `weight`
//! 100, `max_connections` and `min_connections` 0 (no limit). Those of layer 7 stand in `proxy`.

#![forbid(unsafe_code)]

mod alerts;
mod check;
mod code;
mod diag;
mod diff;
mod edit;
mod file;
mod files;
mod gateway;
mod hosts;
mod keys;
mod node;
mod persistence;
mod pki;
mod ports;
mod proxy;
mod read;
mod rules;
mod sections;
mod server;
mod service;
mod show;
mod source;
#[cfg(test)]
mod tests;
mod translate;

pub(crate) use self::source::toml_files;
pub use self::{
    diag::{Code, ConfigErrors, Diagnostic, Place, Severity},
    diff::diff,
    edit::{EditError, Edited, FileChange, plan_edit},
    show::show,
    source::{Rewrite, Text, Texts, WriteError},
};

use std::fmt;

use self::{check::Scope, diag::Report, sections::Sections, service::Part};
use crate::model::config::{Config, Sources};

/// A configuration that was read and understood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Loaded {
    /// What it means.
    pub config: Config,
    /// What is worth knowing though nothing is wrong.
    pub warnings: Vec<Diagnostic>,
    /// The files it was read from.
    pub texts: Texts,
}

/// What a check of the files says: every warning with its place and cure, and a line on what there is.
impl fmt::Display for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            write!(f, "{warning}\n\n")?;
        }
        if let Some(main) = self.texts.files.first() {
            write!(f, "{}", main.path.display())?;
        }
        if let more @ 1.. = self.texts.files.len().saturating_sub(1) {
            write!(f, " and {more} of conf.d")?;
        }
        let vips = &self.config.vips;
        let rips: usize = vips.iter().map(|vip| vip.rips.len()).sum();
        let s = |count: usize| if count == 1 { "" } else { "s" };
        write!(f, ": {} VIP{} with {rips} real server{}, no errors", vips.len(), s(vips.len()), s(rips))
    }
}

/// Reads and checks the files. Blocks on the disk.
///
/// # Errors
///
/// Every fault of every file.
pub fn load(sources: &Sources) -> Result<Loaded, ConfigErrors> {
    load_texts(Texts::read(sources)?)
}

/// Checks texts, wherever they come from.
///
/// # Errors
///
/// Every fault of every text.
pub fn load_texts(texts: Texts) -> Result<Loaded, ConfigErrors> {
    let mut report = Report::new(&texts.files);
    let config = understand(&texts, &mut report);
    let failed = report.has_errors();
    let (errors, warnings) = report.finish();
    if failed {
        return Err(ConfigErrors { errors });
    }
    Ok(Loaded { config, warnings, texts })
}

/// The configuration, as far as the report has no errors.
fn understand(texts: &Texts, report: &mut Report<'_>) -> Config {
    let files = texts
        .files
        .iter()
        .enumerate()
        .map(|(number, file)| file::parse(number, &file.text, report))
        .collect();
    let sections = Sections::collect(files, report);
    let directory = files::directory(texts);
    let pki = pki::read_pki(&sections, &directory, report);
    let settings = proxy::read_settings(sections.proxy.as_ref(), &directory, report);
    let scope = Scope {
        sections: &sections,
        pki: &pki,
        proxy: &settings.value,
        directory: &directory,
        part: Part::Whole,
    };
    let pools: Vec<_> = sections.pools.iter().map(|pool| service::read_pool(pool, report)).collect();
    for profile in &sections.profiles {
        service::check_profile(profile, Scope { part: Part::Profile, ..scope }, report);
    }
    let drafts: Vec<_> =
        sections.vips.iter().map(|vip| service::read_vip(vip, scope, &pools, report)).collect();
    let gateway = gateway::read_gateway(sections.gateway.as_ref(), report);
    rules::check(&drafts, &gateway, &sections, report);
    proxy::check(&drafts, &settings, report);
    sections.advise_unused(report);
    let config = Config {
        alerts: alerts::read_alerts(&drafts, scope, report),
        node: node::read_node(sections.node.as_ref(), report),
        gateway: gateway.finish(),
        vips: drafts.into_iter().filter_map(service::Draft::finish).collect(),
        pki: pki.clone(),
        proxy: settings.value.clone(),
    };
    pki::advise_unused(&config, &sections, report);
    config
}
