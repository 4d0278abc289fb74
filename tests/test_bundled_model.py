"""The packed file that we ship, against the unquantized model it was made from."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from codegen_cli.hub.entries import BUNDLED
from codegen_cli.machine.places import bundled_model
from codegen_cli.session.engines import open_engine
from codegen_cli.session.one_part import logits_of
from quantize.packed.packed_file import read_packed_file

pytestmark = pytest.mark.usefixtures("compiled_kernels")

# Measured when the bounds were set: 0.00035 nats and 249 of 256 positions.
LARGEST_KL, LEAST_SAME_TOP_1 = 0.001, 0.95


@pytest.fixture(scope="module")
def reference():
    """contexts [4, 64], and of each distribution the 256 likeliest ids with their logarithms."""
    with np.load(Path(__file__).parent / "data" / "bundled.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="module")
def logits(reference):
    """Logits [4, 64, vocab_size] of the bundled file."""
    model = open_engine(bundled_model())
    yield np.stack([logits_of(model, ids, model.new_cache()) for ids in reference["contexts"]])
    model.close()


def test_distributions_are_near_those_of_the_unquantized_model(reference, logits):
    ids = reference["ids"].astype(np.int64)
    expected = reference["logits"].astype(np.float64)
    found = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    found -= np.log(np.exp(found).sum(-1, keepdims=True))
    found = np.take_along_axis(found, ids, -1)
    assert expected.shape == (4, 64, 256)
    # All ids that are not stored count as one.
    p = np.exp(expected)
    rest, found_rest = 1 - p.sum(-1), 1 - np.exp(found).sum(-1)
    kl = (p * (expected - found)).sum(-1) + rest * np.log(rest / found_rest)
    assert 0 < kl.mean() < LARGEST_KL
    assert (logits.argmax(-1) == ids[..., 0]).mean() > LEAST_SAME_TOP_1


def test_every_hash_is_that_of_the_bytes():
    packed = read_packed_file(bundled_model())
    for name, tensor in packed.tensors.items():
        assert hashlib.sha256(tensor.payload).hexdigest() == tensor.sha256, name


def test_the_file_says_what_it_is():
    packed = read_packed_file(bundled_model())
    assert packed.format == "int8"
    assert packed.name == BUNDLED
    assert json.loads(bytes(packed.tokenizer_json))["model"]["type"] == "BPE"


def test_the_wheel_stays_below_30_mb():
    assert bundled_model().stat().st_size < 29e6
