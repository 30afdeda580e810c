#!/usr/bin/env python3
"""Trains the same model on the same batches in `fathom train` and in PyTorch with transformers, and compares the losses.

    pip install torch transformers safetensors numpy
    python3 tools/compare_curve.py DATASET [--fathom target/release/fathom] [--steps 200] [--dtype bf16]
        [--size S --batch 8 --seq 512] [--plot curve.png]

DATASET is what `fathom data prepare` made, or the `conversations` directory of a run. Initial weights are a random
checkpoint (`fathom synth`) of a small V3, or of the 12 M parameters of `--size S`. Both sides: AdamW (0.9, 0.95, eps 1e-8, weight decay 0.1 on everything), clipping
at 1, constant learning rate, rows in the order of the files, answers only where the data has a mask. PyTorch's bf16 is
autocast over f32 masters. Prints both curves and how far apart they are, smoothed over ten steps as losses of single
batches are compared on the same batch anyway; fails beyond 0.5 %. Smaller batches lie further apart, as experts are chosen by small
differences: 0.32 % with 4 x 128 tokens, 0.13 % with --size S --batch 8 --seq 512.
"""

import argparse
import json
import pathlib
import struct
import subprocess
import sys
import tempfile

import numpy
import torch
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("dataset", type=pathlib.Path)
parser.add_argument("--fathom", default="target/release/fathom")
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--dtype", choices=["f32", "bf16"], default="bf16")
parser.add_argument("--size", choices=["small", "S"], default="small", help="S: 12 M parameters (docs/kernels)")
parser.add_argument("--batch", type=int, default=4, help="rows of a step")
parser.add_argument("--seq", type=int, default=128, help="tokens of a row")
parser.add_argument("--rate", type=float, default=1e-3, help="learning rate")
parser.add_argument("--plot", type=pathlib.Path)
args = parser.parse_args()

BATCH, SEQ, RATE = args.batch, args.seq, args.rate
CONFIG = dict(
    model_type="deepseek_v3", architectures=["DeepseekV3ForCausalLM"], hidden_act="silu", torch_dtype="float32",
    hidden_size=128, intermediate_size=320, moe_intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=4, q_lora_rank=64, kv_lora_rank=32, qk_nope_head_dim=32, qk_rope_head_dim=16, v_head_dim=32,
    n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2, n_group=1, topk_group=1, first_k_dense_replace=1,
    moe_layer_freq=1, routed_scaling_factor=2.5, norm_topk_prob=True, scoring_func="sigmoid", topk_method="noaux_tc",
    num_nextn_predict_layers=0, max_position_embeddings=256, rms_norm_eps=1e-6, rope_theta=10000.0,
    attention_bias=False, attention_dropout=0.0, tie_word_embeddings=False, initializer_range=0.02,
)  # fmt: skip
if args.size == "S":
    CONFIG |= dict(
        hidden_size=256, intermediate_size=640, moe_intermediate_size=128, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=8, q_lora_rank=None, kv_lora_rank=64, n_routed_experts=16, num_experts_per_tok=4,
        max_position_embeddings=2048,
    )  # fmt: skip


def rows(dataset):
    """The rows of the training split in order: tokens, and labels with -100 for what is not learnt."""
    manifest = json.loads((dataset / "dataset.json").read_text())
    tokens, learn = [], []
    for shard in manifest["train"]["shards"]:
        data = (dataset / shard["file"]).read_bytes()
        width, _, masked, count, documents = struct.unpack_from("<IIIQQ", data, 12)
        ids = numpy.frombuffer(data, {2: "<u2", 4: "<u4"}[width], count, 128)
        tokens.append(ids.astype(numpy.int64))
        at = 128 + (count * width + 7) // 8 * 8 + documents * 8
        bits = numpy.frombuffer(data, numpy.uint8, (count + 7) // 8, at) if masked else None
        learn.append(
            numpy.unpackbits(bits, bitorder="little")[:count].astype(bool) if masked else numpy.ones(count, bool)
        )
    tokens, learn = numpy.concatenate(tokens), numpy.concatenate(learn)
    for first in range(0, len(tokens) - SEQ - 1, SEQ):
        row = slice(first, first + SEQ + 1)
        labels = numpy.where(learn[row], tokens[row], -100)
        yield torch.from_numpy(tokens[row].copy()), torch.from_numpy(labels)


def ours(scratch, start):
    file = scratch / "run.toml"
    file.write_text(f"""
steps = {args.steps}
dtype = "{args.dtype}"
[model]
from = "{start}"
[data]
path = "{args.dataset.resolve()}"
shuffle = false
document_mask = false
learn_cut_documents = true
[batch]
sequences = {BATCH}
seq_len = {SEQ}
[optimizer]
kind = "adamw"
without_decay = []
[schedule]
kind = "constant"
lr = {RATE}
[balance]
bias_update = 0.0
[validation]
every = 1000000
""")
    subprocess.run(
        [args.fathom, "train", "--config", file, "--out", scratch / "run"], check=True, capture_output=True
    )
    records = [json.loads(line) for line in (scratch / "run/metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if record["kind"] == "step"]


def theirs(start):
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32, attn_implementation="eager").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    source, losses = rows(args.dataset), []
    for _ in range(args.steps):
        batch = [next(source) for _ in range(BATCH)]
        tokens, labels = (torch.stack(part) for part in zip(*batch))
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16"):
            logits = model(tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


with tempfile.TemporaryDirectory() as scratch:
    scratch = pathlib.Path(scratch)
    vocab = json.loads((args.dataset / "tokenizer.json").read_text())
    size = max([*vocab["model"]["vocab"].values(), *(token["id"] for token in vocab["added_tokens"])]) + 1
    (scratch / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": size}))
    start = scratch / "start"
    subprocess.run([args.fathom, "synth", "--config", scratch / "config.json", "--out", start], check=True, capture_output=True)
    a, b = numpy.array(ours(scratch, start)), numpy.array(theirs(start))

smooth = lambda losses: numpy.convolve(losses, numpy.ones(10) / 10, "valid")
single, far = numpy.abs(a / b - 1), numpy.abs(smooth(a) / smooth(b) - 1)
for step in [0, *range(9, args.steps, 20)]:
    print(f"step {step + 1:4}  ours {a[step]:.5f}  PyTorch {b[step]:.5f}  {100 * (a[step] / b[step] - 1):+.3f} %")
print(f"{args.dtype}: largest difference {100 * far.max():.3f} % smoothed, {100 * single.max():.3f} % of a single step")
if args.plot:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.plot(b, label="PyTorch, transformers", lw=3, alpha=0.5)
    plt.plot(a, label="Fathom", lw=1)
    plt.xlabel("step"), plt.ylabel("loss, nats per token"), plt.legend()
    plt.savefig(args.plot, dpi=120)
sys.exit(int(far.max() > 0.005))
