//! Which VIP a configuration was refused for.
#![forbid(unsafe_code)]

use crate::model::proxied::Proxies;

/// What the proxy says first of all, without what it puts before each line.
pub(super) fn first_alert(said: &str) -> Option<&str> {
    let alerts = said.lines().filter(|line| line.starts_with("[ALERT]"));
    // The last lines of a refusal only say that it is one.
    let mut telling = alerts.clone().filter(|line| !is_summary(line));
    telling.next().or_else(|| alerts.clone().next()).map(bare)
}

/// What the proxy said last that tells something.
pub(super) fn last_alert(said: &str) -> Option<&str> {
    said.lines().rev().find(|line| line.starts_with("[ALERT]") && !is_summary(line)).map(bare)
}

fn is_summary(line: &str) -> bool {
    ["Error(s) found in configuration file", "Fatal errors found in configuration", "exit-on-failure"]
        .iter()
        .any(|words| line.contains(words))
}

/// `[ALERT]    (4711) : config : unknown ...` without everything up to the process's number.
fn bare(line: &str) -> &str {
    line.split_once(") : ").map_or(line, |(_, rest)| rest.strip_prefix("config : ").unwrap_or(rest)).trim()
}

/// The VIP that the words of a refusal are about: its section holds the line that is named, or it is named itself.
pub(super) fn vip<'a>(words: &str, text: &str, proxies: &'a Proxies) -> Option<&'a str> {
    let section = line_of(words).and_then(|line| section_at(text, line));
    let named = || {
        // 'NAME', or 'NAME/SERVER'
        let mut quoted = words.split('\'').skip(1).step_by(2);
        quoted.find_map(|name| owner(name.split('/').next().unwrap_or(name), proxies))
    };
    section.and_then(|section| owner(section, proxies)).or_else(named)
}

/// The number in `[haproxy.cfg.new:45]`.
fn line_of(words: &str) -> Option<usize> {
    let (_, rest) = words.split_once('[')?;
    let (place, _) = rest.split_once(']')?;
    place.rsplit_once(':')?.1.parse().ok()
}

fn section_at(text: &str, line: usize) -> Option<&str> {
    let above: Vec<&str> = text.lines().take(line).collect();
    let heading = above.iter().rev().find(|line| !line.is_empty() && !line.starts_with([' ', '\t', '#']))?;
    let mut words = heading.split_whitespace();
    matches!(words.next(), Some("listen" | "backend")).then(|| words.next())?
}

/// The VIP that a section is of: its own, or that of one of its pools.
fn owner<'a>(section: &str, proxies: &'a Proxies) -> Option<&'a str> {
    let mut names: Vec<&str> = proxies.vips.iter().map(|desired| desired.vip.name.as_str()).collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    let is_of = |name: &&str| {
        section.strip_prefix(*name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    names.into_iter().find(is_of)
}

/// What was said of a line, without the file that only we know: `unknown keyword 'foo' in 'listen' section`.
pub(super) fn without_place(words: &str) -> &str {
    let Some((_, rest)) = words.strip_prefix("parsing [").and_then(|rest| rest.split_once(']')) else {
        return words;
    };
    rest.trim_start_matches([' ', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        haproxy::rules::Fault,
        model::{
            config::{Mode, Ports, Vip},
            proxied::DesiredProxy,
        },
    };

    const SAID: &str = "[NOTICE]   (22180) : path to executable is /usr/sbin/haproxy\n\
        [ALERT]    (22180) : config : parsing [/run/lbd/haproxy/haproxy.cfg.new:4] : unknown keyword 'foo' in 'listen' section\n\
        [ALERT]    (22180) : config : Error(s) found in configuration file : haproxy.cfg\n\
        [ALERT]    (22180) : config : Fatal errors found in configuration.\n";

    fn proxies(names: &[&str]) -> Proxies {
        let vip = |name: &&str| DesiredProxy {
            vip: Vip::new(*name, Mode::L7Tcp, "10.0.0.1".parse().unwrap(), Ports::Ranges(vec![104..=104])),
            servers: std::collections::BTreeMap::new(),
        };
        Proxies { vips: names.iter().map(vip).collect(), ..Proxies::default() }
    }

    #[test]
    fn a_refused_line_is_its_vips() {
        let proxies = proxies(&["DICOM", "DICOM.US"]);
        let words = first_alert(SAID).unwrap();
        let text = "global\n    x\nlisten DICOM from tcp\n    foo\nbackend DICOM.US.a from tcp\n    bar\n";
        assert_eq!(vip(words, text, &proxies), Some("DICOM"));
        assert_eq!(vip(&words.replace(":4]", ":6]"), text, &proxies), Some("DICOM.US"));
        assert_eq!(vip(&words.replace(":4]", ":2]"), text, &proxies), None);
        assert_eq!(without_place(words), "unknown keyword 'foo' in 'listen' section");
        assert_eq!(without_place("parsing [haproxy.cfg.new:33]: negation/default"), "negation/default");
        assert_eq!(without_place("cannot bind"), "cannot bind");
    }

    #[test]
    fn a_vip_that_is_named_is_meant() {
        let proxies = proxies(&["PACS"]);
        assert_eq!(vip("Proxy 'PACS': unable to find table", "", &proxies), Some("PACS"));
        let fault =
            Fault { section: Some("PACS.us".to_owned()), what: "two servers are called a".to_owned() };
        assert_eq!(vip(&fault.to_string(), "", &proxies), Some("PACS"));
        assert_eq!(vip("cannot bind", "", &proxies), None);
    }
}
