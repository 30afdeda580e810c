//! Real sockets: slow and rude clients, cancellation, draining.

mod stage;

use std::sync::Arc;
use std::time::Duration;

use fathom_server::{App, Bound, ServerConfig, serve};
use serde_json::json;
use stage::{KEY, Stage, stage};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

struct Served {
    stage: Stage,
    address: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), fathom_server::Error>>,
}

async fn served(change: impl FnOnce(&mut ServerConfig)) -> Served {
    let stage = stage(change);
    let app: Arc<App> = stage.app.clone();
    let bound = Bound::new(&app).await.unwrap();
    let address = bound.url().unwrap().strip_prefix("http://").unwrap().to_owned();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(serve(app, bound, async move {
        let _ = stopped.await;
    }));
    Served { stage, address, stop, task }
}

impl Served {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    /// Sends bytes and reads until the server closes, or for so long.
    async fn raw(&self, bytes: &[u8], wait: Duration) -> String {
        let mut stream = self.connect().await;
        // The server may have had enough before everything is sent.
        let _ = stream.write_all(bytes).await;
        read(&mut stream, wait).await
    }

    async fn running(&self) -> usize {
        let (_, text) = stage::text(self.stage.call(stage::request("GET", "/metrics", KEY, "")).await).await;
        let value = |name: &str| -> usize {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        value("fathom_running ") + value("fathom_waiting ")
    }
}

async fn read(stream: &mut TcpStream, wait: Duration) -> String {
    let mut bytes = Vec::new();
    let _ = tokio::time::timeout(wait, stream.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn long_answer() -> String {
    // No end token ends it: it would run until the context is full.
    json!({"model": "tiny", "prompt": "a", "max_tokens": 2000, "stream": true, "logit_bias": {"1": -100}})
        .to_string()
}

const SHORT: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rude_requests_are_refused() {
    let served = served(|config| config.max_header_bytes = 8192).await;
    let smuggled = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n\
                    0\r\n\r\nGET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let rows: [(Vec<u8>, &[&str]); 6] = [
        (b"nonsense\r\n\r\n".to_vec(), &["400"]),
        (b"GET /health HTTP/1.1\r\nbad header\r\n\r\n".to_vec(), &["400"]),
        (b"POST /health HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!".to_vec(), &["400"]),
        (format!("GET /health HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(20_000)).into_bytes(), &["431"]),
        (format!("GET /health HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(100)).into_bytes(), &["431"]),
        (smuggled.as_bytes().to_vec(), &["400", "401"]),
    ];
    for (bytes, codes) in rows {
        let answer = served.raw(&bytes, SHORT).await;
        let first = answer.lines().next().unwrap_or_default().to_owned();
        assert!(
            codes.iter().any(|code| first.contains(code)),
            "{first:?} for {:?}",
            &bytes[..bytes.len().min(60)]
        );
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "nothing was smuggled: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_given_up() {
    let served = served(|config| {
        config.header_timeout_s = 0.3;
        config.body_timeout_s = 0.3;
    })
    .await;
    let begun = std::time::Instant::now();
    served.raw(b"GET /health HTTP/1.1\r\nhost:", Duration::from_secs(10)).await;
    let head = post("/v1/completions", "{}").replace("content-length: 2", "content-length: 200");
    let answer = served.raw(head.as_bytes(), Duration::from_secs(10)).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("in time"), "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_is_cancelled() {
    let served = served(|_| {}).await;
    let mut stream = served.connect().await;
    stream.write_all(post("/v1/completions", &long_answer()).as_bytes()).await.unwrap();
    let mut some = [0; 300];
    stream.read_exact(&mut some).await.unwrap();
    assert!(String::from_utf8_lossy(&some).starts_with("HTTP/1.1 200"));
    drop(stream);
    for _ in 0..100 {
        if served.running().await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the answer still runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_connections_and_too_many_answers() {
    let served = served(|config| {
        config.max_connections = 2;
        config.max_requests_per_key = 1;
    })
    .await;
    let mut first = served.connect().await;
    first.write_all(post("/v1/completions", &long_answer()).as_bytes()).await.unwrap();
    let mut some = [0; 300];
    first.read_exact(&mut some).await.unwrap();
    let body = json!({"model": "tiny", "prompt": "a", "max_tokens": 1}).to_string();
    let mut second = served.connect().await;
    second.write_all(post("/v1/completions", &body).as_bytes()).await.unwrap();
    let mut head = [0; 12];
    second.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"HTTP/1.1 429");
    let third = served.raw(b"", SHORT).await;
    assert!(third.starts_with("HTTP/1.1 503") && third.contains("too many connections"), "{third:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_lets_answers_end_and_then_cuts_them() {
    for (tokens, drain_timeout_s, reason) in
        [(20, 20.0, "\"length\""), (2000, 0.1, "insufficient_system_resource")]
    {
        let served = served(|config| config.drain_timeout_s = drain_timeout_s).await;
        let mut stream = served.connect().await;
        let body = long_answer().replace("2000", &tokens.to_string());
        stream.write_all(post("/v1/completions", &body).as_bytes()).await.unwrap();
        let mut some = [0; 200];
        stream.read_exact(&mut some).await.unwrap();
        served.stop.send(()).unwrap();
        let rest = read(&mut stream, Duration::from_secs(20)).await;
        assert!(
            rest.contains(reason) && rest.contains("[DONE]"),
            "{tokens} tokens: {}",
            &rest[rest.len().saturating_sub(400)..]
        );
        tokio::time::timeout(Duration::from_secs(20), served.task).await.unwrap().unwrap().unwrap();
        assert!(TcpStream::connect(&served.address).await.is_err(), "nobody listens any more");
    }
}

#[tokio::test]
async fn a_crash_of_the_engine_ends_the_server() {
    let served = served(|config| config.drain_timeout_s = 1.0).await;
    served.stage.crash().await;
    let answer = served.raw(post("/v1/completions", &long_answer()).as_bytes(), Duration::from_secs(5)).await;
    assert!(answer.is_empty() || answer.contains(" 500 ") || answer.contains(" 503 "), "{answer}");
    let ended = tokio::time::timeout(Duration::from_secs(20), served.task).await.expect("it ends by itself");
    assert!(matches!(ended.unwrap(), Err(fathom_server::Error::EngineCrashed)));
}
