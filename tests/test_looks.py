"""What people see at 40, 80 and 200 columns, with and without colours, on terminals and in logs."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from packed import write_packed
from pseudo_terminal import (
    ESCAPES,
    cells,
    codegen_on_terminal,
    plain,
    run_on_terminal,
    too_wide,
)
from typer.testing import CliRunner

from codegen_cli.commands.app import app
from codegen_cli.measuring.findings import Checkup, Forecast, Gpu, Gpus, Kernels, Problem
from codegen_cli.measuring.forecast import ReadSpeeds
from codegen_cli.measuring.speed import Measure
from codegen_cli.models.registry import PackedModel
from codegen_cli.reports import bench_report, doctor_report
from codegen_cli.terminal import console, screen, tables

WIDTHS = (40, 80, 200)
LONG_PATH = "/home/somebody/.local/share/a-rather-long-directory-name/codegen/models"

needs_terminal = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")


@pytest.fixture
def set_columns(monkeypatch):
    """Give this process's streams the width of a terminal; None: they lead to a log."""

    def set_to(width):
        monkeypatch.setattr(screen, "columns", lambda stream: width)

    return set_to


# --- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("one two three", 7, ["one two", "  three"]),
        ("one two three", 13, ["one two three"]),
        ("one two three", None, ["one two three"]),
        (f"in {LONG_PATH} there", 20, ["in", f"  {LONG_PATH}", "  there"]),
        ("a\n  bb cc dd", 7, ["a", "  bb cc", "  dd"]),
        ("模型 模型 x", 9, ["模型 模型", "  x"]),
        ("e\u0301e\u0301 e\u0301", 4, ["e\u0301e\u0301 e\u0301"]),
        ("a  b", 20, ["a  b"]),
        ("", 20, [""]),
    ],
)
def test_lines_break_between_words_and_nowhere_else(text, width, lines):
    assert screen.wrapped(text, width, "  ").split("\n") == lines


def test_a_message_fits_the_terminal_and_is_one_line_in_a_log(capsys, set_columns):
    text = f"word {'word ' * 30}{LONG_PATH}"
    for tell in (console.note, console.warn, console.show, console.error):
        set_columns(40)
        tell(text)
        shown = capsys.readouterr().err
        assert not too_wide(shown, 40)
        assert f"  {LONG_PATH}\n" in shown
        set_columns(None)
        tell(text)
        assert capsys.readouterr().err.count("\n") == 1


# --- help -----------------------------------------------------------------------------------------


def words_of(command, path=()):
    yield path
    for name, each in getattr(command, "commands", {}).items():
        yield from words_of(each, (*path, name))


COMMANDS = list(words_of(typer.main.get_command(app)))


def help_of(words, width):
    result = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": str(width)})
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("width", WIDTHS)
def test_help_fits_and_stays_readable(words, width):
    text = help_of(words, width)
    assert not too_wide(text, min(width, 80))
    beside = re.search(r"^  -h, --help +Show this message and exit\.$", text, re.MULTILINE)
    below = re.search(r"^  -h, --help\n {6}Show this message", text, re.MULTILINE)
    assert bool(beside) is (width >= 80)
    assert bool(below) is (width < 80)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_examples_that_are_broken_mean_the_same_to_a_shell(words):
    wide, narrow = (
        re.findall(r"^  (?:codegen|cat|git) .*$", re.sub(r" \\\n *", " ", text), re.MULTILINE)
        for text in (help_of(words, 200), help_of(words, 40))
    )
    assert narrow == wide


# --- tables and explanations ----------------------------------------------------------------------


@needs_terminal
def test_the_list_of_models_breaks_no_row_at_80_columns(tmp_path):
    for format in ("int4", "int8", "f16"):
        write_packed(tmp_path / "models" / f"350M-mono.{format}.safetensors", format)
    shown, code = codegen_on_terminal("models", "list", CODEGEN_HOME=str(tmp_path))
    assert code == 0
    header, *lines = plain(shown).splitlines()
    assert header.split() == "model download int4 needs int8 needs f16 needs fits".split()
    rows = [line for line in lines if re.match(r"[* ] \S+ +(done|bundled|[\d.]+ GB) ", line)]
    assert len(rows) == len(lines[: lines.index(rows[-1]) + 1]) == 13
    assert "0.2 GB packed  0.2 GB packed  0.2 GB packed" in "\n".join(rows)
    assert max(map(cells, lines)) <= 80 + len(str(tmp_path))
    notes = "\n".join(lines)
    assert "a name without a format means int4 if that is packed, else int8, else" in notes
    assert not too_wide(notes, 80)


