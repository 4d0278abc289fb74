"""Scores and vectors of texts, against exact sums over the model's own logits in NumPy."""

import json
import math
import tracemalloc

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from oracle import log_softmax

import codegen_cli
from codegen_cli.scoring.likelihood import bits_per_byte, perplexity
from codegen_cli.scoring.windows import windows
from quantize.quantize_model import quantize

pytestmark = pytest.mark.usefixtures("compiled_kernels")

# Of a log-probability, as measured in test_likelihood_kernel.py.
TOLERANCE = 2e-7

SHORT = "def add(a, b):\n    return a + b  # Größe ✓\n"
LONG = "".join(f"value_{i} = {i} * {i}\n" for i in range(320))  # thrice the bundled context


@pytest.fixture(scope="module")
def model():
    with codegen_cli.load("nano", threads=2) as model:
        yield model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model that has 300 of the tokenizer's ids: all single bytes, no end-of-text."""
    directory = tmp_path_factory.mktemp("tiny")
    config = small_config(vocab_size=300)
    write_checkpoint(directory, config, random_tensors(config, seed=1))
    quantize(directory, directory / "packed", "int8")
    with codegen_cli.load(directory / "packed", threads=2) as tiny:
        yield tiny


@pytest.fixture(scope="module")
def byte_model(tmp_path_factory):
    """A model of 300 ids whose tokenizer has all single bytes and no end-of-text."""
    directory = tmp_path_factory.mktemp("bytes")
    config = small_config(vocab_size=300)
    write_checkpoint(directory, config, random_tensors(config, seed=1))
    fields = json.loads((directory / "tokenizer.json").read_bytes())
    vocab = {token: i for token, i in fields["model"]["vocab"].items() if i < 256}
    fields["model"] |= {"vocab": vocab, "merges": []}
    (directory / "tokenizer.json").write_text(json.dumps(fields | {"added_tokens": []}))
    quantize(directory, directory / "packed", "int8")
    with codegen_cli.load(directory / "packed", threads=2) as model:
        yield model


def in_windows(n_positions, read, rows_of):
    """Rows for all ids, each window computed on its own."""
    return np.concatenate(
        [
            rows_of(read[window.start : window.end])[window.first_new - window.start :]
            for window in windows(len(read), n_positions)
        ]
    )


@pytest.mark.parametrize("text", [SHORT, LONG, "x", " "])
def test_each_token_has_the_probability_of_its_logit(model, text):
    ids = model.tokenizer.encode(text)
    read = [model.tokenizer.end_of_text, *ids[:-1]]
    rows = log_softmax(in_windows(model.config.n_positions, read, model.logits))
    own = rows[np.arange(len(ids)), ids]
    score = model.score(text)
    assert score.ids.tolist() == ids
    assert score.first_scored == 0
    np.testing.assert_allclose(score.log_likelihoods, own, rtol=0, atol=TOLERANCE)
    assert score.log_likelihood == pytest.approx(own.sum(), abs=TOLERANCE * len(ids))
    assert score.perplexity == pytest.approx(np.exp(-own.mean()), rel=2 * TOLERANCE)
    n_bytes = len(text.encode())
    assert score.n_bytes == n_bytes
    assert score.bits_per_byte == pytest.approx(-own.sum() / np.log(2) / n_bytes, rel=1e-6)
    rows[:, model.tokenizer.missing_ids(model.config.vocab_size)] = -np.inf
    assert score.likeliest_ids.tolist() == rows.argmax(-1).tolist()
    np.testing.assert_allclose(
        score.likeliest_log_likelihoods, rows.max(-1), rtol=0, atol=TOLERANCE
    )


def test_a_long_text_is_read_in_windows(model):
    n_tokens = len(model.tokenizer.encode(LONG))
    assert n_tokens > 2.5 * model.config.n_positions
    score = model.score(LONG)
    stride = model.config.n_positions // 2
    assert score.n_windows == math.ceil(n_tokens / stride) - 1
    assert model.score(SHORT).n_windows == 1
    assert np.isfinite(score.log_likelihoods).all()


def test_scores_are_the_same_bits_on_any_number_of_threads(model):
    with codegen_cli.load("nano", threads=1) as alone:
        expected = alone.score(LONG).log_likelihoods
    assert np.array_equal(model.score(LONG).log_likelihoods, expected)


def test_a_text_that_takes_seconds_to_encode_has_the_same_ids(model):
    text = "".join(f"größe_{i} = {i}  # ✓\n" for i in range(6000))
    assert len(text) > 1 << 16
    assert model.tokenizer.encode(text) == model.tokenizer.encode_with_starts(text)[0]


