"""What only the PyTorch engine does: dtypes, slots, devices, and where its weights lie."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

from codegen_cli.contract.engine import Part
from codegen_cli.session.one_part import logits_of, run_part
from quantize.files.errors import UserError
from quantize.packed.packed_file import read_packed_file
from quantize.quantize_model import quantize

torch = pytest.importorskip("torch", reason="PyTorch is not installed", exc_type=ImportError)

from codegen_cli.engine_torch.compiler_cache import keep_compiled_code  # noqa: E402
from codegen_cli.engine_torch.devices import Device  # noqa: E402
from codegen_cli.engine_torch.failures import device_failures  # noqa: E402
from codegen_cli.engine_torch.kv_cache import Slot  # noqa: E402
from codegen_cli.engine_torch.placement import Placement, place  # noqa: E402
from codegen_cli.engine_torch.steps import Compute, Record  # noqa: E402
from codegen_cli.engine_torch.torch_engine import CHUNK, TorchEngine  # noqa: E402

CPU = Device(torch.device("cpu"), "CPU", None, None)
CONFIG = small_config(n_positions=1100, vocab_size=100, n_layer=4)
IDS = np.random.default_rng(5).integers(0, 100, 1100).tolist()


def write_model(directory: Path, factor: float = 1.0) -> Path:
    """Write a model in f16 whose fc_in is so many times as large."""
    tensors = random_tensors(CONFIG, 3)
    for name in tensors:
        if "fc_in.weight" in name:
            tensors[name] = tensors[name] * np.float32(factor)
    checkpoint = write_checkpoint(directory / "checkpoint", CONFIG, tensors)
    quantize(checkpoint, directory / "packed", "f16")
    return directory / "packed"


def new_engine(path: Path, *dtypes: torch.dtype, record: Record | None = None) -> TorchEngine:
    packed = read_packed_file(path)
    return TorchEngine(packed, Placement((CPU,) * packed.config.n_layer), dtypes, record)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def engine(path: Path) -> TorchEngine:
    return new_engine(path, torch.float32)


@pytest.fixture(scope="module")
def expected(engine: TorchEngine) -> np.ndarray:
    return logits_of(engine, IDS, engine.new_cache())


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    return float(np.abs(found - expected).max()) < 1e-4


def test_a_context_is_filled_to_its_end_and_rewound(
    engine: TorchEngine, expected: np.ndarray
) -> None:
    cache = engine.new_cache()
    assert len(IDS) > 2 * CHUNK  # more than two steps
    run_part(engine, Part(IDS[:-1], cache, 0))
    assert same(logits_of(engine, IDS[-1:], cache), expected[-1:])
    with pytest.raises(ValueError, match="exceed n_positions 1100"):
        logits_of(engine, [1], cache)
    cache.n_past = 700
    assert same(logits_of(engine, IDS[700:720], cache), expected[700:720])


def test_what_a_slot_held_before_is_forgotten(engine: TorchEngine, expected: np.ndarray) -> None:
    cache = engine.new_cache()
    for tensor in (*cache.slot.keys, *cache.slot.values):
        tensor.fill_(torch.nan)
    addresses = [tensor.data_ptr() for tensor in cache.slot.keys]
    del cache
    cache = engine.new_cache()
    assert [tensor.data_ptr() for tensor in cache.slot.keys] == addresses
    assert same(logits_of(engine, IDS[:20], cache), expected[:20])


def test_threads_may_take_and_lose_caches_at_once(engine: TorchEngine) -> None:
    def take_and_lose(_: int) -> None:
        for _ in range(300):
            first, second = engine.new_cache(10), engine.new_cache(10)
            assert first.slot is not second.slot

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(take_and_lose, range(4)))
    finally:
        sys.setswitchinterval(before)
    free = engine._slots._free
    assert len(set(map(id, free))) == len(free) <= 4


def test_free_slots_make_way_for_one_that_does_not_fit_beside_them(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.new_cache(10)  # is gone at once
    assert engine._slots._free
    new = engine._slots._new

    def short_of_memory(capacity: int) -> Slot:
        if engine._slots._free:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return new(capacity)

    monkeypatch.setattr(engine._slots, "_new", short_of_memory)
    cache = engine.new_cache(1000)
    assert cache.slot.capacity == 1024
    assert not engine._slots._free


def test_two_caches_never_share_a_slot(engine: TorchEngine) -> None:
    caches = [engine.new_cache(300) for _ in range(6)]
    addresses = {cache.slot.keys[0].data_ptr() for cache in caches}
    assert len(addresses) == 6
    del caches
    again = [engine.new_cache(300) for _ in range(6)]
    assert len({cache.slot.keys[0].data_ptr() for cache in again}) == 6


def test_values_beyond_float16_are_computed_in_the_next_dtype(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_model(tmp_path, factor=1e5)
    wide, narrow = new_engine(path, torch.float32), new_engine(path, torch.float16)
    expected = logits_of(wide, IDS[:40], wide.new_cache())
    assert not np.isfinite(logits_of(narrow, IDS[:40], narrow.new_cache())).all()
    engine = new_engine(path, torch.float16, torch.float32)
    first, second = engine.new_cache(), engine.new_cache()
    first.ids, first.n_past = IDS[:20], 20  # as if read in float16 while that was enough
    first.keep(20)
    assert engine.identity.dtype == "float16"
    assert same(logits_of(engine, IDS[20:40], first), expected[20:])
    assert engine.identity.dtype == "float32"
    assert same(logits_of(engine, IDS[:40], second), expected)
    told = capsys.readouterr().err
    assert told.count("grow beyond what float16 holds: going on in float32") == 1


def test_a_cache_of_the_old_dtype_is_read_again_even_after_an_interruption(
    path: Path, expected: np.ndarray
) -> None:
    engine = new_engine(path, torch.float16, torch.float32)
    cache = engine.new_cache()
    run_part(engine, Part(IDS[:600], cache, 0))
    copied_before = engine.copy_cache(cache, 300)
    engine._widen(engine._steps.model)
    with pytest.raises(KeyboardInterrupt):
        run_part(engine, Part(IDS[600:620], cache, 20)._replace(cancel=InterruptsAtSecond()))
    assert cache.n_past == 600
    copied_meanwhile = engine.copy_cache(cache, 580)
    assert same(logits_of(engine, IDS[580:620], copied_meanwhile), expected[580:620])
    assert same(logits_of(engine, IDS[600:620], cache), expected[600:620])
    assert same(logits_of(engine, IDS[300:310], copied_before), expected[300:310])


class InterruptsAtSecond:
    """A cancel flag in whose second reading Ctrl-C comes: between two steps."""

    n_read = 0

    def is_set(self) -> bool:
        self.n_read += 1
        if self.n_read == 2:
            raise KeyboardInterrupt
        return False


def test_float16_stays_near_float32(path: Path, expected: np.ndarray) -> None:
    engine = new_engine(path, torch.float16)
    found = logits_of(engine, IDS[:200], engine.new_cache())
    assert 0 < np.abs(found - expected[:200]).max() / expected.std() < 0.02


def test_weights_on_the_cpu_are_the_map_itself(path: Path) -> None:
    packed = read_packed_file(path)
    engine = TorchEngine(packed, Placement((CPU,) * CONFIG["n_layer"]), [torch.float32])
    for index, layer in enumerate(engine._steps.model._weights.layers):
        payload = packed.tensors[f"h.{index}.mlp.fc_in.weight"].payload
        assert layer.fc_in.codes.data_ptr() == payload.ctypes.data


def test_what_triton_compiles_is_kept_where_nobody_else_may_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEGEN_HOME", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", "/where/the/user/says")
    keep_compiled_code()
    assert os.environ["TRITON_CACHE_DIR"] == "/where/the/user/says"
    monkeypatch.delenv("TRITON_CACHE_DIR")
    keep_compiled_code()
    place = tmp_path / "cache" / "triton"
    assert os.environ["TRITON_CACHE_DIR"] == str(place)
    assert place.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("TRITON_CACHE_DIR")
    place.chmod(0o770)
    keep_compiled_code()
    assert "TRITON_CACHE_DIR" not in os.environ


def test_a_closed_engine_computes_nothing(path: Path) -> None:
    engine = new_engine(path, torch.float32)
    cache = engine.new_cache()
    engine.close()
    engine.close()
    with pytest.raises(ValueError, match="closed"):
        logits_of(engine, [1], cache)


# --- recorded steps: on the CPU a "recording" computes anew, from the same tensors ---------------


class Recorder:
    """Counts what is recorded and replayed; as a graph does, it keeps the place of the result."""

    def __init__(self) -> None:
        self.n_recorded = self.n_replayed = 0

    def __call__(self, compute: Compute) -> Compute:
        self.n_recorded += 1
        result = compute()

        def replay() -> torch.Tensor:
            self.n_replayed += 1
            return result.copy_(compute())

        return replay


def test_recorded_steps_give_the_same(path: Path, expected: np.ndarray) -> None:
    """Single ids and drafts of every length, across the end of a span and to the last position."""
    recorder = Recorder()
    engine = new_engine(path, torch.float32, record=recorder)
    cache = engine.new_cache()
    for n in [*[1] * 40, *range(1, 18), *range(1, 18)] * 6:
        start = cache.n_past
        if start + n > len(IDS):
            break
        found = logits_of(engine, IDS[start : start + n], cache)
        assert same(found, expected[start : start + n]), (start, n)
        if n > 3:
            cache.n_past -= n - 3  # as after a draft of which three ids held
    assert recorder.n_replayed > 300
    assert recorder.n_recorded < 30
    full = engine.new_cache(256)
    run_part(engine, Part(IDS[:253], full, 0))
    for _ in range(8):  # padded to four, the three last ids would need a place too many
        assert same(logits_of(engine, IDS[253:256], full), expected[253:256])
        full.n_past -= 3


def test_a_recording_serves_the_next_text_in_its_slot(path: Path, expected: np.ndarray) -> None:
    recorder = Recorder()
    engine = new_engine(path, torch.float32, record=recorder)
    for _ in range(3):
        cache = engine.new_cache(300)
        for id, logits in zip(IDS[:20], expected, strict=False):
            assert same(logits_of(engine, [id], cache)[0], logits)
        del cache
    assert (recorder.n_recorded, recorder.n_replayed) == (1, 60 - 4)


def test_short_completions_record_nothing_and_prompts_never(path: Path) -> None:
    recorder = Recorder()
    engine = new_engine(path, torch.float32, record=recorder)
    cache = engine.new_cache()
    for n in (100, 1, 1, 1, 1):
        logits_of(engine, IDS[:n], cache)
    for _ in range(8):
        cache.n_past = 0
        logits_of(engine, IDS[:17], cache)
    assert recorder.n_recorded == 0


def test_what_cannot_be_recorded_is_computed(
    path: Path, expected: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(compute: Compute) -> Compute:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")

    engine = new_engine(path, torch.float32, record=refuse)
    cache = engine.new_cache()
    for id, logits in zip(IDS[:12], expected, strict=False):
        assert same(logits_of(engine, [id], cache)[0], logits)
    told = capsys.readouterr().err
    assert told.count("steps cannot be recorded") == 1
    assert "more" not in told


def test_several_texts_in_a_step_are_not_recorded(path: Path, expected: np.ndarray) -> None:
    recorder = Recorder()
    engine = new_engine(path, torch.float32, record=recorder)
    caches = [engine.new_cache(50) for _ in range(3)]
    for id, logits in zip(IDS[:12], expected, strict=False):
        for outcome in engine.forward([Part([id], cache) for cache in caches]):
            assert same(outcome[0], logits)
    assert recorder.n_recorded == 0


def test_a_step_that_fails_in_its_midst_ends_only_what_is_not_done(
    engine: TorchEngine, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert engine._steps is not None
    model, n_calls = engine._steps.model, []
    logits = model.logits

    def short_of_memory(states: torch.Tensor) -> torch.Tensor:
        n_calls.append(1)
        if len(n_calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return logits(states)

    monkeypatch.setattr(model, "logits", short_of_memory)
    caches = [engine.new_cache(50) for _ in range(2)]
    done, failed = engine.forward([Part(IDS[:12], cache) for cache in caches])
    assert isinstance(failed, UserError)
    assert same(done, expected[:12])
    assert [cache.n_past for cache in caches] == [12, 0]
    for cache in caches:
        assert same(logits_of(engine, IDS[cache.n_past : 20], cache)[-1], expected[19])


# --- several devices ------------------------------------------------------------------------------


def gpus(*free_mb: float) -> list[Device]:
    return [
        Device(torch.device("meta"), f"cuda:{i}", int(free * 1e6), int(free * 1e6))
        for i, free in enumerate(free_mb)
    ]


def layers_on(placement: Placement) -> list[str]:
    return [place.label for place in placement.places]


@pytest.mark.parametrize(
    ("free_mb", "expected"),
    [
        ((100,), ["cuda:0"] * 4),
        ((3.0, 100), ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]),
        ((1.1, 100), ["cuda:1"] * 4),  # nothing fits beside the workspace
        ((2.2, 2.2, 0.5, 2.2, 2.2), ["cuda:0", "cuda:1", "cuda:3", "cuda:4"]),
    ],
)
def test_layers_fill_the_devices_in_order(
    path: Path, free_mb: tuple[float, ...], expected: list[str]
) -> None:
    """A layer here is 0.11 MB, and 0.66 MB of keys and values; 1 MB are for the workspace."""
    placement = place(read_packed_file(path), gpus(*free_mb), torch.float32, 1_000_000)
    assert layers_on(placement) == expected
    assert str(placement) == ", ".join(dict.fromkeys(expected))


def test_the_format_that_would_fit_is_named(path: Path) -> None:
    packed = read_packed_file(path)
    weights = sum(len(tensor.payload) for tensor in packed.tensors.values())
    caches = 4 * 4 * 1280 * 2 * packed.config.n_embd
    with pytest.raises(UserError) as raised:
        place(packed, gpus((weights + caches) / 1e6 - 0.1), torch.float32, 0)
    assert "In a smaller format it fits: int8 needs" in raised.value.hint
    assert "f16" not in raised.value.hint


def test_a_model_that_does_not_fit_is_told_with_the_numbers(path: Path) -> None:
    with pytest.raises(UserError) as raised:
        place(read_packed_file(path), gpus(2, 1.5), torch.float32, 1_000_000)
    assert "GB are free on cuda:0, cuda:1" in raised.value.message
    assert "weights 0.0, keys and values 0.0" in raised.value.message


def test_devices_share_the_layers_and_give_the_same(path: Path, expected: np.ndarray) -> None:
    """Two of the CPU's: every h is handed on, and each has positions and masks of its own."""
    packed = read_packed_file(path)
    other = Device(torch.device("cpu", 0), "CPU 0", None, None)  # to PyTorch another device
    engine = TorchEngine(packed, Placement((CPU, CPU, other, other)), [torch.float32])
    assert engine._steps.model._devices == [CPU.device, other.device]
    assert same(logits_of(engine, IDS[:300], engine.new_cache()), expected[:300])


# --- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"), "no memory"),
        (torch.AcceleratorError("CUDA error: unspecified launch failure"), "has failed"),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), "no memory"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
            "no memory",
        ),
        (
            RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
            "has failed",
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "no memory"),
    ],
)
def test_what_devices_report_is_one_line(error: Exception, told: str) -> None:
    with pytest.raises(UserError) as raised, device_failures():
        raise error
    assert told in raised.value.message
    assert "\n" not in raised.value.message
    assert raised.value.hint


def test_a_fault_of_ours_is_no_fault_of_the_device() -> None:
    with pytest.raises(RuntimeError, match="mat1 and mat2"), device_failures():
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_a_device_that_fails_in_the_middle_leaves_the_text_so_far(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = new_engine(path, torch.float32)
    cache = engine.new_cache()
    logits_of(engine, IDS[:20], cache)
    states = engine._steps.states

    def fail(*arguments: object) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    engine._steps.states = fail
    (outcome,) = engine.forward([Part(IDS[20:21], cache)])
    assert isinstance(outcome, UserError)
    assert cache.n_past == 20
    engine._steps.states = states
    assert logits_of(engine, IDS[20:21], cache).shape == (1, 100)
