"""A model that goes on for ever, in text that means nothing, at the speed of a small real one."""

from pathlib import Path

from checkpoints import random_tensors, small_config, write_checkpoint
from real_tokenizer import END_OF_TEXT_ID, VOCAB_SIZE

from quantize.quantize_model import quantize

N_POSITIONS = 2048


def write_endless(directory: Path) -> Path:
    """Pack random weights whose end mark is never the likeliest, nor drawn."""
    config = small_config(
        n_layer=4, n_embd=256, vocab_size=VOCAB_SIZE, n_positions=N_POSITIONS, n_ctx=N_POSITIONS
    )
    tensors = random_tensors(config, seed=1)
    tensors["lm_head.bias"][END_OF_TEXT_ID] = -10_000
    checkpoint = write_checkpoint(directory / "endless", config, tensors)
    quantize(checkpoint, directory / "endless.safetensors", "int8")
    return directory / "endless.safetensors"
