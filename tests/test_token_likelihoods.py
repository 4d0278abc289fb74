"""How likely each token of a text was: held to log_softmax, through stops, drafts and odd bytes."""

import hashlib
import math

import numpy as np
import pytest
from real_tokenizer import TOKENIZER, VOCAB_SIZE
from test_generate import PROMPT_IDS, Pairs, Recital, complete, recital_of

from codegen_cli.decoding import token_likelihoods
from codegen_cli.decoding.sampled_tokens import mean_log_probability
from codegen_cli.decoding.token_likelihoods import make_likelihoods


def tokens_of(model, **changes):
    text, pieces, _ = complete(model, **{"logprobs": 2} | changes)
    return text, [token for piece in pieces for token in piece.tokens]


def test_a_log_probability_is_that_of_log_softmax_over_all_rows():
    logits = np.random.default_rng(1).normal(0, 9, 1000).astype(np.float32)
    wide = logits.astype(np.longdouble)
    expected = wide - np.log(np.exp(wide).sum())
    likelihood_of = make_likelihoods(20, [int(logits.argmax())])  # which counts in the sum
    allowed = np.delete(np.arange(1000), logits.argmax())
    order = allowed[np.argsort(-expected[allowed])][:20]
    for drawn in (0, 999):
        found = likelihood_of(logits, drawn)
        assert found.log_probability == pytest.approx(float(expected[drawn]), abs=1e-12)
        assert [i for i, _ in found.likeliest] == order.tolist()
        assert [p for _, p in found.likeliest] == pytest.approx(expected[order].tolist())


def test_of_equal_logits_the_lowest_ids_are_the_likeliest_and_no_more_than_there_are():
    found = make_likelihoods(3, [1])(np.zeros(8, np.float32), 5)
    assert [i for i, _ in found.likeliest] == [0, 2, 3]
    assert found.log_probability == pytest.approx(-math.log(8))
    assert len(make_likelihoods(20, [1])(np.zeros(8, np.float32), 5).likeliest) == 7
    assert make_likelihoods(0, [1])(np.zeros(8, np.float32), 5).likeliest == ()


def test_its_exp_and_log_are_those_of_the_c_library_within_the_last_bits():
    x = np.random.default_rng(2).uniform(-48, 0, 20_000)
    x[:3] = 0.0, -48.0, -math.log(2)
    assert token_likelihoods._exp(x) == pytest.approx(np.exp(x), rel=4e-16, abs=0)
    assert token_likelihoods._exp(x[:1]) == 1.0
    for y in (1.0, 1 + 2**-52, 1.4, 1.5, 2.0, 3.0, 51200.0, 65536.0):
        assert token_likelihoods._log(y) == pytest.approx(math.log(y), rel=4e-16, abs=0)


# SHA-256 of powers and logarithms, of which the C library's differ in the last bit.
BITS = "310d5cd962634d82e553bdc16dd30094075a6c4b88a45e5c5f86753861fbf2ff"


def test_its_exp_and_log_have_the_same_bits_on_every_cpu():
    powers = token_likelihoods._exp(np.arange(-6144, 1) / 128)
    logarithms = [token_likelihoods._log(n / 8) for n in range(8, 6144)]
    values = np.array([*powers, *logarithms], "<f8")
    assert hashlib.sha256(values.tobytes()).hexdigest() == BITS


def test_huge_logits_overflow_nothing():
    logits = np.array([3e38, -3e38, 0], np.float32)
    assert make_likelihoods(3, [])(logits, 0).log_probability == 0.0


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_row_without_a_token_that_is_no_number_gives_none_and_no_warning(value):
    found = make_likelihoods(2, [0])(np.array([value, 1, 2], np.float32), 2)
    assert math.isnan(found.log_probability)
    assert found.likeliest == ()


def test_tokens_join_to_the_text_and_know_where_they_start():
    text, tokens = tokens_of(recital_of("é日本😀 x\n"))
    assert b"".join(token.content for token in tokens).decode() == text
    assert [token.id for token in tokens] == TOKENIZER.encode(text)
    joined = b""
    for token in tokens:
        assert token.offset == len(joined.decode(errors="ignore"))
        joined += token.content
    assert any(b"\xf0" in token.content for token in tokens)  # a character of several tokens


def test_nothing_is_computed_unless_asked_for():
    _, tokens = tokens_of(recital_of(" a b"), logprobs=None)
    assert tokens == []


def test_zero_gives_the_tokens_own_and_no_others():
    _, tokens = tokens_of(recital_of(" a b"), logprobs=0)
    assert [token.likeliest for token in tokens] == [(), ()]
    assert all(token.log_probability < 0 or token.log_probability == 0 for token in tokens)


def test_a_token_within_which_a_stop_starts_is_the_last_one():
    whole, all_tokens = tokens_of(recital_of(" a return e f"))
    assert whole == " a return e f"
    text, tokens = tokens_of(recital_of(" a return e f"), stop=("turn",))
    assert text == " a re"
    assert tokens == all_tokens[: len(tokens)]
    assert [token.offset for token in tokens] == [0, 2]
    assert tokens[-1].content == b" return"


def test_a_stop_between_tokens_leaves_none_of_its_own():
    text, tokens = tokens_of(recital_of(" a b c"), stop=(" b",))
    assert text == " a"
    assert [token.content for token in tokens] == [b" a"]


def test_a_character_that_max_tokens_cuts_has_its_tokens():
    ids = TOKENIZER.encode("日")
    text, tokens = tokens_of(recital_of("日"), max_tokens=len(ids) - 1)
    assert text == "\ufffd"
    assert [token.id for token in tokens] == ids[:-1]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_drafts_temperature_and_filters_leave_the_numbers_as_they_are(temperature):
    def sample(**changes):
        model = Pairs("a b a c a b d ", n_positions=64)
        return tokens_of(model, temperature=temperature, max_tokens=40, logprobs=5, **changes)

    text, tokens = sample(draft=0)
    assert sample(draft=8) == (text, tokens)
    filtered, narrow = sample(draft=0, top_k=1)
    assert narrow[0].likeliest == tokens[0].likeliest
    assert sample(draft=8, top_k=1) == (filtered, narrow)


def test_rows_without_a_token_count_and_are_not_listed():
    _, tokens = tokens_of(Pairs("a b "), max_tokens=3, logprobs=20)
    assert all(token.log_probability < -10 for token in tokens)  # such rows have logits of 30
    assert max(each.id for token in tokens for each in token.likeliest) < 50295 < VOCAB_SIZE


def test_the_mean_is_over_the_texts_tokens():
    _, tokens = tokens_of(recital_of(" a b c"))
    assert mean_log_probability(tokens) == pytest.approx(
        sum(token.log_probability for token in tokens) / 3
    )
    assert mean_log_probability([]) is None
    assert mean_log_probability([tokens[0]._replace(log_probability=math.nan)]) is None


def test_a_model_that_writes_nothing_has_no_tokens():
    assert tokens_of(Recital([50256], VOCAB_SIZE), max_tokens=len(PROMPT_IDS)) == ("", [])
