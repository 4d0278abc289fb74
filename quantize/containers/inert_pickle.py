"""The pickle of a torch state dict -> plain values and records of its tensors; nothing is run.

A pickle is a program for a small stack machine. Python's own machine imports the names and calls
the objects that the program asks for, so this is another one: it knows the opcodes that a state
dict needs, a name becomes a marker whatever it names elsewhere, and the only "calls" are those
written out below. Opcodes: the documentation in the standard library's pickletools.py.
"""

import pickletools
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from quantize.containers.source_tensor import MAX_DIMENSIONS
from quantize.files.errors import UserError
from quantize.files.input_file import quoted

_ORDERED_DICT = "collections.OrderedDict"
_REBUILD_TENSOR = "torch._utils._rebuild_tensor_v2"
_STORAGES = {
    "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16",
    "torch.FloatStorage": "F32",
    "torch.ByteStorage": "U8",
    "torch.BoolStorage": "BOOL",
}
_ACCEPTED_NAMES = frozenset({_ORDERED_DICT, _REBUILD_TENSOR, *_STORAGES})

# A tensor takes some 40 opcodes, a thousand layers 13,000 tensors with their masks. Each opcode
# costs about 3 us and up to 200 bytes here, whatever it asks for.
_MOST_OPCODES = 1 << 20
# pickletools quotes whole arguments.
_LONGEST_REASON = 600

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"})
_STRINGS = frozenset({"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"})
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MARK = object()
_Sizes = tuple[int, ...]


class StorageRecord(NamedTuple):
    """A run of numbers in the archive: its entry data/{key} holds `numel` values of `dtype`."""

    dtype: str
    key: str
    numel: int


class TensorRecord(NamedTuple):
    """A tensor over a storage; offset and stride count values. No number is negative."""

    storage: StorageRecord
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Name:
    """An accepted name; it stands for nothing but itself."""

    text: str


def read_state_dict(content: bytes, where: str) -> dict[str, TensorRecord]:
    """The tensors of a pickled state dict, in its order; `where` names the pickle in errors.

    Attributes of the dict, such as torch's _metadata, are dropped. Raises UserError for any name,
    opcode or value that a state dict of plain tensors does not have.
    """
    try:
        state = _Machine(where).run(content)
    # What pickletools and the machine raise for bytes that make no sense; pickletools warns of
    # escapes that it does not know, which is an error where warnings are.
    except (ValueError, OverflowError, Warning) as error:
        raise UserError(
            f"{where} is not the pickle of a state dict: {str(error)[:_LONGEST_REASON]}",
            "The file is damaged, or is not a checkpoint; download it again.",
        ) from error
    hint = "Save the state dict alone: torch.save(model.state_dict(), path)."
    if not isinstance(state, dict):
        raise UserError(f"{where} holds {_described(state)}, need a dict of tensors", hint)
    for name, value in state.items():
        if not isinstance(value, TensorRecord):
            found = f"holds {_described(value)} as {quoted(name)}"
            raise UserError(f"{where} {found}, need a tensor", hint)
    return state


