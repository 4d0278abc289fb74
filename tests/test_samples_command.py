"""`codegen complete -N`: each sample is what it is alone; where they go, in which order."""

import json
import re
import sys

import numpy as np
import pytest
import typer
from pseudo_terminal import codegen_on_terminal, left, plain, run_on_terminal

from codegen_cli import Piece, load
from codegen_cli.commands.app import app
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.decoding.sampled_tokens import mean_log_probability
from codegen_cli.reports.completion import make_sink
from codegen_cli.session import cache_room
from codegen_cli.session.completion_run import CompletionRun
from codegen_cli.terminal import console, drawing

PROMPT = "def fib(n):"
OPTIONS = {"max_tokens": 16, "temperature": 2.0, "seed": 7, "until": "none"}
GIVEN = ("-q", "-m", "nano", "-n", "16", "-t", "2", "--seed", "7", "--until", "none")

needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


@pytest.fixture(scope="module")
def model(compiled_kernels):
    with load("nano") as model:
        yield model


@pytest.fixture(scope="module")
def alone(model):
    """The three samples' texts and tokens, each made alone."""
    samples = []
    for sample in range(3):
        items = model.generate(PROMPT, **OPTIONS, sample=sample, logprobs=2)
        pieces = [item for item in items if isinstance(item, Piece)]
        tokens = [token for piece in pieces for token in piece.tokens]
        samples.append(("".join(piece.text for piece in pieces), tokens))
    assert len({text for text, _ in samples}) == 3
    return samples


def test_log_probabilities_are_those_of_the_models_logits(model, alone):
    prompt_ids = model.tokenizer.encode(PROMPT)
    for text, tokens in alone:
        ids = [token.id for token in tokens]
        assert model.tokenizer.decode(ids) == text
        logits = model.logits(prompt_ids + ids).astype(np.float64)[len(prompt_ids) - 1 : -1]
        largest = logits.max(axis=1, keepdims=True)
        expected = logits - largest - np.log(np.exp(logits - largest).sum(axis=1, keepdims=True))
        for row, token in zip(expected, tokens, strict=True):
            assert token.log_probability == pytest.approx(row[token.id], abs=1e-12)
            likeliest = np.argsort(-row, kind="stable")[:2].tolist()
            assert [each.id for each in token.likeliest] == likeliest


def test_json_has_all_samples_with_their_log_probabilities(codegen, alone):
    result = codegen("complete", *GIVEN, "-N", "3", "--json", "--logprobs", "2", PROMPT)
    assert (result.returncode, result.stderr) == (0, b"")
    completion = json.loads(result.stdout)
    assert [choice["index"] for choice in completion["choices"]] == [0, 1, 2]
    for choice, (text, tokens) in zip(completion["choices"], alone, strict=True):
        assert choice["text"] == text
        assert choice["mean_logprob"] == pytest.approx(mean_log_probability(tokens), abs=1e-6)
        logprobs = choice["logprobs"]
        assert [len(values) for values in logprobs.values()] == [len(tokens)] * 4
        assert logprobs["text_offset"] == [token.offset for token in tokens]
        n_top = [len({token.id, *(each.id for each in token.likeliest)}) for token in tokens]
        assert [len(top) for top in logprobs["top_logprobs"]] == n_top
        assert set(n_top) == {2, 3}  # the two likeliest, and the token where it is neither
    usage = completion["usage"]
    assert usage["prompt_tokens"] == 5
    assert usage["completion_tokens"] == sum(len(tokens) for _, tokens in alone) == 48
    assert set(completion["timings"]) == {
        "load_seconds",
        "generate_seconds",
        "generate_tokens_per_second",
    }


def test_a_nul_stands_between_samples_each_after_its_prompt(codegen, alone):
    arguments = ("complete", *GIVEN, "--null", "--echo", "--usage", PROMPT)
    result = codegen(*arguments, CODEGEN_SAMPLES="3")
    assert result.returncode == 0
    assert result.stdout.decode().split("\0") == [PROMPT + text for text, _ in alone]
    usage = r"nano:int8: prompt 5 tokens, 3 completions of 48 tokens together, all in .* s \(.*/s"
    assert re.match(usage, result.stderr.decode())
    assert "3 length, seed 7" in result.stderr.decode()


def test_a_single_sample_takes_no_nul(codegen, alone):
    result = codegen("complete", *GIVEN, "-0", PROMPT)
    assert result.stdout.decode() == alone[0][0]


def test_a_nul_that_a_model_writes_does_not_end_its_text(capfd):
    run = CompletionRun(GenerateOptions(), 2)
    for sample in run.samples:
        sample.take(Piece("a\0b", ()))
    make_sink(2, as_json=False, null=True, is_ranked=False).end(run)
    assert capfd.readouterr().out == "a\ufffdb\0a\ufffdb"
    make_sink(1, as_json=False, null=True, is_ranked=False).write(0, "a\0b")
    make_sink(1, as_json=False, null=False, is_ranked=False).write(0, "a\0b")
    assert capfd.readouterr().out == "a\ufffdba\0b"


def test_each_sample_begins_with_the_prompt_where_that_is_echoed(alone):
    run = CompletionRun(GenerateOptions(**OPTIONS), 3, echo=True)
    shown = ["", "", ""]
    for index, text in run.texts(PROMPT, "nano", None, None):
        shown[index] += text
    assert shown == [PROMPT + text for text, _ in alone]