@pytest.mark.parametrize("width", [*WIDTHS, None])
def test_facts_stand_beside_their_names_or_below_them(capfd, set_columns, width):
    set_columns(width)
    tables.facts([("tie_word_embeddings", "False"), ("packed file", LONG_PATH), ("", "a " * 50)])
    shown = capfd.readouterr().out
    assert not too_wide(shown, width or 1000)
    assert "tie_word_embeddings  False\n" in shown
    assert f"{LONG_PATH}\n" in shown
    assert ("packed file\n    /home" in shown) is (width in (40, 80))


@pytest.mark.parametrize("width", [*WIDTHS, None])
def test_bench_fits(capfd, set_columns, width):
    set_columns(width)
    device = "2 threads, avx512vnni kernels, AMD EPYC (znver5)"
    engine = SimpleNamespace(format="int4", bits_per_weight=5.7, device=device)
    speeds = [1234.5] * 7
    measures = [
        Measure("prefill", 1536, 0, speeds, []),
        Measure("decode", 1024, 212_000_000, speeds, [13e9] * 7),
    ]
    bench_report.write_table(engine, PackedModel(Path("x"), "350M-mono"), measures, 1.5)
    shown = capfd.readouterr().out
    assert not too_wide(shown, width or 100)
    assert "so it is" in shown
    if width == 80:
        assert re.search(r"^prompt of 1536 .* 1234 1234\b", shown, re.MULTILINE)
    if width == 40:
        assert "after 1024\n    tokens/s                1234\n" in shown


