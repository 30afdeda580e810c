#!/usr/bin/env python3
"""Makes fixtures/tiny-gqa: a model of model_type "deepseek" (GQA, dense SwiGLU) with the loss and gradients of transformers.

DeepSeek-LLM's architecture is Llama's, tensor names included, so transformers' LlamaForCausalLM is the reference.

    pip install torch transformers safetensors
    python3 tools/make_tiny_gqa.py fixtures/tiny-gqa
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

out = pathlib.Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)
torch.manual_seed(7)
shape = dict(
    vocab_size=96,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=6,
    num_key_value_heads=2,
    max_position_embeddings=64,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
)
model = LlamaForCausalLM(
    LlamaConfig(**shape, rope_theta=10000.0, initializer_range=0.2, attn_implementation="eager")
).float()
for name, parameter in model.named_parameters():
    if "norm" in name:
        torch.nn.init.uniform_(parameter, 0.5, 1.5)
tokens = torch.randint(0, shape["vocab_size"], (2, 13))
result = model(tokens, labels=tokens)
result.loss.backward()
save_file({name: value.detach().contiguous() for name, value in model.state_dict().items()}, out / "model.safetensors")
golden = {"input_ids": tokens, "logits": result.logits.detach().contiguous(), "loss": result.loss.detach().reshape(1)}
golden |= {f"grad.{name}": p.grad.contiguous() for name, p in model.named_parameters()}
save_file(golden, out / "train.safetensors")
config = {"architectures": ["DeepseekForCausalLM"], "model_type": "deepseek", "hidden_act": "silu", "rope_theta": 10000.0}
(out / "config.json").write_text(json.dumps(config | shape | {"torch_dtype": "float32"}, indent=2) + "\n")
print("loss", result.loss.item())
