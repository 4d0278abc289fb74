"""`codegen bench`: a model -> how fast it is on this machine."""

from typing import Annotated

import typer

from codegen_cli.commands import options
from codegen_cli.terminal import console, drawing


def bench(
    model: options.Model = None,
    threads: options.Threads = None,
    device: options.Device = None,
    ignore_memory: options.IgnoreMemory = False,
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

    \b
    codegen bench
    codegen bench -m 350M-mono:int8 --threads 1
    codegen bench -m 2B-mono:int4 --device cuda
    codegen bench --json | jq '.measures[] | {phase, n_tokens, tokens_per_second}'
    """
    console.set_quiet(quiet)
    from codegen_cli.machine.disturbance import OtherPrograms
    from codegen_cli.machine.memory import available_bytes
    from codegen_cli.measuring.read_limit import MemoryReader
    from codegen_cli.measuring.speed import measure_speed
    from codegen_cli.models.model_choice import choose_model
    from codegen_cli.reports.bench_report import write_json, write_table
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
        with (
            MemoryReader(n_threads, available_bytes()) as reader,
            drawing.progress(f"measuring {chosen.name}") as advance,
        ):
            others = OtherPrograms()
            measures = measure_speed(engine, reader, rounds, advance)
            other_cores = others.cores()
        write = write_json if as_json else write_table
        write(engine, chosen, measures, other_cores)
    finally:
        engine.close()
