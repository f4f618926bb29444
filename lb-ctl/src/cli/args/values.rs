//! Values of arguments: what they are made of, and what is said when they are not.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use crate::model::command::Assignment;

/// `NAME=ADDRESS` as typed: the address may carry a port, which the mode may refuse.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamedAddress {
    /// Name.
    pub name: String,
    /// Address as typed.
    pub address: String,
}

/// `NAME=ADDRESS` or `NAME=ADDRESS:PORT`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NamedIp {
    /// Name.
    pub name: String,
    /// Address.
    pub ip: IpAddr,
    /// Port, which the mode may refuse.
    pub port: Option<u16>,
}

/// `VIP/RIP`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QualifiedRip {
    /// VIP's name.
    pub vip: String,
    /// Real server's name.
    pub rip: String,
}

impl FromStr for QualifiedRip {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        match typed.parse()? {
            RipTarget::In(rip) => Ok(rip),
            RipTarget::Everywhere(rip) => {
                Err(format!("`{rip}` does not say in which VIP: write VIP/RIP, e.g. DICOM/{rip}"))
            }
        }
    }
}

/// `VIP/RIP` or `RIP`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum RipTarget {
    /// In every VIP that has a real server of this name.
    Everywhere(String),
    /// In one VIP.
    In(QualifiedRip),
}

impl RipTarget {
    /// True when the VIP is not named.
    pub(in crate::cli) const fn is_alone(&self) -> bool {
        matches!(self, Self::Everywhere(_))
    }
}

impl FromStr for RipTarget {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let parts: Vec<&str> = typed.split('/').collect();
        match parts.as_slice() {
            [rip] if !rip.is_empty() => Ok(Self::Everywhere((*rip).to_owned())),
            [vip, rip] if !vip.is_empty() && !rip.is_empty() => {
                Ok(Self::In(QualifiedRip { vip: (*vip).to_owned(), rip: (*rip).to_owned() }))
            }
            _ => Err(format!("`{typed}` is not VIP/RIP, e.g. DICOM/DICOM1")),
        }
    }
}

/// `ADDRESS` or `ADDRESS:PORT` of a client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClientEnd {
    /// Address.
    pub ip: IpAddr,
    /// Port.
    pub port: Option<u16>,
}

impl FromStr for ClientEnd {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        match typed.parse::<SocketAddr>() {
            Ok(end) if end.port() == 0 => {
                Err(format!("`{typed}` names port 0; write one from 1 to 65535, or leave `:0` out"))
            }
            Ok(end) => Ok(Self { ip: end.ip(), port: Some(end.port()) }),
            Err(_) => {
                let address =
                    typed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(typed);
                let ip = parse_ip(address)
                    .map_err(|_| format!("`{typed}` is neither ADDRESS nor ADDRESS:PORT, e.g. 10.12.7.4:40000 or [fd00:12::7]:40000"))?;
                Ok(Self { ip, port: None })
            }
        }
    }
}

/// `VIP:PORT`, the VIP by its name or address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct VipEnd {
    /// Name or address.
    pub vip: String,
    /// Port.
    pub port: u16,
}

impl FromStr for VipEnd {
    type Err = String;

    fn from_str(typed: &str) -> Result<Self, String> {
        let wrong =
            || format!("`{typed}` is not VIP:PORT, e.g. DICOM:104, 10.12.1.100:104 or [fd00:12::100]:104");
        let (vip, port) = typed.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let bare = vip.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        // An IPv6 address without brackets would lose its last part to the port.
        if bare.is_none() && vip.contains(':') || bare.unwrap_or(vip).is_empty() {
            return Err(wrong());
        }
        Ok(Self { vip: bare.unwrap_or(vip).to_owned(), port })
    }
}

/// A time that can be waited for: `500ms`, `5s`.
pub(super) fn parse_timeout(typed: &str) -> Result<Duration, String> {
    let example = "write a time such as 500ms, 5s or 1m";
    let time = humantime::parse_duration(typed).map_err(|error| format!("{error}; {example}"))?;
    if (Duration::from_millis(100)..=Duration::from_secs(86_400)).contains(&time) {
        Ok(time)
    } else {
        Err(format!("it must be between 100ms and 1day; {example}"))
    }
}

/// A time that servers are given: `90s`, `10m`, `2h`.
pub(super) fn parse_span(typed: &str) -> Result<Duration, String> {
    let example = "write a time such as 90s, 10m or 2h";
    let time = humantime::parse_duration(typed).map_err(|error| format!("{error}; {example}"))?;
    if (Duration::from_secs(1)..=Duration::from_secs(30 * 86_400)).contains(&time) {
        Ok(time)
    } else {
        Err(format!("it must be between 1s and 30days; {example}"))
    }
}

/// `KEY=VALUE`.
pub(super) fn parse_assignment(typed: &str) -> Result<Assignment, String> {
    match typed.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() && !value.trim().is_empty() => {
            Ok(Assignment { key: key.trim().to_owned(), value: value.trim().to_owned() })
        }
        _ => Err(format!("`{typed}` is not KEY=VALUE, e.g. weight=50")),
    }
}

/// `NAME=ADDRESS`, with whatever stands for the address.
pub(super) fn parse_named_address(typed: &str) -> Result<NamedAddress, String> {
    match typed.split_once('=') {
        Some((name, address)) if !name.is_empty() && !address.is_empty() => {
            Ok(NamedAddress { name: name.to_owned(), address: address.to_owned() })
        }
        _ => Err(format!("`{typed}` is not NAME=ADDRESS, e.g. DICOM1=10.12.1.110")),
    }
}

/// `NAME=ADDRESS` or `NAME=ADDRESS:PORT`.
pub(super) fn parse_named_ip(typed: &str) -> Result<NamedIp, String> {
    let NamedAddress { name, address } = parse_named_address(typed)?;
    if let Ok(with_port) = address.parse::<SocketAddr>() {
        let (ip, port) = (with_port.ip(), with_port.port());
        return match port {
            0 => Err(format!("`{typed}` names port 0; write one from 1 to 65535, or leave `:0` out")),
            1.. => Ok(NamedIp { name, ip, port: Some(port) }),
        };
    }
    let ip = parse_ip(&address)?;
    Ok(NamedIp { name, ip, port: None })
}

/// An IP address.
pub(super) fn parse_ip(typed: &str) -> Result<IpAddr, String> {
    let address = typed.split_once('/').map_or(typed, |(address, _prefix)| address);
    match (address.parse(), address == typed) {
        (Ok(ip), true) => Ok(ip),
        (Ok(ip), false) => Err(format!("`{typed}` is a network; write the address alone: {ip}")),
        (Err(_), _) => Err(format!("`{typed}` is not an IP address, e.g. 10.12.1.110 or fd00:12::110")),
    }
}

/// Ports that a VIP can have: `104,11112-11120`, or `all`.
pub(super) fn parse_ports(typed: &str) -> Result<String, String> {
    let is_port =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && matches!(port.parse(), Ok(1u16..));
    let is_item = |item: &str| {
        item.split_once('-').map_or_else(|| is_port(item), |(low, high)| is_port(low) && is_port(high))
    };
    if typed == "all" {
        return Ok(typed.to_owned());
    }
    match typed.split(',').find(|item| !is_item(item)) {
        None => Ok(typed.to_owned()),
        Some(item) => Err(format!(
            "`{item}` is not a port from 1 to 65535; separate ports by commas, e.g. 104,11112-11120, or write all"
        )),
    }
}
