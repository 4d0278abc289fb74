"""Generation over two small models: one recites a text, one samples from counts of pairs."""

import json
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_tokenizer import END_OF_TEXT_ID, TOKENIZER, TOKENIZER_JSON, VOCAB_SIZE

from codegen_cli.contract.deadline import TimeUp, check_deadline, remaining
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.summary import Piece, Summary
from codegen_cli.session.generation import generate
from codegen_cli.text.tokenizer import Tokenizer
from quantize.description.config import ModelConfig
from quantize.files.errors import UserError

PROMPT = "def f():"
PROMPT_IDS = TOKENIZER.encode(PROMPT)


def config_of(vocab_size, n_positions):
    return ModelConfig(
        n_layer=1,
        n_head=4,
        n_embd=128,
        n_inner=512,
        rotary_dim=32,
        vocab_size=vocab_size,
        n_positions=n_positions,
        layer_norm_epsilon=1e-5,
        tie_word_embeddings=False,
    )


@dataclass
class PastIds:
    ids: list[int]
    n_positions: int

    @property
    def n_past(self):
        return len(self.ids)

    @n_past.setter
    def n_past(self, n_past):
        assert 0 <= n_past <= len(self.ids)
        del self.ids[n_past:]


class FakeEngine:
    """Runs parts one after another, by `logits_after`."""

    n_read = 64

    def forward(self, parts):
        return [self.outcome(part) for part in parts]

    def outcome(self, part):
        try:
            check_deadline(part.deadline)
            return self.logits_after(list(part.ids), part.cache, part.n_wanted, part.deadline)
        except Exception as error:
            return error


class Recital(FakeEngine):
    """Gives the next id of a script the best logit, whatever it is fed; `calls` lists the feeds."""

    def __init__(self, script, n_positions=256, vocab_size=VOCAB_SIZE, before_step=None):
        self.config = config_of(vocab_size, n_positions)
        self.n_positions = n_positions
        self.script = [*PROMPT_IDS, *script]
        self.calls = []
        self.deadlines = []
        self.before_step = before_step or (lambda n_past: None)

    def new_cache(self, n_positions):
        assert n_positions <= self.n_positions
        return PastIds([], n_positions)

    def logits_after(self, ids, cache, n_logits, deadline):
        self.before_step(len(cache.ids))
        self.calls.append(list(ids))
        self.deadlines.append(deadline)
        cache.ids += ids
        logits = np.zeros((n_logits, self.config.vocab_size), np.float32)
        first = len(cache.ids) - n_logits + 1
        for row, script_id in enumerate(self.script[first : first + n_logits]):
            logits[row, script_id] = 50
        return logits


class Pairs(FakeEngine):
    """A bigram model: logits are counts of what follows each id in a text."""

    def __init__(self, text, n_positions=256):
        self.config = config_of(VOCAB_SIZE, n_positions)
        self.n_positions = n_positions
        ids = TOKENIZER.encode(text)
        self.pairs = list(zip(ids, ids[1:] + ids[:1], strict=True))

    def new_cache(self, n_positions):
        assert n_positions <= self.n_positions
        return PastIds([], n_positions)

    def logits_after(self, ids, cache, n_logits, deadline):
        cache.ids += ids
        logits = np.full((n_logits, VOCAB_SIZE), -20, np.float32)
        logits[:, 50295:] = 30  # rows that no token has
        for row, last in enumerate(ids[-n_logits:]):
            for before, after in self.pairs:
                logits[row, after] += 10 * (before == last)
        return logits


