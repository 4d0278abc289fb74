"""benchmarks/many: each of its parts measures what it says, on a model of random weights."""

import json
import math
import re
import runpy
import sys
from pathlib import Path

import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

from quantize.quantize_model import quantize

PROJECT = Path(__file__).parent.parent
MANY = PROJECT / "benchmarks" / "many"
sys.path.insert(0, str(MANY))

import commands  # noqa: E402
import decoding  # noqa: E402
import joining  # noqa: E402


@pytest.fixture
def file(tmp_path):
    """A small model of the ids that words have."""
    config = small_config(vocab_size=51200, n_positions=2048, n_ctx=2048, n_layer=1)
    write_checkpoint(tmp_path / "small", config, random_tensors(config, seed=1))
    return quantize(tmp_path / "small", tmp_path / "packed", "int8").path


@pytest.mark.skipif(sys.platform == "win32", reason="asks what a process took of memory")
def test_every_line_is_measured(file, tmp_path, compiled_kernels, monkeypatch, capfd):
    monkeypatch.setattr(decoding, "LENGTHS", {32: 64})
    monkeypatch.setattr(decoding, "SAMPLE_TOKENS", 8)
    monkeypatch.setattr(joining, "PROMPT", 200)
    monkeypatch.setattr(joining, "_USUAL_TOKENS", 8)
    monkeypatch.setattr(commands, "N_TEXTS", 3)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f"{json.dumps({'prompt': text})}\n" for text in ("a =", "b =", "c")))
    options = ["--rounds", "1", "--threads", "1", "--humaneval", prompts, "--prompts", "2"]
    arguments = ["many", file, *options, "--before", PROJECT]
    monkeypatch.setattr(sys, "argv", [*map(str, arguments)])
    runpy.run_path(str(MANY))["main"]()
    table = capfd.readouterr().out.partition("\n\n")[2]
    rows = [row.split(" | ") for row in table.splitlines()[2:]]
    assert [re.sub(r"\d+", "N", row[0]) for row in rows] == [
        "| peak memory of N texts / the forecast",
        "| peak memory of N texts / the forecast",
        "| codegen score of N short texts: speed after / before",
        "| N prompts: codegen batch / a loop: time",
        "| N texts after N / one",
        "| N texts after N / one, the engine alone",
        "| N samples of a N-token prompt / one: time",
        "| a N-token prompt joins N texts: their longest gap / usual",
        "| a N-token prompt joins N texts: its first token / alone",
    ]
    assert all(math.isfinite(float(row[1])) and float(row[1]) > 0 for row in rows)
