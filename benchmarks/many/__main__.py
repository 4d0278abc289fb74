"""Many texts at once, measured as ratios within one run: python benchmarks/many FILE [LINE...]

    decode    8 texts of their own after 32 and after 1024 tokens / one text
    samples   5 samples of a 256-token prompt / one
    joining   a 1500-token prompt comes to 4 texts that are being continued
    memory    the largest resident set of 8 and 16 texts / the forecast
    batch     `codegen batch` of HumanEval's prompts / a loop of `codegen complete`: --humaneval
    score     `codegen score` of 200 short texts, after / before: --before CHECKOUT

FILE is a packed file; benchmarks/make_checkpoint.py makes one of the 350M shape. Temperature 0.2,
no drafts. Without a LINE: all for which there is what they need.
"""

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from commands import HumanEval, Memory, Score
from decoding import LENGTHS, Decoding, Samples
from joining import Joining
from lines import Line, table
from texts import Words
from watched import Watched

from codegen_cli.machine import cpu
from codegen_cli.machine.disturbance import OtherPrograms
from codegen_cli.session.language_model import LanguageModel
from codegen_cli.session.loading import load_engine
from codegen_cli.text.text_side import TextSide
from quantize.packed.packed_file import packed_file
from quantize.packed.packed_header import read_packed_header

LINES = ("memory", "score", "batch", "decode", "samples", "joining")


def processes(arguments: argparse.Namespace) -> Iterator[Any]:
    """Yield what measures processes, before this one is large: the kernel counts that to them."""
    wanted, model, threads = arguments.lines, arguments.file, arguments.threads
    if "memory" in wanted:
        yield Memory(model, threads)
    if "score" in wanted and arguments.before:
        yield Score(model, threads, arguments.before)
    if "batch" in wanted and arguments.humaneval:
        yield HumanEval(model, threads, arguments.humaneval, arguments.prompts)


def in_process(wanted: Sequence[str]) -> Iterator[Any]:
    """Yield what measures a loaded model."""
    if "decode" in wanted:
        yield from (Decoding(depth, cpu.kernel_path()) for depth in LENGTHS)
    if "samples" in wanted:
        yield Samples()
    if "joining" in wanted:
        yield Joining()


def take_rounds(measures: Sequence[Any], n_rounds: int, *arguments: Any) -> list[Line]:
    """Run each in turn, round by round; return their lines."""
    for number in range(1, n_rounds + 1) if measures else ():
        print(f"round {number}", flush=True)
        for measure in measures:
            others = OtherPrograms()
            measure.run(*arguments)
            cores = others.cores()
            if arguments and cores is not None:
                print(f"    beside it, other programs kept {cores:.2f} cores busy", flush=True)
    return [line for measure in measures for line in measure.lines]


def measure_loaded(arguments: argparse.Namespace) -> list[Line]:
    """Run what measures a loaded model."""
    text = TextSide(read_packed_header(arguments.file))
    name = arguments.file.name
    engine = Watched(load_engine(packed_file(text.header), name, arguments.threads))
    with LanguageModel(engine, text, name) as model:
        print(engine.device, flush=True)
        measures = [*in_process(arguments.lines)]
        return take_rounds(measures, arguments.rounds, model, engine, Words(model))


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("lines", nargs="*", metavar="LINE", default=LINES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--before", type=Path, metavar="CHECKOUT")
    parser.add_argument("--humaneval", type=Path, metavar="FILE")
    parser.add_argument("--prompts", type=int, help="Of HumanEval's only so many.")
    arguments = parser.parse_args()
    if unknown := set(arguments.lines) - set(LINES):
        parser.error(f"no such line: {', '.join(sorted(unknown))}")
    return arguments


def main() -> None:
    arguments = parsed()
    print(f"{cpu.name()}, {os.cpu_count()} cores, {arguments.threads} threads, {arguments.file}")
    found = take_rounds([*processes(arguments)], arguments.rounds)
    if {"decode", "samples", "joining"} & set(arguments.lines):
        found += measure_loaded(arguments)
    print(f"\n{table(found)}")


if __name__ == "__main__":
    main()
