#!/usr/bin/env python3
"""Converts a checkpoint of `fathom train` with llama.cpp's own converter, runs it in llama-server, and compares with Fathom.

    pip install torch transformers safetensors numpy
    python3 tools/check_converted.py CHECKPOINT LLAMA_CPP LLAMA_SERVER [path/to/fathom]

CHECKPOINT is a model directory of the V2 or V3 architecture with its tokenizer; LLAMA_CPP is llama.cpp's source (for
convert_hf_to_gguf.py), LLAMA_SERVER its server's binary, which listens on loopback while this runs. The converter knows pre-tokenizers
by a hash of what a published tokenizer makes of a text, so that one of our own is told to be DeepSeek-V3's, whose rules
ours follow; that this is true is what the comparison of token ids shows.

Prints the largest difference between log-probabilities over the whole vocabulary after prompts of several lengths, and fails beyond 2e-3,
on another best token, or on other token ids.
"""

import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import numpy as np
from safetensors.numpy import load_file

TEXTS = ["12 + 34 = 46; 春眠不覺曉\n", "Hello, world!  naïve 🚀", "x = {'a': [1, 2]}  # ok\n\n", "一、二，三。9876543"]
LENGTHS = [1, 2, 7, 33, 90]
TOLERANCE = 2e-3
CONVERTER = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "deepseek-v3"
sys.argv = sys.argv[1:]
sys.argv[0] += "/convert_hf_to_gguf.py"
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def wait(server, url):
    while server.poll() is None:
        try:
            return urllib.request.urlopen(f"{url}/health").close()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    sys.exit("llama-server does not start with the converted file")


def compare(checkpoint, fathom, url, scratch):
    failed = False
    for text in TEXTS:
        theirs = post(f"{url}/tokenize", {"content": text, "add_special": False})["tokens"]
        tokenize = [fathom, "tokenize", "--model", checkpoint, "--text", text]
        ours = json.loads(subprocess.run(tokenize, check=True, capture_output=True).stdout)
        failed |= ours != theirs
        print(f"{text!r}: {len(ours)} tokens, {'the same' if ours == theirs else f'{ours} against {theirs}'}")
    vocab_size = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    tokens = np.random.default_rng(0).integers(3, vocab_size, max(LENGTHS)).tolist()
    ids, out = scratch / "ids.json", scratch / "logits.safetensors"
    ids.write_text(json.dumps([tokens]))
    subprocess.run([fathom, "logits", "--model", checkpoint, "--dtype", "f32", "--tokens", ids, "--out", out], check=True)
    logits = next(value for name, value in load_file(out).items() if name.endswith("logits")).astype(np.float64)
    ours = logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(-1, keepdims=True)
    # llama-server refuses an answer of its own that is a part of a character, so it is made to answer "1". The probabilities
    # that it tells are those from before.
    one = post(f"{url}/tokenize", {"content": "1", "add_special": False})["tokens"][0]
    for length in LENGTHS:
        request = {"prompt": tokens[:length], "n_predict": 1, "n_probs": vocab_size, "cache_prompt": False,
                   "logit_bias": [[one, 1000]]}
        answer = post(f"{url}/completion", request)["completion_probabilities"][0]["top_logprobs"]
        theirs = np.full(vocab_size, -np.inf)
        for entry in answer:
            theirs[entry["id"]] = entry["logprob"]
        seen = np.isfinite(theirs)
        far = np.abs(theirs - ours[length - 1])[seen].max()
        bad = far > TOLERANCE or seen.sum() < vocab_size or theirs.argmax() != ours[length - 1].argmax()
        failed |= bad
        print(f"after {length} tokens: {seen.sum()} log-probabilities, off by {far:.1e}" + (" FAILED" if bad else ""))
    return failed


def main():
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    checkpoint, source, binary = map(pathlib.Path, sys.argv[1:4])
    fathom = sys.argv[4] if len(sys.argv) > 4 else "target/release/fathom"
    with tempfile.TemporaryDirectory() as scratch, socket.socket() as free:
        gguf = pathlib.Path(scratch, "converted.gguf")
        subprocess.run(
            [sys.executable, "-c", CONVERTER, source, checkpoint, "--outtype", "f32", "--outfile", gguf], check=True
        )
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        server = subprocess.Popen(
            [binary, "-m", gguf, "--host", "127.0.0.1", "--port", str(port), "-c", "512", "-np", "1", "-ctk", "f32",
             "-ctv", "f32", "-fa", "off"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            wait(server, url)
            failed = compare(checkpoint, fathom, url, pathlib.Path(scratch))
        finally:
            server.terminate()
            server.wait()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
