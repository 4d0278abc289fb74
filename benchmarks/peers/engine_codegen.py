"""This project's engine. MODEL is a packed file."""

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import engine_process


class Codegen:
    """A loaded model and a cache."""

    def __init__(self, path: str, threads: int) -> None:
        from codegen_cli.session.engines import open_engine

        self._path = Path(path)
        self._model = open_engine(self._path, n_threads=threads)
        self._cache = self._model.new_cache()
        self.forget()

    def forget(self) -> None:
        self._cache.n_past = 0
        self._caches: list[Any] = []

    def scores(self, ids: list[int]) -> Any:
        from codegen_cli.session.one_part import logits_of

        return logits_of(self._model, ids, self._cache, 1)[-1]

    def scores_of(self, texts: list[list[int]]) -> list[Any]:
        from codegen_cli.contract.engine import Part
        from codegen_cli.session.one_part import run_parts

        self._caches = self._caches or [self._model.new_cache() for _ in texts]
        parts = [Part(ids, cache, 1) for ids, cache in zip(texts, self._caches, strict=True)]
        return [rows[-1] for rows in run_parts(self._model, parts)]

    def complete(self, ids: list[int], n_tokens: int) -> Iterator[int]:
        """The greedy ids as `codegen complete` gets them, with drafts."""
        from codegen_cli.decoding.id_stream import IdStream
        from codegen_cli.decoding.options import GenerateOptions
        from codegen_cli.decoding.phase_times import PhaseTimes
        from codegen_cli.session.driver import drive, finish

        options = GenerateOptions(max_tokens=n_tokens, temperature=0)
        stream, cache = IdStream(ids, [], options, PhaseTimes()), self._model.new_cache()
        while (token_id := finish(drive(self._model, stream.next_id(cache)))) is not None:
            yield token_id

    def describe(self) -> dict[str, object]:
        from codegen_cli.machine import cpu

        return {
            "touched_bytes": self._model.token_bytes,
            "file_bytes": self._path.stat().st_size,
            "bits_per_weight": self._model.bits_per_weight,
            "version": f"codegen-complete {importlib.metadata.version('codegen-complete')}, "
            f"numba {importlib.metadata.version('numba')}",
            "kernels": cpu.kernel_path(),
        }


def load(path: str, format: str, threads: int) -> Codegen:
    return Codegen(path, threads)


if __name__ == "__main__":
    engine_process.main(load)
