#!/usr/bin/env python3
"""Turns a synthetic checkpoint with an MTP layer into one whose drafts are nearly always right.

Every block adds next to nothing to the residual stream, so that the next token depends on the last alone, and
the MTP layer passes the embedding of the token it is given straight to the head: it then guesses what the
model will say. For measuring what speculation can gain, not for text. Works in place.

    fathom synth --config config.json --out DIR && python3 tools/make_predictable.py DIR

Needs torch and safetensors.
"""

import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file

FAINT = 1e-3


def main():
    directory = pathlib.Path(sys.argv[1])
    config = json.loads((directory / "config.json").read_text())
    mtp = f"model.layers.{config['num_hidden_layers']}."
    hidden = config["hidden_size"]
    for path in sorted(directory.glob("*.safetensors")):
        tensors = load_file(path)
        for name, tensor in tensors.items():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                tensors[name] = (tensor.float() * FAINT).to(tensor.dtype)
            elif name == mtp + "eh_proj.weight":
                halves = torch.cat([torch.eye(hidden), torch.zeros(hidden, hidden)], dim=1)
                tensors[name] = halves.to(tensor.dtype)
            elif name.endswith(("norm.weight", "enorm.weight", "hnorm.weight")):
                tensors[name] = torch.ones_like(tensor)
        save_file(tensors, path, metadata={"format": "pt"})
        print(path)


if __name__ == "__main__":
    main()
