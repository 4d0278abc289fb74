"""Kernels and memory, measured on random weights -> the speed to expect of any model.

Writing a token reads all weights once. So its time is the bytes of each format over the speed at
which that format's kernel runs through weights that are in no cache.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from codegen_cli.measuring.random_weights import random_tensors
from codegen_cli.measuring.read_limit import MemoryReader
from codegen_cli.measuring.speed import step_seconds
from codegen_cli.session.engines import open_engine
from quantize.description.config import ModelConfig
from quantize.description.formats import MATRIX_FORMATS, Format, MatrixFormat
from quantize.description.tensor_map import TensorSpec, tensor_specs
from quantize.packed.layout import payload_bytes
from quantize.packed.packed_file import PackedFile
from quantize.packed.sizes import BytesByFormat, stored_format

# The random weights of one format, where memory allows for it: several times what caches hold.
_MOST_BYTES = 200_000_000
_N_ROUNDS, _N_STEPS, _N_PAST = 7, 12, 32


@dataclass(frozen=True, slots=True)
class ReadSpeeds:
    """Bytes per second, all measured in the same seconds.

    limit    that plain reading of memory reaches
    kernels  that decoding reaches, by format
    """

    limit: float
    kernels: dict[Format, float] = field(default_factory=dict)


def measure_kernels(
    n_threads: int | None,
    reader: MemoryReader,
    available_bytes: int | None,
    on_progress: Callable[[float, float], None],
) -> ReadSpeeds:
    """Decode with random weights in every format, in turn, and read memory in between.

    n_threads  None: as many as these layers keep busy, those of 350M. On machines with more cores
               than that, larger models are faster than what follows from here

    Takes three seconds, and 600 MB of memory or a third of what is available (None: not known).
    All are medians, of single tokens and single readings: what disturbs some of them is left out.
    """
    most = _MOST_BYTES if available_bytes is None else min(_MOST_BYTES, available_bytes // 9)
    engines = {
        format: open_engine(_random_layers(format, most), n_threads=n_threads)
        for format in MATRIX_FORMATS
    }
    try:
        caches = {format: engine.random_cache() for format, engine in engines.items()}
        seconds: dict[Format, list[float]] = {format: [] for format in engines}
        limits = []
        for number in range(_N_ROUNDS):
            on_progress(number, _N_ROUNDS)
            for format, engine in engines.items():
                limits.append(reader.bytes_per_second())
                seconds[format] += step_seconds(engine, [caches[format]], _N_PAST, _N_STEPS)
    finally:
        for engine in engines.values():
            engine.close()
    kernels: dict[Format, float] = {
        format: engine.token_bytes / median(seconds[format]) for format, engine in engines.items()
    }
    return ReadSpeeds(median(limits), kernels)


def expected_tokens_per_second(sizes: BytesByFormat, speeds: ReadSpeeds) -> float:
    """Return the speed to expect after a short prompt; a long one adds its cache to each token.

    sizes  what a token reads, by format; vectors, f32, are read as they come
    """
    seconds = sum(
        n_bytes / speeds.kernels.get(format, speeds.limit) for format, n_bytes in sizes.items()
    )
    return 1 / seconds


def _random_layers(format: MatrixFormat, most_bytes: int) -> PackedFile:
    """Return a model whose layers are those of the 350M models, as many as so many bytes hold."""
    config = ModelConfig(
        n_layer=1,
        n_head=16,
        n_embd=1024,
        n_inner=4096,
        rotary_dim=32,
        vocab_size=1024,
        n_positions=64,
        layer_norm_epsilon=1e-5,
        tie_word_embeddings=False,
    )

    def stored(spec: TensorSpec) -> Format:
        """As in a packed file, but for lm_head: what is measured is the format's own kernel."""
        return format if spec.name == "lm_head.weight" else stored_format(spec, format)

    layer_bytes = sum(
        payload_bytes(stored(spec), spec.shape)
        for spec in tensor_specs(config)
        if spec.name.startswith("h.")
    )
    config = replace(config, n_layer=max(1, most_bytes // layer_bytes))
    return PackedFile(
        path=Path("random weights"),
        config=config,
        header_sha256="",
        format=format,
        tokenizer_json=b"",
        tensors={tensor.name: tensor for tensor in random_tensors(config, stored)},
        provenance={},
        name="",
        tokenizer_sha256="",
    )
