"""The engines of the comparison with peers: how they are built, and how they answer."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

from codegen_cli.session.engines import open_engine
from codegen_cli.session.one_part import logits_of
from quantize.quantize_model import quantize

PEERS = Path(__file__).parent.parent / "benchmarks" / "peers"
sys.path.insert(0, str(PEERS))

import places  # noqa: E402
from engine_client import EngineProcess, Series, run_whole  # noqa: E402
from engine_process import prompt  # noqa: E402
from peer_venvs import WITHOUT_AMX, llamacpp_options  # noqa: E402


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A small model of the ids that the prompts have."""
    directory = tmp_path_factory.mktemp("peer")
    config = small_config(vocab_size=51200, n_positions=512, n_ctx=512)
    write_checkpoint(directory / "small", config, random_tensors(config, seed=1))
    return quantize(directory / "small", directory / "packed", "int8").path


@pytest.fixture(scope="module")
def engine_command(packed, compiled_kernels):
    return [sys.executable, str(PEERS / "engine_codegen.py"), str(packed), "int8", "1"]


@pytest.fixture(scope="module")
def small(packed, compiled_kernels):
    model = open_engine(packed, n_threads=1)
    yield model
    model.close()


def test_an_engine_answers_and_remembers_what_it_has_read(engine_command, small, tmp_path):
    path, among = tmp_path / "scores.npy", tmp_path / "among.npy"
    requests = [
        {"do": "read_to", "n_past": 100},
        {"do": "decode", "n_tokens": 3},
        {"do": "read_to", "n_past": 400},
        {"do": "read_to", "n_past": 500},
        {"do": "prefill", "n_tokens": 70},
        {"do": "complete", "n_past": 90, "n_tokens": 20},
        {"do": "decode_many", "n_texts": 3, "n_past": 40, "n_tokens": 12},
        {"do": "scores", "path": str(path)},
        {"do": "scores", "path": str(among), "n_texts": 3},
        {"do": "describe"},
    ]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run(engine_command, input=lines, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer.keys() >= {"seconds", "other_cores"} for answer in answers] == [
        request["do"] in ("decode", "prefill", "complete", "decode_many") for request in requests
    ]
    assert (np.load(path) == logits_of(small, prompt(64), small.new_cache(), 1)[-1]).all()
    assert (np.load(among) == np.load(path)).all()
    assert answers[-1]["touched_bytes"] < answers[-1]["file_bytes"]


def test_a_whole_run_writes_the_greedy_tokens(engine_command, small):
    done = subprocess.run(
        [*engine_command, "--once", "32", "4"], capture_output=True, text=True, check=True
    )
    cache, ids, expected = small.new_cache(), prompt(32), []
    for _ in range(4):
        ids = [int(logits_of(small, ids, cache, 1)[-1].argmax())]
        expected += ids
    assert [int(line) for line in done.stdout.split()] == expected


def test_a_process_is_seen_from_outside():
    program = "x = bytearray(300 << 20); print('a', flush=True); x.clear(); print('b')"
    # From a small process, as the kernel counts the starting one's memory, too.
    script = "import json, sys, engine_client as c; print(json.dumps(c.run_whole(sys.argv[1:])))"
    result = json.loads(
        subprocess.check_output(
            [sys.executable, "-c", script, sys.executable, "-c", program], cwd=PEERS
        )
    )
    assert 0 < result["first_byte_seconds"] <= result["seconds"]
    assert 300 < result["peak_rss_mib"] < 600


def test_a_process_that_fails_ends_the_comparison():
    with pytest.raises(SystemExit, match="no such thing"):
        run_whole([sys.executable, "-c", "raise SystemExit('no such thing')"])


BASELINE_ENGINE = """
import json, os, sys
import codegen_cli
for line in sys.stdin:
    print(json.dumps([codegen_cli.__file__, os.environ["CODEGEN_HOME"], *sys.argv[1:]]), flush=True)
"""


def test_a_baseline_runs_its_own_code_with_its_own_kernels(tmp_path, monkeypatch):
    checkout = tmp_path / "baseline"
    monkeypatch.setattr(places, "BENCH_HOME", tmp_path)
    monkeypatch.setattr(places, "BASELINE", checkout)
    script = checkout / "benchmarks" / "peers" / "engine_codegen.py"
    for path, text in {
        checkout / "codegen_cli" / "__init__.py": "",
        script: BASELINE_ENGINE,
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with EngineProcess(Series("baseline", "int4", 2)) as engine:
        answer = engine.ask("describe")
    assert answer == [
        str(checkout / "codegen_cli" / "__init__.py"),
        str(tmp_path / "baseline-home"),
        str(tmp_path / "350M" / "baseline-int4.safetensors"),
        "int4",
        "2",
    ]


def test_llama_cpp_is_compiled_for_this_cpu_but_for_amx():
    """-march=native comes with GGML_NATIVE; only AMX is named, and only where there is one."""
    native = ["-DGGML_NATIVE=ON", "-DLLAVA_BUILD=OFF"]
    assert llamacpp_options("flags : fma avx2 avx512f avx512_vnni") == native
    flags = [f"-DCMAKE_{language}_FLAGS={WITHOUT_AMX}" for language in ("C", "CXX")]
    assert llamacpp_options("flags : avx512_vnni amx_bf16 amx_tile") == native + flags


@pytest.mark.skipif(
    not shutil.which("gcc") or os.uname().machine != "x86_64", reason="needs gcc for x86-64"
)
def test_the_flags_leave_out_amx_and_nothing_else():
    """Here beside a CPU by name, as few have AMX to be found by -march=native."""

    def features(*flags):
        command = ["gcc", *flags, "-march=sapphirerapids", "-dM", "-E", "-x", "c", os.devnull]
        return set(subprocess.check_output(command, text=True).splitlines())

    lost = features() - features(*WITHOUT_AMX.split())
    assert lost == {f"#define __AMX_{each}__ 1" for each in ("TILE", "INT8", "BF16")}
