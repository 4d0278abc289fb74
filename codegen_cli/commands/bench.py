"""`codegen bench`: a model -> how fast it is on this machine."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from codegen_cli.commands import options
from codegen_cli.terminal import console, drawing

if TYPE_CHECKING:
    from codegen_cli.contract.engine import Engine
    from codegen_cli.models.registry import PackedModel

T = TypeVar("T")
_MOST_TEXTS = 1024


def bench(
    model: options.Model = None,
    threads: options.Threads = None,
    device: options.Device = None,
    ignore_memory: options.IgnoreMemory = False,
    batch: Annotated[
        str | None,
        typer.Option(
            "--batch",
            metavar="N,N...",
            help="Measure instead how fast so many texts at once are continued.",
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            "--rounds",
            min=1,
            max=1000,
            help="Default: as many as fit into 40 s, at least 3, at most 7.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how fast a model is on this machine.

    Every round reads prompts of 64, 512 and 1536 tokens, writes after 32, 512, 1024 and nearly all
    tokens of the context, and measures in between how fast memory can be read at all, which is the
    limit of writing. A prompt that takes longer than 15 s is left out.

    With --batch every round continues several texts at once after 32 tokens of each, and, where
    memory has room for them, after 1024: tokens/s of all together, and what a step takes.

    \b
    codegen bench
    codegen bench -m 350M-mono:int8 --threads 1
    codegen bench -m 2B-mono:int4 --device cuda
    codegen bench --batch 1,2,4,8,16
    codegen bench --json | jq '.measures[] | {phase, n_tokens, tokens_per_second}'
    """
    console.set_quiet(quiet)
    numbers = None if batch is None else _numbers(batch)
    from codegen_cli.models.model_choice import choose_model
    from codegen_cli.session.device_choice import choose_device
    from codegen_cli.session.engines import default_threads
    from codegen_cli.session.loading import load_engine
    from quantize.packed.packed_file import read_packed_file

    device = choose_device(device)
    chosen = choose_model(model)
    packed = read_packed_file(chosen.path)
    n_threads = threads or default_threads(packed)
    engine = load_engine(packed, chosen.name, n_threads, device, ignore_memory=ignore_memory)
    try:
        if numbers is None:
            _bench(engine, chosen, n_threads, rounds, as_json)
        else:
            _bench_batches(engine, chosen, numbers, rounds, as_json)
    finally:
        engine.close()


def _bench(
    engine: "Engine", chosen: "PackedModel", n_threads: int, rounds: int | None, as_json: bool
) -> None:
    from codegen_cli.machine.memory import available_bytes
    from codegen_cli.measuring.read_limit import MemoryReader
    from codegen_cli.measuring.speed import measure_speed
    from codegen_cli.reports.bench_report import write_json, write_table

    with MemoryReader(n_threads, available_bytes()) as reader:
        measures, other_cores = _watched(
            chosen, lambda advance: measure_speed(engine, reader, rounds, advance)
        )
    (write_json if as_json else write_table)(engine, chosen, measures, other_cores)


def _bench_batches(
    engine: "Engine",
    chosen: "PackedModel",
    numbers: list[int],
    rounds: int | None,
    as_json: bool,
) -> None:
    from codegen_cli.machine.memory import available_bytes
    from codegen_cli.measuring.batch_speed import measure_batches, plan_batches
    from codegen_cli.reports.bench_batch_report import write_json, write_table

    # Of a GPU's memory PyTorch judges itself.
    available = available_bytes() if engine.identity.engine == "numba" else None
    plan = plan_batches(engine, numbers, available)
    _, other_cores = _watched(
        chosen, lambda advance: measure_batches(engine, plan, rounds, advance)
    )
    (write_json if as_json else write_table)(engine, chosen, plan, other_cores)


def _watched(
    chosen: "PackedModel", measure: Callable[[drawing.Advance], T]
) -> tuple[T, float | None]:
    """Return what is measured while a bar shows how far it is, and what else ran meanwhile."""
    from codegen_cli.machine.disturbance import OtherPrograms

    with drawing.progress(f"measuring {chosen.name}") as advance:
        others = OtherPrograms()
        return measure(advance), others.cores()


def _numbers(text: str) -> list[int]:
    """Return the numbers of texts that a list names."""
    words = text.split(",")
    if not all(word.isascii() and word.isdigit() for word in words):
        raise typer.BadParameter(f"--batch {text!r:.80}: need whole numbers, such as 1,2,4,8")
    numbers = [int(word[:5]) for word in words]
    if not all(1 <= number <= _MOST_TEXTS for number in numbers):
        raise typer.BadParameter(f"--batch {text!r:.80}: need 1 to {_MOST_TEXTS} texts")
    return numbers
