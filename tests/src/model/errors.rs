//! ICMP errors about balanced flows: each goes the way that the other end's packets go.

use lb_common::{counter::Reason, service::mode};

use super::{
    Model,
    answers::Trouble,
    bytes::translated_error,
    flows::{Choice, Rewrite},
    life::Which,
    parse::{Flow, Outline, Quote},
};
use crate::packet::dut::Ran;

impl Model {
    pub(super) fn icmp_error(
        &mut self,
        frame: &[u8],
        outline: &Outline,
        quote: &Quote,
    ) -> Result<Ran, Reason> {
        // A packet of the end that the error is not for.
        let key = quote.flow.reversed();
        let (choice, rewrite) = self.concerned(&key)?;
        let way = self.way(choice, rewrite)?;
        let Some(Rewrite { flow: shown, .. }) = rewrite else {
            self.count(Reason::IcmpError);
            return Ok(self.send(frame, outline, choice, &way));
        };
        // Its length is no matter: errors are short (RFC 1812, 4.3.2.3; RFC 4443, 2.4 c).
        if outline.ttl <= 1 {
            return self.tell(frame, outline, Trouble::AboutAnError);
        }
        let hides = choice.is_reply() || outline.src == key.src.ip();
        let outer = [if hides { shown.src.ip() } else { outline.src }, shown.dst.ip()];
        let out = translated_error(frame, outline, quote, outer, &shown.reversed());
        self.count(Reason::IcmpError);
        Ok(self.send(&out, outline, choice, &way))
    }

    /// Where packets with this key go.
    fn concerned(&mut self, key: &Flow) -> Result<(Choice, Option<Rewrite>), Reason> {
        for which in [Which::Established, Which::HalfOpen] {
            if let Some(entry) = self.table(which, key).find(key).copied() {
                let live = self.live(entry.choice);
                return live.then_some((entry.choice, entry.rewrite)).ok_or(Reason::IcmpUnknown);
            }
        }
        let service = self.service_of(key).ok_or(Reason::IcmpUnknown)?;
        if self.services[&service].mode != mode::DR {
            return Err(Reason::IcmpUnknown);
        }
        self.choose(service, key, true).map(|choice| (choice, None)).map_err(|_| Reason::IcmpUnknown)
    }
}
