"""A checkpoint -> how far int8 and int4 move its next-token distributions from those of f16.

python benchmarks/fidelity.py CHECKPOINT [--corpus FILE.npy.xz ...] [--contexts 8] [--threads N]

Packs the checkpoint into a temporary directory and runs every file on the same contexts: those of
tests/data/validation_ids.npz, or contexts spread evenly over files of uint16 ids. Prints, for each
set of contexts and each way of rounding:

    KL          mean over positions of sum p_f16 (ln p_f16 - ln p), in nats
    same top-1  share of positions with the same most likely id
    perplexity  of the ids that follow; ids whose lm_head row is all zero, which a model that was
                trained on part of the vocabulary never emits, are left out as targets

"plain" is rounding to codes -7..7 times absmax / 7 of each group of 32, of exactly the tensors that
are int4 in the line above; its values are run by the f16 kernels, as are those of int4 with an int4
lm_head. Last, the error of the int4 tensors' weights: root of sum u (rounded - weight)**2, searched
over plain, with u = 1 and with u = |weight|.
"""

import argparse
import io
import lzma
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codegen_cli.engine.cores import usable_cores
from codegen_cli.engine.model import Model, load_model
from quantize.blocks import (
    Bytes,
    Float32,
    dequantize_int4,
    dequantize_int8,
    quantize_int4,
    quantize_int8,
    round_to_absmax_int4,
)
from quantize.layout import pack_f16, unpack_f16
from quantize.packed_file import PackedFile, PackedTensor, read_packed_file
from quantize.packed_writer import ModelDescription, TensorEntry, write_packed_file
from quantize.quantize_model import quantize
from quantize.scale_search import search_int4_scales

DEFAULT_IDS = Path(__file__).parent.parent / "tests" / "data" / "validation_ids.npz"
N_POSITIONS = 512
CHUNK = 64

Round = Callable[[Float32], Float32]


@dataclass
class Score:
    """Sums over positions of one way of rounding on one set of contexts."""

    kl: float = 0.0
    same: int = 0
    n_positions: int = 0
    surprise: float = 0.0
    n_targets: int = 0

    def __str__(self) -> str:
        perplexity = np.exp(self.surprise / self.n_targets)
        kl, same = self.kl / self.n_positions, self.same / self.n_positions
        return f"{kl:10.5f} {same:11.3f} {perplexity:11.4f}"


def default_contexts() -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and contexts [n, n_tokens] of each set that the project ships."""
    with np.load(DEFAULT_IDS) as sets:
        for name in sets:
            yield name, sets[name]


def corpus_contexts(paths: Iterable[Path], n_contexts: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield name and contexts [n_contexts, 512] of each file of ids."""
    for path in paths:
        ids = np.load(io.BytesIO(lzma.decompress(path.read_bytes())))
        starts = np.linspace(0, len(ids) - N_POSITIONS, n_contexts).astype(int)
        name = path.name.removesuffix(".npy.xz").removeprefix("valid_")
        yield name, np.stack([ids[start : start + N_POSITIONS] for start in starts])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def add_context(
    score: Score, reference: np.ndarray, logits: np.ndarray, ids: np.ndarray, is_live: np.ndarray
) -> None:
    """Add one context's positions; logits [n_tokens, vocab_size] f32, ids [n_tokens]."""
    for start in range(0, len(ids), CHUNK):
        rows = slice(start, start + CHUNK)
        wanted = log_softmax(reference[rows].astype(np.float64))
        found = log_softmax(logits[rows].astype(np.float64))
        score.kl += float((np.exp(wanted) * (wanted - found)).sum())
        score.same += int((wanted.argmax(axis=1) == found.argmax(axis=1)).sum())
        score.n_positions += len(found)
        targets = ids[start + 1 : start + 1 + len(found)]
        surprises = -found[np.arange(len(targets)), targets]
        score.surprise += float(surprises[is_live[targets]].sum())
        score.n_targets += int(is_live[targets].sum())


def matrix(tensor: PackedTensor) -> Float32:
    """Return a matrix of an f16 file."""
    return unpack_f16(tensor.payload, tensor.shape).astype(np.float32)


def by_int8(weights: Float32) -> Float32:
    return dequantize_int8(*quantize_int8(weights))[:, : weights.shape[1]]


def by_search(weights: Float32) -> Float32:
    scales = search_int4_scales(weights)
    return dequantize_int4(quantize_int4(weights, scales), scales)[:, : weights.shape[1]]


