//! Words, numbers and columns that all printers share.

use std::{
    io::{self, Write},
    net::{IpAddr, SocketAddr},
};

use comfy_table::{Cell, CellAlignment, Color, Table, presets};

pub(super) use crate::model::operator::utc;
use crate::model::{
    config::{Mode, Protocol, Protocols},
    status::{Colour, RipState, RipStatus, VipStatus},
};

/// What a thing looks like at a glance: symbol and colour both, for colour-blind people and for pipes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Look {
    pub(super) symbol: &'static str,
    pub(super) colour: Color,
}

/// Look of a VIP (R79).
pub(super) const fn vip_look(vip: &VipStatus) -> Look {
    if !vip.enabled {
        return Look { symbol: "-", colour: Color::DarkGrey };
    }
    match vip.colour {
        Colour::Green => Look { symbol: "^", colour: Color::DarkGreen },
        Colour::Yellow => Look { symbol: "!", colour: Color::DarkYellow },
        Colour::Red => Look { symbol: "v", colour: Color::DarkRed },
    }
}

/// Look of a real server.
pub(super) const fn rip_look(rip: &RipStatus) -> Look {
    match rip.state {
        RipState::Active => Look { symbol: "^", colour: Color::DarkGreen },
        RipState::Checking => Look { symbol: "?", colour: Color::DarkYellow },
        RipState::Down => Look { symbol: "v", colour: Color::DarkRed },
        RipState::Drain => Look { symbol: "=", colour: Color::DarkCyan },
        RipState::Halt => Look { symbol: "-", colour: Color::DarkGrey },
    }
}

/// Columns set two spaces apart, without lines. Columns whose index is in `right` are flush right.
pub(super) struct Columns {
    table: Table,
    right: &'static [usize],
}

impl Columns {
    /// No rows yet; `header` names the columns.
    pub(super) fn new(header: &[&str], right: &'static [usize], colour: bool) -> Self {
        let mut columns = Self::bare(right, colour);
        columns.table.set_header(header.iter().map(Cell::new));
        columns
    }

    /// No rows yet, and no header.
    pub(super) fn bare(right: &'static [usize], colour: bool) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        if colour {
            table.enforce_styling();
            table.style_text_only();
        } else {
            table.force_no_tty();
        }
        Self { table, right }
    }

    /// Adds a row.
    pub(super) fn push(&mut self, cells: Vec<Cell>) {
        self.table.add_row(cells);
    }

    /// Prints the rows, each line without trailing blanks.
    pub(super) fn write_into(mut self, out: &mut impl Write) -> io::Result<()> {
        let last = self.table.column_count().saturating_sub(1);
        for (index, column) in self.table.column_iter_mut().enumerate() {
            column.set_padding((0, if index == last { 0 } else { 2 }));
            if self.right.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for line in self.table.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A cell. Control characters, which would break the line or speak to the terminal, are escaped.
pub(super) fn cell(text: impl AsRef<str>) -> Cell {
    Cell::new(plain(text.as_ref()))
}

/// A cell in a colour.
pub(super) fn painted(text: impl AsRef<str>, look: Look) -> Cell {
    cell(text).fg(look.colour)
}

/// `text` with its control characters escaped.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for char in text.chars() {
        if char.is_control() {
            plain.extend(char.escape_default());
        } else {
            plain.push(char);
        }
    }
    plain
}

/// What stands in a list where there is nothing.
pub(super) const NONE: &str = "-";

/// A time span in its two largest units: `45s`, `2m`, `3h 5m`, `4d 2h`. Seconds are left out from a minute on.
pub(super) fn span(secs: u64) -> String {
    let (days, hours, minutes) = (secs / 86_400, secs / 3600 % 24, secs / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs}s"),
        (0, 0, minutes) => format!("{minutes}m"),
        (0, hours, 0) => format!("{hours}h"),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, 0, _) => format!("{days}d"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

/// `812 B`, `1.5 KiB`, `20.1 GiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut tenths = u128::from(count) * 10 / 1024;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = larger;
    }
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// `1 flow`, `2 flows`.
pub(super) fn plural(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// `10.12.1.110`, or with its port if packets are sent to one: `10.12.1.110:8080`.
pub(super) fn address(ip: IpAddr, port: Option<u16>) -> String {
    port.map_or_else(|| ip.to_string(), |port| SocketAddr::new(ip, port).to_string())
}

/// `TCP`.
pub(super) const fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
    }
}

/// `TCP+UDP`.
pub(super) const fn protocols(protocols: Protocols) -> &'static str {
    match protocols {
        Protocols::Tcp => "TCP",
        Protocols::Udp => "UDP",
        Protocols::TcpUdp => "TCP+UDP",
    }
}

/// Method and mode as the overview has them in its two columns: `Layer 4`, `DR`.
pub(super) const fn method_and_mode(mode: Mode) -> (&'static str, &'static str) {
    match mode {
        Mode::L4Dr => ("Layer 4", "DR"),
        Mode::L4Nat => ("Layer 4", "NAT"),
        Mode::L4Snat => ("Layer 4", "SNAT"),
        Mode::L7Http | Mode::L7Tcp => ("Layer 7", "Proxy"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc_and_no_number_is_too_large() {
        assert_eq!(utc(1_778_243_841), "2026-05-08 12:37:21 UTC");
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(u64::MAX), "9999-12-31 23:59:59 UTC");
    }

    #[test]
    fn spans_have_at_most_two_units() {
        let spans = [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (11_100, "3h 5m")];
        for (secs, text) in spans {
            assert_eq!(span(secs), text);
        }
        assert_eq!(span(86_400), "1d");
        assert_eq!(span(86_400 * 4 + 7200 + 59 * 60), "4d 2h");
        assert_eq!(span(u64::MAX), "213503982334601d 7h");
    }

    #[test]
    fn byte_counts_stay_short() {
        let counts =
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (1_048_575, "1023.9 KiB")];
        for (count, text) in counts {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(1 << 20), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "15.9 EiB");
    }

    #[test]
    fn control_characters_cannot_reach_the_terminal() {
        assert_eq!(plain("a\x1b[2Jb\nc"), "a\\u{1b}[2Jb\\nc");
        assert_eq!(plain("Radiologie Süd"), "Radiologie Süd");
    }
}
