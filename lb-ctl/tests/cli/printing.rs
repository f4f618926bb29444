//! What is printed for what the daemon says, to the letter.

use lb_ctl::{
    cli::{ListForm, ListedRip, flow_counts_into, flows_into, overview_into, rips_into, vip_into, vips_into},
    model::{
        config::Mode,
        health::Verdict,
        operator::{Forced, Order, Word},
        status::{
            Colour, CountBy, FlowCount, FlowList, FlowStatus, RipState, RipStatus, SourcePorts, Status,
            VipStatus,
        },
    },
};

use crate::samples::{degraded, empty, flow, green, translated, up, vip};

fn printed(print: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
    let mut out = Vec::new();
    print(&mut out).expect("memory takes all");
    String::from_utf8(out).expect("text")
}

fn overview(status: &Status) -> String {
    printed(|out| overview_into(out, status, false))
}

fn listed(status: &Status) -> Vec<ListedRip<'_>> {
    status.vips.iter().flat_map(|vip| vip.rips.iter().map(|rip| ListedRip { vip: &vip.name, rip })).collect()
}

/// Compares with text that stands between two empty lines here, showing the whole of both when they differ.
#[track_caller]
fn assert_prints(printed: &str, golden: &str) {
    let golden = golden.strip_prefix('\n').unwrap_or(golden);
    assert!(printed == golden, "printed:\n{printed}\nexpected:\n{golden}");
}

#[test]
fn the_overview_of_a_healthy_node() {
    assert_prints(
        &overview(&green()),
        r"
2026-05-08 12:37:21 UTC   lb1   lbd 0.1.0   up 3d 4h   1 VIP: 1 green
links eth0 native   flows 12 of 1048576 IPv4, 0 of 262144 IPv6, 3 half-open
   VIRTUAL SERVICE  IP           PORTS  CONNS  PROTO  METHOD   MODE  HEALTH
^  DICOM            10.12.1.100  104       12  TCP    Layer 4  DR    2/2 up
^    DICOM1         10.12.1.110  w100       7                        c-echo 3 ms
^    DICOM2         10.12.1.111  w100       5                        c-echo 3 ms
",
    );
}

#[test]
fn the_overview_of_a_bad_day_says_what_is_wrong_and_the_cure() {
    assert_prints(
        &overview(&degraded()),
        r"
2026-05-08 12:37:21 UTC   lb1   lbd 0.1.0   up 3d 4h   4 VIPs: 1 yellow, 2 red, 1 disabled
links eth0 native, eth1 generic (down)   flows 12 of 1048576 IPv4, 0 of 262144 IPv6, 3 half-open
   VIRTUAL SERVICE      IP                                  PORTS           CONNS  PROTO  METHOD   MODE  HEALTH
!  CCW_DICOMSERVICE_VS  192.32.43.231                       104                12  TCP    Layer 4  DR    1/2 up
^    DICOM_Server_1     192.32.40.210                       w100               12                        c-echo 3 ms
v    DICOM_Server_2     192.32.40.211                       w100                0                        DOWN 2m: A-ASSOCIATE-RJ: called AE title not recognised
v  V6                   fd00:12:7::100                      104,11112,2762      4  TCP    Layer 4  DR    0/4 up, 1 checking, 1 draining, 1 halted
=    PACS1              fd00:12:7:aaaa:bbbb:cccc:dddd:e110  w50                 4                        draining; c-echo 3 ms
-    PACS2              fd00:12:7::111                      w100                0                        halted; DOWN 5s: connect refused
?    PACS3              fd00:12:7::112                      w100                0                        checking
v    PACS4              fd00:12:7::113                      w100                0                        DOWN: no answer to neighbour solicitation
v  TAKEN                10.12.1.102                         104                 0  TCP    Layer 4  DR    NOT SERVED
^    T1                 10.12.1.120                         w100                0                        c-echo 3 ms
-  SYSLOG_OFF           10.12.1.103                         104                 0  UDP    Layer 4  DR    disabled

Problems:
!  eth1 runs XDP in generic mode, at a third of the speed; use a driver with native XDP
!  TAKEN: 10.12.1.102 is in use by 02:00:5e:00:00:07 on eth0; free it there, or change `ip`
",
    );
}

