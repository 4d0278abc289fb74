"""What a token reads, what is measured of a model, and the speed to expect: no test times it."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from packed import write_packed

from codegen_cli.contract.engine import Engine
from codegen_cli.engine_cpu.kv_cache import position_bytes
from codegen_cli.engine_cpu.numba_engine import NumbaEngine
from codegen_cli.hub.entries import entries
from codegen_cli.machine import disturbance
from codegen_cli.machine.disturbance import OtherPrograms
from codegen_cli.machine.places import bundled_model
from codegen_cli.measuring import speed
from codegen_cli.measuring.batch_speed import BatchMeasure, measure_batches, plan_batches
from codegen_cli.measuring.forecast import ReadSpeeds, expected_tokens_per_second, measure_kernels
from codegen_cli.measuring.read_limit import MemoryReader
from codegen_cli.measuring.speed import Measure, measure_speed, step_seconds
from codegen_cli.session.engines import open_engine
from codegen_cli.terminal import console
from quantize.description.config import parse_config
from quantize.files.errors import UserError
from quantize.packed.packed_file import read_packed_file
from quantize.packed.sizes import (
    bits_per_weight,
    weight_bytes,
    weight_bytes_if_packed,
)


def ignore(done: float, total: float) -> None:
    pass


def load_random(path: Path, **changes: object) -> Engine:
    """A model of a small config, which a file of random bytes makes.

    Its numbers mean nothing, but are read as any others.
    """
    return open_engine(write_packed(path, "int8", **changes), n_threads=1)


# --- bytes ----------------------------------------------------------------------------------------


def test_a_token_reads_all_of_350M_but_the_embedding() -> None:
    config = read_packed_like("350M-mono")
    rows, n_layer, n_embd = 51200, 20, 1024
    vectors = n_layer * (2 + 4 + 1) * n_embd + 2 * n_embd + rows
    matrices = n_layer * 12 * n_embd * n_embd
    assert weight_bytes_if_packed(config, "int8") == {
        "f32": 4 * vectors,
        "int8": (matrices + rows * n_embd) * 34 // 32,
    }
    assert weight_bytes_if_packed(config, "int4") == {
        "f32": 4 * vectors,
        "int4": matrices * 18 // 32,
        "int8": rows * n_embd * 34 // 32,
    }
    assert position_bytes(config) == n_layer * 2 * n_embd * 2


def read_packed_like(name: str):
    """The config of a model of the registry."""
    size = next(entry.size for entry in entries() if entry.name == name)
    names = ("n_layer", "n_embd", "n_head", "rotary_dim", "vocab_size", "n_positions")
    fields = {name: getattr(size, name) for name in names}
    return parse_config({"model_type": "codegen", **fields}, "a test")


@pytest.mark.parametrize("format", ["int8", "f16"])
@pytest.mark.parametrize("tied", [False, True])
def test_a_packed_file_is_read_as_one_would_be(tmp_path: Path, format: str, tied: bool) -> None:
    packed = read_packed_file(write_packed(tmp_path / "m", format, tie_word_embeddings=tied))
    assert weight_bytes(packed) == weight_bytes_if_packed(packed.config, format)


def test_a_tied_embedding_is_read_whole_as_the_head(tmp_path: Path) -> None:
    untied = read_packed_file(write_packed(tmp_path / "a"))
    tied = read_packed_file(write_packed(tmp_path / "b", tie_word_embeddings=True))
    assert weight_bytes(tied) == weight_bytes(untied)


def test_bits_per_weight_count_the_scales() -> None:
    assert bits_per_weight(read_packed_file(bundled_model())) == 8.5


# --- measuring ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_positions", "prompts", "depths"),
    [
        (2048, [64, 512, 1536], [32, 512, 1024, 2016]),
        (512, [64, 512], [32, 480]),
        (64, [64], [32]),
        (1, [1], [0]),
    ],
)
def test_each_round_measures_what_the_context_has_room_for(
    tmp_path: Path, n_positions: int, prompts: list[int], depths: list[int]
) -> None:
    model = load_random(tmp_path / "m", n_positions=n_positions, n_layer=1)
    with MemoryReader(1, 0) as reader:
        measures = measure_speed(model, reader, 2, ignore)
    model.close()
    found = {
        phase: [m.n_tokens for m in measures if m.phase == phase] for phase in ("prefill", "decode")
    }
    assert found == {"prefill": prompts, "decode": depths}
    for measure in measures:
        assert len(measure.speeds) == len(measure.limits) == 2
        assert min(measure.speeds + measure.limits) > 0


def test_a_token_in_the_middle_of_a_trial_reads_the_cache_so_far(tmp_path: Path) -> None:
    model = load_random(tmp_path / "m", n_positions=512)
    with MemoryReader(1, 0) as reader:
        measures = measure_speed(model, reader, 1, ignore)
    model.close()
    weights = model.token_bytes
    by_depth = {m.n_tokens: m.token_bytes for m in measures if m.phase == "decode"}
    per_position = position_bytes(model.config)
    assert by_depth == {32: weights + 48 * per_position, 480: weights + 496 * per_position}


def test_shares_compare_each_round_with_its_own_limit() -> None:
    measure = Measure("decode", 32, 100, speeds=[5.0, 20.0, 9.0], limits=[1000.0, 2500.0, 1000.0])
    assert measure.tokens_per_second == 9.0
    assert measure.shares == [0.5, 0.8, 0.9]


def test_a_full_cache_has_no_untouched_memory(tmp_path: Path) -> None:
    """Pages that nobody wrote to are all one page, which is always in the cache."""
    model = load_random(tmp_path / "m")
    cache = model.random_cache()
    model.close()
    for block in cache.blocks:
        values = block.view(np.float16)
        assert np.isfinite(values).all()
        assert 0.9 < values.astype(np.float32).std() < 1.1


def test_decoding_goes_on_from_the_depth(tmp_path: Path) -> None:
    model = load_random(tmp_path / "m", n_positions=64)
    cache = model.random_cache()
    assert len(step_seconds(model, [cache], 20, 12)) == 12
    assert cache.n_past == 32
    model.close()


@pytest.mark.parametrize(("seconds", "n_rounds"), [(0.0, 3), (1e9, 7)])
def test_rounds_go_on_for_a_while_but_three_to_seven(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, n_rounds: int
) -> None:
    monkeypatch.setattr(speed, "_ALL_SECONDS", seconds)
    model = load_random(tmp_path / "m", n_positions=16, n_layer=1)
    done = []
    with MemoryReader(1, 0) as reader:
        measures = measure_speed(model, reader, None, lambda *progress: done.append(progress))
    model.close()
    assert [len(measure.speeds) for measure in measures] == [n_rounds, n_rounds]
    assert done == [(number, 14) for number in range(1, 2 * n_rounds + 1)]


def test_a_slow_model_reads_one_prompt_and_writes_two_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speed, "_PROMPT_SECONDS", 0.0)
    monkeypatch.setattr(speed, "_DECODE_SECONDS", 0.0)
    model = load_random(tmp_path / "m", n_positions=2048, n_layer=1)
    with MemoryReader(1, 0) as reader:
        measures = measure_speed(model, reader, 1, ignore)
    assert [m.n_tokens for m in measures if m.phase == "prefill"] == [64]
    cache = model.random_cache()
    assert len(step_seconds(model, [cache], 5, 12)) == 2
    model.close()


@pytest.mark.parametrize("n_threads", [1, 3])
def test_memory_is_read_at_some_speed(n_threads: int) -> None:
    with MemoryReader(n_threads, 0) as reader:
        assert reader.bytes_per_second() > 0
        assert reader.median_bytes_per_second(0) > 0


STAT = "cpu  {user} 10 20 9999 30 5 6 {steal} 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n"


def test_other_programs_are_what_all_cpus_did_but_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(STAT.format(user=1000, steal=0))
    moments, own = iter([100.0, 110.0]), iter([3.0, 7.0])
    clocks = SimpleNamespace(monotonic=moments.__next__, process_time=own.__next__)
    monkeypatch.setattr(disturbance, "time", clocks)
    others = OtherPrograms(tmp_path)
    ticks = os.sysconf("SC_CLK_TCK")
    (tmp_path / "proc/stat").write_text(STAT.format(user=1000 + 16 * ticks, steal=3 * ticks))
    assert others.cores() == pytest.approx(1.5)  # 16 s + 3 s - 4 s of its own, in 10 s


@pytest.mark.parametrize(
    "text", ["", "cpu  1 2 3\n", "intr 1 2 3 4 5 6 7 8 9\n", "cpu " + "x " * 9]
)
def test_where_nothing_is_told_of_other_programs_nothing_is_known(
    tmp_path: Path, text: str
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(text)
    assert OtherPrograms(tmp_path).cores() is None


# --- several texts at once ------------------------------------------------------------------------


def test_texts_that_memory_has_no_room_for_are_left_out_or_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load_random(tmp_path / "m", n_positions=2048, n_layer=1)
    shallow, deep = (4 * model.cache_bytes(n + 32) for n in (32, 1024))
    for available, depths in ((None, {32, 1024}), (shallow + deep, {32, 1024}), (deep, {32})):
        plan = plan_batches(model, [1, 4], available)
        assert {(each.n_texts, each.n_tokens) for each in plan} == {
            (number, depth) for number in (1, 4) for depth in depths
        }
    *_, left_out, told = capsys.readouterr().err.splitlines()
    assert left_out == (
        f"codegen: 4 texts need {console.size(shallow + deep)} of memory for keys and values, "
        f"{console.size(deep)} are available: after 1024 is left out"
    )
    assert told == f"codegen: 4 texts need {console.size(shallow)} of memory for keys and values"
    with pytest.raises(UserError, match=r"^4 texts need .* are available\n") as caught:
        plan_batches(model, [1, 4], shallow - 1)
    assert caught.value.hint == "There is room for 3."
    with pytest.raises(UserError, match=r"^a text needs .* are available\n") as caught:
        plan_batches(model, [1], 0)
    assert caught.value.hint == "Use a smaller model."
    model.close()


def test_every_text_has_a_cache_of_its_own_at_the_depth_that_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_random(tmp_path / "m", n_positions=2048, n_layer=1)
    steps = set()
    forward = NumbaEngine.forward

    def watched(self, parts):
        assert len({id(part.cache) for part in parts}) == len(parts)
        steps.add((len(parts), *{part.cache.n_past for part in parts}))
        return forward(self, parts)

    monkeypatch.setattr(NumbaEngine, "forward", watched)
    plan = plan_batches(model, [1, 3], None)
    measure_batches(model, plan, 2, ignore)
    assert steps == {(n, depth + i) for n in (1, 3) for depth in (32, 1024) for i in range(32)}
    assert [len(each.step_seconds) for each in plan] == [2] * 4
    model.close()


def test_so_many_texts_are_compared_with_one_within_the_rounds() -> None:
    one = BatchMeasure(1, 32, step_seconds=[0.1, 0.3, 0.1])
    four = BatchMeasure(4, 32, step_seconds=[0.2, 0.3, 0.8])
    assert four.speeds == pytest.approx([20, 40 / 3, 5])
    assert (four.tokens_per_second, four.step_ms) == (pytest.approx(40 / 3), 300.0)
    assert four.times_as_fast(one) == pytest.approx(2)


# --- expecting ------------------------------------------------------------------------------------


def test_the_time_of_a_token_is_that_of_its_formats_together() -> None:
    sizes = {"int4": 100, "int8": 300, "f32": 50}
    speeds = ReadSpeeds(1000.0, kernels={"int4": 500.0, "int8": 750.0})
    # 0.2 s + 0.4 s + 0.05 s
    assert expected_tokens_per_second(sizes, speeds) == pytest.approx(1 / 0.65)


@pytest.mark.parametrize(("available", "n_layer"), [(0, 1), (9 * 30_000_000, 2)])
def test_kernels_are_measured_in_every_format_on_finite_numbers(
    compiled_kernels: None, monkeypatch: pytest.MonkeyPatch, available: int, n_layer: int
) -> None:
    seen, n_layers = set(), {}
    forward = NumbaEngine.forward

    def watched(self, parts):
        (logits,) = forward(self, parts)
        n_layers[self.format] = self.config.n_layer
        seen.add((self.format, bool(np.isfinite(logits).all()), bool(np.ptp(logits) > 0)))
        return [logits]

    monkeypatch.setattr(NumbaEngine, "forward", watched)
    with MemoryReader(1, 0) as reader:
        speeds = measure_kernels(1, reader, available, ignore)
    assert seen == {(format, True, True) for format in ("int4", "int8", "f16")}
    assert n_layers["int8"] == n_layer
    assert set(speeds.kernels) == {"int4", "int8", "f16"}
    assert min(speeds.limit, *speeds.kernels.values()) > 0
