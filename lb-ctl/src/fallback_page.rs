//! The page that clients of layer-7 VIPs get when no server is left (R34).
//!
//! Every request gets the whole page with status 503 and is the last of its connection: the next one finds a server
//! again, if there is one by then.
#![forbid(unsafe_code)]

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    control::View,
    model::config::{Config, Fallback},
    observe::host_name,
    shutdown::Shutdown,
};

/// Pause between looks at the file, and at an address that was taken.
const LOOK: Duration = Duration::from_secs(5);
/// Longest page. One with its pictures inside is far below.
const MAX_PAGE_BYTES: u64 = 1 << 20;
/// Connections at a time; more wait in the listener's queue.
const MAX_CONNECTIONS: usize = 512;
/// For a whole connection. Who has not asked by then gets nothing.
const DEADLINE: Duration = Duration::from_secs(15);
/// For what a request brings along: a client that is still sending would not read the answer.
const UPLOAD: Duration = Duration::from_secs(5);
/// Seconds after which clients are asked to come again (RFC 9110, 10.2.3).
const RETRY_AFTER_SECS: &str = "10";

/// What keeps the page from being served, a line each with its cure.
pub type Problems = Vec<String>;

/// What the task is connected to.
#[derive(Debug)]
pub struct Connections {
    /// Configuration: where, and which page.
    pub view: watch::Receiver<Arc<View>>,
    /// To those who show it.
    pub problems: watch::Sender<Problems>,
}

/// Serves it while any VIP may send clients there, until shutdown.
///
/// # Errors
///
/// When a task that it needs is gone.
pub async fn run(mut to: Connections, shutdown: Shutdown) -> anyhow::Result<()> {
    let mut ended = std::pin::pin!(shutdown.requested());
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut server = Server::default();
    loop {
        let has_room = server.clients.len() < MAX_CONNECTIONS;
        tokio::select! {
            () = &mut ended => return Ok(()),
            changed = to.view.changed() => changed?,
            _ = look.tick() => {}
            accepted = accept(server.listener.as_ref()), if has_room => {
                server.take(accepted);
                continue;
            }
            Some(_done) = server.clients.join_next() => continue,
        }
        let wanted = wanted(&to.view.borrow_and_update().config);
        let problems = server.reach(wanted).await;
        to.problems.send_if_modified(|told| {
            let is_new = *told != problems;
            for problem in problems.iter().filter(|problem| !told.contains(problem)) {
                tracing::error!("{problem}");
            }
            *told = problems;
            is_new
        });
    }
}

/// What should be served.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Wanted {
    listen: SocketAddr,
    file: Option<PathBuf>,
    node: Option<String>,
}

fn wanted(config: &Config) -> Option<Wanted> {
    let is_needed = config.vips.iter().any(|vip| vip.enabled && vip.fallback == Fallback::Page);
    is_needed.then(|| Wanted {
        listen: config.proxy.fallback_listen,
        file: config.proxy.fallback_page.clone(),
        node: config.node.name.clone(),
    })
}

/// The next client; never, when nothing is listened on.
async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

#[derive(Debug, Default)]
struct Server {
    /// What it was last made to serve.
    wanted: Option<Wanted>,
    listener: Option<TcpListener>,
    page: Bytes,
    /// The page is the one that was made, as it was last readable.
    is_made: bool,
    /// Why the listener was given up: told until there is one again.
    broken: Option<String>,
    clients: JoinSet<()>,
}

impl Server {
    /// Serves what is wanted, as far as that goes; says what does not.
    async fn reach(&mut self, wanted: Option<Wanted>) -> Problems {
        let Some(wanted) = wanted else {
            *self = Self { clients: std::mem::take(&mut self.clients), ..Self::default() };
            return Problems::new();
        };
        let mut problems = Problems::new();
        let before = self.wanted.replace(wanted.clone());
        let is_elsewhere = |before: &Wanted| before.listen != wanted.listen;
        let is_another = |before: &Wanted| before.file != wanted.file || before.node != wanted.node;
        if before.as_ref().is_none_or(is_elsewhere) {
            self.listener = None;
            self.broken = None;
        }
        if before.as_ref().is_none_or(is_another) {
            self.page = plain(wanted.node.as_deref());
            self.is_made = false;
        }
        if let Some(file) = &wanted.file {
            match read(file).await {
                Ok(page) => (self.page, self.is_made) = (page, true),
                Err(why) => problems.push(format!(
                    "fallback page {} {why}: clients without a server get {}; mend the file, or take fallback_page \
                     out of [proxy]",
                    file.display(),
                    if self.is_made { "what stood in it before" } else { "a plain one" }
                )),
            }
        }
        if self.listener.is_none() {
            match TcpListener::bind(wanted.listen).await {
                Ok(listener) => {
                    self.listener = Some(listener);
                    self.broken = None;
                }
                Err(error) => self.broken = Some(error.to_string()),
            }
        }
        problems.extend(self.broken.as_ref().map(|error| {
            format!(
                "fallback page cannot be served on {}: {error}; clients without a server get no page: \
                 end what listens there, or give fallback_listen in [proxy] another port of an address that this machine has",
                wanted.listen
            )
        }));
        problems
    }

