//! A web server that answers with what it was asked and by whom: what a proxy changed on the way shows.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use serde::{Deserialize, Serialize};

use super::{
    browser::Page,
    http::{parse_headers, values},
    proxy_header::{self, Announced},
    topology::Host,
};

/// What this server calls itself in its answers.
pub const SOFTWARE: &str = "Mirror/1.0";
/// Path of a request that is never answered.
pub const SILENT: &str = "/silent";
/// Path of a request that is answered by a redirect to this server by `http`.
pub const MOVED: &str = "/moved";

/// The server, on threads of its own. Dropped, it ends.
#[derive(Debug)]
pub struct Mirror {
    host: Host,
    port: u16,
    connections: Arc<AtomicU64>,
    lines: Lines,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Names and values.
type Headers = Vec<(String, String)>;

/// First lines of all requests.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

/// Whether connections begin with a PROXY header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Header {
    /// They begin with the request.
    None,
    /// They begin with a PROXY header.
    Proxy,
}

/// A request as the server saw it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Seen {
    /// Name of the host that answers.
    pub server: String,
    /// Port that it was asked on.
    pub port: u16,
    /// Number of the connection at this server, from 1.
    pub connection: u64,
    /// Where the connection came from.
    pub peer: SocketAddr,
    /// Version, client and destination of the PROXY header that the connection began with.
    pub announced: Option<(u8, SocketAddr, SocketAddr)>,
    /// What that header says of the client's TLS: version, and name in the certificate.
    pub announced_tls: (Option<String>, Option<String>),
    /// First line of the request.
    pub line: String,
    /// Headers in their order.
    pub headers: Headers,
}

impl Seen {
    /// Reads the body of an answer.
    ///
    /// # Panics
    ///
    /// When it is not a mirror's.
    #[must_use]
    #[track_caller]
    pub fn of(body: &str) -> Self {
        serde_json::from_str(body).unwrap_or_else(|error| panic!("no answer of a mirror: {error}: {body:?}"))
    }

    /// Reads a page, which must be one to a request that succeeded.
    ///
    /// # Panics
    ///
    /// When it is not.
    #[must_use]
    #[track_caller]
    pub fn in_page(page: &Page) -> Self {
        assert_eq!(page.status, 200, "{page:?}");
        Self::of(&page.body)
    }

    /// Values of a header, in their order.
    #[must_use]
    pub fn header(&self, name: &str) -> Vec<&str> {
        values(&self.headers, name)
    }
}

impl Mirror {
    /// Listens on every address of the host, of both families.
    ///
    /// # Panics
    ///
    /// When the host cannot listen there.
    #[must_use]
    pub fn start(host: &Host, port: u16, header: Header) -> Self {
        let any = SocketAddr::from(([0_u16; 8], port));
        let listener = host
            .netns
            .enter(|| TcpListener::bind(any))
            .unwrap_or_else(|error| panic!("{} cannot listen on {any}: {error}", host.name));
        let (connections, ended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, flag, name) = (Arc::clone(&connections), Arc::clone(&ended), host.name.clone());
        let lines = Lines::default();
        let book = lines.clone();
        let thread = thread::spawn(move || {
            while let Ok((stream, peer)) = listener.accept() {
                if flag.load(Ordering::Relaxed) {
                    return;
                }
                let connection = count.fetch_add(1, Ordering::Relaxed) + 1;
                let (name, book) = (name.clone(), book.clone());
                // A client that is gone, or talks nonsense, ends its own connection.
                thread::spawn(move || serve(&stream, peer, &name, connection, header, &book));
            }
        });
        Self { host: host.clone(), port, connections, lines, ended, thread: Some(thread) }
    }

    /// Connections so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// First lines of all requests so far.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.lines.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let own = SocketAddr::new(IpAddr::V4(self.host.v4), self.port);
        // Wakes the thread up, so that it sees the flag; refused when it has ended already.
        let woken = self.host.netns.enter(|| TcpStream::connect(own)).is_ok();
        if let Some(thread) = self.thread.take().filter(|_| woken) {
            // A panic of the server shows as missing answers.
            let _ = thread.join();
        }
    }
}

/// Answers the requests of one connection, one after the other.
fn serve(
    stream: &TcpStream,
    peer: SocketAddr,
    name: &str,
    connection: u64,
    header: Header,
    book: &Lines,
) -> io::Result<()> {
    let mut from = BufReader::new(stream);
    let announced = match header {
        Header::None => None,
        Header::Proxy => Some(proxy_header::read(&mut from)?),
    };
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let port = stream.local_addr()?.port();
    while let Some((line, headers)) = request(&mut from)? {
        book.0.lock().unwrap_or_else(PoisonError::into_inner).push(line.clone());
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        if path == SILENT {
            continue;
        }
        let last = values(&headers, "connection").iter().any(|value| value.eq_ignore_ascii_case("close"));
        let (status, location) = match path.as_str() {
            MOVED => ("302 Found", format!("Location: http://{name}/elsewhere\r\n")),
            _ => ("200 OK", String::new()),
        };
        let seen = Seen {
            server: name.to_owned(),
            port,
            connection,
            peer,
            announced: announced
                .as_ref()
                .map(|Announced { version, client, to, .. }| (*version, *client, *to)),
            announced_tls: announced.clone().map(|said| (said.tls, said.common_name)).unwrap_or_default(),
            line,
            headers,
        };
        let body = serde_json::to_string(&seen)?;
        let head = format!(
            "HTTP/1.1 {status}\r\nServer: {SOFTWARE}\r\nX-Server: {name}\r\n{location}Content-Length: {}\r\n{}\r\n",
            body.len(),
            if last { "Connection: close\r\n" } else { "" },
        );
        { stream }.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        if last {
            return Ok(());
        }
    }
    Ok(())
}

/// The next request without a body: its first line and its headers. `None` when no more comes.
fn request(from: &mut BufReader<&TcpStream>) -> io::Result<Option<(String, Headers)>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if from.read_until(b'\n', &mut head)? == 0 {
            return Ok(None);
        }
    }
    let text = String::from_utf8_lossy(&head).into_owned();
    let (line, headers) = text.split_once("\r\n").unwrap_or((&text, ""));
    Ok(Some((line.to_owned(), parse_headers(headers))))
}
