"""This project's engine. MODEL is a packed file."""

import importlib.metadata
from pathlib import Path
from typing import Any

import engine_process


class Codegen:
    """A loaded model and a cache."""

    def __init__(self, path: str, threads: int) -> None:
        from codegen_cli.engine.model import load_model

        self._model = load_model(Path(path), threads)
        self._cache = self._model.new_cache()

    def forget(self) -> None:
        self._cache.n_past = 0

    def scores(self, ids: list[int]) -> Any:
        return self._model.forward(ids, self._cache, 1)[-1]

    def describe(self) -> dict[str, object]:
        from codegen_cli.analysis.token_bytes import bits_per_weight, weight_bytes

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
