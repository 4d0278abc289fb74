"""This project beside llama.cpp and OpenVINO on one machine: python benchmarks/peers [STEP...]

    setup     virtual environments of the peers under BENCH_HOME; compiles llama.cpp and limits.c
    prepare   random checkpoints of the 350M and 2B shapes, converted for each engine
    verify    does each engine compute the same model?
    measure   rounds of all engines in turn
    report    the table, on stdout

Without a step: all of these. benchmarks/README.md tells what is measured and how long it takes. A
checkout of another commit under BENCH_HOME/baseline takes part as one more engine. One more step
has to be asked for:

    publish   writes results/MACHINE/: the rounds, the table and the plot
"""

import argparse
import os
import sys

import peer_venvs
import places
import rounds
from prepare import models, prepare
from verify import verify

STEPS = ("setup", "prepare", "verify", "measure", "report")
ROUNDS = places.BENCH_HOME / "rounds.jsonl"
# What a step needs, and the step that makes it.
NEEDS = {
    "prepare": (places.BENCH_HOME / "venvs" / "openvino" / "ready", "setup"),
    "verify": (places.model("350M", "openvino", "int8"), "prepare"),
    "measure": (places.model(*models()[-1]), "prepare"),
    "report": (ROUNDS, "measure"),
    "publish": (ROUNDS, "measure"),
}


def setup() -> None:
    peer_venvs.compile_limits()
    for peer in ("llamacpp", "openvino"):
        peer_venvs.set_up(peer)


def show_report() -> None:
    from report import report
    from trials import Rounds

    print(report(Rounds(ROUNDS)), end="")


def publish() -> None:
    """Write this machine's folder of results/; what was there is replaced."""
    from plot import draw
    from report import report
    from trials import Rounds

    found = Rounds(ROUNDS)
    folder = places.RESULTS / found.machine
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "rounds.jsonl").write_bytes(ROUNDS.read_bytes())
    (folder / "results.md").write_text(report(found))
    draw(found, folder / "decode.svg")
    print(f"{folder} is written; README.md and docs/performance.md need a line on it")


def take_step(step: str, n_rounds: int, threads: int) -> None:
    """Run one step; end where the one before it is missing."""
    if step in NEEDS and not NEEDS[step][0].exists():
        needed, maker = NEEDS[step]
        sys.exit(f"{needed} is missing: python {places.HERE} {maker}")
    match step:
        case "setup":
            setup()
        case "prepare":
            prepare()
        case "verify":
            verify()
        case "measure":
            rounds.measure(ROUNDS, n_rounds, threads)
        case "report":
            show_report()
        case "publish":
            publish()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="STEP")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    if unknown := set(arguments.steps) - {*STEPS, "publish"}:
        parser.error(f"no such step: {', '.join(sorted(unknown))}")
    if arguments.threads < 2:
        parser.error("need 2 threads or more: some lines compare them with 1")
    for step in arguments.steps or STEPS:
        take_step(step, arguments.rounds, arguments.threads)


if __name__ == "__main__":
    main()
