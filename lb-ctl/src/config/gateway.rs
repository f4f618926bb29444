//! `[gateway]`: what the machine is to servers whose default route leads here (R02, R65).

use std::net::IpAddr;

use super::{
    diag::{Code, Report},
    file::{At, Entry, Table, Value},
    read::{self, check_keys, missing, wrong_type},
    sections::entries,
};
use crate::model::config::{Gateway, GatewayAddress};

const KEYS: [&str; 2] = ["addresses", "masquerade"];
const ADDRESS_KEYS: [&str; 2] = ["ip", "interface"];
const EXAMPLE: &str = "[\"192.168.114.250\"]";

/// The section as far as it could be read.
#[derive(Default)]
pub(super) struct DraftGateway {
    pub(super) addresses: Vec<DraftAddress>,
    masquerade: Vec<String>,
}

/// A floating address.
pub(super) struct DraftAddress {
    pub(super) ip: At<IpAddr>,
    interface: Option<String>,
}

impl DraftGateway {
    pub(super) fn finish(self) -> Gateway {
        let address =
            |address: DraftAddress| GatewayAddress { ip: address.ip.value, interface: address.interface };
        Gateway { addresses: self.addresses.into_iter().map(address).collect(), masquerade: self.masquerade }
    }
}

/// Reads the section. What is reported is left out, for the configuration is refused anyway.
pub(super) fn read_gateway(section: Option<&Entry>, report: &mut Report<'_>) -> DraftGateway {
    let Some(section) = section else {
        return DraftGateway::default();
    };
    let table = entries(section);
    check_keys(table, "`[gateway]`", &KEYS, &[], report);
    let masquerade = table.get("masquerade").map(|entry| read::interfaces(entry, report));
    DraftGateway {
        addresses: table.get("addresses").map(|entry| read_addresses(entry, report)).unwrap_or_default(),
        masquerade: masquerade.unwrap_or_default(),
    }
}

fn read_addresses(entry: &Entry, report: &mut Report<'_>) -> Vec<DraftAddress> {
    let Value::Array(items) = &entry.node.value else {
        wrong_type(entry, "a list of addresses", EXAMPLE, report);
        return Vec::new();
    };
    let mut addresses: Vec<DraftAddress> = Vec::new();
    for item in items {
        let Some(address) = read_address(item, report) else {
            continue;
        };
        if let Some(first) = addresses.iter().find(|first| first.ip.value == address.ip.value) {
            report.error_also(
                Code::DuplicateAddress,
                address.ip.span,
                (first.ip.span, "first here"),
                format!("gateway address {} is there twice", address.ip.value),
                "remove one of them",
            );
        } else {
            addresses.push(address);
        }
    }
    addresses
}

fn read_address(item: &At<Value>, report: &mut Report<'_>) -> Option<DraftAddress> {
    let ip = |text: &str, span, report: &mut Report<'_>| {
        let value = read::host_address(text, "a gateway", span, report)?;
        Some(At { value, span })
    };
    match &item.value {
        Value::String(text) => Some(DraftAddress { ip: ip(text, item.span, report)?, interface: None }),
        Value::Table(table) => {
            check_keys(table, "a gateway address", &ADDRESS_KEYS, &[], report);
            let interface = read_interface(table, report);
            let Some(entry) = table.get("ip") else {
                missing("ip", "a gateway address", item.span, "\"192.168.114.250\"", report);
                return None;
            };
            let text = read::string(entry, "\"192.168.114.250\"", report)?;
            Some(DraftAddress { ip: ip(text, entry.node.span, report)?, interface })
        }
        Value::Array(_) | Value::Boolean(_) | Value::Integer(_) | Value::Other(_) => {
            let message = format!("a gateway address must be text or a table, not {}", item.value.kind());
            report.error(Code::WrongType, item.span, message, format!("write `addresses = {EXAMPLE}`"));
            None
        }
    }
}

fn read_interface(table: &Table, report: &mut Report<'_>) -> Option<String> {
    let entry = table.get("interface")?;
    let name = read::string(entry, "\"eth0\"", report)?;
    read::interface(name, entry.node.span, report)
}