@needs_terminal
def test_on_a_terminal_samples_are_seen_growing_and_then_come_the_likeliest_first(alone):
    shown, code = codegen_on_terminal("complete", *GIVEN[1:], "-N", "3", PROMPT)
    assert code == 0
    ranked = sorted(range(3), key=lambda i: -mean_log_probability(alone[i][1]))
    expected = "".join(
        f"codegen: sample {i}, mean log-probability {mean_log_probability(alone[i][1]):.2f}\n"
        + alone[i][0].removesuffix("\n")
        + "\n"
        for i in ranked
    )
    view, _, results = plain(shown).partition("codegen: sample")
    assert f"codegen: sample{results}".startswith(expected)
    assert "3 of 3 texts cut at 16 tokens; -n for more" in results
    last_lines = [text.rstrip("\n").split("\n")[-1] for text, _ in alone]
    assert all(f"{line}\n" in view.replace(" \n", "\n") for line in last_lines)


@needs_terminal
def test_quiet_leaves_a_terminal_the_texts_alone(alone):
    shown, code = codegen_on_terminal("complete", *GIVEN, "-N", "3", PROMPT)
    assert code == 0
    ranked = sorted(alone, key=lambda each: -mean_log_probability(each[1]))
    assert shown == "".join(text.removesuffix("\n") + "\n" for text, _ in ranked)


@needs_terminal
def test_growing_texts_are_inert_cut_to_the_terminal_and_plain_where_asked():
    script = (
        "from codegen_cli.terminal.drawing import growing_texts\n"
        "with growing_texts(2) as grow:\n"
        "    grow(0, 'a\\n' * 60 + 'é\\x1b[31m\\tred')\n"
        "    grow(1, '\\x07\\u202e' + 'wide ' * 30 + '\\n' + 'wide ' * 30)\n"
    )
    shown, code = run_on_terminal("-c", script, columns=40, NO_COLOR="1")
    assert code == 0
    assert "\x1b[31m" not in shown
    assert "\x1b[1m" not in shown
    assert "\x07" not in shown
    lines = [line.rstrip() for line in plain(shown).split("\n")]
    assert r"   é\x1b[31m   red" in lines
    assert r"1  \x07\u202ewide wide wide wide wide w…" in lines  # as its end is not the last line
    assert f"   …{('wide ' * 30)[-36:].rstrip()}" in lines
    assert lines.count("   a") < 50


@needs_terminal
def test_of_more_texts_than_there_are_rows_nothing_stays_above_the_results():
    script = (
        "from codegen_cli.terminal.drawing import growing_texts\n"
        "with growing_texts(40) as grow:\n"
        "    for index in range(40):\n"
        "        grow(index, f'begun {index}')\n"
        "print('results')\n"
    )
    shown, code = run_on_terminal("-c", script, rows=24, NO_COLOR="1")
    assert code == 0
    assert "begun 22" in shown
    assert left(shown, 24) == ["results"]


def test_of_more_texts_than_there_are_rows_those_that_grow_are_shown():
    view = drawing._View(6)

    def drawn(*growing, height=3):
        for index in growing:
            view.grow(index, "x")
        return [int(str(line).split()[0]) for line in view.drawn(80, height).renderables]

    assert drawn() == [0, 1, 2]
    assert drawn(0, 2, 4) == [0, 2, 4]
    assert drawn(0, 1, 2, 3, 4, 5) == [0, 2, 4]
    assert drawn(1, 5) == drawn() == [1, 2, 5]
    assert drawn(height=2) == [1, 5]


def test_where_memory_is_short_it_is_told_how_many_fit(model, alone, monkeypatch, capfd):
    engine = model._engine()
    free = engine.token_bytes + 3 * engine.cache_bytes(21)
    monkeypatch.setattr(cache_room, "available_bytes", lambda: free)

    def run(n_samples):
        run = CompletionRun(GenerateOptions(**OPTIONS), n_samples)
        for _ in run.texts(PROMPT, "nano", None, None):
            pass
        return [sample.text for sample in run.samples], capfd.readouterr().err

    texts, told = run(3)
    assert texts == [text for text, _ in alone]
    size = console.size(int(0.8 * 3 * engine.cache_bytes(21)))
    assert told == (
        f"codegen: 2 of 3 texts fit into memory at once ({size} free): the others wait their turn\n"
    )
    assert run(2)[1] == ""
    assert cache_room.shortage(engine, 16 * engine.cache_bytes(21), 21) is None  # 16 are enough
    assert cache_room.shortage(engine, 0, 21).n_texts == 1


def test_time_that_is_up_leaves_all_samples(codegen):
    result = codegen("complete", *GIVEN, "-N", "2", "--json", "--max-time", "0.000001", PROMPT)
    choices = json.loads(result.stdout)["choices"]
    assert [choice["end_reason"] for choice in choices] == ["time", "time"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-N", "2"), "2 samples that go to no terminal need --json or --null"),
        (("-N", "2", "--json", "-0"), "give --json or --null, not both"),
        (("--logprobs", "2"), "--logprobs needs --json"),
        (("-N", "2", "-0", "--logprobs", "2"), "--logprobs needs --json"),
        (("-N", "0"), "samples is 0, need 1 to 128"),
        (("-N", "129", "--json"), "samples is 129, need 1 to 128"),
        (("--json", "--logprobs", "21"), "logprobs is 21, need 0 to 20"),
        (("--json", "--logprobs", "-1"), "logprobs is -1, need 0 to 20"),
    ],
)
def test_what_cannot_be_given_is_wrong_usage(arguments, message):
    command = typer.main.get_command(app).commands["complete"]
    with pytest.raises(typer.BadParameter) as raised:
        command.main([*arguments, PROMPT], standalone_mode=False)
    assert raised.value.exit_code == 2
    assert message in raised.value.format_message()
