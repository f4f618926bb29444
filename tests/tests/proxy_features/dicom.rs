//! Associations that go to a pool by their AE titles (PS3.8, 9.3.2).

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use lb_tests::lab::{
    Host, Instance, Lab, MllpLink, MllpServer, StoreScp, association, dicom, proc::wait_for, require_root,
    scu,
};

use crate::{assert_silent, at, start_green};

/// An answer is there within this, also on a loaded machine; more than the balancer waits for AE titles.
const SOON: Duration = Duration::from_secs(15);

/// Whoever says nothing for this long waits for more.
const MOMENT: Duration = Duration::from_millis(50);

/// Archives of two regions and one for scanners of a kind; what is neither of them goes to the VIP's own servers.
const REGIONS: &str = r#"
[pool.us]
servers = { US1 = "10.10.0.11:10401" }
[pool.eu]
servers = { EU1 = "10.10.0.12:10402" }
[pool.mr]
servers = { MR_ARCHIVE = "10.10.0.12:10403" }

[vip.ARCHIVE]
mode = "l7-tcp"
ip = "10.10.0.100"
ports = [104]
check = "off"
servers = { OWN = "10.10.0.11:10404" }
switch = [
    { calling_aet = ["MR1", "MR 2"], pool = "mr" },
    { called_aet = "US_ARCHIVE", pool = "us" },
    { called_aet = ["EU_ARCHIVE", "SIXTEEN_LETTERS_"], pool = "eu" },
]

[vip.REFUSING]
mode = "l7-tcp"
ip = "10.10.0.100"
ports = [105]
check = "off"
servers = { OTHER = "10.10.0.12:2575" }
switch = [{ called_aet = "US_ARCHIVE", pool = "us2" }]
unintelligible = "refuse"

[pool.us2]
servers = { US2 = "10.10.0.11:10401" }

[vip.PATIENT]
mode = "l7-tcp"
ip = "10.10.0.100"
ports = [106]
check = "off"
servers = { OTHER = "10.10.0.12:2575" }
switch = [{ called_aet = "US_ARCHIVE", pool = "us3" }]

[pool.us3]
servers = { US3 = "10.10.0.11:10401" }
"#;

#[test]
fn associations_go_where_their_ae_titles_lead() {
    if !require_root("associations_go_where_their_ae_titles_lead") {
        return;
    }
    let lab = Lab::new();
    let client = lab.host("client");
    let names = ["us", "eu", "mr", "own"];
    let archives = [("pacs1", 10401), ("pacs2", 10402), ("pacs2", 10403), ("pacs1", 10404)]
        .map(|(host, port)| StoreScp::start(&lab, host, port));
    let _lbd = start_green(&lab, REGIONS);

    for (calling, called, expected) in [
        ("CT1", "US_ARCHIVE", "us"),
        ("CT1", "EU_ARCHIVE", "eu"),
        // All sixteen characters, so that nothing is padded.
        ("CT1", "SIXTEEN_LETTERS_", "eu"),
        // Who calls is asked for first here.
        ("MR1", "US_ARCHIVE", "mr"),
        ("MR 2", "EU_ARCHIVE", "mr"),
        // Titles that only begin like one of the list, and such as nobody has named.
        ("MR11", "US_ARCHIVE", "us"),
        ("MR", "US_ARCHIVE2", "own"),
        ("CT1", "US_ARCHIV", "own"),
        ("CT1", "us_archive", "own"),
        ("CT1", "SOMEBODY", "own"),
    ] {
        let Instance { uid, path } = dicom::generate(&client.dir(), 1, 16).remove(0);
        scu::store_as(client, at(104), calling, called, &[&path]).expect_success();
        let holders = || {
            let held = names.iter().zip(&archives).filter(|(_, archive)| archive.instances().contains(&uid));
            held.map(|(name, _)| *name).collect::<Vec<_>>()
        };
        // storescp answers before the file has its name.
        let stored =
            wait_for(SOON, || format!("{uid} is stored"), || Some(holders()).filter(|all| !all.is_empty()));
        assert_eq!(stored, [expected], "{calling} calls {called}");
        scu::echo_as(client, at(104), calling, called).expect_success();
    }
}

#[test]
fn a_client_that_says_no_ae_titles_goes_to_the_own_servers_or_is_refused() {
    if !require_root("a_client_that_says_no_ae_titles_goes_to_the_own_servers_or_is_refused") {
        return;
    }
    let lab = Lab::new();
    let client = lab.host("client");
    let _us = StoreScp::start(&lab, "pacs1", 10401);
    let _rest = [("pacs2", 10402), ("pacs2", 10403), ("pacs1", 10404)]
        .map(|(host, port)| StoreScp::start(&lab, host, port));
    // The own servers speak another protocol altogether: whoever comes there is known by the answer.
    let other = MllpServer::start(lab.host("pacs2"), 2575);
    let _lbd = start_green(&lab, REGIONS);
    let (refusing, patient) = (105, 106);

    // A request that comes in small pieces is as good as a whole one.
    for port in [refusing, patient] {
        assert!(association::accepts(&in_pieces(client, port).expect("an answer")), "port {port}");
    }
    // Another protocol: the first byte says so, and nobody waits for more.
    let mut link = MllpLink::open(client, at(patient)).expect("the VIP takes connections");
    assert_eq!(link.exchange().expect("an acknowledgement"), "pacs2");
    let mut link = MllpLink::open(client, at(refusing)).expect("the VIP takes connections");
    assert!(link.exchange().is_err(), "what is no association was let through");

    // A client that waits for the server to speak first, or is cut off in its request, has its time.
    let before = other.connections().len();
    let silent = [patient, refusing].map(|port| connect(client, port).expect("the VIP takes connections"));
    let cut = [patient, refusing].map(|port| {
        let mut stream = connect(client, port).expect("the VIP takes connections");
        stream
            .write_all(&association::request_pdu("CT1", "US_ARCHIVE")[..25])
            .expect("the connection stands");
        stream
    });
    let what = || format!("both are led to the own servers: {:?}", other.connections());
    wait_for(SOON, what, || (other.connections().len() == before + 2).then_some(()));
    for streams in [silent, cut] {
        let [patient, mut refused] = streams;
        assert!(ends(&mut refused), "the connection outlives its time");
        assert_silent(&patient, MOMENT);
    }
    assert_eq!(other.connections().len(), before + 2, "a refused client reached a server");
}

fn connect(client: &Host, port: u16) -> io::Result<TcpStream> {
    let stream = client.netns.enter(|| TcpStream::connect_timeout(&at(port), SOON))?;
    stream.set_read_timeout(Some(SOON))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Asks the archive of the US for an association, twenty bytes at a time, and gives the beginning of the answer.
fn in_pieces(client: &Host, port: u16) -> io::Result<Vec<u8>> {
    let mut stream = connect(client, port)?;
    let request = association::request_pdu("CT1", "US_ARCHIVE");
    let (begin, last) = request.split_at(request.len() - 20);
    for piece in begin.chunks(20) {
        stream.write_all(piece)?;
        assert_silent(&stream, MOMENT);
    }
    stream.write_all(last)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut answer = vec![0; 6];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

/// True when the other end closes the connection.
fn ends(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 16]) {
        Ok(length) => length == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}
