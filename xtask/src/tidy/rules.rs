//! The rules, as tables where they can be.

use super::{Finding, Source};

/// A file may be longer than this only with a reason.
const MAX_LINES: usize = 800;

/// Start of the line that gives it.
const LONG_REASON: &str = "//! Long because ";

/// Where `unsafe` may stand: a file, or a directory with its `/`.
const UNSAFE: [&str; 7] = [
    "lb-common/src/pod.rs",
    "lb-ctl/src/dataplane/bpf/sys.rs",
    "lb-ctl/src/net/packet_socket.rs",
    "lb-ebpf/src/bin/",
    "lb-ebpf/src/flow_table/mod.rs",
    "lb-ebpf/src/packet.rs",
    "tests/src/bench/rig.rs",
];

/// Who may touch what: in files under `room`, but not under `except`, no path starts with one of `forbidden`.
struct Border {
    room: &'static [&'static str],
    except: &'static [&'static str],
    forbidden: &'static [&'static str],
    why: &'static str,
}

const BORDERS: [Border; 8] = [
    Border {
        room: &[""],
        except: &[
            "lb-common/src/pod.rs",
            "lb-ctl/src/dataplane/bpf.rs",
            "lb-ctl/src/dataplane/bpf/",
            "tests/",
        ],
        forbidden: &["aya"],
        why: "maps are opened, read and written in lb-ctl/src/dataplane/bpf only",
    },
    Border {
        room: &[""],
        except: &["lb-ebpf/src/bin/"],
        forbidden: &["aya_ebpf"],
        why: "the packet path is pure; helpers and maps belong to the programs in lb-ebpf/src/bin",
    },
    Border {
        room: &["lb-common/src/", "lb-ebpf/src/"],
        except: &[],
        forbidden: &[
            "tokio",
            "lb_ctl",
            "std::fs",
            "std::io",
            "std::net::Tcp",
            "std::net::Udp",
            "std::process",
        ],
        why: "both sides of the border share this code, so it does no I/O",
    },
    Border {
        room: &[
            "lb-ctl/src/compile.rs",
            "lb-ctl/src/compile/",
            "lb-ctl/src/maglev.rs",
            "lb-ctl/src/model/",
            "lb-ctl/src/plan.rs",
            "lb-ctl/src/plan/",
            "lb-ctl/src/predict/",
        ],
        except: &[],
        forbidden: &[
            "tokio",
            "axum",
            "hyper",
            "rtnetlink",
            "std::fs",
            "std::env",
            "std::process",
            "std::thread",
            "std::time::Instant",
            "Instant::now",
            "SystemTime::now",
        ],
        why: "desired state is computed from plain data: no clock, no I/O, no tasks",
    },
    Border {
        room: &["lb-ctl/src/config/"],
        except: &[],
        forbidden: &["tokio", "rtnetlink", "axum", "hyper", "crate::dataplane", "crate::health"],
        why: "a configuration is read and checked without the system it is for",
    },
    Border {
        room: &["lb-ctl/src/dataplane/"],
        except: &[],
        forbidden: &["crate::config", "crate::api", "crate::health", "axum", "hyper", "tokio::spawn"],
        why: "the data plane takes ops and gives facts",
    },
    Border {
        room: &[
            "lb-ctl/src/api/",
            "lb-ctl/src/api.rs",
            "lb-ctl/src/cli/",
            "lb-ctl/src/cli.rs",
            "lb-ctl/src/ui/",
        ],
        except: &[],
        forbidden: &["crate::dataplane::bpf", "crate::reconcile"],
        why: "what people see is observed state, and what they want is a command",
    },
    Border {
        room: &["lb-common/", "lb-ctl/", "lb-ebpf/", "tests/"],
        except: &[],
        forbidden: &["xtask"],
        why: "nothing that ships depends on the developer's commands",
    },
];

