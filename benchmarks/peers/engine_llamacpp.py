"""llama.cpp through llama-cpp-python's ctypes layer. MODEL is a .gguf file."""

import ctypes
import importlib.metadata
import re
from pathlib import Path
from typing import Any

import engine_process

N_POSITIONS = 2048


class LlamaCpp:
    """Holds what llama.cpp points to: the log callback must not be collected while it runs."""

    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self._path = path
        self._llama = llama_cpp
        self._silence = llama_cpp.llama_log_callback(lambda *arguments: None)
        llama_cpp.llama_log_set(self._silence, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(
            path.encode(), llama_cpp.llama_model_default_params()
        )
        if not model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = N_POSITIONS
        options.n_threads = options.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(model, options)
        self._vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    def forget(self) -> None:
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)

    def scores(self, ids: list[int]) -> Any:
        import numpy as np

        # A name of its own: the batch only points to it.
        tokens = (self._llama.llama_token * len(ids))(*ids)
        batch = self._llama.llama_batch_get_one(tokens, len(ids))
        if self._llama.llama_decode(self._context, batch):
            raise RuntimeError("llama_decode failed")
        scores = self._llama.llama_get_logits_ith(self._context, -1)
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
