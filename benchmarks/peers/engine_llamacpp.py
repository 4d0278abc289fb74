"""llama.cpp through llama-cpp-python's ctypes layer. MODEL is a .gguf file."""

import ctypes
import importlib.metadata
import re
from pathlib import Path
from typing import Any

import engine_process

N_POSITIONS = 2048
N_POSITIONS_OF_MANY = 256
"""Of each text, where several are read at once."""


class LlamaCpp:
    """Holds what llama.cpp points to: the log callback must not be collected while it runs."""

    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self._path = path
        self._llama = llama_cpp
        self._silence = llama_cpp.llama_log_callback(lambda *arguments: None)
        llama_cpp.llama_log_set(self._silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self._threads = threads
        self._model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self._context = self._new_context(N_POSITIONS)
        self._many: Any = None
        self._n_past_of_many = 0

    def _new_context(self, n_positions: int, n_texts: int = 1) -> Any:
        """Return one for so many texts of n_positions each."""
        options = self._llama.llama_context_default_params()
        options.n_ctx = options.n_batch = n_positions * n_texts
        options.n_seq_max = n_texts
        options.n_threads = options.n_threads_batch = self._threads
        return self._llama.llama_init_from_model(self._model, options)

    def forget(self) -> None:
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        if self._many:
            self._llama.llama_free(self._many)
            self._many, self._n_past_of_many = None, 0

    def scores(self, ids: list[int]) -> Any:
        # A name of its own: the batch only points to it.
        tokens = (self._llama.llama_token * len(ids))(*ids)
        batch = self._llama.llama_batch_get_one(tokens, len(ids))
        if self._llama.llama_decode(self._context, batch):
            raise RuntimeError("llama_decode failed")
        return self._array(self._llama.llama_get_logits_ith(self._context, -1))

    def scores_of(self, texts: list[list[int]]) -> list[Any]:
        """Read texts of as many ids each on, in one step."""
        if not self._many:
            self._many = self._new_context(N_POSITIONS_OF_MANY, len(texts))
        batch = self._batch_of(texts)
        failed = self._llama.llama_decode(self._many, batch)
        self._llama.llama_batch_free(batch)
        if failed:
            raise RuntimeError("llama_decode failed")
        n_ids = len(texts[0])
        self._n_past_of_many += n_ids
        return [
            self._array(self._llama.llama_get_logits_ith(self._many, end - 1))
            for end in range(n_ids, n_ids * len(texts) + 1, n_ids)
        ]

    def _batch_of(self, texts: list[list[int]]) -> Any:
        """Return one of all ids, which asks for the scores after the last of each text."""
        batch = self._llama.llama_batch_init(sum(map(len, texts)), 0, 1)
        for text, ids in enumerate(texts):
            for i, token_id in enumerate(ids):
                at = batch.n_tokens
                batch.token[at], batch.pos[at] = token_id, self._n_past_of_many + i
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, text
                batch.logits[at] = i == len(ids) - 1
                batch.n_tokens += 1
        return batch

    def _array(self, scores: Any) -> Any:
        import numpy as np

        return np.ctypeslib.as_array(scores, shape=(self._vocab_size,))

    def describe(self) -> dict[str, object]:
        import gguf

        tensors = gguf.GGUFReader(self._path).tensors
        all_bytes = sum(int(tensor.n_bytes) for tensor in tensors)
        built_for = re.findall(r"(\w+) = 1", self._llama.llama_print_system_info().decode())
        embedding = next(tensor for tensor in tensors if tensor.name == "token_embd.weight")
        return {
            "touched_bytes": all_bytes - int(embedding.n_bytes),
            "file_bytes": Path(self._path).stat().st_size,
            "bits_per_weight": 8 * all_bytes / sum(int(tensor.n_elements) for tensor in tensors),
            "version": f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')} "
            f"(compiled with {', '.join(built_for)})",
        }


def load(path: str, format: str, threads: int) -> LlamaCpp:
    return LlamaCpp(path, threads)


if __name__ == "__main__":
    engine_process.main(load)
