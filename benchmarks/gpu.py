"""Models on a GPU: speeds, memory and loading, beside transformers in fp16 on the same card.

    python benchmarks/gpu.py [--device cuda] [--sizes 350M 2B 16B] [--rounds 5] [-o TABLE.md]

Random weights of each size are packed in each format under --directory (34 GB for 16B in f16, one
file at a time) and run: a token a step and 8 ids a step after 32, prompts of 512 and
1536. If transformers can be imported, its CodeGenForCausalLM does the same in fp16, eager and by
torch.compile, in turn with ours: each engine takes part in every round, as memory allows. Between
two measurements a large copy tells what the card's memory gives; shares are of the median of these.
"""

import argparse
import contextlib
import gc
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from make_checkpoint import TOKENIZER, make_config

from codegen_cli.contract.device_name import parse_device
from codegen_cli.contract.engine import Engine
from codegen_cli.engine_torch.copy_speed import copy_bytes_per_second
from codegen_cli.engine_torch.devices import find_devices
from codegen_cli.measuring.random_weights import random_tensors
from codegen_cli.session.engines import open_engine
from codegen_cli.session.one_part import logits_of
from quantize.description.config import ModelConfig, parse_config
from quantize.description.formats import MATRIX_FORMATS, MatrixFormat
from quantize.description.tensor_map import tensor_specs
from quantize.files.errors import UserError
from quantize.packed.packed_writer import ModelDescription, TensorEntry, write_packed_file
from quantize.packed.sizes import stored_format

DEPTH, PROMPTS, DRAFT = 32, (512, 1536), 8
TINY = {"n_layer": 2, "n_embd": 64, "n_head": 4, "rotary_dim": 16, "vocab_size": 512}
"""A size to try this script with, on a CPU."""


