#!/usr/bin/env python3
"""Loads a checkpoint of `fathom train` in transformers and compares logits with ours.

    pip install torch transformers safetensors
    python3 tools/check_trained.py CHECKPOINT [path/to/fathom]

Tokens are drawn at random; ours come from `fathom logits --dtype f32`, theirs from AutoModelForCausalLM in float32. Prints the
largest difference and the largest logit, and fails beyond 2e-4 of it. The tokenizer is loaded too, where there is one.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

checkpoint = pathlib.Path(sys.argv[1])
fathom = sys.argv[2] if len(sys.argv) > 2 else "target/release/fathom"
model, loading = AutoModelForCausalLM.from_pretrained(
    checkpoint, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
)
print(type(model).__name__, "missing:", loading["missing_keys"], "mismatched:", loading["mismatched_keys"])
torch.manual_seed(0)
tokens = torch.randint(3, model.config.vocab_size, (1, 61))
with torch.no_grad():
    theirs = model(tokens).logits[0]
with tempfile.TemporaryDirectory() as scratch:
    ids, out = pathlib.Path(scratch, "ids.json"), pathlib.Path(scratch, "logits.safetensors")
    ids.write_text(json.dumps(tokens.tolist()))
    subprocess.run(
        [fathom, "logits", "--model", checkpoint, "--dtype", "f32", "--tokens", ids, "--out", out], check=True
    )
    ours = next(value for name, value in load_file(out).items() if name.endswith("logits"))
far, largest = (ours - theirs).abs().max().item(), theirs.abs().max().item()
print(f"largest difference {far:.3g} of logits up to {largest:.3g}")
if (checkpoint / "tokenizer.json").exists():
    text = "12 + 34 = 46; 春眠不覺曉\n"
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text
    print("tokenizer:", type(tokenizer).__name__, len(tokenizer))
sys.exit(bool(loading["missing_keys"]) or far > 2e-4 * max(largest, 1.0))
