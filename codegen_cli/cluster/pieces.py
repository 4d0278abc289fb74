"""Pieces of the driver's file -> whichever node asks for them, by way of Ray's object store."""

from functools import partial
from typing import cast

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from codegen_cli.cluster.model_copy import Piece, ReadPiece, SharedModel, read_piece

_MOST_RETRIES = 3


def reader(model: SharedModel, driver: str) -> ReadPiece:
    """Return what brings pieces from the node of the driver, given by its id.

    One is in memory at a time, there and here: a task reads it, and it goes as soon as it is used.
    """
    on_driver = NodeAffinitySchedulingStrategy(driver, soft=False)
    task = ray.remote(num_cpus=0, max_retries=_MOST_RETRIES, scheduling_strategy=on_driver)(
        read_piece
    )
    return partial(_bring, task, model)


def _bring(task: "ray.remote_function.RemoteFunction", model: SharedModel, index: int) -> Piece:
    return cast(Piece, ray.get(task.remote(model, index)))


def this_node() -> str:
    """Return the address of this process's node."""
    return cast(str, ray.util.get_node_ip_address())