def checkup(directory):
    paths = "avx2", ["avx2", "generic"], False, "nta:4096", False
    kernels = Kernels(*paths, directory, True, True, 2, 100_000)
    forecasts = [
        Forecast(f"350M-{family}", format, None, 10**9, True, 2, 10**9, 25.0)
        for family in ("nl", "multi", "mono")
        for format in ("int4", "int8", "f16")
    ]
    problem = Problem(
        f"Compiled code cannot be kept in {directory}: {'word ' * 30}.", "Make it so."
    )
    fits = {"int4": ["350M-nl", "350M-mono", "16B-multi"], "int8": []}
    gpu = Gpu("cuda:0 (NVIDIA H200)", 9 * 10**9, 12 * 10**9, 4e12, ["int4: right, to 2e-07"], fits)
    return Checkup(
        versions={"codegen": "0.1.0", "python": "3.11.7", "numpy": "2.4.6", "numba": "0.68.1"},
        cpu_name="AMD EPYC 9R45 96-Core Processor",
        cpu_features="avx2 avx512bw avx512f avx512vl avx512vnni f16c fma".split(),
        kernels=kernels,
        n_threads=2,
        threads_reason="2 cores for this process, of 4 with 8 hardware threads",
        memory_bytes=24 * 10**9,
        memory_available_bytes=23 * 10**9,
        models_dir=directory,
        reading=ReadSpeeds(13e9, {"int4": 9e9, "int8": 12e9}),
        prefetches=dict.fromkeys(("none", "nta", "t2", "t1", "t0"), 12.3e9),
        other_cores=None,
        gpus=Gpus("NVIDIA's", "2.13.0+cu130", [gpu]),
        forecasts=forecasts,
        problems=[problem],
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_doctor_fits(capfd, set_columns, width):
    set_columns(width)
    doctor_report.write_report(checkup(Path(LONG_PATH)))
    shown = capfd.readouterr().out
    assert not too_wide(shown, width)
    assert f"{LONG_PATH}\n" in shown
    assert "350M-nl/multi/mono" in shown
    assert ("350M-nl/multi/mono\n" in shown) is (width == 40)


@needs_terminal
@pytest.mark.usefixtures("compiled_kernels")
@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize(
    "arguments",
    [(), ("score", "{text}", "{text}"), ("models", "show", "nano"), ("models", "verify")],
)
def test_no_result_is_broken_inside_a_word(tmp_path, width, arguments):
    (tmp_path / "some.py").write_text("def add(a, b):\n    return a\n")
    words = [word.format(text=tmp_path / "some.py") for word in arguments]
    shown, code = codegen_on_terminal(*words, columns=width, NO_COLOR="1")
    assert code == 0
    assert not too_wide(plain(shown), width)


# --- progress -------------------------------------------------------------------------------------

BAR = """
import sys
from codegen_cli.terminal.drawing import progress
with progress(sys.argv[1], sys.argv[2]) as advance:
    for step in range(5):
        advance(step * 100_000_000, 797_000_000)
        __import__("time").sleep(0.2)
"""


@needs_terminal
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("label", ["350M-mono", "somebody/a-checkpoint-with-a-rather-long-name"])
@pytest.mark.parametrize("kind", ["bytes", "share"])
def test_a_bar_has_its_numbers_at_any_width(width, label, kind):
    shown, _ = run_on_terminal("-c", BAR, label, kind, columns=width)
    states = plain(shown).splitlines()
    assert max(map(cells, states)) <= width
    last = states[-2] if not states[-1].strip() else states[-1]
    numbers = r"400\.0/797\.0 MB [\d.]+ MB/s" if kind == "bytes" else "50%"
    assert re.search(rf"{numbers} [\d-]+:[\d-]+$", last.rstrip())
    room = width - len(label) - (33 if kind == "bytes" else 12) - 2
    assert ("━" in last) is (room >= 8)
    assert last.startswith(label if room > 0 else label[:3])


@needs_terminal
@pytest.mark.parametrize("width", WIDTHS)
def test_a_bar_has_its_speed_at_any_width(width):
    script = BAR.replace("sys.argv[2]", "speed=lambda: '1234.5 tokens/s'")
    shown, _ = run_on_terminal("-c", script, "prompts.jsonl", columns=width)
    states = plain(shown).splitlines()
    assert max(map(cells, states)) <= width
    last = states[-2] if not states[-1].strip() else states[-1]
    assert re.search(r"50% 1234\.5 tokens/s [\d-]+:[\d-]+$", last.rstrip())


@needs_terminal
def test_a_log_and_a_dumb_terminal_get_no_bar(tmp_path):
    shown, _ = run_on_terminal("-c", BAR, "x", "bytes", TERM="dumb")
    assert shown == ""


# --- colours --------------------------------------------------------------------------------------


def styles_of(shown):
    """The numbers of every escape code that sets a style."""
    return {tuple(code.split(";")) for code in re.findall(r"\x1b\[([\d;]*)m", shown)}


@needs_terminal
@pytest.mark.usefixtures("compiled_kernels")
@pytest.mark.parametrize(
    "arguments",
    [
        ("-m", "codegen_cli", "models", "list"),
        ("-m", "codegen_cli", "complete", "-n", "2", "def f("),
        ("-m", "codegen_cli", "score", "--tokens", "{text}"),
        ("-c", BAR, "350M-mono", "bytes"),
    ],
    ids=["table", "tip", "heat map", "bar"],
)
def test_colours_can_be_read_on_any_background_and_be_left_out(tmp_path, arguments):
    """Of the sixteen colours only magenta contrasts with both black and white; see also WCAG 2."""
    (tmp_path / "some.py").write_text("def add(a, b):\n\tGröße\n")
    words = [word.replace("{text}", str(tmp_path / "some.py")) for word in arguments]
    shown, _ = run_on_terminal(*words)
    assert styles_of(shown)
    for numbers in styles_of(shown):
        foregrounds = {n for n in numbers if re.fullmatch("3[0-8]|9[0-7]", n)}
        has_background = any(re.fullmatch("4[0-8]|10[0-7]", n) for n in numbers)
        assert has_background or foregrounds <= {"35"}, numbers
    without, _ = run_on_terminal(*words, NO_COLOR="1")
    assert not styles_of(without)
    dumb, _ = run_on_terminal(*words, TERM="dumb")
    assert not ESCAPES.search(dumb)
