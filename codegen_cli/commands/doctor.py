"""`codegen doctor`: what this machine offers, how fast each model would be, and what is wrong."""

from typing import Annotated

import typer

from codegen_cli.commands import options
from codegen_cli.contract.device_name import parse_device
from codegen_cli.terminal import console, drawing


def doctor(
    threads: options.Threads = None,
    device: options.Device = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
    quiet: options.Quiet = False,
) -> None:
    """Examine this machine and tell what is wrong.

    Shows the CPU and its kernels, threads, memory and files, measures for some seconds how fast
    memory is read and what the kernels make of it, and from that tells of every model and format
    whether it fits and the speed to expect, without having it here. With --device, asks PyTorch for
    GPUs, too, which takes seconds. Exits with 1 if something is broken.

    \b
    codegen doctor
    codegen doctor --threads 1
    codegen doctor --device auto
    codegen doctor --json | jq '.problems'
    """
    console.set_quiet(quiet)
    if device:
        parse_device(device)  # a mistake shows before the seconds that measuring takes
    from codegen_cli.measuring.checkup import examine, load_kernels
    from codegen_cli.measuring.findings import Problem
    from codegen_cli.reports.doctor_report import write_json, write_report
    from codegen_cli.session.kernel_delay import KernelDelay

    problems: list[Problem] = []
    with KernelDelay() as on_delay:
        runs = load_kernels(on_delay, problems)
    with drawing.progress("examining this machine") as advance:
        checkup = examine(threads, device or None, runs, problems, advance)
    write = write_json if as_json else write_report
    write(checkup)
    if checkup.is_broken:
        raise typer.Exit(1)
