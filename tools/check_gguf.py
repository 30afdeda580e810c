#!/usr/bin/env python3
"""Lets llama.cpp run GGUF files that Fathom wrote of the fixtures, and compares logits and tokens.

    cargo build -p fathom-engine --example to_gguf
    pip install llama-cpp-python numpy tokenizers
    python3 tools/check_gguf.py target/debug/examples/to_gguf

Every fixture is written in F32 to a temporary directory and run with an f32 cache and no flash attention. Logits are
held to those of transformers in `golden.safetensors`: 1e-3 of their largest, at every position. V2 with expert groups is the exception that is only printed: llama.cpp scores a group by the sum of its
two best experts, as V3 does, where V2's references take the best one.
"""

import json
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import llama_cpp as L
import numpy as np
from tokenizers import Tokenizer

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
MODELS = ["tiny-v2-lite", "tiny-v2", "tiny-v3", "tiny-v3-fp8", "tiny-v3-mtp"]
GROUPED_V2 = {"tiny-v2"}
TOLERANCE = 1e-3
TEXTS = ["Hello, world!", "The 12345 ünï 你好\n\n  end ", "x = {'a': [1, 2]}  # ok", " ", "naïve 🚀"]


def golden(name):
    """The longest sequence of the fixture: ids and logits."""
    data = (FIXTURES / name / "golden.safetensors").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, data = json.loads(data[8 : 8 + size]), data[8 + size :]

    def tensor(key, dtype):
        begin, end = header[key]["data_offsets"]
        return np.frombuffer(data[begin:end], dtype).reshape(header[key]["shape"])

    ids = [key for key in header if key.startswith("seq") and key.endswith(".input_ids")]
    longest = max(ids, key=lambda key: header[key]["shape"][-1])
    return tensor(longest, np.int32).ravel(), tensor(longest.replace("input_ids", "logits"), np.float32)


def run(path, ids):
    """llama.cpp's logits [T, vocab] at every position, and its ids of TEXTS."""
    model = L.llama_model_load_from_file(str(path).encode(), L.llama_model_default_params())
    if not model:
        sys.exit(f"{path}: llama.cpp does not load it")
    params = L.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 512
    params.flash_attn_type = 0
    params.type_k = params.type_v = 0
    context = L.llama_init_from_model(model, params)
    batch = L.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for at, token in enumerate(ids):
        batch.token[at], batch.pos[at], batch.logits[at] = int(token), at, 1
        batch.n_seq_id[at], batch.seq_id[at][0] = 1, 0
    assert L.llama_decode(context, batch) == 0
    vocab = L.llama_model_get_vocab(model)
    width = L.llama_vocab_n_tokens(vocab)
    logits = np.ctypeslib.as_array(L.llama_get_logits(context), (len(ids), width)).copy()
    tokens = []
    for text in TEXTS:
        room = (L.llama_token * 256)()
        raw = text.encode()
        count = L.llama_tokenize(vocab, raw, len(raw), room, 256, False, True)
        tokens.append(list(room[:count]))
    L.llama_free(context)
    L.llama_model_free(model)
    return logits, tokens


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    L.llama_backend_init()
    quiet = L.llama_log_callback(lambda level, text, data: None)
    L.llama_log_set(quiet, None)
    failed = False
    for name in MODELS:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"{name}.gguf"
            subprocess.run([sys.argv[1], FIXTURES / name, path], check=True)
            ids, want = golden(name)
            got, tokens = run(path, ids)
        want = want.reshape(got.shape)
        worst = float(np.abs(got - want).max() / np.abs(want).max())
        top = float((got.argmax(1) == want.argmax(1)).mean())
        ours = Tokenizer.from_file(str(FIXTURES / name / "tokenizer.json"))
        same = [ours.encode(text, add_special_tokens=False).ids for text in TEXTS] == tokens
        bad = (worst > TOLERANCE and name not in GROUPED_V2) or not same
        failed |= bad
        print(f"{name}: logits off by {worst:.1e} of the largest, top-1 equal {top:.2f}, tokens equal {same}"
              + (" FAILED" if bad else ""))
    sys.exit(failed)


if __name__ == "__main__":
    main()
