"""The Python API: what `codegen_cli.load` returns, from one thread and from four."""

import gc
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from endless import write_endless

import codegen_cli
import quantize
from codegen_cli import Piece, Summary, UserError
from codegen_cli.contract.interruption import run_interruptibly
from codegen_cli.machine.places import bundled_model
from codegen_cli.session import language_model
from codegen_cli.session.language_model import Options
from codegen_cli.session.loading import MOST_THREADS
from codegen_cli.terminal import console
from codegen_cli.text.prompt import fit_prompt

PROMPTS = ("def add(a, b):", "def area(radius):", "class Stack:\n    def", "import os\nimport ")
SAMPLED = {"temperature": 1.0, "max_tokens": 24, "until": "none"}


@pytest.fixture(scope="module")
def model():
    with codegen_cli.load("nano", threads=2) as model:
        yield model


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    """A model whose texts do not end before they are made to."""
    with codegen_cli.load(write_endless(tmp_path_factory.mktemp("endless")), threads=2) as model:
        yield model


def complete_forever(model):
    while True:
        model.complete("import os\n", max_tokens=100, until="none")


def run_python(script):
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120)
    assert result.returncode == 0, result.stderr.decode()
    return result


def test_importing_both_packages_imports_nothing_heavy():
    script = (
        "import sys, codegen_cli, quantize\n"
        "dir(codegen_cli), dir(quantize), codegen_cli.UserError\n"
        "heavy = {'numpy', 'numba', 'tokenizers', 'huggingface_hub', 'rich', 'llvmlite', 'typer'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    assert run_python(script).stdout == b"[]\n"


@pytest.mark.parametrize("package", [codegen_cli, quantize])
def test_every_public_name_can_be_imported_and_is_listed(package):
    for name in package.__all__:
        assert getattr(package, name).__name__ == name
        assert name in dir(package)
    with pytest.raises(AttributeError, match="has no attribute 'bogus'"):
        _ = package.bogus


@pytest.mark.parametrize("package", [codegen_cli, quantize])
def test_the_packages_say_that_they_are_typed(package):
    assert (Path(package.__file__).parent / "py.typed").exists()


def test_the_keywords_are_the_options_of_generate():
    assert set(Options.__annotations__) == {
        field.name for field in fields(codegen_cli.GenerateOptions)
    }


@pytest.mark.usefixtures("compiled_kernels")
def test_a_notebook_session_prints_nothing_of_its_own():
    script = (
        "import codegen_cli\n"
        "model = codegen_cli.load()\n"
        "text = model.complete('def fib(n):', seed=3)\n"
        "items = list(model.generate('def fib(n):', seed=3))\n"
        "assert text == ''.join(item.text for item in items[:-1])\n"
        "model = codegen_cli.load('nano', threads=1)  # the cell is run again\n"
        "assert model.complete('def fib(n):', seed=3) == text\n"
        "try:\n    codegen_cli.load('350M-mono')\n"
        "except codegen_cli.UserError as error:\n    print(error.message, '|', error.hint)\n"
    )
    result = run_python(script)
    assert result.stderr == b""
    assert result.stdout.decode().startswith("350M-mono is not on this machine | codegen download")


def test_notes_are_shown_on_request(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)  # advice is for terminals
    codegen_cli.load(notes=True).close()
    notes = capsys.readouterr()
    assert notes.out == ""
    assert "nano, the small bundled model" in notes.err
    codegen_cli.load().close()
    assert capsys.readouterr().err == ""


def test_notes_from_threads_that_a_load_starts_stay_silent(capsys):
    def note_in_a_thread():
        run_interruptibly(lambda: console.note("heard"))

    with console.silence():
        note_in_a_thread()
        assert capsys.readouterr().err == ""
        loud = threading.Thread(target=console.note, args=["another thread's note"])
        loud.start()
        loud.join()
    assert "another thread's note" in capsys.readouterr().err
    note_in_a_thread()
    assert "heard" in capsys.readouterr().err


def test_an_uncaught_error_shows_its_hint():
    with pytest.raises(UserError) as caught:
        codegen_cli.load("350M-momo")
    assert caught.value.__notes__ == [f"hint: {caught.value.hint}"]


def test_end_of_text_in_a_prompt_is_text_unless_asked_for(model):
    prompt = "<|endoftext|>def f"
    *_, summary = model.generate(prompt, max_tokens=1)
    assert summary.prompt_tokens == len(model.tokenizer.encode(prompt))
    *_, summary = model.generate(prompt, special_tokens=True, max_tokens=1)
    assert summary.prompt_tokens == len(model.tokenizer.encode("def f")) + 1
    asked = model.complete(prompt, special_tokens=True, seed=1, **SAMPLED)
    assert asked != model.complete(prompt, seed=1, **SAMPLED)


def test_generate_yields_pieces_and_ends_with_a_summary(model):
    *pieces, summary = model.generate("def fib(n):", seed=5, max_tokens=12, until="none")
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert isinstance(summary, Summary)
    ids = [token_id for piece in pieces for token_id in piece.ids]
    assert (summary.seed, summary.completion_tokens) == (5, len(ids))
    assert summary.prompt_tokens == len(model.tokenizer.encode("def fib(n):"))
    text = "".join(piece.text for piece in pieces)
    assert model.tokenizer.decode(ids) == text
    assert text == model.complete("def fib(n):", seed=5, max_tokens=12, until="none")


def test_a_single_stop_text_is_one_text(model):
    whole = model.complete("def add(a, b):", temperature=0, until="none", max_tokens=24)
    stop = whole[len(whole) // 2 :][:3]
    for given in (stop, [stop], (stop, "@@")):
        stopped = model.complete("def add(a, b):", temperature=0, until="none", stop=given)
        assert stopped == whole[: whole.index(stop)]


def test_an_option_of_none_is_not_given(model):
    nothing = dict.fromkeys(Options.__annotations__)
    *_, summary = model.generate("x", **nothing | {"max_tokens": 2})
    assert summary.completion_tokens <= 2
    options = {"temperature": 0, "max_tokens": 8, "deadline": float("inf")}
    text = model.complete("def f(a):", **options)
    assert model.complete("def f(a):", special_tokens=None, **nothing | options) == text
    assert np.array_equal(model.embed("x", None), model.embed("x", "mean"))


@pytest.mark.parametrize(("special_tokens", "prompt"), [(False, "<|endoftext|>x"), (True, "x")])
def test_where_a_function_ends_is_read_in_the_prompt(model, monkeypatch, special_tokens, prompt):
    given = []
    monkeypatch.setattr(language_model, "generate", lambda *arguments: given.append(arguments))
    model.generate("<|endoftext|>x", special_tokens=special_tokens)
    assert given[0][4] == prompt


def test_a_long_prompt_is_cut_as_on_the_command_line(model):
    n_positions = model.config.n_positions
    prompt = "".join(f"value_{i} = {i}\n" for i in range(n_positions))
    *_, summary = model.generate(prompt, temperature=0, max_tokens=64)
    fitted = fit_prompt(prompt, model.tokenizer, n_positions=n_positions, max_tokens=64)
    assert fitted.n_dropped_characters
    assert summary.prompt_tokens == len(fitted.ids)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.complete(""), UserError, "the prompt is empty"),
        (lambda m: m.complete("x", temperature=-1), UserError, "temperature is -1"),
        (lambda m: m.generate("x", max_tokens=0), UserError, "max_tokens is 0"),
        (lambda m: m.complete("x", max_tokens="3"), UserError, "max_tokens is '3', need a whole"),
        (lambda m: m.generate("x", until="nonsense"), UserError, "until is 'nonsense', need"),
        (lambda m: m.generate("x", stop=[1]), UserError, r"stop is \(1,\), need texts"),
        (lambda m: m.generate("x", stop=b"x"), UserError, "stop is b'x', need texts"),
        (lambda m: m.generate("x", stop=""), UserError, r"stop is \(''\,\), need texts"),
        (lambda m: m.generate("x", deadline="soon"), UserError, "deadline is 'soon', need"),
        (lambda m: m.embed("x", pool="sum"), UserError, "pool is 'sum', need 'mean' or 'last'"),
        (lambda m: m.embed("x", pool=["mean"]), UserError, r"pool is \['mean'\], need 'mean'"),
        (lambda m: m.complete("x", bogus=1), TypeError, "bogus"),
        (lambda m: m.complete(None), TypeError, r"the prompt is None, need text \(str\)"),
        (lambda m: m.score(b"x"), TypeError, r"the text is b'x', need text \(str\)"),
        (lambda m: m.embed(7), TypeError, r"the text is 7, need text \(str\)"),
        (lambda m: codegen_cli.load(7), TypeError, "name_or_path is 7, need text or a path"),
        (lambda m: m.logits([]), ValueError, "non-empty"),
        (lambda m: m.logits([1 << 16]), ValueError, r"must lie in \[0, \d+\)"),
        (lambda m: m.hidden_states([1] * 9999), ValueError, r"exceed n_positions \d+"),
    ],
)
def test_a_wrong_call_is_refused_at_once(model, call, error, message):
    with pytest.raises(error, match=message):
        call(model)


