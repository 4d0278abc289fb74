"""`codegen batch`: a file of prompts -> a file of answers, which goes on where it was."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from codegen_cli.commands import options
from codegen_cli.commands.complete import (
    Draft,
    Logprobs,
    MaxTokens,
    Samples,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
)
from codegen_cli.commands.overwriting import refuse_overwritten_texts
from codegen_cli.commands.prompt_input import STDIN
from codegen_cli.commands.ray_option import Ray, RayHub
from codegen_cli.decoding import defaults
from codegen_cli.terminal import console

Until = Annotated[
    defaults.Until,
    typer.Option(
        "--until",
        envvar="CODEGEN_UNTIL",
        help="function: end where the function or method ends, as codegen complete does.",
    ),
]


def batch(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="A line of JSON for each prompt; - is stdin.")
    ] = STDIN,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="OUT", help="Append the answers here; else to stdout."
        ),
    ] = None,
    model: options.Model = None,
    max_tokens: MaxTokens = defaults.MAX_TOKENS,
    temperature: Temperature = defaults.TEMPERATURE,
    top_p: TopP = defaults.TOP_P,
    top_k: TopK = defaults.TOP_K,
    seed: Seed = None,
    samples: Samples = 1,
    draft: Draft = defaults.DRAFT,
    stop: Stop = None,
    until: Until = defaults.UNTIL,
    special_tokens: options.SpecialTokens = False,
    logprobs: Logprobs = None,
    created: Annotated[
        int,
        typer.Option(
            "--created", min=0, max=2**53, metavar="TIME", help="Unix time in the answers."
        ),
    ] = 0,
    threads: options.Threads = None,
    device: options.Device = None,
    ignore_memory: options.IgnoreMemory = False,
    ray: Ray = None,
    ray_hub: RayHub = False,
    quiet: options.Quiet = False,
) -> None:
    """Complete many prompts, one a line.

    A line is {"prompt": ...} with an id and options of its own if you like (max_tokens,
    temperature, top_p, top_k, seed, stop, until, n, logprobs, echo, special_tokens); those given
    here hold for the other lines. Or it is a line of OpenAI's batch format. Each gets a line of
    JSON in OUT, in the order of IN. A line that is no good gets an error there and the rest goes
    on; the exit code is then 1.

    Whatever ends it, the same command goes on where it was. What is in OUT does not depend on that,
    nor on threads or machines: each line's seed follows from the job's and from its id, or its
    content.

    \b
    codegen batch prompts.jsonl -o answers.jsonl
    codegen batch prompts.jsonl -o answers.jsonl -m 350M-mono:int4 --seed 7
    codegen batch prompts.jsonl -o answers.jsonl -N 20 -t 0.8 --logprobs 0
    codegen batch prompts.jsonl -o answers.jsonl --ray 10.0.0.1:6379
    codegen batch -n 64 -t 0 < prompts.jsonl | jq -r '.choices[0].text'
    jq -c 'select(.error)' answers.jsonl
    """
    console.set_quiet(quiet)
    path = None if source == STDIN else Path(source)
    if path is None and sys.stdin.isatty():
        raise typer.BadParameter("give IN, or a pipe on stdin")
    if output is not None:
        refuse_overwritten_texts([source], output)
    if ray_hub and ray is None:
        raise typer.BadParameter("--ray-hub needs --ray")
    from codegen_cli.batch.answering import on_this_machine
    from codegen_cli.batch.opening import begin_job, open_output
    from codegen_cli.batch.running import run_job, tell_of_shortage
    from codegen_cli.batch.settings import Settings
    from codegen_cli.batch.source import Source
    from codegen_cli.cluster.opening import on_cluster
    from codegen_cli.contract.interruption import run_interruptibly
    from codegen_cli.terminal.streams import read_stdin

    if ray is None:
        answering = on_this_machine(
            model,
            threads,
            device=device,
            ignore_memory=ignore_memory,
            on_shortage=tell_of_shortage,
        )
    else:
        answering = on_cluster(
            ray, model, threads, device=device, ignore_memory=ignore_memory, from_hub=ray_hub
        )
    with (
        run_interruptibly(lambda: Source(path, read_stdin)) as content,
        open_output(output) as out,
        answering as answerer,
    ):
        settings = Settings(
            model=answerer.model,
            options={
                "max_tokens": max_tokens,
                "temperature": temperature,
                "top_p": top_p,
                "top_k": top_k,
                "stop": list(stop or ()),
                "until": until,
                "special_tokens": special_tokens,
                "n": samples,
                "logprobs": logprobs,
            },
            created=created,
            draft=draft,
        )
        job = begin_job(content, out, settings, answerer.identity, seed)
        run_job(job, answerer.answers(job.lines(), settings), source)
