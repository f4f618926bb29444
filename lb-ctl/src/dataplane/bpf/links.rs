//! Interfaces: what runs on them, putting the program there and taking it off.
#![forbid(unsafe_code)]

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::programs::{
    ProgramError, Xdp, XdpMode as AttachMode,
    links::{FdLink, PinnedLink},
    xdp::XdpLink,
};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{Error, fail, fault, os_errno, os_error, pins, sys};
use crate::dataplane::XdpMode;

/// Pins of links are named by this and the interface index.
const PREFIX: &str = "link-";

/// Where the link of an interface is pinned.
pub(super) fn pin_path(pin_dir: &Path, ifindex: u32) -> PathBuf {
    pin_dir.join(format!("{PREFIX}{ifindex}"))
}

/// The interface whose link is pinned under this file name.
pub(super) fn pinned_ifindex(file_name: &str) -> Option<u32> {
    file_name.strip_prefix(PREFIX)?.parse().ok()
}

/// An interface as the kernel describes it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Interface {
    name: String,
    xdp: Option<(XdpMode, u32)>,
}

impl Interface {
    /// Asks the kernel. `None`: no such interface in this network namespace.
    pub(super) fn query(ifindex: u32) -> Result<Option<Self>, Error> {
        let said = get_link(ifindex)
            .map_err(|e| fault(format!("interface {ifindex}: cannot ask the kernel about it"), e))?;
        let Some(message) = said else { return Ok(None) };
        let mut interface = Self::default();
        for attribute in message.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                interface.name = name;
            } else if let LinkAttribute::Xdp(xdp) = attribute {
                interface.xdp = attached(&xdp);
            }
        }
        Ok(Some(interface))
    }

    /// How the program with this id runs here, if it does.
    fn mode_of(&self, program: u32) -> Option<XdpMode> {
        self.xdp.filter(|(_, id)| *id == program).map(|(mode, _)| mode)
    }
}

fn attached(xdp: &[LinkXdp]) -> Option<(XdpMode, u32)> {
    let mut mode = None;
    let mut id = None;
    for attribute in xdp {
        if let LinkXdp::ProgId(program) = attribute {
            id = Some(*program);
        } else if let LinkXdp::Attached(how) = attribute {
            mode = match how {
                XdpAttached::None => return None,
                XdpAttached::SocketBuffer => Some(XdpMode::Generic),
                XdpAttached::Driver
                | XdpAttached::Hardware
                | XdpAttached::Multiple
                | XdpAttached::Other(_)
                | _ => Some(XdpMode::Native),
            };
        }
    }
    // Several programs at once (native and offloaded) have no common id; then it is none of ours.
    Some((mode?, id.unwrap_or(0)))
}

fn get_link(ifindex: u32) -> io::Result<Option<LinkMessage>> {
    let mut request = LinkMessage::default();
    request.header.index = ifindex;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message =
        NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetLink(request)));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let socket = Socket::new(NETLINK_ROUTE)?;
    socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
    // The kernel has put its answer into the socket's buffer before `send_to` returns.
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    if let NetlinkPayload::Error(error) = &answer.payload {
        let error = error.to_io();
        return match error.raw_os_error() {
            Some(libc::ENODEV) => Ok(None),
            _ => Err(error),
        };
    }
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) = answer.payload else {
        return Err(io::Error::other("unexpected kind of answer"));
    };
    Ok(Some(link))
}

/// Puts the program on an interface and pins the link: native if the driver can, generic if not.
pub(super) fn attach(program: &mut Xdp, pin_dir: &Path, ifindex: u32) -> Result<XdpMode, Error> {
    let interface = Interface::query(ifindex)?.ok_or_else(|| {
        fail(format!(
            "interface {ifindex} does not exist: it was removed; name another one in the configuration"
        ))
    })?;
    let name = &interface.name;
    if let Some((_, id)) = interface.xdp {
        return Err(occupied(name, id));
    }
    let native = match attach_as(program, ifindex, AttachMode::Driver) {
        Ok(link) => {
            pin(link, pin_dir, ifindex, name)?;
            return Ok(XdpMode::Native);
        }
        Err(error) => error,
    };
    if !is_driver_refusal(&native) {
        return Err(refused(name, native));
    }
    let link = attach_as(program, ifindex, AttachMode::Skb).map_err(|e| refused(name, e))?;
    pin(link, pin_dir, ifindex, name)?;
    let reason = os_error(&native).map_or_else(|| native.to_string(), io::Error::to_string);
    tracing::warn!(
        interface = %name,
        %reason,
        "the driver does not run XDP itself: packets are forwarded in generic mode, at a fraction of the speed"
    );
    Ok(XdpMode::Generic)
}

