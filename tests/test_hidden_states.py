"""Hidden states after ln_f: against the oracle, the logits and themselves in every grouping."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from golden import read_golden, sharpened
from oracle import oracle_states
from test_parity import packed_weights

from codegen_cli.contract.engine import Engine
from codegen_cli.session.engines import open_engine
from codegen_cli.session.one_part import logits_of, states_of
from quantize.packed.packed_file import read_packed_file
from quantize.quantize_model import quantize

pytestmark = pytest.mark.usefixtures("compiled_kernels")

# In standard deviations of the states. Measured: 2.2e-3 on head_dim_80_rotary_64; keys, values and
# the products of an f16 file round to fp16.
F16_TOLERANCE = 5e-3

# n_embd 72 leaves a group of 32 unfilled.
CONFIG = small_config(n_embd=72, n_head=4, rotary_dim=10, vocab_size=301, n_positions=310)
IDS = np.random.RandomState(7).randint(CONFIG["vocab_size"], size=300)


@pytest.fixture(scope="module", params=["f16", "int8"])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    write_checkpoint(directory, CONFIG, sharpened(random_tensors(CONFIG, seed=1)))
    quantize(directory, directory / "model.packed", request.param)
    return directory / "model.packed"


@pytest.fixture(scope="module", params=[1, 2, 5])
def model(request: pytest.FixtureRequest, packed: Path) -> Iterator[Engine]:
    model = open_engine(packed, n_threads=request.param)
    yield model
    model.close()


@pytest.fixture(scope="module")
def expected(packed: Path) -> np.ndarray:
    model = open_engine(packed, n_threads=1)
    states = states_of(model, IDS, model.new_cache())
    model.close()
    return states


@pytest.mark.parametrize(
    "name", ["head_dim_80_rotary_64", "tied_embeddings", "layer_norm_epsilon_0_01"]
)
def test_states_of_an_f16_file_are_those_of_the_oracle(name: str, tmp_path: Path) -> None:
    golden = read_golden(name)
    write_checkpoint(tmp_path, golden.config, golden.tensors)
    quantize(tmp_path, tmp_path / "packed", "f16")
    model = open_engine(tmp_path / "packed", n_threads=2)
    states = states_of(model, golden.ids, model.new_cache())
    model.close()
    expected = oracle_states(golden.config, golden.tensors, golden.ids)
    assert states.dtype == np.float32
    assert states.shape == expected.shape
    assert np.abs(states - expected).max() < F16_TOLERANCE * expected.std()


def test_the_head_makes_the_logits_of_the_states(packed: Path) -> None:
    model = open_engine(packed, n_threads=2)
    states = states_of(model, IDS[:70], model.new_cache()).astype(np.float64)
    logits = logits_of(model, IDS[:70], model.new_cache())
    model.close()
    weights = packed_weights(read_packed_file(packed), CONFIG) if "int8" in model.format else None
    if weights is None:
        weights = random_tensors(CONFIG, seed=1)
    made = states @ weights["lm_head.weight"].T + weights["lm_head.bias"]
    # An int8 head rounds the states to int8: measured 0.012 spreads.
    assert np.abs(made - logits).max() < 0.03 * logits.std()


@pytest.mark.parametrize("chunk", [1, 7, 64, 129])
def test_states_are_the_same_bits_in_chunks_and_on_any_number_of_threads(
    model: Engine, expected: np.ndarray, chunk: int
) -> None:
    cache = model.new_cache()
    parts = [states_of(model, IDS[i : i + chunk], cache) for i in range(0, len(IDS), chunk)]
    assert np.array_equal(np.concatenate(parts), expected)
    assert cache.n_past == len(IDS)


@pytest.mark.parametrize("n_states", [0, 1, 5, 70])
def test_fewer_states_are_the_last_ones(model: Engine, expected: np.ndarray, n_states: int) -> None:
    states = states_of(model, IDS[:77], model.new_cache(), n_states)
    assert np.array_equal(states, expected[77 - n_states : 77])


def test_logits_after_states_are_those_of_one_prefill(model: Engine) -> None:
    cache = model.new_cache()
    states_of(model, IDS[:50], cache, 0)
    whole = logits_of(model, IDS[:90], model.new_cache())
    assert np.array_equal(logits_of(model, IDS[50:90], cache), whole[50:])