class Clock:
    """Time that passes only when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def advance(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def options(**changes):
    return GenerateOptions(**{"seed": 1, "temperature": 0.0, "until": "none"} | changes)


def complete(model, prompt_ids=PROMPT_IDS, **changes):
    *pieces, summary = generate(
        model, TOKENIZER.vocabulary(model.config), prompt_ids, options(**changes)
    )
    assert all(isinstance(piece, Piece) and piece.text for piece in pieces)
    assert isinstance(summary, Summary)
    return "".join(piece.text for piece in pieces), pieces, summary


def recital_of(text, **arguments):
    return Recital([*TOKENIZER.encode(text), END_OF_TEXT_ID], **arguments)


@pytest.mark.parametrize(
    "text", ["\n    return 1\n", "é日本😀 x", "\t\r\n  \n", " ", "a\n\n", "<|endoftext"]
)
def test_pieces_join_to_the_text_of_the_ids_sampled(text):
    joined, pieces, summary = complete(recital_of(text))
    assert joined == text
    assert [i for piece in pieces for i in piece.ids] == TOKENIZER.encode(text)
    assert summary.end_reason == "stop"
    assert summary.completion_tokens == len(TOKENIZER.encode(text)) + 1


def test_an_ordinary_token_in_eos_token_id_ends_nothing():
    """CodeGen2's config says 2, which is the token `#`."""
    text = "x = 1 #"
    model = recital_of(text)
    model.config = replace(model.config, eos_token_id=(2,))
    assert TOKENIZER.encode("#") == [2]
    joined, _, summary = complete(model)
    assert joined == text
    assert summary.completion_tokens == len(TOKENIZER.encode(text)) + 1


