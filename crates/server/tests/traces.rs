//! Traces reach a collector, and tell times and counts but no text.

mod stage;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use fathom_server::{TRACES, Traces};
use serde_json::json;
use stage::{KEY, request, stage};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};

/// A collector of OTLP over HTTP: its address, and every request that it was sent, head and body.
fn collector() -> (String, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, received) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            sender.send(export(stream.unwrap())).unwrap();
        }
    });
    (address, received)
}

/// Reads one request and answers that everything was taken.
fn export(mut stream: TcpStream) -> (String, Vec<u8>) {
    let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let count = stream.read(&mut piece).unwrap();
        assert!(count > 0, "the exporter left in the middle");
        bytes.extend_from_slice(&piece[..count]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if bytes.len() >= end + 4 + length.parse::<usize>().unwrap() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").unwrap();
            return (head, bytes.split_off(end + 4));
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Runs two requests under a collector with this ratio; the second belongs to a sampled trace of the client's.
fn traced(ratio: f64) -> Option<(String, Vec<u8>)> {
    let (endpoint, received) = collector();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let stage = stage(|config| {
        config.otlp_endpoint = Some(endpoint);
        config.otlp_sample_ratio = ratio;
    });
    let traces = Traces::start(stage.app.settings(), runtime.handle()).unwrap().unwrap();
    let ours = filter_fn(|metadata| metadata.target() == TRACES);
    let subscriber = tracing_subscriber::registry().with(traces.layer().with_filter(ours));
    let guard = tracing::subscriber::set_default(subscriber);
    let local = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    local.block_on(async {
        let body = json!({"model": "tiny", "prompt": "a secret of mine", "max_tokens": 3});
        assert_eq!(stage.post("/v1/completions", &body).await.0, 200);
        let mut request = request("GET", "/v1/models", KEY, "");
        let parent = "00-0123456789abcdef0123456789abcdef-0123456789abcdef-01";
        request.headers_mut().insert("traceparent", parent.parse().unwrap());
        assert_eq!(stage.call(request).await.status(), 200);
    });
    drop((guard, stage));
    traces.stop();
    received.recv_timeout(Duration::from_secs(5)).ok()
}

#[test]
fn a_collector_is_told_what_took_how_long() {
    let (head, body) = traced(1.0).expect("an export");
    assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
    for part in [
        "POST /v1/completions",
        "gen_ai.usage.output_tokens",
        "text_completion",
        "fathom.prefill_ms",
        "Length",
    ] {
        assert!(contains(&body, part.as_bytes()), "no {part}");
    }
    assert!(contains(&body, &0x0123_4567_89ab_cdef_u64.to_be_bytes()), "the client's trace goes on");
    assert!(!contains(&body, b"secret") && !contains(&body, KEY.as_bytes()), "no text of the request");
}

#[test]
fn the_share_decides_unless_the_client_did() {
    let (_, body) = traced(0.0).expect("the client's trace is sampled");
    assert!(contains(&body, b"GET /v1/models") && !contains(&body, b"POST /v1/completions"));
}
