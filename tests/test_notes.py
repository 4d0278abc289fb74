"""Which messages are shown where: on a terminal, in a log, with -q, in an editor's buffer."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from packed import write_packed
from pseudo_terminal import codegen_on_terminal, plain
from real_tokenizer import END_OF_TEXT_ID

from codegen_cli.models.memory_need import judge_memory
from codegen_cli.terminal import console
from quantize.packed.packed_file import read_packed_file
from quantize.quantize_model import quantize

DIM = "\x1b[2m"
needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
needs_shell = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")


@pytest.fixture
def fresh_home(home, tmp_path, compiled_kernels):
    """An empty home that shares the session's compiled kernels."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "cache").symlink_to(home / "cache")
    return {"CODEGEN_HOME": str(tmp_path / "home"), "HF_HOME": str(tmp_path / "hub")}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints") / "tiny"
    config = small_config(vocab_size=51200, n_positions=64)
    tensors = random_tensors(config, seed=3)
    tensors["lm_head.bias"][END_OF_TEXT_ID] = -10_000  # it goes on for ever
    return write_checkpoint(directory, config, tensors)


@pytest.fixture(scope="module")
def short_tokenizer(tmp_path_factory):
    """A checkpoint whose tokenizer has ids beyond its vocabulary."""
    directory = tmp_path_factory.mktemp("checkpoints") / "odd"
    config = small_config()
    return write_checkpoint(directory, config, random_tensors(config, seed=3))


def shell(line, **environment):
    """Run a shell's line in which `codegen` is this one."""
    program = f"{shlex.quote(sys.executable)} -m codegen_cli"
    return subprocess.run(
        ["sh", "-c", line.replace("codegen ", f"{program} ")],
        capture_output=True,
        env=os.environ | environment,
        check=False,
    )


# --- tips: only on a terminal ---------------------------------------------------------------------

TIPS = [
    (("complete", "-n", "1", "x"), "answering with nano"),
    (("models", "default"), "no default was chosen"),
    (("models", "default", "nano"), "nano is now the default"),
    (("quantize", "{checkpoint}"), "tiny is now the default"),
    (("models", "import", "{packed}"), "run it with: codegen complete -m mine:int8"),
    (("download", "2B-nl"), "next: codegen quantize 2B-nl --format int4"),
]


@pytest.fixture
def filled_in(checkpoint, tmp_path):
    """Puts paths into arguments; the 2B-nl checkpoint has been downloaded already."""
    packed = write_packed(tmp_path / "usb" / "x.safetensors", name="mine")
    repository = tmp_path / "hub" / "hub" / "models--Salesforce--codegen-2B-nl"
    config = small_config()
    snapshot = repository / "snapshots" / ("0" * 40)
    write_checkpoint(snapshot, config, random_tensors(config, 1), container="torch")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)

    def fill(arguments):
        return [each.format(checkpoint=checkpoint, packed=packed) for each in arguments]

    return fill


@pytest.mark.parametrize(("arguments", "tip"), TIPS)
def test_a_tip_stays_out_of_pipes(codegen, filled_in, fresh_home, arguments, tip):
    result = codegen(*filled_in(arguments), **fresh_home)
    assert result.returncode == 0
    assert tip not in result.stderr.decode()


@needs_terminal
@pytest.mark.parametrize(("arguments", "tip"), TIPS)
def test_a_tip_is_dim_on_a_terminal_and_not_there_with_q(filled_in, fresh_home, arguments, tip):
    shown, code = codegen_on_terminal(*filled_in(arguments), columns=200, **fresh_home)
    assert code == 0
    [line] = [line for line in shown.splitlines() if tip in plain(line)]
    assert DIM in line
    arguments = [*filled_in(arguments), "-q"]
    if "import" not in arguments:
        shown, code = codegen_on_terminal(*arguments, columns=200, **fresh_home)
        assert tip not in plain(shown)


# --- warnings: always, too with -q ----------------------------------------------------------------


