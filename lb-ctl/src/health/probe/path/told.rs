//! What is said when the VIP at a server does not answer as it should. Pure.
#![forbid(unsafe_code)]

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_common::net::Mac;

use super::frame::Message;
use crate::{
    health::probe::{failure, in_words},
    model::health::{DirectPath, Failure, FailureReason},
};

/// This machine could not even try.
pub(super) fn not_tried(path: &DirectPath, why: &str) -> Failure {
    failure(
        FailureReason::Local,
        format!("vip connect: {} at {} not tried on {}: {why}", path.vip, path.server, path.interface),
    )
}

/// Nothing came before the deadline.
pub(super) fn unanswered(path: &DirectPath, timeout: Duration) -> Failure {
    failure(
        FailureReason::PathUnanswered,
        format!(
            "vip connect: no answer from {} {} within {}: the VIP is not on its loopback, or a firewall there drops packets \
             for the VIP: {}",
            path.vip,
            at(path),
            in_words(timeout),
            cure(path)
        ),
    )
}

/// A RST from the VIP.
pub(super) fn refused(path: &DirectPath) -> Failure {
    failure(
        FailureReason::PathRefused,
        format!(
            "vip connect: connection refused by {} {}: nothing listens there on the VIP: bind the service to all addresses; \
             if the VIP is not on its loopback, {}",
            path.vip,
            at(path),
            cure(path)
        ),
    )
}

/// An answer, but from another address than was asked.
pub(super) fn own_address(path: &DirectPath, from: SocketAddr) -> Failure {
    failure(
        FailureReason::PathOwnAddress,
        format!(
            "vip connect: {} {} answers from {from}, which clients do not take for an answer: its address translation must \
             leave the VIP alone, and {}",
            path.vip,
            at(path),
            cure(path)
        ),
    )
}

/// An answer from a machine that was not asked.
pub(super) fn other_server(path: &DirectPath, name: &str, mac: Mac) -> Failure {
    failure(
        FailureReason::PathOtherServer,
        format!(
            "vip connect: {name} ({mac}) answers for {} in place of the server {}: the VIP is not on the loopback of the server \
             that was asked: {}",
            path.vip,
            at(path),
            cure(path)
        ),
    )
}

/// The server takes packets for the VIP for somebody else's. `how` completes "the server".
pub(super) fn routed(path: &DirectPath, how: &str) -> Failure {
    failure(
        FailureReason::PathUnanswered,
        format!(
            "vip connect: the server {} does not take packets for {} but {how}: it routes, and the VIP is not on its loopback: {}",
            at(path),
            path.vip,
            cure(path)
        ),
    )
}

/// An ICMP message about our SYN.
pub(super) fn icmp(path: &DirectPath, by: IpAddr, message: Message) -> Failure {
    let firewall = |said: &str| {
        failure(
            FailureReason::PathUnanswered,
            format!(
                "vip connect: {by} refuses packets for {} {} ({said}): allow them in the firewall there",
                path.vip,
                at(path)
            ),
        )
    };
    match message {
        Message::Redirect => routed(path, &format!("sends them on (ICMP redirect from {by})")),
        Message::TimeExceeded => routed(path, &format!("sends them round (ICMP time exceeded from {by})")),
        Message::Prohibited => firewall("ICMP administratively prohibited"),
        Message::PortUnreachable => firewall("ICMP port unreachable"),
        Message::Unreachable => {
            routed(path, &format!("looks for it elsewhere in vain (ICMP host unreachable from {by})"))
        }
    }
}

/// Something went wrong once connected: what, and by which way it was asked.
pub(super) fn beyond(path: &DirectPath, said: Failure) -> Failure {
    Failure { text: format!("{} (asked at {} {})", said.text, path.vip, at(path)), ..said }
}

fn at(path: &DirectPath) -> String {
    format!("at {} ({} on {})", path.server, path.server_mac, path.interface)
}

fn cure(path: &DirectPath) -> String {
    format!(
        "run what `lbctl arp-help linux --vip {}` prints (or windows, macos) on {}",
        path.vip.ip(),
        path.server
    )
}