/// Words that never stand in the project, wherever they stand. Written in two halves, so that this file passes.
const WORDS: [(&str, &str); 6] = [
    (concat!("TO", "DO"), "do it, or leave it"),
    (concat!("FIX", "ME"), "mend it, or leave it"),
    (concat!("XX", "X:"), "say what is wrong in a sentence"),
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/tmp", "/wt"), "a path of one machine"),
    (concat!("issue", " #"), "say it here; a tracker is not part of the project"),
];

/// Everything that is wrong with a file, in the order of its lines.
pub(super) fn check(source: &Source) -> Vec<Finding> {
    let mut findings = length(source);
    findings.extend(words(source));
    findings.extend(unsafe_code(source));
    findings.extend(BORDERS.iter().flat_map(|border| border_crossed(source, border)));
    findings.sort_by_key(|finding| finding.line);
    findings
}

fn length(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    let has_reason = source.text.lines().any(|line| line.starts_with(LONG_REASON));
    if !source.path.ends_with(".rs") || lines <= MAX_LINES || has_reason {
        return Vec::new();
    }
    vec![Finding {
        line: lines,
        message: format!(
            "{lines} lines, more than {MAX_LINES}: split the file, or give a line `{LONG_REASON}...`"
        ),
    }]
}

fn words(source: &Source) -> Vec<Finding> {
    let found = |(line, text): (usize, &str)| {
        let lower = text.to_lowercase();
        WORDS
            .into_iter()
            .filter(|(word, _)| text.contains(word) || lower.contains(word))
            .map(|(word, cure)| Finding { line, message: format!("`{word}` in the project's text: {cure}") })
            .collect::<Vec<_>>()
    };
    numbered(&source.text).flat_map(found).collect()
}

fn unsafe_code(source: &Source) -> Vec<Finding> {
    if is_under(&source.path, &UNSAFE) {
        return Vec::new();
    }
    numbered(&source.code)
        .filter(|(_, code)| starts_of(code, "unsafe").any(|at| !continues_word(&code[at + "unsafe".len()..])))
        .map(|(line, _)| Finding {
            line,
            message: "`unsafe` outside the files that may use it (the table is in xtask/src/tidy/rules.rs)"
                .to_owned(),
        })
        .collect()
}

fn border_crossed(source: &Source, border: &Border) -> Vec<Finding> {
    if !is_under(&source.path, border.room) || is_under(&source.path, border.except) {
        return Vec::new();
    }
    let found = |(line, code): (usize, &str)| {
        border
            .forbidden
            .iter()
            .filter(|path| starts_of(code, path).any(|at| is_path(code, at, path)))
            .map(|path| Finding { line, message: format!("`{path}` is out of bounds here: {}", border.why) })
            .collect::<Vec<_>>()
    };
    numbered(&source.code).flat_map(found).collect()
}

/// Whether a path under one of these places; a place that ends in `/` is a directory, an empty one is everywhere.
fn is_under(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| {
        let is_directory = place.is_empty() || place.ends_with('/');
        if is_directory { path.starts_with(place) } else { path == *place }
    })
}

/// Whether what starts at `at` is this path: a crate's name has to be followed by `::`, or to stand in a `use`.
fn is_path(code: &str, at: usize, path: &str) -> bool {
    let after = &code[at + path.len()..];
    if path.contains("::") {
        // `std::net::Tcp` stands for TcpStream and TcpListener; `crate::config` does not stand for `crate::configure`.
        return path.ends_with("Tcp") || path.ends_with("Udp") || !continues_word(after);
    }
    let is_crate = !code[..at].strip_suffix("::").is_some_and(|before| before.ends_with(is_word_character));
    let is_import = code.trim_start().starts_with("use ") && !continues_word(after);
    is_crate && (after.starts_with("::") || is_import)
}

/// Where a word starts, and no other word ends.
fn starts_of<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(|at| !code[..*at].ends_with(is_word_character))
}

fn continues_word(after: &str) -> bool {
    after.starts_with(is_word_character)
}

