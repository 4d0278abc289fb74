"""`codegen bench` as a process of its own: its table, and the same in JSON."""

import json
import re
from pathlib import Path
from statistics import median

import pytest
from packed import write_packed
from typer.testing import CliRunner

from codegen_cli.commands.app import app
from codegen_cli.engine_cpu.kv_cache import cache_bytes, position_bytes
from codegen_cli.machine import cpu
from codegen_cli.machine.places import bundled_model
from codegen_cli.terminal import console
from quantize.packed.packed_file import read_packed_file
from quantize.packed.sizes import weight_bytes


def stdout_of(result):
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


@pytest.fixture(scope="module")
def report(codegen, compiled_kernels):
    result = codegen("bench", "-m", "nano", "--rounds", "3", "--threads", "1", "--json")
    assert result.stderr == b""
    return json.loads(stdout_of(result))


def test_json_says_what_was_measured_on_what(report):
    assert report["model"] == "nano"
    assert Path(report["path"]).name == bundled_model().name
    assert (report["format"], report["bits_per_weight"]) == ("int8", 8.5)
    assert report["device"] == f"1 thread, {cpu.kernel_path()} kernels, {cpu.name()}"
    assert (report["engine"], report["cpu"]) == ("numba", cpu.name())
    measured = [(each["phase"], each["n_tokens"]) for each in report["measures"]]
    last = read_packed_file(bundled_model()).config.n_positions - 32
    assert measured[:2] == [("prefill", 64), ("prefill", 512)]
    assert measured[2:] == [("decode", n) for n in (32, 512, 1024) if n < last] + [("decode", last)]


def test_json_has_every_round_and_their_medians(report):
    packed = read_packed_file(bundled_model())
    weights = sum(weight_bytes(packed).values())
    for each in report["measures"]:
        speeds, limits = each["tokens_per_second_by_round"], each["read_limit_by_round"]
        assert len(speeds) == len(limits) == 3
        assert each["tokens_per_second"] == median(speeds)
        if each["phase"] == "prefill":
            assert "share_of_read_limit" not in each
            continue
        assert each["bytes_per_token"] > weights + each["n_tokens"] * position_bytes(packed.config)
        shares = [
            each["bytes_per_token"] * speed / limit
            for speed, limit in zip(speeds, limits, strict=True)
        ]
        assert each["share_of_read_limit_by_round"] == pytest.approx(shares)
        assert each["share_of_read_limit"] == pytest.approx(median(shares))


def test_the_table_has_a_line_for_each_thing_and_says_what_it_means(codegen, report):
    result = codegen("bench", "-m", "nano", "--rounds", "2")
    assert result.stderr == b""
    lines = stdout_of(result).splitlines()
    assert lines[0].startswith("nano: int8, 8.5 bits per weight; ")
    assert lines[0].endswith("; 2 rounds")
    assert lines[2].split("  ")[0] == "what"
    end = 3 + len(report["measures"])
    words = {"prefill": "prompt of", "decode": "after"}
    expected = [f"{words[each['phase']]} {each['n_tokens']}" for each in report["measures"]]
    assert [re.split(" {2,}", line)[0] for line in lines[3:end]] == expected
    for line in lines[3:end]:
        cells = re.split(" {2,}", line)
        speeds = [float(text) for text in cells[-1].split()]
        assert len(speeds) == 2
        assert min(speeds) <= float(cells[1]) <= max(speeds)
    megabytes, read, limit, share = re.split(" {2,}", lines[5])[2:6]
    assert float(megabytes) == round(read_bytes_after_32() / 1e6)
    assert float(read) <= float(limit) * 2  # caches may hold nano
    assert share.endswith("%")
    for word in ("prompt of N", "after N", "MB/token", "GB/s, limit", "share"):
        assert any(line.startswith(word) for line in lines[end + 1 :])


def read_bytes_after_32():
    packed = read_packed_file(bundled_model())
    return sum(weight_bytes(packed).values()) + 48 * position_bytes(packed.config)


def test_without_rounds_there_are_at_least_three(codegen, tmp_path, compiled_kernels):
    path = write_packed(tmp_path / "tiny.safetensors", n_positions=16, n_layer=1)
    report = json.loads(stdout_of(codegen("bench", "-m", str(path), "--json")))
    for each in report["measures"]:
        assert 3 <= len(each["tokens_per_second_by_round"]) <= 7


def test_a_model_that_is_not_here_is_an_error_with_the_way_to_it(codegen):
    result = codegen("bench", "-m", "16B-nl", "--json")
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"16B-nl is not on this machine" in result.stderr
    assert b"codegen download 16B-nl" in result.stderr


def test_no_rounds_is_wrong_usage(codegen):
    assert codegen("bench", "--rounds", "0").returncode == 2


# --- several texts at once ------------------------------------------------------------------------


def test_several_texts_at_once_are_measured_beside_one(codegen, tmp_path, compiled_kernels):
    path = write_packed(tmp_path / "tiny.safetensors", n_positions=64, n_layer=1)
    arguments = ("bench", "-m", str(path), "--batch", "3,1,3", "--rounds", "2")
    result = codegen(*arguments, "--json")
    need = 3 * cache_bytes(read_packed_file(path).config, 64)
    assert result.stderr.decode() == (
        f"codegen: 3 texts need {console.size(need)} of memory for keys and values\n"
    )
    report = json.loads(stdout_of(result))
    assert (report["model"], report["format"]) == ("tiny", "int8")
    one, three = report["measures"]
    assert [(each["n_texts"], each["n_tokens"]) for each in (one, three)] == [(1, 32), (3, 32)]
    for each in (one, three):
        speeds = each["tokens_per_second_by_round"]
        assert len(speeds) == 2
        assert each["tokens_per_second"] == median(speeds)
        assert each["step_ms"] == pytest.approx(
            1000 * median(each["n_texts"] / speed for speed in speeds)
        )
    pairs = zip(three["tokens_per_second_by_round"], one["tokens_per_second_by_round"], strict=True)
    assert three["times_one_text"] == pytest.approx(median(a / b for a, b in pairs))


def test_the_table_of_several_texts_does_without_one_to_compare_with(
    codegen, tmp_path, compiled_kernels
):
    path = write_packed(tmp_path / "tiny.safetensors", n_positions=64, n_layer=1)
    result = codegen("bench", "-m", str(path), "--batch", "2", "--rounds", "2", "-q")
    assert result.stderr == b""
    lines = stdout_of(result).splitlines()
    assert re.split(" {2,}", lines[2])[0] == "what"
    what, speed, step, trials = re.split(" {2,}", lines[3])
    assert what == "2 after 32"
    assert float(step) > 0
    speeds = [float(text) for text in trials.split()]
    assert min(speeds) <= float(speed) <= max(speeds)


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ("1,x", "need whole numbers"),
        ("1,,2", "need whole numbers"),
        ("", "need whole numbers"),
        ("-1", "need whole numbers"),
        ("1,0", "need 1 to 1024 texts"),
        ("99999999", "need 1 to 1024 texts"),
    ],
)
def test_what_is_no_list_of_numbers_is_wrong_usage(numbers, said):
    result = CliRunner().invoke(app, ["bench", "--batch", numbers])
    assert result.exit_code == 2
    assert said in result.output