def test_short_memory_is_told_with_q(capsys, tmp_path):
    packed = read_packed_file(write_packed(tmp_path / "x.safetensors"))
    console.set_quiet(True)
    try:
        judge_memory(packed, "x", 1000, None)
        console.note("not this")
    finally:
        console.set_quiet(False)
    shown = capsys.readouterr().err
    assert "x needs" in shown
    assert "not this" not in shown


@pytest.mark.usefixtures("compiled_kernels")
def test_a_cut_prompt_is_told_with_q(codegen):
    prompt = "".join(f"value_{i} = {i}\n" for i in range(900)).encode()
    result = codegen("complete", "-q", "-n", "1", "--echo", stdin=prompt)
    assert b"the prompt is too long" in result.stderr


def test_a_tokenizer_of_another_model_is_told_with_q(codegen, short_tokenizer, fresh_home):
    result = codegen("quantize", "-q", str(short_tokenizer), **fresh_home)
    assert result.returncode == 0
    assert b"takes ids but no text" in result.stderr


def test_a_default_that_was_removed_is_told_with_q(codegen, tmp_path):
    write_packed(tmp_path / "models" / "mine.int8.safetensors")
    home = {"CODEGEN_HOME": str(tmp_path)}
    codegen("models", "default", "mine", **home)
    result = codegen("models", "rm", "-q", "--yes", "mine", **home)
    assert result.stderr == b"codegen: mine was the default model; there is none now\n"


@pytest.mark.usefixtures("compiled_kernels")
def test_the_sums_of_a_score_are_a_result(codegen, tmp_path):
    (tmp_path / "a.py").write_text("import os\n")
    result = codegen("score", "-q", "--tokens", str(tmp_path / "a.py"), str(tmp_path / "a.py"))
    sums = result.stderr.decode().splitlines()
    assert [line.split(":")[0] for line in sums] == [str(tmp_path / "a.py")] * 2 + ["total"]


# --- filters --------------------------------------------------------------------------------------

FILTER = """
from codegen_cli.terminal import console
console.keep_out_of_filters()
console.note("compiling kernels for this CPU, 20 to 60 s, once")
console.warn("cut")
print("text", flush=True)
"""


@needs_shell
@pytest.mark.parametrize(
    ("redirection", "is_told"),
    [
        ("> {out} 2>&1", False),  # Vim, with its shelltemp
        ("2>&1 | cat > {out}", False),  # Vim without
        ("", False),  # Neovim: a pipe for each
        ("> {out} 2> {log}", True),
        (">> {log} 2>> {log}", False),
    ],
)
def test_compiling_is_told_in_a_log_and_not_in_an_editors_buffer(tmp_path, redirection, is_told):
    names = {name: shlex.quote(str(tmp_path / name)) for name in ("out", "log")}
    (tmp_path / "filter.py").write_text(FILTER)
    result = shell(f"{sys.executable} {tmp_path / 'filter.py'} {redirection.format(**names)}")
    shown = result.stdout + result.stderr
    for path in (tmp_path / "out", tmp_path / "log"):
        shown += path.read_bytes() if path.exists() else b""
    assert (b"compiling" in shown) is is_told
    # What changes the result is kept back only where it would be text for sure.
    assert (b"cut" in shown) is (redirection in ("", "> {out} 2> {log}"))
    assert b"text" in shown


@needs_shell
@pytest.mark.parametrize("options", ["", "-m {checkpoint}"])
def test_a_filter_gives_back_the_text_and_nothing_else(checkpoint, fresh_home, tmp_path, options):
    """As `:%!codegen complete --echo` does in Vim; a checkpoint is even packed for it."""
    (tmp_path / "in.py").write_text("def fib(n):\n")
    options = options.format(checkpoint=shlex.quote(str(checkpoint)))
    files = f"< {tmp_path / 'in.py'} > {tmp_path / 'out.py'} 2>&1"
    result = shell(f"(codegen complete --echo -t 0 -n 8 {options}) {files}", **fresh_home)
    assert result.returncode == 0
    text = (tmp_path / "out.py").read_text()
    assert text.startswith("def fib(n):\n")
    assert "codegen:" not in text


