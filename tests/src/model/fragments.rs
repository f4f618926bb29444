//! Fragments: what was decided for a datagram's first one holds for the others.

use std::net::{IpAddr, SocketAddr};

use lb_common::counter::Reason;

use super::{
    Model,
    flows::{Choice, Rewrite},
    parse::{Flow, Fragment, Outline},
};
use crate::packet::dut::Ran;

/// What the fragments of a datagram have in common: source, destination, identification, and IPv4's protocol
/// (RFC 791, 3.2); IPv6's need not be the same in all of them (RFC 8200, 4.5), and is 0 here.
pub type Whole = (IpAddr, IpAddr, u32, u8);

/// What was decided for a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Remembered {
    /// Whom it goes to; `None` = it was left to the kernel.
    pub choice: Option<Choice>,
    /// Ports are those of the first fragment.
    pub rewrite: Option<Rewrite>,
    /// When the first fragment came.
    pub seen: u64,
}

const fn whole(outline: &Outline, fragment: &Fragment) -> Whole {
    (outline.src, outline.dst, fragment.id, if outline.src.is_ipv4() { fragment.proto } else { 0 })
}

impl Model {
    /// Remembers what was decided for a datagram if this is its first fragment.
    pub(super) fn remember_first(
        &mut self,
        outline: &Outline,
        choice: Option<Choice>,
        rewrite: Option<Rewrite>,
    ) {
        if let Some(fragment) = &outline.fragment {
            let remembered = Remembered { choice, rewrite, seen: self.now };
            self.fragments.insert(whole(outline, fragment), remembered);
        }
    }

    pub(super) fn later_fragment(
        &mut self,
        frame: &[u8],
        outline: &Outline,
        fragment: Fragment,
    ) -> Result<Ran, Reason> {
        let known = self.fragments.get(&whole(outline, &fragment)).copied();
        let known = known.filter(|known| self.now - known.seen <= self.fragment_ticks);
        let Remembered { choice, rewrite, .. } = known.ok_or(Reason::FragmentUnknown)?;
        let choice = choice.ok_or(Reason::NoService)?;
        if !self.live(choice) {
            return Err(Reason::FragmentUnknown);
        }
        self.deliver(frame, outline, choice, rewrite)
    }
}

/// As the table holds it: addresses without ports, and the protocol of the datagram.
#[must_use]
pub fn without_ports(rewrite: Rewrite, proto: u8) -> Rewrite {
    let bare = |end: SocketAddr| SocketAddr::new(end.ip(), 0);
    let Flow { src, dst, .. } = rewrite.flow;
    Rewrite { flow: Flow { src: bare(src), dst: bare(dst), proto }, ..rewrite }
}