def test_progress_ends_with_all_tokens(model):
    calls = []
    score = model.score(LONG, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert len(calls) > 10
    assert calls[-1] == (score.n_scored, score.n_scored)


def test_an_id_without_a_token_is_never_the_likeliest(tmp_path):
    config = small_config(vocab_size=51200)
    tensors = random_tensors(config, seed=1)
    tensors["lm_head.bias"][50300] = 1000.0
    write_checkpoint(tmp_path, config, tensors)
    quantize(tmp_path, tmp_path / "packed", "int8")
    with codegen_cli.load(tmp_path / "packed", threads=2) as padded:
        score = padded.score(SHORT)
    assert (score.likeliest_ids < 50295).all()
    # It has its share of the probability all the same, as in transformers.
    assert (score.likeliest_log_likelihoods < -900).all()
    assert (score.log_likelihoods <= score.likeliest_log_likelihoods).all()


def test_no_more_than_some_rows_of_logits_are_held(tmp_path):
    """Of a vocabulary however large: 64 tokens share a step."""
    config = small_config(vocab_size=200_000, n_embd=32, rotary_dim=8)
    write_checkpoint(tmp_path, config, random_tensors(config, seed=1))
    quantize(tmp_path, tmp_path / "packed", "int8")
    with codegen_cli.load(tmp_path / "packed", threads=2) as large:
        large.score("x")  # what is made once
        tracemalloc.start()
        n_tokens = len(large.score(60 * " x").ids)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert n_tokens >= 60
    assert peak_bytes < 10 * 4 * config["vocab_size"]


def test_without_an_end_of_text_the_first_token_goes_unscored(byte_model):
    text = "a!b#c\n"
    ids = byte_model.tokenizer.encode(text)
    assert len(ids) > 3
    rows = log_softmax(byte_model.logits(ids[:-1]))
    score = byte_model.score(text)
    assert score.first_scored == 1
    assert score.n_scored == len(ids) - 1
    assert math.isnan(score.log_likelihoods[0])
    assert score.likeliest_ids[0] == -1
    own = rows[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(score.log_likelihoods[1:], own, rtol=0, atol=TOLERANCE)
    assert score.n_bytes == len(text) - 1
    assert score.perplexity == pytest.approx(np.exp(-own.mean()))


def test_one_token_that_nothing_precedes_has_no_perplexity(byte_model):
    score = byte_model.score("!")
    assert (score.n_scored, score.n_bytes, score.log_likelihood) == (0, 0, 0.0)
    assert math.isnan(score.perplexity)
    assert math.isnan(score.bits_per_byte)


def test_an_empty_text_has_no_tokens(model):
    score = model.score("")
    assert (len(score.ids), score.n_scored, score.n_bytes, score.n_windows) == (0, 0, 0, 0)
    assert math.isnan(score.perplexity)


def test_sums_that_leave_the_range_of_floats_are_infinite():
    assert perplexity(-1e6, 1) == math.inf
    assert math.isnan(perplexity(0.0, 0))
    assert bits_per_byte(-8 * math.log(2), 4) == pytest.approx(2.0)


@pytest.mark.parametrize("method", ["score", "embed"])
def test_a_token_beyond_the_models_vocabulary_is_refused(tiny, method):
    with pytest.raises(codegen_cli.UserError, match=r"the text has id .* below vocab_size 300"):
        getattr(tiny, method)("def fib")


def test_an_end_of_text_written_in_a_text_is_text(model):
    assert model.tokenizer.end_of_text not in model.score("a<|endoftext|>b").ids


@pytest.mark.parametrize("text", [SHORT, LONG, "x"])
def test_vectors_are_the_mean_and_the_last_of_the_states(model, text):
    ids = model.tokenizer.encode(text)
    states = in_windows(model.config.n_positions, ids, model.hidden_states)
    assert len(states) == len(ids)
    mean, last = model.embed(text), model.embed(text, "last")
    assert mean.dtype == last.dtype == np.float32
    assert mean.shape == last.shape == (model.config.n_embd,)
    np.testing.assert_allclose(mean, states.mean(0, dtype=np.float64), rtol=1e-5, atol=1e-6)
    assert np.array_equal(last, states[-1])


def test_an_empty_text_has_no_vector(model):
    with pytest.raises(codegen_cli.UserError, match="the text is empty"):
        model.embed("")


def test_another_pool_is_refused(model):
    with pytest.raises(codegen_cli.UserError, match="pool is 'max', need 'mean' or 'last'"):
        model.embed("x", "max")
