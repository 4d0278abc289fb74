"""Engines measured in turn, round after round -> lines of JSON, one per trial.

The speed of memory on a shared machine drifts by a factor of two within minutes, so only numbers of
the same seconds compare: each round starts every engine afresh and takes each measure of all of
them in turn, in another order than the round before. table.py makes ratios of that.
"""

import compileall
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import places
from engine_client import EngineProcess, ReadLimit, Series, run_whole
from prepare import quantize_command

DEPTHS = (32, 256, 512, 1024, 1536, 1792)
"""Decode is measured after so many ids: all of them for the plot, COMPARED for the table."""
COMPARED_DEPTHS = (32, 1024)
COMPARED_TOKENS, PLOTTED_TOKENS = 128, 32
N_TEXTS, TEXTS_DEPTH = 8, 32
"""So many texts are decoded at once, each after so many ids of its own."""
PROMPTS = (512, 1536)
STAGES = 4 * 20 + 1
"""A token's forward pass of the 350M shape: four in each layer, and lm_head."""
WHOLE_RUNS, WHOLE_PROMPT, WHOLE_NEW = 3, 32, 64
QUANTIZE_ROUNDS = 3
PROMPT_TEXT = (
    'def mean(values):\n    """Return the arithmetic mean of a list."""\n'
    "    return sum(values) / len(values)\n\n\ndef"
)
"""WHOLE_PROMPT tokens."""

Record = Callable[..., None]


def all_series(threads: int) -> list[Series]:
    """What a round measures of the 350M shape, where it is there: the baseline may not be."""
    return [
        Series("codegen", "int4", threads),
        Series("llamacpp", "Q4_0", threads),
        Series("codegen", "int8", threads),
        Series("llamacpp", "Q8_0", threads),
        Series("openvino", "int8", threads),
        Series("codegen", "int4", 1),
        Series("codegen", "int8", 1),
        Series("baseline", "int4", threads),
        Series("baseline", "int8", threads),
    ]


def shares_only(threads: int) -> list[Series]:
    """What is measured of ours alone, for its share of what memory delivers."""
    return [Series("codegen", "int4", threads, "2B"), Series("codegen", "f16", threads)]


def many_series(threads: int) -> list[Series]:
    """What decodes several texts at once."""
    return [Series("codegen", "int4", threads), Series("llamacpp", "Q4_0", threads)]


def measure(path: Path, rounds: int, threads: int) -> None:
    """Write rounds.jsonl anew: a header line, then a line per trial. threads: at least 2."""
    series = [
        each
        for each in all_series(threads)
        if each.engine != "baseline" or places.BASELINE.exists()
    ]
    check_whole_run(series[0])
    with path.open("w") as file, ReadLimit() as limit:
        print(json.dumps(header(series)), file=file)
        for number in range(1, rounds + 1):
            measure_round(series, number, limit, partial(write_trial, file, number))


def measure_round(series: Sequence[Series], number: int, limit: ReadLimit, record: Record) -> None:
    """One round; the order of the engines moves on by one from round to round."""
    start = number % len(series)
    ordered = [*series[start:], *series[:start]]
    measure_whole_runs(series, record)
    if number <= QUANTIZE_ROUNDS:
        measure_quantize(series[0], record)
    with ExitStack() as stack:
        engines = [stack.enter_context(EngineProcess(each)) for each in ordered]
        for engine in engines:
            engine.ask("describe")  # answered once it is loaded: no trial beside another's loading
        for depth in DEPTHS:
            measure_decode(engines, depth, limit, record)
        for n_tokens in PROMPTS:
            measure_prefill(engines, n_tokens, record)
        measure_many(engines, record)
    for each in shares_only(series[0].threads):
        with EngineProcess(each) as alone:
            measure_decode([alone], COMPARED_DEPTHS[0], limit, record)


def measure_decode(
    engines: Sequence[EngineProcess], depth: int, limit: ReadLimit, record: Record
) -> None:
    """Each engine's greedy steps, with what memory delivers right before and after.

    staged_gb  of ours, after COMPARED_DEPTHS: what the loop in stages reads

    And there once more as `codegen complete` does it, with drafts.
    """
    n_tokens = COMPARED_TOKENS if depth in COMPARED_DEPTHS else PLOTTED_TOKENS
    for engine in engines:
        threads = engine.series.threads
        if threads == 1 and depth != COMPARED_DEPTHS[0]:
            continue
        engine.ask("read_to", n_past=depth)
        before = limit.gb_per_second(threads)
        trial = engine.ask("decode", n_tokens=n_tokens)
        trial["read_gb"] = (before + limit.gb_per_second(threads)) / 2
        if engine.series.engine == "codegen" and depth in COMPARED_DEPTHS:
            stage_bytes = engine.ask("describe")["touched_bytes"] // STAGES
            trial["staged_gb"] = limit.gb_per_second(threads, stage_bytes)
        record(engine.series, "decode", n=depth, n_tokens=n_tokens, **trial)
        if engine.series.engine == "codegen" and depth in COMPARED_DEPTHS:
            drafted = engine.ask("complete", n_past=depth, n_tokens=n_tokens)
            record(engine.series, "drafted", n=depth, n_tokens=n_tokens, **drafted)


def measure_prefill(engines: Sequence[EngineProcess], n_tokens: int, record: Record) -> None:
    """Whole prompts; not of llama.cpp, which is no rival there."""
    for engine in engines:
        if engine.series.threads == 1 and n_tokens != PROMPTS[0]:
            continue
        if engine.series.engine != "llamacpp":
            trial = engine.ask("prefill", n_tokens=n_tokens)
            record(engine.series, "prefill", n=n_tokens, n_tokens=n_tokens, **trial)