    fn take(&mut self, accepted: io::Result<TcpStream>) {
        match accepted {
            Ok(stream) => {
                let page = self.page.clone();
                self.clients.spawn(async move {
                    // Clients that are too slow, or gone, are their own affair.
                    let _ = timeout(DEADLINE, serve(stream, page)).await;
                });
            }
            // The next look listens anew: what is wrong would be wrong again at once.
            Err(error) => {
                self.broken = Some(error.to_string());
                self.listener = None;
            }
        }
    }
}

/// One request and its answer.
async fn serve(stream: TcpStream, page: Bytes) -> Result<(), hyper::Error> {
    let answer = service_fn(move |request: Request<Incoming>| {
        let page = page.clone();
        async move {
            let _ = timeout(UPLOAD, drain(request.into_body())).await;
            Ok::<_, Infallible>(unavailable(page))
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(DEADLINE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

async fn drain(mut body: Incoming) {
    while let Some(Ok(_frame)) = body.frame().await {}
}

fn unavailable(page: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(page));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (RETRY_AFTER, RETRY_AFTER_SECS),
    ] {
        headers.insert(name, hyper::header::HeaderValue::from_static(value));
    }
    response
}

/// The file, whole; an error is the middle of a sentence.
async fn read(file: &Path) -> Result<Bytes, String> {
    let fault = |error: io::Error| format!("cannot be read ({error})");
    let open = tokio::fs::File::open(file).await.map_err(fault)?;
    let mut page = Vec::new();
    open.take(MAX_PAGE_BYTES + 1).read_to_end(&mut page).await.map_err(fault)?;
    if page.is_empty() {
        return Err("is empty".to_owned());
    }
    if page.len() as u64 > MAX_PAGE_BYTES {
        return Err(format!("is longer than {MAX_PAGE_BYTES} bytes"));
    }
    Ok(Bytes::from(page))
}

/// The page of those who have made none.
fn plain(node: Option<&str>) -> Bytes {
    let node = escaped(&node.map_or_else(host_name, str::to_owned));
    Bytes::from(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Service unavailable</title></head>\n\
         <body>\n<h1>Service unavailable</h1>\n<p>None of the servers of this service can be reached at present. \
         Please try again in a moment.</p>\n<p><small>load balancer {node}</small></p>\n</body>\n</html>\n"
    ))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

    use super::*;
    use crate::{
        control::Controller,
        model::config::{Mode, Ports, Vip},
        shutdown,
    };

    /// Longest wait for anything.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// The task, and the ends of its channels.
    struct Running {
        view: watch::Sender<Arc<View>>,
        problems: watch::Receiver<Problems>,
        _end: shutdown::Trigger,
    }

    fn running(config: &Config) -> Running {
        let (view, view_in) = watch::channel(Arc::new(Controller::first_view(config)));
        let (problems_out, problems) = watch::channel(Problems::new());
        let (end, shutdown) = shutdown::channel();
        tokio::spawn(run(Connections { view: view_in, problems: problems_out }, shutdown));
        Running { view, problems, _end: end }
    }

    impl Running {
        fn set(&self, config: &Config) {
            self.view.send_replace(Arc::new(Controller::first_view(config)));
        }

        async fn problem(&mut self) -> String {
            let told = timeout(PATIENCE, self.problems.wait_for(|told| !told.is_empty())).await;
            told.expect("a problem is told").expect("the task runs").join(" / ")
        }

        async fn no_problem(&mut self) {
            let gone = timeout(PATIENCE, self.problems.wait_for(Vec::is_empty)).await;
            gone.expect("the problem goes").expect("the task runs");
        }
    }

    /// An address that was free a moment ago.
    async fn free() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        listener.local_addr().expect("its address")
    }

    fn config(listen: SocketAddr, fallback: Fallback) -> Config {
        let ports = Ports::Ranges(vec![80..=80]);
        let vip = Vip { fallback, ..Vip::new("Viewer", Mode::L7Http, Ipv4Addr::LOCALHOST.into(), ports) };
        let mut config = Config { vips: vec![vip], ..Config::default() };
        config.proxy.fallback_listen = listen;
        config.node.name = Some("lb<1>".to_owned());
        config
    }

    /// All that comes back until the connection is closed.
    async fn answer(at: SocketAddr, request: &[u8]) -> io::Result<String> {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(request).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// The answer, once there is one that it holds of.
    async fn eventually(at: SocketAddr, holds: impl Fn(&io::Result<String>) -> bool) -> String {
        let asked = timeout(PATIENCE, async {
            loop {
                let answer = answer(at, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
                if holds(&answer) {
                    return answer.unwrap_or_default();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        asked.await.expect("in time")
    }

    #[tokio::test]
    async fn every_request_gets_the_whole_page_and_is_the_last_of_its_connection() {
        let at = free().await;
        let _running = running(&config(at, Fallback::Page));
        let page = eventually(at, Result::is_ok).await;
        assert!(page.starts_with("HTTP/1.1 503 "), "{page}");
        for part in
            ["retry-after: 10", "connection: close", "cache-control: no-store", "lb&lt;1&gt;", "</html>"]
        {
            assert!(page.contains(part), "{part}: {page}");
        }
        let body = vec![b'x'; 1 << 20];
        let mut request =
            format!("POST /studies HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
        request.push_str(std::str::from_utf8(&body).expect("text"));
        let page = answer(at, request.as_bytes()).await.expect("an answer");
        assert!(page.starts_with("HTTP/1.1 503 ") && page.ends_with("</html>\n"), "{page}");
    }

    #[tokio::test]
    async fn nothing_listens_while_no_vip_has_the_page_as_its_fallback() {
        let at = free().await;
        let running = running(&config(at, Fallback::Page));
        eventually(at, Result::is_ok).await;
        running.set(&config(at, Fallback::Reject));
        eventually(at, Result::is_err).await;
        let elsewhere = free().await;
        running.set(&config(elsewhere, Fallback::Page));
        eventually(elsewhere, Result::is_ok).await;
        assert!(answer(at, b"GET / HTTP/1.1\r\n\r\n").await.is_err(), "the old address still answers");
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_told_and_served_once_it_is_free() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let at = holder.local_addr().expect("its address");
        let mut running = running(&config(at, Fallback::Page));
        let problem = running.problem().await;
        assert!(problem.contains(&at.to_string()) && problem.contains("fallback_listen"), "{problem}");
        drop(holder);
        running.no_problem().await;
        eventually(at, Result::is_ok).await;
    }

    #[tokio::test]
    async fn a_page_that_cannot_be_read_is_told_and_the_last_one_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("sorry.html");
        let at = free().await;
        let mut config = config(at, Fallback::Page);
        config.proxy.fallback_page = Some(file.clone());
        let mut running = running(&config);
        let problem = running.problem().await;
        assert!(problem.contains("sorry.html") && problem.contains("a plain one"), "{problem}");
        eventually(at, |page| page.as_ref().is_ok_and(|page| page.contains("Service unavailable"))).await;
        std::fs::write(&file, "<p>sorry</p>").expect("the page is written");
        running.no_problem().await;
        eventually(at, |page| page.as_ref().is_ok_and(|page| page.ends_with("<p>sorry</p>"))).await;
        std::fs::remove_file(&file).expect("the page goes");
        let problem = running.problem().await;
        assert!(problem.contains("what stood in it before"), "{problem}");
        eventually(at, |page| page.as_ref().is_ok_and(|page| page.ends_with("<p>sorry</p>"))).await;
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_keeps_nobody_else_from_the_page() {
        let at = free().await;
        let _running = running(&config(at, Fallback::Page));
        eventually(at, Result::is_ok).await;
        let silent = TcpStream::connect(at).await.expect("a connection");
        eventually(at, Result::is_ok).await;
        // With nothing else to do, the clock goes on to the next deadline at once.
        tokio::time::pause();
        let mut line = String::new();
        let closed = timeout(PATIENCE, BufReader::new(silent).read_line(&mut line)).await;
        assert!(closed.is_ok(), "the silent client is kept");
    }
}
