//! Sockets: accepting within limits, giving up on slow clients, and ending gracefully.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;

use crate::app::App;
use crate::error::{Error, Result};
use crate::tls;

/// What a connection beyond the limit is told.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n\
connection: close\r\ncontent-length: 129\r\n\r\n\
{\"error\":{\"message\":\"Server Overloaded: too many connections\",\"type\":\"overloaded_error\",\"param\":null,\"code\":\"server_overloaded\"}}";

/// How often the engine's health is looked at.
const CHECKUP: Duration = Duration::from_millis(500);

/// How long the rest of the answers may take once the engine has ended them.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Connections of the admin at most.
const ADMIN_CONNECTIONS: usize = 16;

/// Sockets that are open and not yet served.
#[derive(Debug)]
pub struct Bound {
    listener: TcpListener,
    admin: Option<TcpListener>,
    tls: Option<TlsAcceptorBox>,
}

struct TlsAcceptorBox(TlsAcceptor);

impl std::fmt::Debug for TlsAcceptorBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsAcceptor")
    }
}

impl Bound {
    /// Opens the sockets and reads the certificate of `app`'s configuration.
    ///
    /// # Errors
    /// [`Error::Listen`] for an address that cannot be had, [`Error::Tls`] for a certificate of no use.
    pub async fn new(app: &App) -> Result<Self> {
        let config = &app.config;
        let tls = match (&config.tls_certificate, &config.tls_key) {
            (Some(certificate), Some(key)) => Some(TlsAcceptorBox(tls::acceptor(certificate, key)?)),
            _ => None,
        };
        let admin = match config.admin_listen {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self { listener: bind(config.listen).await?, admin, tls })
    }

    /// Where the API is: the port is the real one, and the scheme `http` or `https`.
    ///
    /// # Errors
    /// The system's.
    pub fn url(&self) -> io::Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.listener.local_addr()?))
    }

    /// Where the admin's endpoints are, if anywhere.
    ///
    /// # Errors
    /// The system's.
    pub fn admin_url(&self) -> io::Result<Option<String>> {
        self.admin.as_ref().map(|admin| Ok(format!("http://{}", admin.local_addr()?))).transpose()
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })
}

/// Answers until `stop` is ready. Then nobody is let in any more, running answers get the time that the configuration
/// grants them, and what is left after that is ended with `insufficient_system_resource`.
///
/// # Errors
/// [`Error::EngineCrashed`]: a process that can answer nothing ends, so that whoever watches it starts another.
pub async fn serve(app: Arc<App>, bound: Bound, stop: impl Future<Output = ()>) -> Result<()> {
    let (end, ended) = watch::channel(false);
    let limit = app.config.max_connections;
    let places = Arc::new(Semaphore::new(limit));
    let tls = bound.tls.map(|tls| tls.0);
    let door = Door { app: app.clone(), places: places.clone(), tls, ended: ended.clone() };
    let mut tasks = vec![tokio::spawn(door.accept(bound.listener, app.routes()))];
    if let Some(admin) = bound.admin {
        let places = Arc::new(Semaphore::new(ADMIN_CONNECTIONS));
        let door = Door { app: app.clone(), places, tls: None, ended };
        tasks.push(tokio::spawn(door.accept(admin, app.admin_routes())));
    }
    let crashed = tokio::select! { () = stop => false, () = crash(&app) => true };
    tracing::info!("ending: nobody is let in any more");
    app.drain();
    let _ = end.send(true);
    // All places free means that every connection has ended.
    let all = u32::try_from(limit).unwrap_or(u32::MAX);
    let drained = tokio::time::timeout(app.limits.drain_timeout, places.acquire_many(all)).await.is_ok();
    if !drained {
        tracing::warn!("the time to drain is over: answers are cut off");
    }
    let engine = app.engine.clone();
    let stopped = tokio::task::spawn_blocking(move || engine.stop());
    let _ = tokio::time::timeout(LAST_WORDS, stopped).await;
    let _ = tokio::time::timeout(LAST_WORDS, places.acquire_many(all)).await;
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    if crashed { Err(Error::EngineCrashed) } else { Ok(()) }
}

/// Ready once the engine has crashed.
async fn crash(app: &App) {
    while !app.engine.has_crashed() {
        tokio::time::sleep(CHECKUP).await;
    }
}

/// Lets connections in.
struct Door {
    app: Arc<App>,
    places: Arc<Semaphore>,
    tls: Option<TlsAcceptor>,
    ended: watch::Receiver<bool>,
}

impl Door {
    async fn accept(mut self, listener: TcpListener, router: Router) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = self.ended.changed() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, mostly: let some be closed.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let _ = stream.set_nodelay(true);
            match self.places.clone().try_acquire_owned() {
                Ok(place) => drop(tokio::spawn(self.connection(stream, place, router.clone()))),
                Err(_) => {
                    self.app.metrics.refused_connections.fetch_add(1, Relaxed);
                    refuse(stream);
                }
            }
        }
    }

    fn connection(
        &self,
        stream: TcpStream,
        place: OwnedSemaphorePermit,
        router: Router,
    ) -> impl Future<Output = ()> + use<> {
        let (app, tls, ended) = (self.app.clone(), self.tls.clone(), self.ended.clone());
        async move {
            let _place = place;
            app.metrics.connections.fetch_add(1, Relaxed);
            let stream = Patient { stream, limit: app.limits.write_timeout, stalled: None };
            match tls {
                None => talk(&app, stream, router, ended).await,
                Some(tls) => {
                    match tokio::time::timeout(app.limits.header_timeout, tls.accept(stream)).await {
                        Ok(Ok(stream)) => talk(&app, stream, router, ended).await,
                        Ok(Err(error)) => tracing::debug!(%error, "no TLS"),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    }
                }
            }
            app.metrics.connections.fetch_sub(1, Relaxed);
        }
    }
}

/// Tells a connection that there is no place. The few bytes fit into the socket's buffer.
fn refuse(mut stream: TcpStream) {
    tokio::spawn(async move {
        let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(FULL)).await;
    });
}

/// Speaks HTTP/1.1 on one connection until it ends.
async fn talk<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    app: &App,
    stream: S,
    router: Router,
    mut ended: watch::Receiver<bool>,
) {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(app.limits.header_timeout)
        .max_headers(app.config.max_headers)
        .max_buf_size(app.config.max_header_bytes);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let end = tokio::select! {
        end = connection.as_mut() => end,
        () = async { drop(ended.wait_for(|ended| *ended).await) } => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = end {
        tracing::debug!(%error, "a connection broke off");
    }
}

/// A socket whose peer must take what it is sent within a time.
struct Patient {
    stream: TcpStream,
    limit: Duration,
    /// Runs while the peer takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn watch<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let limit = self.limit;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        match stalled.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canned_answer_is_as_long_as_it_says() {
        let text = std::str::from_utf8(FULL).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", body.len())), "{}", body.len());
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