# --- what ends a completion -----------------------------------------------------------------------

CUT = ("complete", "-m", "nano", "-t", "0", "--until", "none")


@needs_terminal
@pytest.mark.usefixtures("compiled_kernels")
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("-n", "4"), "cut at 4 tokens; -n for more"),
        (("-n", "1"), "cut at 1 token; -n for more"),
        (("-n", "100", "-m", "{tiny}"), "cut where the model's context is full, at 64 tokens"),
        (("--max-time", "0.000001"), "cut at the time limit; --max-time for more"),
        (("-n", "4", "--usage"), "cut at 4 tokens; -n for more"),
        (("-n", "4", "-q"), ""),
        (("-n", "4", "--json"), ""),
        (("-n", "64", "--stop", "\n"), ""),
    ],
)
def test_a_terminal_tells_what_cut_a_completion(checkpoint, tmp_path, options, told):
    if "{tiny}" in options:
        quantize(checkpoint, tmp_path / "tiny", "int8")
    words = [word.format(tiny=tmp_path / "tiny") for word in options]
    shown, code = codegen_on_terminal(*CUT, *words, "x = 1\ny = 2\n")
    assert code == 0
    if told:
        assert f"\n{DIM}codegen: {told}" in f"\n{shown}"
    else:
        assert "codegen: cut" not in shown


@needs_terminal
@pytest.mark.usefixtures("compiled_kernels")
def test_a_cut_is_told_on_the_terminal_where_the_text_goes_into_a_file(codegen, tmp_path):
    shown, _ = codegen_on_terminal(*CUT, "-n", "3", "x = ", stdout=tmp_path / "out")
    assert plain(shown) == "codegen: cut at 3 tokens; -n for more\n"
    assert codegen(*CUT, "-n", "3", "x = ").stderr == b""


# --- which model answered -------------------------------------------------------------------------


@pytest.mark.usefixtures("compiled_kernels")
def test_the_model_is_named_with_its_format(codegen, checkpoint, fresh_home, tmp_path):
    (tmp_path / "a.py").write_text("import os\n")
    codegen("quantize", "-q", str(checkpoint), "-f", "int4", **fresh_home)
    for options, name in (((), "tiny:int4"), (("-m", "nano"), "nano:int8")):
        usage = codegen("complete", "-q", "-n", "1", "--usage", *options, "x", **fresh_home)
        assert usage.stderr.decode().splitlines()[-1].startswith(f"{name}: prompt ")
        result = codegen("complete", "-q", "-n", "1", "--json", *options, "x", **fresh_home)
        assert json.loads(result.stdout)["model"] == name
        for command in ("score", "embed"):
            result = codegen(command, "--json", *options, str(tmp_path / "a.py"), **fresh_home)
            assert json.loads(result.stdout)["model"] == name
    path = tmp_path / "home" / "models" / "tiny.int4.safetensors"
    result = codegen("complete", "-n", "1", "--json", "-m", str(path), "x", **fresh_home)
    assert json.loads(result.stdout)["model"] == "tiny:int4"


@needs_shell
@pytest.mark.usefixtures("compiled_kernels")
@pytest.mark.parametrize("place", ["> {} 2>&1", "2>&1 | cat > {}"])
def test_usage_begins_a_line_of_its_own_in_a_shared_log(tmp_path, place):
    log = tmp_path / "log"
    place = place.format(shlex.quote(str(log)))
    shell(f"codegen complete -m nano -n 4 -t 0 --until none --usage 'x = ' {place}")
    shown = re.fullmatch(r"(.*)\n(nano:int8: prompt [^\n]*)\n", log.read_text(), re.DOTALL)
    shell(f"codegen complete -m nano -n 4 -t 0 --until none 'x = ' {place}")
    assert shown
    assert log.read_text() == shown[1]