class _Machine:
    """The stack and the memo of one pickle."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._stack: list[object] = []
        self._memo: dict[int, object] = {}

    def run(self, content: bytes) -> object:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if opcode.name == "STOP":
                break
            if count == _MOST_OPCODES:
                raise ValueError(f"it has more than {_MOST_OPCODES} opcodes")
            self._step(opcode.name, argument)
        return self._pop()

    def _step(self, opcode: str, argument: Any) -> None:
        push = self._stack.append
        match opcode:
            case "PROTO" | "FRAME":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                push(_CONSTANTS[opcode])
            case _ if opcode in _NUMBERS or opcode in _STRINGS:
                push(argument)
            case "EMPTY_DICT":
                push({})
            case "MARK":
                push(_MARK)
            case "TUPLE":
                push(tuple(self._pop_to_mark()))
            case _ if opcode in _TUPLES:
                items = [self._pop() for _ in range(_TUPLES[opcode])]
                push(tuple(reversed(items)))
            case "GLOBAL":
                push(self._name(argument.replace(" ", ".")))
            case "STACK_GLOBAL":
                push(self._stack_name())
            case "BINPERSID":
                push(_storage(self._pop()))
            case "REDUCE":
                arguments, function = self._pop(), self._pop()
                push(_call(function, arguments))
            case "BUILD":
                self._pop()
                self._top_dict()
            case "SETITEM":
                value, key = self._pop(), self._pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._pop_to_mark())
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._top()
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._top()
            case "BINGET" | "LONG_BINGET":
                if argument not in self._memo:
                    raise ValueError(f"it recalls value {argument} before storing it")
                push(self._memo[argument])
            case "INST":
                self._name(argument.replace(" ", "."))
                raise ValueError("it uses the opcode INST")
            case _:
                raise ValueError(f"it uses the opcode {opcode}")

    def _name(self, text: str) -> _Name:
        if text not in _ACCEPTED_NAMES:
            raise UserError(
                f"{self._where} names {quoted(text)}; a checkpoint needs only "
                f"{', '.join(sorted(_ACCEPTED_NAMES))}",
                "The file was not loaded. A pickle can run programs: use the published checkpoint.",
            )
        return _Name(text)

    def _stack_name(self) -> _Name:
        """The name whose two parts lie on the stack.

        Only texts are joined: a tuple of itself, thirty times over, reads as gigabytes.
        """
        name, module = self._pop(), self._pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError(f"it names {_described(module)} and {_described(name)}, need strings")
        return self._name(f"{module}.{name}")

    def _top(self) -> object:
        if not self._stack:
            raise ValueError("its stack is empty")
        return self._stack[-1]

    def _top_dict(self) -> dict[object, object]:
        top = self._top()
        if not isinstance(top, dict):
            raise ValueError(f"it fills {_described(top)}, need a dict")
        return top

    def _pop(self) -> object:
        value = self._top()
        self._stack.pop()
        return value

    def _pop_to_mark(self) -> list[object]:
        items = []
        while (item := self._pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _set_items(self, items: list[object]) -> None:
        target = self._top_dict()
        if len(items) % 2:
            raise ValueError("it sets a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str):
                raise ValueError(f"it has {_described(key)} as a key, need a string")
            if key in target:
                raise ValueError(f"it has the key {quoted(key)} twice")
            target[key] = value


def _storage(identity: object) -> StorageRecord:
    """Judge a persistent id: ("storage", its class, key, device, numel)."""
    match identity:
        case ("storage", _Name(text=name), str(key), str(), int(numel)) if (
            name in _STORAGES and _is_count(numel)
        ):
            return StorageRecord(_STORAGES[name], key, numel)
    need = "('storage', storage class, key, device, number of values)"
    raise ValueError(f"it has the persistent id {quoted(identity)}, need {need}")


def _call(function: object, arguments: object) -> object:
    """What one of the two accepted calls makes."""
    match function, arguments:
        case _Name(text=name), () if name == _ORDERED_DICT:
            return {}
        case _Name(text=name), (StorageRecord() as storage, offset, shape, stride, *_) if (
            name == _REBUILD_TENSOR
        ):
            return _tensor(storage, offset, shape, stride)
    raise ValueError(f"it calls {_described(function)} with {quoted(arguments)}")


def _tensor(storage: StorageRecord, offset: object, shape: object, stride: object) -> TensorRecord:
    """Judge the arguments of _rebuild_tensor_v2 that place a tensor in its storage.

    Dimensions are counted before they are looked at: a tuple that is spelled out once can be
    recalled for every tensor.
    """
    sound = (
        isinstance(shape, tuple)
        and isinstance(stride, tuple)
        and len(shape) == len(stride) <= MAX_DIMENSIONS
        and all(_is_count(number) for number in (offset, *shape, *stride))
    )
    if not sound:
        found = f"offset {quoted(offset)}, size {quoted(shape)}, stride {quoted(stride)}"
        need = f"whole numbers, none negative, and at most {MAX_DIMENSIONS} dimensions"
        raise ValueError(f"it has a tensor with {found}, need {need}")
    return TensorRecord(storage, cast(int, offset), cast(_Sizes, shape), cast(_Sizes, stride))


def _is_count(value: object) -> bool:
    """Whether it is a whole number that torch could write: 64 bits, not negative, no bool."""
    return type(value) is int and 0 <= value < 1 << 63


def _described(value: object) -> str:
    return value.text if isinstance(value, _Name) else f"a value of type {type(value).__name__}"
