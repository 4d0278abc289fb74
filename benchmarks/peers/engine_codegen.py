"""This project's engine. MODEL is a packed file."""

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_process


class Codegen:
    """A loaded model and a cache."""

    def __init__(self, path: str, threads: int) -> None:
        from codegen_cli.engine_cpu.model import load_model

        self._model = load_model(Path(path), threads)
        self._cache = self._model.new_cache()

    def forget(self) -> None:
        self._cache.n_past = 0

    def scores(self, ids: list[int]) -> Any:
        return self._model.forward(ids, self._cache, 1)[-1]

    def complete(self, ids: list[int], n_tokens: int) -> Iterator[int]:
        """The greedy ids as `codegen complete` gets them, with drafts."""
        from codegen_cli.decoding.id_stream import IdStream
        from codegen_cli.decoding.options import GenerateOptions
        from codegen_cli.decoding.phase_times import PhaseTimes

        options = GenerateOptions(max_tokens=n_tokens, temperature=0)
        return IdStream(self._model, ids, [], options, PhaseTimes())

    def describe(self) -> dict[str, object]:
        from codegen_cli.measuring.token_bytes import bits_per_weight, weight_bytes

        packed = self._model.packed
        return {
            "touched_bytes": sum(weight_bytes(packed).values()),
            "file_bytes": packed.path.stat().st_size,
            "bits_per_weight": bits_per_weight(packed),
            "version": f"codegen-cli {importlib.metadata.version('codegen-cli')}, "
            f"numba {importlib.metadata.version('numba')}",
        }


def load(path: str, format: str, threads: int) -> Codegen:
    return Codegen(path, threads)


if __name__ == "__main__":
    engine_process.main(load)