#[test]
fn an_empty_node_says_so() {
    assert_prints(
        &overview(&empty()),
        r"
2026-05-08 12:37:21 UTC   lb1   lbd 0.1.0   up 3d 4h   0 VIPs
links eth0 native   flows 12 of 1048576 IPv4, 0 of 262144 IPv6, 3 half-open
No Virtual Services configured.
",
    );
}

#[test]
fn a_node_that_forwards_nothing_says_so_first() {
    let status = Status {
        health: Colour::Red,
        links: Vec::new(),
        problems: vec!["the data plane is not attached: no interface is named".to_owned()],
        ..empty()
    };
    assert_prints(
        &overview(&status),
        r"
2026-05-08 12:37:21 UTC   lb1   lbd 0.1.0   up 3d 4h   0 VIPs
links none attached   flows 12 of 1048576 IPv4, 0 of 262144 IPv6, 3 half-open
No Virtual Services configured.

Problems:
!  the data plane is not attached: no interface is named
",
    );
}

#[test]
fn words_of_the_network_cannot_speak_to_the_terminal() {
    let mut status = green();
    status.vips[0].rips[0].detail = "A-ABORT\x1b]0;title\x07\nv  FAKE".to_owned();
    status.problems.push("two\nlines".to_owned());
    let printed = overview(&status);
    assert!(printed.contains(r"A-ABORT\u{1b}]0;title\u{7}\nv  FAKE"), "{printed}");
    assert!(printed.contains(r"two\nlines"), "{printed}");
}

