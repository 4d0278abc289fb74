"""The pickle of a state dict is read without running anything that it names."""

import builtins
import os
import pickle
import pickletools

import pytest
from checkpoints import Call, Global, Persistent, pickled, storage, tensor_call

from quantize.containers.inert_pickle import StorageRecord, TensorRecord, read_state_dict
from quantize.files.errors import UserError

WHERE = "archive/data.pkl"
STORAGE = storage("0", "F16", 12)
ORDERED_DICT = pickle.GLOBAL + b"collections\nOrderedDict\n"


def program(opcodes: bytes) -> bytes:
    """A protocol 2 pickle of these opcodes."""
    return pickle.PROTO + b"\x02" + opcodes + pickle.STOP


def refusal(content: bytes) -> UserError:
    with pytest.raises(UserError) as caught:
        read_state_dict(content, WHERE)
    assert caught.value.message.startswith(WHERE)
    assert caught.value.hint
    return caught.value


def test_attributes_of_the_dict_are_dropped() -> None:
    """torch's state_dict() carries _metadata, which pickles as a BUILD."""
    ordered = ORDERED_DICT + pickle.EMPTY_TUPLE + pickle.REDUCE
    attributes = pickled({"_metadata": {"": {"version": 1}}})[2:-1]
    assert read_state_dict(program(ordered + attributes + pickle.BUILD), WHERE) == {}


def stack_global(module: bytes, name: bytes) -> bytes:
    texts = (pickle.SHORT_BINUNICODE + bytes([len(text)]) + text for text in (module, name))
    return b"".join(texts) + pickle.STACK_GLOBAL


def test_newer_pickle_protocol_is_read() -> None:
    """Protocol 4 has frames, another memo and another way to name things."""
    of = STORAGE
    content = pickled({"a": tensor_call(of, (3,), (2,), 5), "b": tensor_call(of, (2, 6), (6, 1))})
    content = pickletools.optimize(b"\x80\x04" + content[2:])
    content = content.replace(
        pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n",
        stack_global(b"torch._utils", b"_rebuild_tensor_v2"),
    )
    used = {opcode.name for opcode, _, _ in pickletools.genops(content)}
    assert {"FRAME", "MEMOIZE", "BINGET", "STACK_GLOBAL"} <= used
    half = StorageRecord("F16", "0", 12)
    assert read_state_dict(content, WHERE) == {
        "a": TensorRecord(half, 5, (3,), (2,)),
        "b": TensorRecord(half, 0, (2, 6), (6, 1)),
    }


def os_system() -> bytes:
    return pickle.GLOBAL + b"os\nsystem\n" + pickle.UNICODE + b"true\n" + pickle.TUPLE1


@pytest.mark.parametrize(
    ("opcodes", "name"),
    [
        (os_system() + pickle.REDUCE, "os.system"),
        (stack_global(b"builtins", b"eval"), "builtins.eval"),
        (pickle.MARK + pickle.INST + b"os\nsystem\n", "os.system"),
        (pickle.MARK + pickle.GLOBAL + b"os\nsystem\n" + pickle.OBJ, "os.system"),
        (pickle.GLOBAL + b"copyreg\n_reconstructor\n", "copyreg._reconstructor"),
        (
            pickle.GLOBAL + b"collections\nOrderedDict.fromkeys\n",
            "collections.OrderedDict.fromkeys",
        ),
        (pickle.GLOBAL + b"torch\nLongStorage\n", "torch.LongStorage"),
        (pickle.GLOBAL + b"torch._utils\n_rebuild_parameter\n", "torch._utils._rebuild_parameter"),
    ],
)
def test_foreign_name_is_refused_and_not_called(
    monkeypatch: pytest.MonkeyPatch, opcodes: bytes, name: str
) -> None:
    def called(*arguments: object) -> None:
        raise AssertionError(f"called with {arguments}")

    monkeypatch.setattr(os, "system", called)
    monkeypatch.setattr(builtins, "eval", called)
    error = refusal(program(opcodes))
    assert f"{WHERE} names '{name}'; a checkpoint needs only" in error.message
    assert "collections.OrderedDict, torch.BFloat16Storage" in error.message
    assert "was not loaded" in error.hint