def test_a_special_token_in_eos_token_id_ends_the_completion():
    own_end = 50295
    fields = json.loads(TOKENIZER_JSON)
    fields["added_tokens"].append(
        {"id": own_end, "content": "<|end|>", "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    )
    tokenizer = Tokenizer.from_json(json.dumps(fields).encode())
    model = Recital([*TOKENIZER.encode("\n    pass"), own_end, END_OF_TEXT_ID])
    model.config = replace(model.config, eos_token_id=(own_end,))
    *pieces, summary = generate(model, tokenizer.vocabulary(model.config), PROMPT_IDS, options())
    assert "".join(piece.text for piece in pieces) == "\n    pass"
    assert summary.end_reason == "stop"


def test_the_prompt_is_fed_once_and_then_each_id_that_is_needed():
    model = recital_of("\n    return 1")
    _, _, summary = complete(model, draft=0)
    ids = TOKENIZER.encode("\n    return 1")
    assert model.calls == [PROMPT_IDS, *([i] for i in ids)]
    assert summary.prompt_tokens == len(PROMPT_IDS)


def test_max_tokens_ends_with_length_and_computes_nothing_more():
    model = recital_of(" a b c d e")
    text, _, summary = complete(model, max_tokens=3, draft=0)
    assert text == " a b c"
    assert (summary.end_reason, summary.completion_tokens) == ("length", 3)
    assert len(model.calls) == 3


def test_a_full_context_ends_with_length():
    text, _, summary = complete(recital_of(" a" * 50, n_positions=len(PROMPT_IDS) + 4))
    assert text == " a" * 4
    assert (summary.end_reason, summary.completion_tokens) == ("length", 4)


def test_a_character_cut_by_max_tokens_ends_as_decode_gives():
    ids = TOKENIZER.encode("日")
    text, pieces, _ = complete(recital_of("日"), max_tokens=len(ids) - 1)
    assert text == TOKENIZER.decode(ids[:-1]) == "\ufffd"
    assert pieces[-1].ids == tuple(ids[:-1])


def test_a_stop_text_ends_at_once_and_is_not_shown():
    model = recital_of(" a b END c d")
    text, _, summary = complete(model, stop=("ND", "zz"), draft=0)
    assert text == " a b E"
    assert summary.end_reason == "stop"
    # Those of " a b END", the last of which is not fed.
    n_sampled = len(TOKENIZER.encode(" a b END"))
    assert summary.completion_tokens == n_sampled
    assert len(model.calls) == n_sampled


def test_until_function_ends_before_the_second_def():
    model = recital_of("\n    return 1\n\ndef g():\n    pass\n\ndef h():\n    pass")
    text, _, summary = complete(model, until="function", draft=0)
    assert text == "\n    return 1\n\ndef g():\n    pass\n\n"
    assert summary.end_reason == "stop"
    # Those up to and with the second "def".
    n_sampled = len(TOKENIZER.encode("\n    return 1\n\ndef g():\n    pass\n\ndef"))
    assert summary.completion_tokens == len(model.calls) == n_sampled


def test_until_function_reads_in_the_prompt_what_the_completion_begins_with():
    def text_of(prompt, text):
        model = recital_of(text)
        vocabulary = TOKENIZER.vocabulary(model.config)
        *pieces, _ = generate(model, vocabulary, PROMPT_IDS, options(until="function"), prompt)
        return "".join(piece.text for piece in pieces)

    assert text_of("x = 1\n", "# 1") == ""
    assert text_of("x = 1  ", "# 1") == "# 1"
    method = "\n        pass\n\n"
    assert text_of("class A:\n    def f(self):", f"{method}    def g(self):") == method


def test_text_that_was_held_for_a_stop_is_shown_at_the_end():
    text, _, summary = complete(recital_of(" a EN"), stop=("END",))
    assert text == " a EN"
    assert summary.end_reason == "stop"


def test_a_stop_found_in_the_held_text_counts_at_the_end():
    text, _, summary = complete(recital_of(" abcd"), stop=("abcdef", "cd"), max_tokens=2)
    assert TOKENIZER.decode(TOKENIZER.encode(" abcd")[:2]) == " abcd"
    assert (text, summary.end_reason) == (" ab", "stop")


def test_ids_without_a_token_are_never_sampled():
    text, pieces, _ = complete(Pairs("def f():\n    pass\n"), temperature=1.0, max_tokens=40)
    assert max(i for piece in pieces for i in piece.ids) < 50295
    assert TOKENIZER.decode([i for piece in pieces for i in piece.ids]) == text


TRAINING = "def f():\n    return a\n\ndef g():\n    return b\n\ndef f(): pass\n"


def sampled(**changes):
    return complete(Pairs(TRAINING), temperature=1.5, top_p=1.0, max_tokens=40, **changes)[0]


def test_the_same_seed_gives_the_same_text():
    assert sampled(seed=5) == sampled(seed=5)
    assert len({sampled(seed=seed) for seed in range(8)}) > 4


def test_samples_of_one_seed_differ():
    assert len({sampled(sample=sample) for sample in range(8)}) > 4


@given(st.integers(1, 20))
@settings(max_examples=10)
def test_draws_go_by_absolute_position(n_given):
    """Continuing from any point of a completion with the same seed gives the same rest."""
    changes = {"temperature": 1.5, "top_p": 1.0}
    _, pieces, _ = complete(Pairs(TRAINING), max_tokens=30, **changes)
    ids = [i for piece in pieces for i in piece.ids]
    _, rest, _ = complete(
        Pairs(TRAINING), PROMPT_IDS + ids[:n_given], max_tokens=30 - n_given, **changes
    )
    assert [i for piece in rest for i in piece.ids] == ids[n_given:]


@given(
    st.integers(0, 2**64 - 1),
    st.sampled_from([0.0, 0.5, 1.5]),
    st.integers(1, 60),
    st.sampled_from([1, 2, 8, 64]),
)
@settings(max_examples=40)
def test_drafts_change_the_number_of_steps_and_nothing_else(seed, temperature, max_tokens, draft):
    changes = {
        "seed": seed,
        "temperature": temperature,
        "max_tokens": max_tokens,
        "stop": ("return b\n\nd",),
    }
    text, pieces, summary = complete(Pairs(TRAINING), draft=0, **changes)
    assert (summary.drafted_tokens, summary.accepted_tokens) == (0, 0)
    drafted_text, drafted_pieces, drafted = complete(Pairs(TRAINING), draft=draft, **changes)
    assert (drafted_text, drafted_pieces) == (text, pieces)
    assert drafted.completion_tokens == summary.completion_tokens
    assert drafted.end_reason == summary.end_reason
    assert 0 <= drafted.accepted_tokens <= drafted.drafted_tokens


def test_a_text_that_repeats_itself_takes_fewer_steps(clock):
    model = recital_of(" a b c" * 30)
    text, _, summary = complete(model)
    assert text == " a b c" * 30
    assert len(model.calls) < 40
    # Each step gives one id, and one more for each guess that held.
    assert summary.completion_tokens == len(model.calls) + summary.accepted_tokens
    assert sum(map(len, model.calls[1:])) == len(model.calls) - 1 + summary.drafted_tokens


def test_a_draft_ends_with_the_completion():
    model = recital_of(" a" * 200, n_positions=len(PROMPT_IDS) + 40)
    text, _, summary = complete(model, max_tokens=30)
    assert text == " a" * 30
    assert (summary.end_reason, summary.completion_tokens) == ("length", 30)
    text, _, summary = complete(model)
    assert text == " a" * 40
    assert (summary.end_reason, summary.completion_tokens) == ("length", 40)


def test_time_up_while_a_draft_is_checked_keeps_the_text_so_far(clock):
    def end_late_step(n_past):
        if n_past >= len(PROMPT_IDS) + 20:
            raise TimeUp

    model = recital_of(" a" * 100, before_step=end_late_step)
    text, _, summary = complete(model)
    assert len(model.calls) < 20
    assert text == " a" * summary.completion_tokens
    assert summary.completion_tokens > 20
    assert summary.end_reason == "time"


def test_time_up_inside_a_step_keeps_the_text_so_far():
    def end_third_step(n_past):
        if n_past == len(PROMPT_IDS) + 1:
            raise TimeUp

    text, _, summary = complete(recital_of(" a EN x", before_step=end_third_step), stop=("END",))
    assert text == " a EN"
    assert (summary.end_reason, summary.completion_tokens) == ("time", 2)


def test_a_deadline_in_the_past_computes_nothing():
    model = recital_of(" a")
    text, _, summary = complete(model, deadline=time.monotonic() - 1)
    assert (text, model.calls) == ("", [])
    assert (summary.end_reason, summary.completion_tokens) == ("time", 0)
    assert summary.prefill_tokens_per_second == summary.decode_tokens_per_second == 0


def test_the_deadline_is_checked_before_each_step_for_models_that_do_not(clock):
    model = recital_of(" a" * 200, before_step=lambda n_past: clock.advance(2.0))
    text, _, summary = complete(model, draft=0, deadline=clock.now + 5.0)
    assert text == " a a a"
    assert (summary.end_reason, summary.completion_tokens) == ("time", 3)


def test_every_step_knows_the_deadline():
    deadline = time.monotonic() + 100
    model = recital_of(" a")
    complete(model, deadline=deadline)
    assert set(model.deadlines) == {deadline}


def test_an_interrupt_passes_through_and_the_summary_tells_how_far_it_came():
    def interrupt_third_step(n_past):
        if n_past == len(PROMPT_IDS) + 1:
            raise KeyboardInterrupt

    model = recital_of(" a b c", before_step=interrupt_third_step)
    generation = generate(model, TOKENIZER.vocabulary(model.config), PROMPT_IDS, options())
    assert [next(generation).text, next(generation).text] == [" a", " b"]
    with pytest.raises(KeyboardInterrupt):
        next(generation)
    summary = generation.summary("interrupted")
    assert (summary.end_reason, summary.completion_tokens) == ("interrupted", 2)
    assert summary.prefill_seconds > 0


def test_seconds_are_split_at_the_first_logits_and_leave_out_the_readers_time(clock):
    model = recital_of(" a b", before_step=lambda n_past: clock.advance(0.25 if n_past else 2.0))
    generation = generate(model, TOKENIZER.vocabulary(model.config), PROMPT_IDS, options())
    assert next(generation).text == " a"
    clock.advance(100.0)
    *_, summary = generation
    assert (summary.prefill_seconds, summary.decode_seconds) == (2.0, 0.5)
    assert summary.prefill_tokens_per_second == len(PROMPT_IDS) / 2.0
    # Three ids, the end of text among them, in two steps after the prefill.
    assert (summary.completion_tokens, summary.decode_tokens_per_second) == (3, 4.0)


def test_a_clock_too_coarse_to_see_a_step_gives_a_rate_of_zero(clock):
    _, _, summary = complete(recital_of(" a b"))
    assert summary.completion_tokens == 3
    assert summary.prefill_tokens_per_second == summary.decode_tokens_per_second == 0


def test_the_first_piece_comes_before_the_second_step():
    model = recital_of(" a b")
    generation = generate(model, TOKENIZER.vocabulary(model.config), PROMPT_IDS, options())
    assert next(generation) == Piece(" a", tuple(TOKENIZER.encode(" a")))
    assert len(model.calls) == 1


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "the prompt is empty"),
        ([1] * 16, "the prompt has 16 ids, need fewer than n_positions 16"),
        ([1, 1000, 7], "the prompt has id 1000, need ids below vocab_size 1000"),
    ],
)
def test_a_prompt_that_the_model_cannot_take_is_refused(ids, message):
    model = Recital([], n_positions=16, vocab_size=1000)
    with pytest.raises(UserError) as raised:
        generate(model, TOKENIZER.vocabulary(config_of(VOCAB_SIZE, 16)), ids, options())
    assert raised.value.message == message
    assert raised.value.hint.endswith(".")


