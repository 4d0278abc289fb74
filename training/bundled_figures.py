"""The bundled model's figures -> the texts that state them, each between two known neighbours."""

from collections.abc import Mapping
from pathlib import Path

import fidelity
import numpy as np

from codegen_cli.models.memory_need import PROGRAM_BYTES
from codegen_cli.models.registry import FORMATS
from quantize.description.config import ModelConfig
from quantize.description.tensor_map import tensor_specs
from quantize.packed.packed_file import PackedFile
from quantize.packed.sizes import packed_bytes

EXAMPLE = 'codegen complete "def fib(n):" -t 0'
"""Whose output the README shows."""

CARD = "codegen_cli/data/nano/MODEL_CARD.md"
FIDELITY = "docs/quantization.md"
MODELS = "docs/models.md"

# File, what stands before a figure, what stands after it, the figure.
PLACES = (
    ("models.toml", "\n[sizes.nano]\n", "\n[models]\n", "size"),
    ("README.md", f"\n$ {EXAMPLE}\n", "```\n", "example"),
    ("docs/completing.md", "(2048; the bundled one ", ")", "n_positions"),
    (MODELS, "\n| int8 | ", " |\n", "int8, with its bits"),
    (MODELS, "\n| int4 (`wte`, `lm_head` int8) | ", " |\n", "int4, with its bits"),
    (MODELS, "\n| plain int4 rounding of the same matrices | ", " |\n", "plain, with its bits"),
    (CARD, "\n| blocks | ", " |\n", "blocks"),
    (CARD, "\n| vocabulary, context | ", " |\n", "vocabulary"),
    (CARD, "\n| parameters | ", " |\n", "parameters"),
    (CARD, "\n| file | ", " |\n", "file"),
    (CARD, "\n| rounding | ", " |\n", "rounding"),
    (CARD, "sees at most ", " tokens", "n_positions"),
    (FIDELITY, "weights (fp16 checkpoint, ", ")", "weights"),
    (FIDELITY, "f16 file, ", " positions", "n_measured"),
    (FIDELITY, "in contexts of ", ", the", "n_tokens"),
    (FIDELITY, "\n| f16 | ", " |\n", "f16"),
    (FIDELITY, "\n| int8 | ", " |\n", "int8"),
    (FIDELITY, "\n| int4 | ", " |\n", "int4"),
    (FIDELITY, "\n| plain rounding of the same tensors | ", " |\n", "  plain"),
    (FIDELITY, "\n| int4, and lm_head int4 too | ", " |\n", "int4 and lm_head too"),
    (FIDELITY, "\n| plain rounding, lm_head too | ", " |\n", "  plain, lm_head too"),
    (FIDELITY, "The search leaves ", " of its\nroot mean square error", "error"),
    (FIDELITY, "root mean square error (", " weighted by |weight|)", "error by magnitude"),
    (FIDELITY, "by |weight|) and ", " of its KL divergence", "kl / plain"),
    (
        FIDELITY,
        "in int4 it alone would multiply the KL divergence by ",
        ". **wte**",
        "kl of an int4 head",
    ),
)


def restate(tree: Path, figures: Mapping[str, str]) -> dict[str, str]:
    """Return the text of each file of a tree that states one of these figures, with them in it.

    Raises ValueError where a figure's place is not found, or found twice.
    """
    texts: dict[str, str] = {}
    for name, before, after, figure in PLACES:
        if figure in figures:
            text = texts.get(name) or (tree / name).read_text("utf-8")
            texts[name] = _between(text, before, after, figures[figure], name)
    return texts


def _between(text: str, before: str, after: str, figure: str, name: str) -> str:
    if after not in before + text.partition(before)[2] or text.count(before) != 1:
        raise ValueError(f"{name}: need one place between {before!r} and {after!r}")
    head, _, rest = text.partition(before)
    _, _, tail = rest.partition(after)
    return f"{head}{before}{figure}{after}{tail}"


def figures_of_file(packed: PackedFile) -> dict[str, str]:
    """Return what a packed file itself tells."""
    config = packed.config
    return {
        "size": size_entry(config),
        "n_positions": str(config.n_positions),
        "blocks": f"n_layer {config.n_layer}, n_embd {config.n_embd}, n_head {config.n_head} "
        f"(head_dim {config.head_dim}), rotary_dim {config.rotary_dim}, n_inner {config.n_inner}",
        "vocabulary": f"vocab_size {config.vocab_size}, n_positions {config.n_positions}",
        "parameters": f"{n_parameters(config):,}, of which "
        f"{n_parameters(config, 'h.') / 1e6:.1f} million in the blocks",
        "file": f"{packed.path.stat().st_size / 1e6:.1f} MB: {packed.format} with an fp16 scale "
        "for each group of 32, packed by `codegen quantize`",
        "weights": f"n_embd {config.n_embd}, {config.n_layer} layers",
    }


def size_entry(config: ModelConfig) -> str:
    """Return the lines of [sizes.nano] in models.toml."""
    names = ("n_layer", "n_embd", "n_head", "head_dim", "rotary_dim", "vocab_size", "n_positions")
    packed = {format: packed_bytes(config, format) for format in FORMATS}
    beside = 4 * config.n_layer * config.n_positions * config.n_embd + PROGRAM_BYTES
    lines = [f"{name} = {getattr(config, name)}" for name in names]
    lines += [f"parameters = {n_parameters(config):_}", "download_bytes = 0"]
    for name, more in (("packed_bytes", 0), ("memory_bytes", beside)):
        sizes = ", ".join(f"{format} = {packed[format] + more:_}" for format in FORMATS)
        lines.append(f"{name} = {{ {sizes} }}")
    return "".join(f"{line}\n" for line in lines)


def n_parameters(config: ModelConfig, prefix: str = "") -> int:
    """Count the numbers in all tensors, or in those whose name has a prefix."""
    specs = [spec for spec in tensor_specs(config) if spec.name.startswith(prefix)]
    return sum(int(np.prod(spec.shape)) for spec in specs)


def figures_of_fidelity(
    config: ModelConfig,
    scores: Mapping[str, fidelity.Score],
    error_ratios: tuple[float, float],
) -> dict[str, str]:
    """Return what `benchmarks/fidelity.py` measured; scores by its labels, over all sets."""
    int4, plain, head = scores["int4"], scores["  plain"], scores["int4 and lm_head too"]
    rows = {
        label: f"{score.kl:.5f} | {score.same:.3f} | {score.perplexity:.4f}"
        for label, score in scores.items()
    }
    rows["f16"] = f"0 | 1 | {scores['f16'].perplexity:.4f}"
    bits = {format: 8 * packed_bytes(config, format) / n_parameters(config) for format in FORMATS}
    for label, format in (("int8", "int8"), ("int4", "int4"), ("  plain", "int4")):
        score = scores[label]
        rows[f"{label.strip()}, with its bits"] = (
            f"{bits[format]:.2f} | {score.kl:.4f} | {100 * score.same:.1f} %"
        )
    return rows | {
        "rounding": f"KL divergence {scores['int8'].kl:.4f} nats from the fp16 weights, the same "
        f"likeliest token in {100 * scores['int8'].same:.1f} % of places",
        "n_measured": str(scores["f16"].n_positions),
        "n_tokens": str(min(fidelity.N_TOKENS, config.n_positions)),
        "error": f"{error_ratios[0]:.2f}",
        "error by magnitude": f"{error_ratios[1]:.2f}",
        "kl / plain": f"{int4.kl / plain.kl:.2f}",
        "kl of an int4 head": f"{head.kl / int4.kl:.1f}",
    }
