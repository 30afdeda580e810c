"""A stand-in for `fathom serve`: the chat page and an API that streams one prepared answer, for working on the page.

    python3 tools/web-page/mock_server.py [--port 8123] [--delay 0.004]

The key is `sk-mock`. A message that contains `slow` is answered slowly, `fail` with a 503, `break` breaks off.
"""

import argparse
import json
import pathlib
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WEB = pathlib.Path(__file__).resolve().parents[2] / "crates/server/web"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REASONING = "The question asks how deep the water is. A sounding line is the oldest way; sonar is the common one.\n\nI should give both, and a formula."
ANSWER = """Depth is measured by **time** or by **length**. The two usual ways:

1. *Sounding line*: a weight on a marked rope.
   - cheap, and works without power
   - slow below 200 m
2. *Echo sounder*: a pulse goes down and comes back.

The depth is half of the way that the sound travels, `d = v·t / 2`:

```python
def depth(seconds: float, speed: float = 1500.0) -> float:
    \"\"\"Metres below the keel; <script>alert(1)</script> stays text.\"\"\"
    return speed * seconds / 2  # there and back
```

| method | range | error |
|:--|--:|--:|
| line | 200 m | 1 % |
| sonar | 11,000 m | 0.2 % |

> 水深以声波往返时间的一半乘以声速计算。

More in [the tables](https://example.org/depth), not in [this](javascript:alert(1)). <img src=x onerror=alert(1)>
"""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def reply(self, status, kind, body):
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-security-policy", POLICY)
        self.end_headers()
        self.wfile.write(body)

    def error(self, status, message):
        body = {"error": {"message": message, "type": "mock_error", "param": None, "code": None}}
        self.reply(status, "application/json", json.dumps(body).encode())

    def known(self):
        return self.headers.get("authorization") == "Bearer sk-mock"

    def do_GET(self):
        if self.path == "/v1/models":
            if not self.known():
                return self.error(401, "no such key")
            models = [{"id": name, "object": "model"} for name in ("deepseek-v3.1", "deepseek-v2-lite")]
            return self.reply(200, "application/json", json.dumps({"object": "list", "data": models}).encode())
        file = WEB / (self.path.strip("/") or "index.html")
        if file.parent == WEB and file.is_file():
            return self.reply(200, TYPES[file.suffix] + "; charset=utf-8", file.read_bytes())
        return self.error(404, "no such path")

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.known():
            return self.error(401, "no such key")
        asked = body["messages"][-1]["content"]
        if "fail" in asked:
            return self.error(503, "too many requests wait")
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        delay = 0.05 if "slow" in asked else self.server.delay
        thinking = body.get("thinking", {}).get("type") == "enabled"
        # What the server was asked, for tests.
        answer = json.dumps(body["messages"]) if "echo" in asked else ANSWER
        deltas = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": piece} for piece in pieces(REASONING if thinking else "")]
        deltas += [{"content": piece} for piece in pieces(answer)]
        try:
            self.wfile.write(b": keep-alive\n\n")
            for i, delta in enumerate(deltas):
                if "break" in asked and i == 30:
                    return
                self.event({"choices": [{"index": 0, "delta": delta, "finish_reason": None}], "usage": None})
                time.sleep(delay)
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": None})
            usage = {"prompt_tokens": 42, "completion_tokens": len(deltas), "prompt_cache_hit_tokens": 32}
            self.event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            pass

    def event(self, value):
        self.wfile.write(f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode())
        self.wfile.flush()


def pieces(text):
    return [text[i : i + 4] for i in range(0, len(text), 4)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--delay", type=float, default=0.004)
    args = parser.parse_args()
    server = ThreadingHTTPServer(("127.0.0.1", args.port), Handler)
    server.delay = args.delay
    print(f"http://127.0.0.1:{args.port}/#key=sk-mock", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