#[test]
fn the_widest_values_keep_the_columns_apart() {
    let mut wide = up("A", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", u64::MAX);
    wide.weight = 256;
    let vip = VipStatus { connections: u64::MAX, ..vip(&"L".repeat(120), "::", vec![wide]) };
    let printed = overview(&Status { vips: vec![vip], ..empty() });
    let rows: Vec<&str> = printed.lines().skip(2).collect();
    let columns = |row: &str| row.split("  ").filter(|cell| !cell.trim().is_empty()).count();
    assert_eq!(columns(rows[0]), 8, "{printed}");
    assert_eq!(columns(rows[1]), 9, "{printed}");
    assert_eq!(columns(rows[2]), 6, "{printed}");
    let at = |row: &str| row.find("18446744073709551615");
    assert!(at(rows[1]).is_some() && at(rows[1]) == at(rows[2]), "{printed}");
}

#[test]
fn closing_connections_stand_apart_from_active_ones() {
    let mut rip = up("DICOM1", "10.12.1.110", 12);
    rip.closing = 3;
    let vip = vip("DICOM", "10.12.1.100", vec![rip]);
    let shown = printed(|out| vip_into(out, &vip, false));
    assert_eq!(shown.matches("12 (3 closing)").count(), 2, "{shown}");
    let listed = overview(&Status { vips: vec![vip], ..empty() });
    assert!(listed.contains(" 12 ") && !listed.contains("closing"), "{listed}");
}

#[test]
fn a_forced_server_shows_what_overrules_its_check() {
    let forced = |name: &str, is_up: bool| {
        let forced = Some(Forced { up: is_up, until_epoch_secs: None });
        let (how, verdict) = if is_up { ("up", Verdict::Down) } else { ("down", Verdict::Up) };
        RipStatus {
            state: if is_up { RipState::Active } else { RipState::Down },
            operator: Word { order: Order::Online, forced },
            verdict,
            detail: format!("forced {how} (the check says: what it found)"),
            ..up(name, "10.12.1.110", 0)
        }
    };
    let status = Status {
        vips: vec![vip("DICOM", "10.12.1.100", vec![forced("DICOM1", true), forced("DICOM2", false)])],
        ..empty()
    };
    assert_prints(
        &printed(|out| rips_into(out, &listed(&status), ListForm::Table, false)),
        r"
   VIRTUAL SERVICE  REAL SERVER  IP           WEIGHT  CONNS  HEALTH
^  DICOM            DICOM1       10.12.1.110     100      0  forced up (the check says: what it found)
v  DICOM            DICOM2       10.12.1.110     100      0  DOWN: forced down (the check says: what it found)
",
    );
}

#[test]
fn the_list_of_vips() {
    let vips = degraded().vips;
    assert_prints(
        &printed(|out| vips_into(out, &vips, ListForm::Table, false)),
        r"
   VIRTUAL SERVICE      IP              PORTS           CONNS  PROTO  METHOD   MODE  HEALTH
!  CCW_DICOMSERVICE_VS  192.32.43.231   104                12  TCP    Layer 4  DR    1/2 up
v  V6                   fd00:12:7::100  104,11112,2762      4  TCP    Layer 4  DR    0/4 up, 1 checking, 1 draining, 1 halted
v  TAKEN                10.12.1.102     104                 0  TCP    Layer 4  DR    NOT SERVED
-  SYSLOG_OFF           10.12.1.103     104                 0  UDP    Layer 4  DR    disabled
",
    );
    assert_prints(
        &printed(|out| vips_into(out, &vips, ListForm::Wide, false)),
        r"
   VIRTUAL SERVICE      IP              PORTS           CONNS  PROTO  METHOD   MODE  HEALTH                                    SCHEDULER  FLOWS  PACKETS     BYTES
!  CCW_DICOMSERVICE_VS  192.32.43.231   104                12  TCP    Layer 4  DR    1/2 up                                    wrr          345    20000  23.8 MiB
v  V6                   fd00:12:7::100  104,11112,2762      4  TCP    Layer 4  DR    0/4 up, 1 checking, 1 draining, 1 halted  wrr          345    20000  23.8 MiB
v  TAKEN                10.12.1.102     104                 0  TCP    Layer 4  DR    NOT SERVED                                wrr          345    20000  23.8 MiB
-  SYSLOG_OFF           10.12.1.103     104                 0  UDP    Layer 4  DR    disabled                                  wrr          345    20000  23.8 MiB
",
    );
    assert_prints(
        &printed(|out| vips_into(out, &vips, ListForm::Name, false)),
        r"
CCW_DICOMSERVICE_VS
V6
TAKEN
SYSLOG_OFF
",
    );
    let json = printed(|out| vips_into(out, &vips, ListForm::Json, false));
    assert_eq!(serde_json::from_str::<Vec<VipStatus>>(&json).expect("JSON"), vips);
}

#[test]
fn all_that_is_known_of_a_vip() {
    assert_prints(
        &printed(|out| vip_into(out, &degraded().vips[0], false)),
        r"
VIP          ! CCW_DICOMSERVICE_VS (1/2 up)
Address      192.32.43.231
Ports        TCP 104
Mode         Layer 4 DR
Scheduler    wrr
Connections  12
In all       345 flows, 20000 packets, 23.8 MiB
Problem      none

   REAL SERVER     IP             MAC                WEIGHT  CONNS  PACKETS     BYTES  LAST CHECK                                                    HEALTH
^  DICOM_Server_1  192.32.40.210  02:00:00:00:00:01     100     12    10000  11.9 MiB  connect 412 us, associate 1.8 ms, echo 640 us, release 77 us  c-echo 3 ms
v  DICOM_Server_2  192.32.40.211  02:00:00:00:00:01     100      0    10000  11.9 MiB  connect 412 us, associate 1.8 ms, echo 640 us, release 77 us  DOWN 2m: A-ASSOCIATE-RJ: called AE title not recognised
",
    );
    assert_prints(
        &printed(|out| vip_into(out, &degraded().vips[3], false)),
        r"
VIP          - SYSLOG_OFF (disabled)
Address      10.12.1.103
Ports        UDP 104
Mode         Layer 4 DR
Scheduler    wrr
Connections  0
In all       345 flows, 20000 packets, 23.8 MiB
Problem      none

No real servers.
",
    );
}

#[test]
fn the_source_ports_of_a_snat_vip() {
    let snat = VipStatus {
        mode: Mode::L4Snat,
        source_ports: Some(SourcePorts { in_use: 1200, capacity: 45_056 }),
        ..vip("SYSLOG", "10.12.1.103", Vec::new())
    };
    let shown = printed(|out| vip_into(out, &snat, false));
    assert!(
        shown.contains("Layer 4 SNAT\n") && shown.contains("Source ports  1200 of 45056 in use\n"),
        "{shown}"
    );
}

#[test]
fn the_list_of_real_servers() {
    let status = degraded();
    assert_prints(
        &printed(|out| rips_into(out, &listed(&status)[..2], ListForm::Table, false)),
        r"
   VIRTUAL SERVICE      REAL SERVER     IP             WEIGHT  CONNS  HEALTH
^  CCW_DICOMSERVICE_VS  DICOM_Server_1  192.32.40.210     100     12  c-echo 3 ms
v  CCW_DICOMSERVICE_VS  DICOM_Server_2  192.32.40.211     100      0  DOWN 2m: A-ASSOCIATE-RJ: called AE title not recognised
",
    );
    assert_prints(
        &printed(|out| rips_into(out, &listed(&status)[..2], ListForm::Wide, false)),
        r"
   VIRTUAL SERVICE      REAL SERVER     IP             WEIGHT  CONNS  MAC                PACKETS     BYTES  HEALTH
^  CCW_DICOMSERVICE_VS  DICOM_Server_1  192.32.40.210     100     12  02:00:00:00:00:01    10000  11.9 MiB  c-echo 3 ms
v  CCW_DICOMSERVICE_VS  DICOM_Server_2  192.32.40.211     100      0  02:00:00:00:00:01    10000  11.9 MiB  DOWN 2m: A-ASSOCIATE-RJ: called AE title not recognised
",
    );
    assert_prints(&printed(|out| rips_into(out, &[], ListForm::Table, false)), "No real servers.\n");
}

#[test]
fn names_of_real_servers_are_what_the_other_verbs_take() {
    assert_prints(
        &printed(|out| rips_into(out, &listed(&green()), ListForm::Name, false)),
        "DICOM/DICOM1\nDICOM/DICOM2\n",
    );
}

#[test]
fn a_real_server_in_json_names_its_vip() {
    let json = printed(|out| rips_into(out, &listed(&green()), ListForm::Json, false));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((&json[1]["vip"], &json[1]["name"]), (&"DICOM".into(), &"DICOM2".into()));
    assert_eq!(json[1]["state"], "active");
}

#[test]
fn the_list_of_flows_says_when_it_is_not_all() {
    let flows = vec![
        flow("10.12.7.4", 41_000, Some("DICOM1")),
        flow("fd00:12:7:aaaa:bbbb:cccc:dddd:e110", 65_535, None),
    ];
    assert_prints(
        &printed(|out| flows_into(out, &FlowList { flows: flows.clone(), total: 812 }, false)),
        r"
PROTO  CLIENT                                      VIRTUAL          VIRTUAL SERVICE  REAL SERVER  STATE        IDLE
TCP    10.12.7.4:41000                             10.12.1.100:104  DICOM            DICOM1       established  1m
TCP    [fd00:12:7:aaaa:bbbb:cccc:dddd:e110]:65535  10.12.1.100:104  DICOM            -            established  1m
2 of 812 flows; see more with --limit
",
    );
    let all = printed(|out| flows_into(out, &FlowList { flows, total: 2 }, false));
    assert!(!all.contains("--limit"), "{all}");
    assert_prints(&printed(|out| flows_into(out, &FlowList::default(), false)), "No flows.\n");
}

#[test]
fn translated_flows_show_the_server_and_whom_it_sees_unless_it_is_the_client() {
    let end = |text: &str| Some(text.parse().expect("an address and port"));
    let snat = FlowStatus {
        server: end("10.12.1.170:8000"),
        source: end("10.12.1.5:20017"),
        ..flow("10.12.7.4", 41_000, Some("VIEWER1"))
    };
    let nat = FlowStatus { source: end("10.12.7.4:41000"), ..snat.clone() };
    let direct = flow("10.12.7.5", 41_001, Some("DICOM1"));
    let list = |flows: Vec<FlowStatus>| FlowList { total: flows.len() as u64, flows };
    assert_prints(
        &printed(|out| flows_into(out, &list(vec![snat, nat.clone(), direct.clone()]), false)),
        r"
PROTO  CLIENT           VIRTUAL          VIRTUAL SERVICE  REAL SERVER  SERVER            SOURCE           STATE        IDLE
TCP    10.12.7.4:41000  10.12.1.100:104  DICOM            VIEWER1      10.12.1.170:8000  10.12.1.5:20017  established  1m
TCP    10.12.7.4:41000  10.12.1.100:104  DICOM            VIEWER1      10.12.1.170:8000  -                established  1m
TCP    10.12.7.5:41001  10.12.1.100:104  DICOM            DICOM1       -                 -                established  1m
",
    );
    assert_prints(
        &printed(|out| flows_into(out, &list(vec![nat]), false)),
        r"
PROTO  CLIENT           VIRTUAL          VIRTUAL SERVICE  REAL SERVER  SERVER            STATE        IDLE
TCP    10.12.7.4:41000  10.12.1.100:104  DICOM            VIEWER1      10.12.1.170:8000  established  1m
",
    );
}

#[test]
fn a_server_at_a_port_of_its_own_shows_it() {
    let status = Status { vips: vec![translated()], ..empty() };
    let overview = overview(&status);
    assert_prints(
        overview.split_once("half-open\n").expect("the flow tables").1,
        r"
   VIRTUAL SERVICE  IP                    PORTS         CONNS  PROTO    METHOD   MODE  HEALTH
^  VIEWER           10.12.1.160           80,8080-8089      3  TCP+UDP  Layer 4  SNAT  3/3 up
^    VIEWER1        10.12.1.170:8000      w100              3                          c-echo 3 ms
^    VIEWER2        [2001:db8::171]:8001  w100              0                          c-echo 3 ms
^    VIEWER3        10.12.1.172           w100              0                          c-echo 3 ms
",
    );
    assert_prints(
        &printed(|out| rips_into(out, &listed(&status)[..1], ListForm::Table, false)),
        r"
   VIRTUAL SERVICE  REAL SERVER  IP                WEIGHT  CONNS  HEALTH
^  VIEWER           VIEWER1      10.12.1.170:8000     100      3  c-echo 3 ms
",
    );
    let shown = printed(|out| vip_into(out, &translated(), false));
    assert!(shown.contains("Ports        TCP+UDP 80,8080-8089\nMode         Layer 4 SNAT\n"), "{shown}");
    assert!(shown.contains("[2001:db8::171]:8001"), "{shown}");
}

#[test]
fn counts_of_flows() {
    let counts = [("DICOM", 1200), ("V6", 3)].map(|(key, flows)| FlowCount { key: key.to_owned(), flows });
    assert_prints(
        &printed(|out| flow_counts_into(out, &counts, CountBy::Vip, false)),
        r"
FLOWS  VIRTUAL SERVICE
 1200  DICOM
    3  V6
",
    );
    assert_prints(&printed(|out| flow_counts_into(out, &[], CountBy::Client, false)), "No flows.\n");
}