@pytest.mark.parametrize("threads", [0, 1025, 10**9, True, 2.5, "3", float("nan"), [2]])
def test_a_number_of_threads_that_cannot_be_meant_is_refused(threads):
    before = threading.active_count()
    found = re.escape(f"threads is {threads!r}, need ")
    with pytest.raises(UserError, match=rf"{found}(a whole number, )?1 to 1024"):
        codegen_cli.load("nano", threads=threads)
    assert threading.active_count() == before


def test_the_command_line_takes_as_many_threads():
    from codegen_cli.commands.options import Threads

    assert Threads.__metadata__[0].max == MOST_THREADS


def test_logits_and_states_have_a_row_for_each_id(model):
    ids = model.tokenizer.encode("def fib(n):\n    return n\n")
    logits, states = model.logits(ids), model.hidden_states(np.array(ids))
    assert logits.shape == (len(ids), model.config.vocab_size)
    assert states.shape == (len(ids), model.config.n_embd)
    assert logits.dtype == states.dtype == np.float32
    assert np.array_equal(model.logits(ids[:3]), logits[:3])


def test_a_path_is_never_a_name(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such file or directory"):
        codegen_cli.load(tmp_path / "nano")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file or directory"):
        codegen_cli.load(Path("nano"))
    with codegen_cli.load(bundled_model(), threads=np.int64(1)) as model:
        assert model.config.n_layer == 8


def test_a_checkpoint_is_packed_without_a_word(tmp_path, capfd):
    config = small_config()
    write_checkpoint(tmp_path / "mine", config, random_tensors(config, seed=1))
    with codegen_cli.load(tmp_path / "mine", threads=1) as model:
        assert model.name == "mine"
        assert model.logits([1, 2, 3]).shape == (3, config["vocab_size"])
    assert capfd.readouterr() == ("", "")


def test_quantize_takes_paths_as_text(tmp_path):
    config = small_config()
    write_checkpoint(tmp_path / "checkpoint", config, random_tensors(config, seed=1))
    source, target = str(tmp_path / "checkpoint"), str(tmp_path / "packed")
    reports = []
    summary = quantize.quantize(source, target, "int4", name="mine", on_tensor=reports.append)
    assert isinstance(summary, quantize.QuantizeSummary)
    assert summary.path == Path(target)
    assert isinstance(reports[0], quantize.TensorReport)
    with codegen_cli.load(target, threads=1) as model:
        assert repr(model) == "<LanguageModel packed: int4>"
    with pytest.raises(quantize.UserError, match="unknown format 'int3'"):
        quantize.quantize(source, target, "int3")


def test_quantize_overwrites_a_packed_model_or_an_empty_file_and_nothing_else(tmp_path):
    config = small_config()
    source = write_checkpoint(tmp_path / "checkpoint", config, random_tensors(config, seed=1))
    precious = tmp_path / "notes.txt"
    precious.write_text("keep me")
    with pytest.raises(UserError, match=r"notes\.txt exists and is not a packed model"):
        quantize.quantize(source, precious, "int8")
    assert precious.read_text() == "keep me"
    target = tmp_path / "packed"
    target.touch()
    for format in ("int8", "int4"):
        quantize.quantize(source, target, format)
    with codegen_cli.load(target, threads=1) as model:
        assert repr(model) == "<LanguageModel packed: int4>"


def test_a_closed_model_says_so():
    with codegen_cli.load("nano", threads=2) as model:
        generation = model.generate("def fib(n):", seed=1)
        next(generation)
    for use in (
        lambda: model.complete("x"),
        lambda: model.generate("x"),
        lambda: model.logits([1]),
        lambda: model.hidden_states([1]),
        lambda: model.score("x"),
        lambda: model.embed("x"),
        lambda: list(generation),
    ):
        with pytest.raises(ValueError, match="the model is closed"):
            use()
    model.close()
    assert repr(model) == "<LanguageModel nano: closed>"
    assert model.tokenizer.encode("x")


def test_a_model_that_nobody_closed_ends_its_threads():
    before = threading.active_count()
    model = codegen_cli.load("nano", threads=3)
    model.complete("x", max_tokens=1)
    assert threading.active_count() == before + 3
    del model
    gc.collect()
    ends = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < ends:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_four_threads_get_what_each_would_get_alone(model):
    def everything(index):
        prompt = PROMPTS[index]
        ids = model.tokenizer.encode(prompt * 20)
        return (
            [model.complete(prompt, seed=seed, **SAMPLED) for seed in range(3)],
            model.logits(ids).tobytes(),
            model.hidden_states(ids).tobytes(),
            model.score(prompt * 60).log_likelihoods.tobytes(),
            model.embed(prompt * 60).tobytes(),
        )

    alone = [everything(index) for index in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(everything, [0, 1, 2, 3, 3, 2, 1, 0]))
    assert together == alone + alone[::-1]
    assert len({texts[0] for texts, *_ in alone}) == 4


def test_generations_of_several_threads_advance_side_by_side(endless):
    order = []

    def run(name):
        items = endless.generate("import os\n", seed=1, max_tokens=200, until="none")
        order.extend(name for _ in items)

    threads = [threading.Thread(target=run, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first_a, last_a = order.index("a"), len(order) - 1 - order[::-1].index("a")
    first_b, last_b = order.index("b"), len(order) - 1 - order[::-1].index("b")
    assert max(first_a, first_b) < min(last_a, last_b)


def test_a_deadline_ends_only_the_call_that_has_it(endless):
    expected = [endless.complete(prompt, seed=1, **SAMPLED) for prompt in PROMPTS[:3]]

    def hurried(_):
        options = {"deadline": time.monotonic() + 0.02, "max_tokens": 1500, "until": "none"}
        *_, summary = endless.generate("import os\n", seed=1, **options)
        assert summary.finish_reason == "length"
        return summary.end_reason

    with ThreadPoolExecutor(4) as pool:
        ends = pool.map(hurried, range(20))
        for _ in range(3):
            whole = pool.map(
                lambda prompt: endless.complete(prompt, seed=1, **SAMPLED), PROMPTS[:3]
            )
            assert list(whole) == expected
        assert set(ends) == {"time"}


def test_closing_in_one_thread_stops_the_others_with_an_error():
    model = codegen_cli.load("nano", threads=2)
    errors = []

    def run():
        try:
            complete_forever(model)
        except ValueError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    model.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert errors == ["the model is closed"] * 3


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c_in_one_thread_leaves_the_others_their_results(model):
    expected = model.complete(PROMPTS[0], seed=1, **SAMPLED)
    with ThreadPoolExecutor(2) as pool:
        others = [pool.submit(model.complete, PROMPTS[0], seed=1, **SAMPLED) for _ in range(12)]
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        try:
            with pytest.raises(KeyboardInterrupt):
                complete_forever(model)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert {other.result() for other in others} == {expected}
