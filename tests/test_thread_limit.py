"""The most threads of a team: as many as the kernels make pieces of a layer's widest matrix."""

import threading
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

from codegen_cli.engine_cpu.thread_limit import most_threads
from codegen_cli.engine_cpu.weights import Weights
from codegen_cli.hub.entries import known_entry
from codegen_cli.kernels.step_table import PIECE_BYTES
from codegen_cli.machine import cores
from codegen_cli.machine.places import bundled_model
from codegen_cli.session.engines import default_threads, open_engine
from quantize.description.config import ModelConfig, parse_config
from quantize.description.formats import MatrixFormat
from quantize.packed.packed_file import read_packed_file
from quantize.quantize_model import quantize


def published(name: str) -> ModelConfig:
    size = known_entry(name).size
    names = ("n_layer", "n_embd", "n_head", "rotary_dim", "vocab_size", "n_positions")
    fields = {each: getattr(size, each) for each in names}
    return parse_config({"model_type": "codegen", **fields}, name)


@pytest.mark.parametrize(
    ("name", "format", "n_threads"),
    [
        ("nano", "int8", 5),
        ("350M-mono", "int4", 16),
        ("350M-mono", "int8", 32),
        ("350M-mono", "f16", 64),
        ("2B-mono", "int4", 160),
    ],
)
def test_small_models_feed_few_threads(name: str, format: MatrixFormat, n_threads: int) -> None:
    assert most_threads(published(name), format) == n_threads


@pytest.mark.parametrize("format", ["int4", "int8", "f16"])
def test_the_limit_is_the_pieces_of_the_packed_matrices(
    tmp_path: Path, format: MatrixFormat
) -> None:
    config = small_config(n_embd=192, n_inner=2000, vocab_size=5000)
    write_checkpoint(tmp_path, config, random_tensors(config, seed=1))
    quantize(tmp_path, tmp_path / "packed", format)
    packed = read_packed_file(tmp_path / "packed")
    layer = Weights(packed).layers[1]
    n_pieces = []
    for name in ("qkv_proj", "fc_in", "out_proj", "fc_out"):
        matrix = layer[name]
        band_bytes = int(matrix["n_groups"] * matrix["group_bytes"])
        n_pieces.append(int(np.ceil(matrix["n_bands"] / (PIECE_BYTES // band_bytes))))
    assert most_threads(packed.config, format) == max(n_pieces) > 1


def with_cores(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cores", lambda: cores.Cores(2 * n, n, None))


def test_a_model_runs_on_no_more_threads_than_it_feeds(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = read_packed_file(bundled_model())
    with_cores(64, monkeypatch)
    assert default_threads(packed) == 5
    with_cores(3, monkeypatch)
    assert default_threads(packed) == 3


@pytest.mark.parametrize(("asked", "n_threads"), [(None, 5), (7, 7)])
def test_who_says_how_many_threads_gets_them(
    asked: int | None, n_threads: int, monkeypatch: pytest.MonkeyPatch, compiled_kernels: None
) -> None:
    with_cores(64, monkeypatch)
    before = threading.active_count()
    engine = open_engine(bundled_model(), n_threads=asked)
    assert threading.active_count() - before == n_threads
    engine.close()