fn is_word_character(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn numbered(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(index, line)| (index + 1, line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(path: &str, text: &str) -> Vec<usize> {
        check(&Source::new(path, text)).into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn unsafe_is_found_outside_its_files_and_only_as_code() {
        let text =
            "#![forbid(unsafe_code)]\n// unsafe\nlet s = \"unsafe\";\nunsafe { f() }\n#[unsafe(no_mangle)]\n";
        assert_eq!(lines_of("lb-ctl/src/app.rs", text), [4, 5]);
        for path in UNSAFE {
            let file = if path.ends_with('/') { format!("{path}x.rs") } else { path.to_owned() };
            assert_eq!(lines_of(&file, text), [], "{file}");
        }
        assert_eq!(lines_of("lb-ebpf/src/packet.rs.rs", "unsafe fn f() {}"), [1]);
    }

    #[test]
    fn aya_stays_behind_the_data_planes_border() {
        for text in [
            "use aya::maps::Array;",
            "use aya::{Ebpf, Pod};",
            "use aya as bpf;",
            "let x = aya::Ebpf::load(b);",
        ] {
            assert_eq!(lines_of("lb-ctl/src/app.rs", text), [1], "{text}");
            assert_eq!(lines_of("lb-ctl/src/dataplane/bpf/maps.rs", text), [], "{text}");
            assert_eq!(lines_of("tests/src/run.rs", text), [], "{text}");
        }
        for text in ["// aya::maps", "let aya = 1;", "use malaya::x;", "my::aya::x()", "use aya_log::x;"] {
            assert_eq!(lines_of("lb-ctl/src/app.rs", text), [], "{text}");
        }
        assert_eq!(lines_of("lb-ebpf/src/parse.rs", "use aya_ebpf::helpers::x;"), [1]);
        assert_eq!(lines_of("lb-ebpf/src/bin/lb/maps.rs", "use aya_ebpf::macros::map;"), []);
    }

    #[test]
    fn pure_rooms_have_no_clock_no_io_and_no_tasks() {
        let text = "use std::collections::BTreeMap;\nuse std::time::{Duration};\nlet now = Instant::now();\nuse tokio::fs;\n";
        assert_eq!(lines_of("lb-ctl/src/plan.rs", text), [3, 4]);
        assert_eq!(lines_of("lb-ctl/src/model/config.rs", text), [3, 4]);
        assert_eq!(lines_of("lb-ctl/src/health/mod.rs", text), []);
        assert_eq!(lines_of("lb-common/src/hash.rs", "use std::net::TcpStream;"), [1]);
        assert_eq!(lines_of("lb-common/src/hash.rs", "use std::net::Ipv4Addr;"), []);
    }

    #[test]
    fn the_data_plane_knows_no_configuration_file() {
        assert_eq!(lines_of("lb-ctl/src/dataplane/mod.rs", "use crate::config::File;"), [1]);
        assert_eq!(lines_of("lb-ctl/src/dataplane/mod.rs", "use crate::model::config::Protocol;"), []);
        assert_eq!(lines_of("lb-ctl/src/dataplane/mod.rs", "use crate::configure::x;"), []);
    }

    #[test]
    fn long_files_need_a_reason() {
        let long = "//! A file.\n".to_owned() + &"fn f() {}\n".repeat(MAX_LINES);
        assert_eq!(lines_of("xtask/src/x.rs", &long), [MAX_LINES + 1]);
        let explained = format!("//! A file.\n{LONG_REASON}it is one table.\n{long}");
        assert_eq!(lines_of("xtask/src/x.rs", &explained), []);
        assert_eq!(lines_of("Cargo.lock", &long), []);
    }

    #[test]
    fn words_that_never_stand_in_the_project_are_found_in_any_file() {
        for (word, _) in WORDS {
            assert_eq!(lines_of("README.md", &format!("fine\nsee {word}12")), [2], "{word}");
        }
        assert_eq!(lines_of("README.md", concat!("See Iss", "ue #12")), [1]);
        assert_eq!(lines_of("README.md", "a todo list; the network/area"), []);
    }

    #[test]
    fn this_file_obeys_its_own_rules() {
        assert_eq!(check(&Source::new("xtask/src/tidy/rules.rs", include_str!("rules.rs"))), []);
    }
}