@pytest.mark.parametrize(
    ("option", "value", "needed"),
    [
        ("max_tokens", 0, "at least 1"),
        ("temperature", -0.1, "a finite number of at least 0"),
        ("temperature", float("nan"), "a finite number of at least 0"),
        ("temperature", float("inf"), "a finite number of at least 0"),
        ("top_p", 0.0, "above 0 and at most 1"),
        ("top_p", 1.01, "above 0 and at most 1"),
        ("top_p", float("nan"), "above 0 and at most 1"),
        ("top_k", -1, "at least 0"),
        ("draft", -1, "0 to 64"),
        ("draft", 65, "0 to 64"),
        ("logprobs", -1, "0 to 20"),
        ("logprobs", 21, "0 to 20"),
        ("seed", -1, "0 to 2**64 - 1"),
        ("seed", 2**64, "0 to 2**64 - 1"),
        ("stop", ("a", ""), "texts that are not empty"),
        ("until", "line", "'function' or 'none'"),
    ],
)
def test_an_option_out_of_range_is_named_with_what_was_found_and_needed(option, value, needed):
    with pytest.raises(UserError) as raised:
        GenerateOptions(**{option: value})
    assert raised.value.message == f"{option} is {value!r}, need {needed}"


def test_options_default_to_the_authors_with_a_fresh_seed():
    made = GenerateOptions()
    assert (made.max_tokens, made.temperature, made.top_p, made.top_k) == (128, 0.2, 0.95, 0)
    assert (made.stop, made.until, made.sample, made.draft) == ((), "function", 0, 8)
    assert len({GenerateOptions().seed for _ in range(8)}) > 4


def test_remaining_time_is_never_below_zero():
    assert remaining(None) is None
    assert remaining(time.monotonic() - 5) == 0.0
    assert 4 < (remaining(time.monotonic() + 5) or 0) <= 5
    check_deadline(None)
    check_deadline(time.monotonic() + 5)
    with pytest.raises(TimeUp):
        check_deadline(time.monotonic() - 5)
