#!/usr/bin/env python3
"""Writes fixtures/blocks/blocks.safetensors: what others' code makes of GGUF's block formats.

    python tools/make_block_fixtures.py --libggml PATH/libggml-base.so --out fixtures/blocks

Needs numpy, safetensors, gguf. Bytes are made by ggml's own quantizers (`ggml_quantize_chunk` of the
library), and decoded by the `gguf` package's numpy code. The library decodes them too, and must agree to the
bit: build it with `-ffp-contract=off`, or a compiler may fuse `d*q + m` and round once where the format's
code says twice. See fixtures/blocks/README.md for the tensors.
"""

import argparse
import ctypes
import pathlib

import gguf
import numpy as np
from safetensors.numpy import save_file

ROWS, COLS = 8, 1024
# Our name, ggml's type, whether the quantizer looks at importance.
FORMATS = [
    ("q8_0", gguf.GGMLQuantizationType.Q8_0, False),
    ("q4_0", gguf.GGMLQuantizationType.Q4_0, True),
    ("q4_1", gguf.GGMLQuantizationType.Q4_1, True),
    ("q5_0", gguf.GGMLQuantizationType.Q5_0, True),
    ("q5_1", gguf.GGMLQuantizationType.Q5_1, True),
    ("iq4_nl", gguf.GGMLQuantizationType.IQ4_NL, True),
    ("iq4_xs", gguf.GGMLQuantizationType.IQ4_XS, True),
    ("q4_k", gguf.GGMLQuantizationType.Q4_K, True),
    ("q5_k", gguf.GGMLQuantizationType.Q5_K, True),
    ("q6_k", gguf.GGMLQuantizationType.Q6_K, True),
]


def values(rng):
    """Rows that weights look like, and some that they should not."""
    normal = lambda: rng.standard_normal(COLS) * 0.02
    outliers = np.where(rng.random(COLS) < 0.01, 20.0, 1.0)
    ranges = np.repeat(10.0 ** rng.uniform(-3, 0, COLS // 32), 32)
    sparse = np.where(rng.random(COLS) < 0.8, 0.0, 1.0)
    sparse[256:288] = 0.0
    rows = [
        normal(),
        rng.laplace(size=COLS) * 0.02,
        rng.standard_t(4, size=COLS) * 0.02,
        rng.uniform(-1, 1, COLS),
        np.abs(normal()) + 0.01,
        normal() * outliers,
        normal() * ranges,
        normal() * sparse,
    ]
    return np.stack(rows).astype(np.float32)


class Ggml:
    def __init__(self, path):
        self.library = ctypes.CDLL(path)
        self.quantize_chunk = self.library.ggml_quantize_chunk
        self.quantize_chunk.restype = ctypes.c_size_t
        self.quantize_chunk.argtypes = [ctypes.c_int] + [ctypes.c_void_p] * 2 + [ctypes.c_int64] * 3 + [ctypes.c_void_p]

    def encode(self, kind, x, importance):
        length, size = gguf.GGML_QUANT_SIZES[kind]
        out = np.zeros((x.shape[0], x.shape[1] // length * size), np.uint8)
        weights = None if importance is None else importance.ctypes.data
        self.quantize_chunk(int(kind), x.ctypes.data, out.ctypes.data, 0, *x.shape, weights)
        return out

    def decode(self, kind, blocks):
        length, size = gguf.GGML_QUANT_SIZES[kind]
        out = np.zeros((blocks.shape[0], blocks.shape[1] // size * length), np.float32)
        name = kind.name.lower().replace("_k", "_K")
        function = getattr(self.library, f"dequantize_row_{name}")
        function.restype, function.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        function(blocks.ctypes.data, out.ctypes.data, out.size)
        return out


def errors(x, decoded, importance):
    """Per row: the root of the mean squared error by importance, and by importance · √(σ² + x²)."""
    x, decoded = x.astype(np.float64), decoded.astype(np.float64)
    plain = np.ones(COLS) if importance is None else importance.astype(np.float64)
    large = plain * np.sqrt((x * x).mean(axis=1, keepdims=True) + x * x)
    square = (x - decoded) ** 2
    return np.stack([np.sqrt((w * square).sum(1) / (w + 0 * x).sum(1)) for w in (plain, large)], axis=1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--libggml", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    given = parser.parse_args()

    ggml, rng = Ggml(given.libggml), np.random.default_rng(20)
    x, importance = values(rng), rng.lognormal(0.0, 1.0, COLS).astype(np.float32)
    tensors = {"values": x, "importance": importance}
    for name, kind, weighs in FORMATS:
        length, size = gguf.GGML_QUANT_SIZES[kind]
        for mode, given_importance in [("plain", None), ("weighted", importance)][: 1 + weighs]:
            blocks = ggml.encode(kind, x, given_importance)
            decoded = gguf.quants.dequantize(blocks, kind)
            assert np.array_equal(decoded, ggml.decode(kind, blocks)), f"{name}: built with fused arithmetic?"
            tensors[f"{name}.{mode}.blocks"] = blocks
            tensors[f"{name}.{mode}.errors"] = errors(x, decoded, given_importance)
            if mode == "plain":
                tensors[f"{name}.plain.decoded"] = decoded[2]
        noise = rng.integers(0, 256, (1, COLS // length * size), dtype=np.uint8)
        with np.errstate(all="ignore"):
            decoded = gguf.quants.dequantize(noise, kind)
        assert np.array_equal(decoded, ggml.decode(kind, noise), equal_nan=True), name
        tensors[f"{name}.noise.blocks"] = noise[0]
        tensors[f"{name}.noise.decoded"] = decoded[0]

    given.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, given.out / "blocks.safetensors")


if __name__ == "__main__":
    main()