@dataclass
class Runner:
    """What is measured of one engine: each takes nothing and returns the seconds of one pass.

    token_bytes  weights, keys and values that a token after DEPTH reads
    """

    name: str
    load_seconds: float
    memory_bytes: int
    token_bytes: int
    passes: dict[str, Callable[[], float]]
    seconds: dict[str, list[float]] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", nargs="+", default=["350M", "2B", "16B"])
    parser.add_argument("--formats", nargs="+", default=list(MATRIX_FORMATS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=64, help="that a pass of decoding takes")
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    [device] = find_devices(parse_device(arguments.device))
    lines = [*facts(device.label), ""]
    for size in arguments.sizes:
        lines += [*measured(size, arguments, device.device), ""]
    text = "\n".join(lines)
    print(text)
    if arguments.output:
        arguments.output.write_text(text)


def measured(size: str, arguments: argparse.Namespace, device: torch.device) -> Iterator[str]:
    """Yield the table of a size."""
    config = config_of(size)
    runners: list[Runner] = []
    for format in arguments.formats:
        path = arguments.directory / f"gpu-{size}-{format}.safetensors"
        write_random(path, config, format)
        try:
            with skipping_what_does_not_fit(f"{size} {format}"):
                runners.append(ours(path, format, arguments.device, device, arguments.steps))
        finally:
            path.unlink()
    if find_spec("transformers") is not None:
        for compiled in (False, True):
            with skipping_what_does_not_fit(f"{size} transformers"):
                runners.append(transformers_runner(config, device, compiled, arguments.steps))
    copies = [copy_bytes_per_second(device)]
    for runner in runners:
        for run in runner.passes.values():
            run()  # compiles, records, warms up
    for _ in range(arguments.rounds):
        for runner in runners:
            for name, run in runner.passes.items():
                runner.seconds.setdefault(name, []).append(run())
            copies.append(copy_bytes_per_second(device))
    yield f"## {size}"
    yield ""
    yield from table(runners, median(copies))
    del runners
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def config_of(size: str) -> ModelConfig:
    fields = make_config("350M" if size == "tiny" else size)
    return parse_config(fields | (TINY if size == "tiny" else {}), size)


def write_random(path: Path, config: ModelConfig, format: MatrixFormat) -> None:
    """Write a packed file of random weights, one tensor in memory at a time."""
    stored = partial(stored_format, format=format)
    entries = [TensorEntry(spec.name, stored(spec), spec.shape) for spec in tensor_specs(config)]
    payloads = (tensor.payload for tensor in random_tensors(config, stored))
    model = ModelDescription(config, format, "random", TOKENIZER.read_bytes(), {})
    write_packed_file(path, model, entries, payloads)


@contextlib.contextmanager
def skipping_what_does_not_fit(what: str) -> Iterator[None]:
    try:
        yield
    except (UserError, torch.OutOfMemoryError) as error:
        print(f"left out {what}: {str(error).splitlines()[0]}", flush=True)


# --- engines --------------------------------------------------------------------------------------


def ours(path: Path, format: str, name: str, device: torch.device, n_steps: int) -> Runner:
    before = start_counting(device)
    started = time.perf_counter()
    engine: Engine = open_engine(path, name)
    load_seconds = time.perf_counter() - started
    cache = engine.new_cache()
    ids = np.random.default_rng(0).integers(0, engine.config.vocab_size, engine.n_positions)

    def decode(width: int) -> float:
        cache.n_past = 0
        logits_of(engine, ids[:DEPTH], cache, 1)
        started = time.perf_counter()
        for step in range(n_steps):
            cache.n_past = DEPTH + step
            logits_of(engine, ids[DEPTH + step : DEPTH + step + width], cache)
        return (time.perf_counter() - started) / n_steps

    def prefill(n: int) -> float:
        cache.n_past = 0
        started = time.perf_counter()
        logits_of(engine, ids[:n], cache, 1)
        return time.perf_counter() - started

    passes: dict[str, Callable[[], float]] = {
        "1 id": partial(decode, 1),
        f"{DRAFT} ids": partial(decode, DRAFT),
    }
    passes |= {f"prompt {n}": partial(prefill, n) for n in PROMPTS if n <= engine.n_positions}
    for run in passes.values():
        run()
    token_bytes = engine.token_bytes + (DEPTH + n_steps // 2) * engine.position_bytes
    label = f"codegen {format}"
    return Runner(label, load_seconds, bytes_beyond(before, device), token_bytes, passes)


def transformers_runner(
    config: ModelConfig, device: torch.device, compiled: bool, n_steps: int
) -> Runner:
    from transformers import CodeGenConfig, CodeGenForCausalLM, DynamicCache, StaticCache

    before = start_counting(device)
    started = time.perf_counter()
    names = ("n_layer", "n_embd", "n_head", "rotary_dim", "vocab_size", "n_positions")
    theirs = CodeGenConfig(
        **{name: getattr(config, name) for name in names}, tie_word_embeddings=False
    )
    with torch.device(device):
        torch.set_default_dtype(torch.float16)
        model = CodeGenForCausalLM(theirs).eval()
        torch.set_default_dtype(torch.float32)
    load_seconds = time.perf_counter() - started
    step: Any = torch.compile(model, mode="reduce-overhead") if compiled else model
    ids = torch.randint(config.vocab_size, (1, config.n_positions), device=device)

    def new_cache() -> Any:
        return (
            StaticCache(config=theirs, max_cache_len=config.n_positions)
            if compiled
            else (DynamicCache(config=theirs))
        )

    @torch.no_grad()
    def decode(width: int) -> float:
        cache, end = new_cache(), DEPTH
        model(ids[:, :DEPTH], past_key_values=cache, use_cache=True)
        started = time.perf_counter()
        for number in range(n_steps):
            positions = torch.arange(end, end + width, device=device)
            out = step(ids[:, end : end + width], past_key_values=cache, cache_position=positions)
            out.logits.argmax(-1).cpu()
            end += width
            if end + width > config.n_positions:
                return (time.perf_counter() - started) / (number + 1)
        return (time.perf_counter() - started) / n_steps

    @torch.no_grad()
    def prefill(n: int) -> float:
        started = time.perf_counter()
        model(ids[:, :n], logits_to_keep=1).logits.argmax(-1).cpu()
        return time.perf_counter() - started

    passes: dict[str, Callable[[], float]] = {
        "1 id": partial(decode, 1),
        f"{DRAFT} ids": partial(decode, DRAFT),
    }
    if not compiled:
        passes |= {f"prompt {n}": partial(prefill, n) for n in PROMPTS if n <= config.n_positions}
    for run in passes.values():
        run()
    n_read = sum(each.numel() for name, each in model.named_parameters() if "wte" not in name)
    name = f"transformers fp16, {'compiled' if compiled else 'eager'}"
    position_bytes = 4 * config.n_layer * config.n_embd
    token_bytes = 2 * n_read + (DEPTH + n_steps // 2) * position_bytes
    return Runner(name, load_seconds, bytes_beyond(before, device), token_bytes, passes)


def start_counting(device: torch.device) -> int:
    """Return the bytes allocated now, from which the most that follow are counted."""
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def bytes_beyond(before: int, device: torch.device) -> int:
    """Return the most bytes allocated since start_counting, beside what was there before."""
    return torch.cuda.max_memory_allocated() - before if device.type == "cuda" else 0


# --- the report -----------------------------------------------------------------------------------


def facts(label: str) -> Iterator[str]:
    yield f"# {label}"
    yield ""
    driver = "no nvidia-smi"
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = f"driver {subprocess.check_output(command, text=True).split()[0]}"
    libraries = [name for name in ("triton", "transformers") if find_spec(name)]
    versions = [f"{name} {version(name)}" for name in libraries]
    yield (
        f"{date.today()}, {driver}, Python {platform.python_version()}, torch {torch.__version__}, "
        f"{', '.join(versions)}; python benchmarks/gpu.py. Random weights, medians of all rounds."
    )


def table(runners: list[Runner], copy_speed: float) -> Iterator[str]:
    yield f"A copy within the card's memory reads and writes {copy_speed / 1e9:.0f} GB/s."
    yield ""
    names = list(runners[0].passes) if runners else []
    headers = ["engine", "load, s", "memory, GB", "tokens/s", "share of copy", *names[1:]]
    yield f"| {' | '.join(headers)} |"
    yield f"|{'---|' * len(headers)}"
    for runner in runners:
        seconds = {name: median(each) for name, each in runner.seconds.items()}
        share = runner.token_bytes / seconds["1 id"] / copy_speed
        cells = [
            runner.name,
            f"{runner.load_seconds:.1f}",
            f"{runner.memory_bytes / 1e9:.2f}",
            f"{1 / seconds['1 id']:.0f}",
            f"{share:.2f}",
            *(f"{seconds[name] * 1e3:.1f} ms" if name in seconds else "" for name in names[1:]),
        ]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