def write_rounded(f16: PackedFile, path: Path, rounding: Callable[[str], Round]) -> Path:
    """Write an f16 file whose matrices were rounded by rounding(name)."""

    def payloads() -> Iterator[Bytes]:
        for tensor in f16.tensors.values():
            if tensor.format == "f32":
                yield tensor.payload
            else:
                rounded = rounding(tensor.name)(matrix(tensor))
                yield pack_f16(rounded.astype(np.float16))

    model = ModelDescription(f16.config, "f16", f16.name, f16.tokenizer_json, f16.provenance)
    entries = [TensorEntry(t.name, t.format, t.shape) for t in f16.tensors.values()]
    write_packed_file(path, model, entries, payloads())
    return path


def pack_all(checkpoint: Path, directory: Path) -> dict[str, Path]:
    """Pack a checkpoint in every way that is compared; "f16" is the reference."""
    paths = {}
    for format in ("f16", "int8", "int4"):
        paths[format] = directory / format
        quantize(checkpoint, paths[format], format)
    f16, int4 = read_packed_file(paths["f16"]), read_packed_file(paths["int4"])
    kept = {name for name, tensor in int4.tensors.items() if tensor.format == "int8"}
    for label, rounding, is_int8 in (
        ("  plain", round_to_absmax_int4, kept),
        ("int4 and lm_head too", by_search, kept - {"lm_head.weight"}),
        ("  plain, lm_head too", round_to_absmax_int4, kept - {"lm_head.weight"}),
    ):
        path = directory / label.replace(" ", "_").replace(",", "")
        paths[label] = write_rounded(
            f16,
            path,
            lambda name, rounding=rounding, kept=is_int8: by_int8 if name in kept else rounding,
        )
    return paths


def weight_error_ratios(f16: PackedFile, int4: PackedFile) -> tuple[float, float]:
    """Return searched over plain error of the int4 tensors' weights, u = 1 and u = |weight|."""
    errors = np.zeros((2, 2))
    for name, tensor in int4.tensors.items():
        if tensor.format == "int4":
            weights = matrix(f16.tensors[name])
            for i, rounding in enumerate((by_search, round_to_absmax_int4)):
                squares = np.square(rounding(weights) - weights, dtype=np.float64)
                errors[i] += squares.sum(), (np.abs(weights) * squares).sum()
    same, by_magnitude = np.sqrt(errors[0] / errors[1])
    return float(same), float(by_magnitude)


def scores_of(models: dict[str, Model], contexts: np.ndarray, is_live: np.ndarray) -> list[Score]:
    """Run every model on every context; the first model is the reference."""
    scores = [Score() for _ in models]
    for context in contexts:
        ids = context.astype(np.int64)
        reference = None
        for score, model in zip(scores, models.values(), strict=True):
            logits = model.forward(ids, model.new_cache())
            reference = logits if reference is None else reference
            add_context(score, reference, logits, ids, is_live)
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--corpus", type=Path, nargs="+", default=[])
    parser.add_argument("--contexts", type=int, default=8)
    parser.add_argument("--threads", type=int, default=usable_cores().n_threads)
    arguments = parser.parse_args()
    corpus = corpus_contexts(arguments.corpus, arguments.contexts)
    sets = list(corpus if arguments.corpus else default_contexts())
    with tempfile.TemporaryDirectory() as directory:
        paths = pack_all(arguments.checkpoint, Path(directory))
        f16, int4 = read_packed_file(paths["f16"]), read_packed_file(paths["int4"])
        head = f16.tensors.get("lm_head.weight", f16.tensors["wte.weight"])
        is_live = matrix(head).any(axis=1)
        models = {label: load_model(path, arguments.threads) for label, path in paths.items()}
        totals = {label: Score() for label in models}
        print(f"{'set':10} {'rounding':22} {'KL':>10} {'same top-1':>11} {'perplexity':>11}")
        for name, contexts in sets:
            for label, score in zip(models, scores_of(models, contexts, is_live), strict=True):
                print(f"{name:10} {label:22} {score}", flush=True)
                for key, value in vars(score).items():
                    setattr(totals[label], key, getattr(totals[label], key) + value)
        for label, score in totals.items():
            print(f"{'all':10} {label:22} {score}")
        for label, plain in (("int4", "  plain"), ("int4 and lm_head too", "  plain, lm_head too")):
            print(f"KL of {label} / of plain: {totals[label].kl / totals[plain].kl:.3f}")
        same, by_magnitude = weight_error_ratios(f16, int4)
        print(f"error of the weights / of plain: {same:.3f}, by magnitude {by_magnitude:.3f}")
        for model in models.values():
            model.close()


if __name__ == "__main__":
    main()