@pytest.mark.parametrize(
    ("opcodes", "problem"),
    [
        (pickle.EXT1 + b"\x01", "it uses the opcode EXT1"),
        (pickle.MARK + pickle.INST + b"collections\nOrderedDict\n", "it uses the opcode INST"),
        (pickle.MARK + ORDERED_DICT + pickle.OBJ, "it uses the opcode OBJ"),
        (ORDERED_DICT + pickle.EMPTY_TUPLE + pickle.NEWOBJ, "it uses the opcode NEWOBJ"),
        (ORDERED_DICT + pickle.EMPTY_DICT + pickle.BUILD, "it fills collections.OrderedDict"),
        (pickle.PERSID + b"0\n", "it uses the opcode PERSID"),
        (pickle.NEXT_BUFFER, "it uses the opcode NEXT_BUFFER"),
        (ORDERED_DICT + pickle.NONE + pickle.REDUCE, "it calls collections.OrderedDict with None"),
        (ORDERED_DICT + pickle.NONE + pickle.TUPLE1 + pickle.REDUCE, "with (None,)"),
        (pickle.NONE + pickle.EMPTY_TUPLE + pickle.REDUCE, "it calls a value of type NoneType"),
        (pickle.TUPLE1, "its stack is empty"),
        (pickle.TUPLE, "its stack is empty"),
        (pickle.BINPUT + b"\x00", "its stack is empty"),
        (b"", "its stack is empty"),
        (pickle.BINGET + b"\x07", "it recalls value 7 before storing it"),
        (pickle.LONG_BINGET + b"\xff\xff\xff\xff", "it recalls value 4294967295"),
        (pickle.EMPTY_DICT + pickle.NONE * 2 + pickle.SETITEM, "NoneType as a key, need a string"),
        (pickle.NONE * 3 + pickle.SETITEM, "it fills a value of type NoneType, need a dict"),
        (
            pickle.EMPTY_DICT + pickle.MARK + pickle.NONE + pickle.SETITEMS,
            "it sets a key without a",
        ),
        (b"\xff", "opcode b'\\xff' unknown"),
        (pickle.BINUNICODE + b"\xff\xff\xff\x7f", "expected 2147483647 bytes"),
    ],
)
def test_opcode_without_a_place_in_a_state_dict_is_named(opcodes: bytes, problem: str) -> None:
    error = refusal(program(opcodes))
    assert "is not the pickle of a state dict" in error.message
    assert problem in error.message


def test_key_given_twice_is_refused() -> None:
    item = pickled("a")[2:-1] + pickle.NONE
    opcodes = pickle.EMPTY_DICT + pickle.MARK + item + item + pickle.SETITEMS
    assert "it has the key 'a' twice" in refusal(program(opcodes)).message


@pytest.mark.parametrize(
    "identity",
    [
        ("storage", Global("torch HalfStorage"), "0", "cpu"),
        ("storage", Global("torch HalfStorage"), 0, "cpu", 12),
        ("storage", Global("torch HalfStorage"), "0", None, 12),
        ("storage", Global("torch HalfStorage"), "0", "cpu", True),
        ("storage", Global("torch HalfStorage"), "0", "cpu", -1),
        ("storage", Global("torch HalfStorage"), "0", "cpu", 1 << 64),
        ("storage", Global("collections OrderedDict"), "0", "cpu", 12),
        ("storage", "torch.HalfStorage", "0", "cpu", 12),
        ("module", Global("torch HalfStorage"), "0", "cpu", 12),
        "storage",
        None,
    ],
)
def test_persistent_id_of_wrong_types_is_refused(identity: object) -> None:
    state = {"a": tensor_call(Persistent(identity), (2,), (1,))}
    message = refusal(pickled(state)).message
    assert "it has the persistent id" in message
    assert "need ('storage', storage class, key, device, number of values)" in message


@pytest.mark.parametrize(
    ("shape", "stride", "offset"),
    [
        ((-3, 4), (4, 1), 0),
        ((3, 4), (4, -1), 0),
        ((3, 4), (4, 1), -1),
        ((True, 4), (4, 1), 0),
        ((3, 4), (4, 1), False),
        ((3, 4), (4,), 0),
        (12, 1, 0),
        ((1 << 63,), (1,), 0),
        (("3",), (1,), 0),
        ((1,) * 9, (1,) * 9, 0),
    ],
)
def test_tensor_of_wrong_types_is_refused(shape: object, stride: object, offset: object) -> None:
    message = refusal(pickled({"a": tensor_call(STORAGE, shape, stride, offset)})).message
    assert "it has a tensor with offset" in message
    assert "need whole numbers, none negative, and at most 8 dimensions" in message


def test_tensor_over_no_storage_is_refused() -> None:
    error = refusal(pickled({"a": tensor_call(None, (2,), (1,))}))
    assert "it calls torch._utils._rebuild_tensor_v2 with (None, 0, (2,)" in error.message


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        ({"state_dict": {}, "epoch": 3}, "holds a value of type dict as 'state_dict', need a ten"),
        ({"a": 3}, "holds a value of type int as 'a', need a tensor"),
        ((), "holds a value of type tuple, need a dict of tensors"),
        (Global("torch HalfStorage"), "holds torch.HalfStorage, need a dict of tensors"),
        ({"a": Call(Global("collections OrderedDict"), ())}, "holds a value of type dict as 'a'"),
    ],
)
def test_other_content_than_a_state_dict_is_named(state: object, problem: str) -> None:
    error = refusal(pickled(state))
    assert problem in error.message
    assert "torch.save(model.state_dict(), path)" in error.hint
