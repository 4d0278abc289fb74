"""Ids of some texts -> their hidden states: computed at once, or as a recorded graph.

Hundreds of small kernels make a step, and the CPU has to start each. So a step that comes again and
again, of one text and a few ids, is recorded as a CUDA graph and started as a whole: it reads ids
and positions from tensors that keep their place, and keys and values in the slot that it was
recorded for.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from codegen_cli.engine_torch.devices import current
from codegen_cli.engine_torch.kv_cache import SPAN, Slot
from codegen_cli.engine_torch.model import Model, TextRows
from codegen_cli.terminal import console
from quantize.description.formats import round_up

WIDTHS = (1, 2, 4, 8, 16)
"""Ids of a recorded step; fewer are padded by further ones, whose keys and values nobody sees."""

_STEPS_BEFORE = 4
"""Steps of a kind that are computed at once before the next one is recorded: recording takes about
two steps, and a short completion shall not wait for it. Not tuned on a GPU."""

Compute = Callable[[], Tensor]
Record = Callable[[Compute], Compute]
"""Returns what computes the same again, into the same tensor, from what the inputs then hold."""


class Text(NamedTuple):
    """What a text brings to a step: ids that follow the first n_past in its slot."""

    ids: Sequence[int]
    n_past: int
    slot: Slot


class _Kind(NamedTuple):
    """Which steps a recording serves, in one slot."""

    width: int
    length: int
    dtype: torch.dtype


class _Recording(NamedTuple):
    """inputs [2, width] i64: ids and positions, to be filled before it is replayed.

    It must not hold on to its slot, with which it goes.
    """

    inputs: Tensor
    replay: Compute


class Steps:
    """The steps of a model; record: None where they are always computed at once."""

    def __init__(self, model: Model, record: Record | None) -> None:
        self.model, self._record = model, record
        self._counts: WeakKeyDictionary[Slot, dict[_Kind, int]] = WeakKeyDictionary()
        self._recordings: WeakKeyDictionary[Slot, dict[_Kind, _Recording]] = WeakKeyDictionary()

    def states(self, texts: Sequence[Text], dtype: torch.dtype) -> Tensor:
        """Append the ids of each text; return the hidden states of all, [n, n_embd], in order.

        They hold until the next step.
        """
        if len(texts) == 1 and self._record is not None:
            recording = self._recording_for(texts[0], dtype, self._record)
            if recording is not None:
                _fill(recording, texts[0])
                return recording.replay()[: len(texts[0].ids)]
        device = self.model.first_device
        rows, start = [], 0
        for ids, n_past, slot in texts:
            end = n_past + len(ids)
            own = slice(start, start + len(ids))
            positions = torch.arange(n_past, end, device=device)
            rows.append(TextRows(own, slot, positions, round_up(end, SPAN)))
            start = own.stop
        ids = torch.tensor([id for text in texts for id in text.ids], device=device)
        return self.model.states(ids, rows, dtype)

    def _recording_for(self, text: Text, dtype: torch.dtype, record: Record) -> _Recording | None:
        """Return the recording that serves a step, made if it is time to; None: there is none."""
        width = next((width for width in WIDTHS if width >= len(text.ids)), 0)
        end = text.n_past + width
        if not width or end > text.slot.capacity:
            return None
        kind = _Kind(width, round_up(end, SPAN), dtype)
        recordings = self._recordings.setdefault(text.slot, {})
        if kind not in recordings:
            counts = self._counts.setdefault(text.slot, {})
            counts[kind] = counts.get(kind, 0) + 1
            if counts[kind] <= _STEPS_BEFORE:
                return None
            recording = self._recorded(kind, text, record)
            if recording is None:
                return None
            recordings[kind] = recording
        return recordings[kind]

    def _recorded(self, kind: _Kind, text: Text, record: Record) -> _Recording | None:
        """Return a new recording; None, and none is tried any more, where the device refuses."""
        device = self.model.first_device
        inputs = torch.zeros((2, kind.width), dtype=torch.int64, device=device)
        ids, positions = inputs
        rows = [TextRows(slice(0, kind.width), text.slot, positions, kind.length)]
        recording = _Recording(inputs, partial(self.model.states, ids, rows, kind.dtype))
        _fill(recording, text)  # recording computes, too
        try:
            return recording._replace(replay=record(recording.replay))
        except RuntimeError as error:  # memory is short, or something cannot be recorded
            self._record = None
            reason = str(error).strip().splitlines()[0]
            console.warn(f"steps cannot be recorded as a graph, so it is slower: {reason}")
            return None


def _fill(recording: _Recording, text: Text) -> None:
    width = recording.inputs.shape[1]
    padded = [*text.ids, *[text.ids[-1]] * (width - len(text.ids))]
    positions = range(text.n_past, text.n_past + width)
    recording.inputs.copy_(torch.tensor([padded, positions]))


def cuda_graphs(device: torch.device) -> Record:
    """Return what records graphs of a device, which share the memory for what lies between."""
    pool = torch.cuda.graph_pool_handle()

    def record(compute: Compute) -> Compute:
        with current(device):
            before, stream = torch.cuda.current_stream(), torch.cuda.Stream()
            stream.wait_stream(before)
            with torch.cuda.stream(stream):
                compute()  # libraries make themselves ready
            before.wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            try:
                # Other threads of the program may use the GPU meanwhile.
                mode = "thread_local"
                with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode=mode):
                    result = compute()
            finally:
                torch.cuda.set_stream(before)  # where capturing failed, PyTorch does not

        def replay() -> Tensor:
            with current(device):
                graph.replay()
            return result

        return replay

    return record