def measure_many(engines: Sequence[EngineProcess], record: Record) -> None:
    """Greedy steps of several texts at once, in four bits: a token of each in a step."""
    n_tokens, threads = N_TEXTS * COMPARED_TOKENS, max(each.series.threads for each in engines)
    for engine in engines:
        if engine.series in many_series(threads):
            request = {"n_texts": N_TEXTS, "n_past": TEXTS_DEPTH, "n_tokens": n_tokens}
            trial = engine.ask("decode_many", **request)
            record(engine.series, "many", n=TEXTS_DEPTH, n_tokens=n_tokens, **trial)


def measure_whole_runs(series: Sequence[Series], record: Record) -> None:
    """Processes from their start to their end, in turn; files and kernels are in the page cache."""
    ours, theirs = series[:2]
    once = [*theirs.command, "--once", str(WHOLE_PROMPT), str(WHOLE_NEW)]
    for _ in range(WHOLE_RUNS):
        record(ours, "whole", n=WHOLE_PROMPT, **run_whole(complete_command(ours)))
        without_drafts = complete_command(ours, "--draft", "0")
        record(ours, "undrafted", n=WHOLE_PROMPT, **run_whole(without_drafts))
        record(theirs, "whole", n=WHOLE_PROMPT, **run_whole(once))
        record(ours, "libraries", n=0, **run_whole(libraries_command(ours)))


def libraries_command(series: Series) -> list[str]:
    """What no run of `codegen complete` can do without."""
    script = Path(__file__).with_name("libraries.py")
    tokenizer = places.checkpoint(series.size) / "tokenizer.json"
    model = places.model(series.size, "codegen", series.format)
    return [sys.executable, str(script), str(tokenizer), str(model), str(series.threads)]


def measure_quantize(ours: Series, record: Record) -> None:
    target = places.BENCH_HOME / ours.size / "timed.safetensors"
    result = run_whole(quantize_command(ours.size, ours.format, target))
    target.unlink()
    record(ours, "quantize", n=0, **result)


def complete_command(series: Series, *options: str) -> list[str]:
    """The command line by which a user completes PROMPT_TEXT greedily, to WHOLE_NEW tokens."""
    codegen = str(Path(sys.executable).with_name("codegen"))
    model = ["--model", str(places.model(series.size, "codegen", series.format))]
    length = ["--max-tokens", str(WHOLE_NEW), "--until", "none", "--temperature", "0"]
    threads = ["--threads", str(series.threads), "--quiet"]
    return [codegen, "complete", *model, *length, *threads, *options, PROMPT_TEXT]


def check_whole_run(series: Series) -> None:
    """The comparison of whole runs is of as many tokens; compiles the kernels if need be.

    And the bytecode, which an installed copy has, and one that runs from its sources may lack.
    """
    for package in ("codegen_cli", "quantize"):
        compileall.compile_dir(places.PROJECT / package, quiet=1)
    report = json.loads(subprocess.check_output(complete_command(series, "--json")))["usage"]
    found = report["prompt_tokens"], report["completion_tokens"]
    if found != (WHOLE_PROMPT, WHOLE_NEW):
        sys.exit(f"`codegen complete` took {found} tokens, need {WHOLE_PROMPT, WHOLE_NEW}")


def header(series: Sequence[Series]) -> dict[str, Any]:
    """What was measured, when, where."""
    descriptions = {}
    for each in (*series, *shares_only(series[0].threads)):
        with EngineProcess(each) as engine:
            descriptions[each.name] = engine.ask("describe")
        if each.engine == "baseline":
            descriptions[each.name]["version"] = f"baseline {commit(places.BASELINE)}"
    verified = places.BENCH_HOME / "verified.json"
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": series[0].threads,
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "commit": commit(places.PROJECT),
        "kernels": descriptions[series[0].name]["kernels"],
        "engines": descriptions,
        "verified": json.loads(verified.read_text()) if verified.exists() else {},
    }


def cpu_name() -> str:
    """The processor's name, family and model: a virtual machine's name alone says little."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    known = [fields[key] for key in ("model name", "cpu family", "model") if key in fields]
    return ", ".join(known[:1] + [f"family {known[1]} model {known[2]}"] * (len(known) == 3))


def commit(checkout: Path) -> str:
    """A checkout's commit, with a + when files differ from it."""
    git = ["git", "-C", str(checkout)]
    name = subprocess.check_output([*git, "rev-parse", "--short", "HEAD"], text=True).strip()
    changed = subprocess.check_output([*git, "status", "--porcelain"], text=True).strip()
    return name + ("+" if changed else "")


def write_trial(file: Any, number: int, series: Series, metric: str, **values: Any) -> None:
    """Write a line, and say on stderr what it was."""
    rounded = {
        key: round(value, 5) if isinstance(value, float) else value for key, value in values.items()
    }
    trial = {"round": number, **series._asdict(), "metric": metric, **rounded}
    print(json.dumps(trial), file=file, flush=True)
    name = f"{series.size} {series.engine} {series.format}, {series.threads} threads"
    speed = (
        f"{values['n_tokens'] / values['seconds']:8.1f} tokens/s" if "n_tokens" in values else ""
    )
    disturbed = "disturbed" if values["other_cores"] >= 0.2 else ""
    print(
        f"round {number}  {name:36} {metric:8} {values['n']:5} {values['seconds']:8.3f} s"
        f" {speed} {disturbed}",
        file=sys.stderr,
        flush=True,
    )