fn attach_as(program: &mut Xdp, ifindex: u32, mode: AttachMode) -> Result<FdLink, ProgramError> {
    let id = program.attach_to_if_index(ifindex, mode)?;
    let link = program.take_link(id)?;
    if let Ok(link) = FdLink::try_from(link) {
        return Ok(link);
    }
    // aya fell back to an attachment without a link object, which could be neither pinned nor replaced, and its
    // handle is lost in the conversion. Attaching once more gives another one to take the program off with.
    let id = program.attach_to_if_index(ifindex, mode)?;
    program.detach(id)?;
    Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP).into())
}

/// True when the driver cannot, rather than the caller must not.
fn is_driver_refusal(error: &ProgramError) -> bool {
    // ENOTSUPP, which some drivers return, is not a number of user space.
    const ENOTSUPP: i32 = 524;
    let cause = os_errno(error);
    matches!(
        cause,
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::E2BIG | libc::ERANGE | libc::ENOSPC | ENOTSUPP)
    )
}

fn refused(name: &str, error: ProgramError) -> Error {
    match os_errno(&error) {
        Some(libc::EBUSY | libc::EEXIST) => occupied(name, 0),
        _ => fault(format!("interface {name}: the program cannot be attached"), error),
    }
}

fn occupied(name: &str, id: u32) -> Error {
    let which =
        if id == 0 { String::from("another XDP program") } else { format!("another XDP program (id {id})") };
    fail(format!(
        "interface {name}: {which} runs on it; if it is not needed, take it off with `ip link set dev {name} xdp off`"
    ))
}

fn pin(link: FdLink, pin_dir: &Path, ifindex: u32, name: &str) -> Result<(), Error> {
    let path = pin_path(pin_dir, ifindex);
    // Dropping the handle leaves the pin, and the pin keeps the link.
    link.pin(&path)
        .map(drop)
        .map_err(|e| fault(format!("interface {name}: cannot pin the link as {}", path.display()), e))
}

/// Replaces the program of a pinned link by this one, without a packet in between. `None`: the interface behind
/// the pin is gone, and so is the pin now.
pub(super) fn adopt(program: &mut Xdp, pin_dir: &Path, ifindex: u32) -> Result<Option<XdpMode>, Error> {
    let path = pin_path(pin_dir, ifindex);
    let broken = |e: &dyn std::fmt::Display| {
        fail(format!(
            "pinned link {} cannot be adopted: {e}; run `lbd --detach` (interrupts traffic) and start again",
            path.display()
        ))
    };
    let pinned = PinnedLink::from_pin(&path).map_err(|e| broken(&e))?;
    let link = FdLink::from(pinned);
    let old_program = link.info().map_err(|e| broken(&e))?.program_id();
    let runs = Interface::query(ifindex)?.and_then(|i| i.mode_of(old_program));
    let Some(mode) = runs else {
        pins::remove(&path)?;
        return Ok(None);
    };
    let link = XdpLink::try_from(link).map_err(|e| broken(&e))?;
    let id = program
        .attach_to_link(link)
        .map_err(|e| fault(format!("pinned link {}: cannot replace its program", path.display()), e))?;
    // The pin keeps the link; this process need not.
    program.take_link(id).map(drop).map_err(|e| broken(&e))?;
    Ok(Some(mode))
}

/// Whether the program with this id runs on the interface by the link that is pinned for it. `None`: no such
/// interface.
pub(super) fn is_attached(pin_dir: &Path, ifindex: u32, program: u32) -> Result<Option<bool>, Error> {
    let interface = Interface::query(ifindex)?;
    Ok(interface.map(|i| i.mode_of(program).is_some() && pin_path(pin_dir, ifindex).exists()))
}

/// Takes the program off a link at once and removes its pin. No pin: nothing to do.
pub(super) fn detach(path: &Path) -> Result<(), Error> {
    match sys::detach_pinned_link(path) {
        Ok(()) => pins::remove(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(fault(format!("link {} cannot be detached", path.display()), error)),
    }
}

/// An interface's name for people, also when it is gone.
pub(super) fn name(ifindex: u32) -> String {
    match Interface::query(ifindex) {
        Ok(Some(interface)) => interface.name,
        Ok(None) | Err(_) => format!("interface {ifindex} (gone)"),
    }
}
