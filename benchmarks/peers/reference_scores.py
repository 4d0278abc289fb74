"""A checkpoint -> what transformers computes in float32; runs in the openvino venv, which has it.

python reference_scores.py CHECKPOINT SCORES.npy
"""

import sys

import engine_process
import numpy as np
import torch
from transformers import AutoModelForCausalLM


def main(checkpoint: str, path: str) -> None:
    """Write the scores after 64 prompt ids, [vocab_size] float32."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.no_grad():
        scores = model(torch.tensor([engine_process.prompt(64)])).logits[0, -1]
    np.save(path, scores.numpy())


if __name__ == "__main__":
    main(*sys.argv[1:])
