"""A checkpoint -> how far int8 and int4 move its next-token distributions from those of f16.

    python benchmarks/fidelity.py CHECKPOINT [--corpus FILE.npy.xz ...] [--contexts 8] [--threads N]

Every way of rounding runs on the same contexts of 512 tokens (fewer where the model has fewer): of
tests/data/validation_ids.npz, or spread evenly over files of CodeGen's ids (validation.py). A row
for each set of contexts and each way of rounding is printed as soon as it is known:

    KL          mean over positions of sum p_f16 (ln p_f16 - ln p), in nats
    same top-1  share of positions with the same most likely id
    perplexity  of the ids that follow

"plain" is rounding to codes -7..7 times absmax / 7 of each group of 32, of exactly the tensors that
are int4 in the line above; its values are run by the f16 kernels, as are those of int4 with an int4
lm_head. Last, the error of the int4 tensors' weights: root of sum u (rounded - weight)**2, searched
over plain, with u = 1 and with u = |weight|.

One model is in memory at a time. The packed files and f16's predictions for a set lie in the
directory for temporary files ($TMPDIR): 4.5 GB for 350M.
"""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from validation import Ids, corpus_sets, shipped_sets

from codegen_cli.machine.cores import usable_cores
from codegen_cli.session.engines import open_engine
from codegen_cli.session.one_part import logits_of
from codegen_cli.text.tokenizer import Tokenizer
from quantize.description.tensor_map import tensor_specs
from quantize.packed.layout import pack_f16, unpack_f16
from quantize.packed.packed_file import PackedFile, PackedTensor, read_packed_file
from quantize.packed.packed_writer import ModelDescription, TensorEntry, write_packed_file
from quantize.packed.sizes import stored_format
from quantize.quantize_model import quantize
from quantize.rounding.groups import (
    Bytes,
    Float32,
    dequantize_int4,
    dequantize_int8,
    quantize_int4,
    quantize_int8,
    round_to_absmax_int4,
)
from quantize.rounding.rounding_process import new_portion, round_here

N_TOKENS = 512
"""Of a context."""

HEAD = "lm_head.weight"
LABELS = ("f16", "int8", "int4", "  plain", "int4 and lm_head too", "  plain, lm_head too")
BESIDE_PLAIN = {"int4": "  plain", "int4 and lm_head too": "  plain, lm_head too"}

# Rows at a time: logits as f64, weights as f32.
CHUNK = 64
PORTION_ROWS = 4096
SECONDS_BETWEEN_NOTES = 10

Round = Callable[[Float32], Float32]
Sets = Sequence[tuple[str, Sequence[Ids]]]


@dataclass(frozen=True)
class Score:
    """Sums over positions of one way of rounding."""

    kl_sum: float = 0.0
    n_same: int = 0
    n_positions: int = 0
    surprise: float = 0.0
    n_targets: int = 0

    def __add__(self, other: Self) -> "Score":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Score(*(a + b for a, b in pairs))

    @property
    def kl(self) -> float:
        return self.kl_sum / self.n_positions

    @property
    def same(self) -> float:
        return self.n_same / self.n_positions

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.surprise / self.n_targets))

    def __str__(self) -> str:
        return f"{self.kl:10.5f} {self.same:11.3f} {self.perplexity:11.4f}"


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64, of each row."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def score_context(reference: Float32, logits: Float32, ids: Ids) -> Score:
    """Compare the logits [n_tokens, vocab_size] of a context's ids with those of f16."""
    score = Score()
    for start in range(0, len(ids), CHUNK):
        rows = slice(start, start + CHUNK)
        wanted, found = log_softmax(reference[rows]), log_softmax(logits[rows])
        targets = ids[start + 1 : start + 1 + len(found)]
        score += Score(
            kl_sum=float((np.exp(wanted) * (wanted - found)).sum()),
            n_same=int((wanted.argmax(axis=1) == found.argmax(axis=1)).sum()),
            n_positions=len(found),
            surprise=float(-found[np.arange(len(targets)), targets].sum()),
            n_targets=len(targets),
        )
    return score


def by_int8(weights: Float32) -> Float32:
    return dequantize_int8(*quantize_int8(weights))[:, : weights.shape[1]]


def by_search(weights: Float32) -> Float32:
    n_rows, n_in = weights.shape
    portion = new_portion("int4", n_rows, n_in, is_half=False)
    portion.rows[:n_rows, :n_in] = weights
    round_here(portion)
    scales = portion.row_scales()
    return dequantize_int4(quantize_int4(weights, scales), scales)[:, : weights.shape[1]]


def portions_of(tensor: PackedTensor) -> Iterator[Float32]:
    """Yield a matrix of an f16 file in portions of rows; no rounding looks beyond a row."""
    weights = unpack_f16(tensor.payload, tensor.shape)
    for start in range(0, len(weights), PORTION_ROWS):
        yield weights[start : start + PORTION_ROWS].astype(np.float32)


