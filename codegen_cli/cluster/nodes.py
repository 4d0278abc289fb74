"""The nodes of a cluster -> those that can answer lines, and how many workers they take."""

from collections.abc import Iterable
from typing import NamedTuple

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from codegen_cli.cluster.model_copy import SharedModel, find_model
from codegen_cli.cluster.versions import Versions, require_same, versions
from quantize.files.errors import UserError

# A node starts a process of Python for the question, and may do so for the first time.
_PATIENCE_SECONDS = 120


class Node(NamedTuple):
    """A machine of the cluster.

    id       as Ray names it
    address  for people
    n_cpus   that Ray gives away there
    """

    id: str
    address: str
    n_cpus: int


class Team(NamedTuple):
    """So many workers, of so many threads each."""

    n_workers: int
    n_threads: int


def nodes() -> list[Node]:
    """Return the nodes that are up now and have CPUs to give away."""
    found = [
        Node(each["NodeID"], each["NodeManagerAddress"], int(each["Resources"].get("CPU", 0)))
        for each in ray.nodes()
        if each["Alive"]
    ]
    return [node for node in found if node.n_cpus > 0]


def plan_team(nodes: Iterable[Node], n_threads: int | None, most_threads: int) -> Team:
    """Return the workers that nodes have room for.

    n_threads     of each; None: as many as the smallest node has CPUs, so that larger ones take
                  several workers, and no more than find work in the model
    most_threads  those
    """
    sizes = [node.n_cpus for node in nodes]
    if not sizes:
        raise UserError(
            "no node of the cluster has CPUs to give away",
            "Start one: ray start --address=HOST:6379 --num-cpus=N",
        )
    n = n_threads or min(most_threads, *sizes)
    n_workers = sum(size // n for size in sizes)
    if n_workers == 0:
        raise UserError(
            f"no node of the cluster has {n} CPUs, the largest has {max(sizes)}",
            "Give fewer --threads.",
        )
    return Team(n_workers, n)


def ask_nodes(asked_nodes: Iterable[Node], model: SharedModel, need: Versions) -> list[Node]:
    """Return the nodes that lack the model; UserError where codegen is missing or another one."""
    task = ray.remote(num_cpus=0, max_retries=1)(_state)
    asked = {}
    for node in asked_nodes:
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        asked[node] = task.options(scheduling_strategy=there).remote(model)
    lacking = []
    for node, answer in asked.items():
        try:
            found, has_model = ray.get(answer, timeout=_PATIENCE_SECONDS)
        except GetTimeoutError as error:
            raise UserError(
                f"node {node.address} did not answer within {_PATIENCE_SECONDS} s",
                "Look at `ray status`, and at Ray's logs on that node.",
            ) from error
        except RayError as error:
            if node.id not in {each.id for each in nodes()}:
                continue  # it has gone meanwhile
            raise UserError(
                f"node {node.address} cannot run codegen: {last_line(error)}",
                f"Each node needs codegen {need.version} with Ray, in the Python that Ray runs in.",
            ) from error
        require_same(found, need, f"node {node.address}")
        if not has_model:
            lacking.append(node)
    return lacking


def last_line(error: BaseException) -> str:
    """Return what an error says in its last line: before that stand tracebacks of several nodes."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _state(model: SharedModel) -> tuple[Versions, bool]:
    """Return what is on the node where this runs: its codegen, and whether it has the model."""
    return versions(), find_model(model) is not None