class Checkpoint:
    """A checkpoint's packed files in a directory, one for each way of rounding, made when needed.

    Those that no format of ours holds are f16 files of the rounded values.
    """

    def __init__(self, source: Path, directory: Path) -> None:
        self.source, self.directory = source, directory
        self.config = read_packed_file(self.packed("f16")).config
        specs = [spec for spec in tensor_specs(self.config) if spec.kind == "matrix"]
        kept = {spec.name for spec in specs if stored_format(spec, "int4") == "int8"}
        self.int4_names = {spec.name for spec in specs} - kept
        self._roundings = {
            "  plain": (round_to_absmax_int4, kept),
            "int4 and lm_head too": (by_search, kept - {HEAD}),
            "  plain, lm_head too": (round_to_absmax_int4, kept - {HEAD}),
        }

    def packed(self, label: str) -> Path:
        """Return the file of one of LABELS."""
        path = self.directory / label.strip().replace(" ", "_").replace(",", "")
        if path.exists():
            return path
        print(f"packing {label.strip()}", file=sys.stderr, flush=True)
        if label in ("f16", "int8", "int4"):
            quantize(self.source, path, label)
        else:
            rounding, kept = self._roundings[label]
            f16 = read_packed_file(self.packed("f16"))
            write_rounded(f16, path, lambda name: by_int8 if name in kept else rounding)
        return path

    def logits(self, label: str, contexts: Sequence[Ids], threads: int) -> Iterator[Float32]:
        """Yield the logits [n_tokens, vocab_size] of each context."""
        model = open_engine(self.packed(label), n_threads=threads)
        try:
            for ids in contexts:
                yield logits_of(model, ids, model.new_cache())
        finally:
            model.close()

    def weight_error_ratios(self) -> tuple[float, float]:
        """Return searched over plain error of the int4 tensors, u = 1 and u = |weight|."""
        f16 = read_packed_file(self.packed("f16"))
        errors = np.zeros((2, 2))
        for name in self.int4_names:
            for weights in portions_of(f16.tensors[name]):
                for i, rounding in enumerate((by_search, round_to_absmax_int4)):
                    squares = np.square(rounding(weights) - weights, dtype=np.float64)
                    errors[i] += squares.sum(), (np.abs(weights) * squares).sum()
        same, by_magnitude = np.sqrt(errors[0] / errors[1])
        return float(same), float(by_magnitude)


def write_rounded(f16: PackedFile, path: Path, rounding: Callable[[str], Round]) -> None:
    """Write an f16 file whose matrices were rounded by rounding(name)."""

    def payloads() -> Iterator[Bytes]:
        for tensor in f16.tensors.values():
            if tensor.format == "f32":
                yield tensor.payload
            else:
                rounded = map(rounding(tensor.name), portions_of(tensor))
                yield pack_f16(np.concatenate([rows.astype(np.float16) for rows in rounded]))

    model = ModelDescription(f16.config, "f16", f16.name, f16.tokenizer_json, f16.provenance)
    entries = [TensorEntry(t.name, t.format, t.shape) for t in f16.tensors.values()]
    write_packed_file(path, model, entries, payloads())


class Progress:
    """Tells on stderr, now and then, how many of n_runs are done and how long the others take."""

    def __init__(self, n_runs: int) -> None:
        self.n_runs, self.n_done = n_runs, 0
        self.began = self.told = time.monotonic()

    def count(self, what: str) -> None:
        """A run is done."""
        self.n_done += 1
        now = time.monotonic()
        if now - self.told < SECONDS_BETWEEN_NOTES:
            return
        self.told, elapsed = now, now - self.began
        left = elapsed / self.n_done * (self.n_runs - self.n_done)
        note = f"{self.n_done} of {self.n_runs} runs in {elapsed:.0f} s, {left:.0f} s left: {what}"
        print(note, file=sys.stderr, flush=True)


def measure(checkpoint: Checkpoint, sets: Sets, threads: int) -> Iterator[tuple[str, str, Score]]:
    """Yield set, label and score as they are known; the f16 file is the reference of each set."""
    progress = Progress(len(LABELS) * sum(len(contexts) for _, contexts in sets))
    for name, contexts in sets:
        for label in LABELS:
            score = Score()
            for i, logits in enumerate(checkpoint.logits(label, contexts, threads)):
                kept = checkpoint.directory / f"{i}.npy"
                if label == "f16":
                    np.save(kept, logits)
                score += score_context(np.load(kept), logits, contexts[i])
                progress.count(f"{name}, {label.strip()}")
            yield name, label, score


def sets_of(checkpoint: Checkpoint, corpus: Sequence[Path] = (), n_contexts: int = 8) -> Sets:
    """Return the sets that a model of this checkpoint is run on, in its own tokenizer's ids."""
    tokenizer = Tokenizer.from_packed(read_packed_file(checkpoint.packed("f16")))
    n_tokens = min(N_TOKENS, checkpoint.config.n_positions)
    if corpus:
        return list(corpus_sets(corpus, n_contexts, tokenizer, n_tokens))
    return list(shipped_sets(tokenizer, n_tokens))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--corpus", type=Path, nargs="+", default=[])
    parser.add_argument("--contexts", type=int, default=8)
    parser.add_argument("--threads", type=int, default=usable_cores().n_threads)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *received: sys.exit(143))  # gigabytes are to go with it
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = Checkpoint(arguments.checkpoint, Path(directory))
        sets = sets_of(checkpoint, arguments.corpus, arguments.contexts)
        totals = dict.fromkeys(LABELS, Score())
        print(f"{'set':10} {'rounding':22} {'KL':>10} {'same top-1':>11} {'perplexity':>11}")
        for name, label, score in measure(checkpoint, sets, arguments.threads):
            print(f"{name:10} {label:22} {score}", flush=True)
            totals[label] += score
        for label, score in totals.items():
            print(f"{'all':10} {label:22} {score}")
        for label, plain in BESIDE_PLAIN.items():
            print(f"KL of {label} / of {plain.strip()}: {totals[label].kl / totals[plain].kl:.3f}")
        same, by_magnitude = checkpoint.weight_error_ratios()
        print(f"error of the weights / of plain: {same:.3f}, by magnitude {by_magnitude:.3f}")


if __name__ == "__main__":
    main()
