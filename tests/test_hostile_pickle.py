"""No pickle runs, imports or looks up anything, takes long, or is refused but by a UserError."""

import copyreg
import io
import os
import pickle
import pickletools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import pickled, storage, tensor_call
from hostile import examples, read_pickle, refused
from hypothesis import given
from hypothesis import strategies as st

PLANTED = "planted_by_a_pickle"
STATE = pickled({"a": tensor_call(storage("0", "F16", 12), (3, 4), (4, 1))})
ORDERED_DICT = pickle.GLOBAL + b"collections\nOrderedDict\n"
FOREIGN = pickle.GLOBAL + PLANTED.encode() + b"\nrun\n"
EXTENSION = 200


@pytest.fixture(autouse=True, scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module that says when it is imported, and an extension code that stands for it."""
    directory = tmp_path_factory.mktemp("planted")
    source = 'raise AssertionError("imported")\n'
    (directory / f"{PLANTED}.py").write_text(source, encoding="utf-8")
    sys.path.insert(0, str(directory))
    copyreg.add_extension(PLANTED, "run", EXTENSION)
    yield
    copyreg.remove_extension(PLANTED, "run", EXTENSION)
    sys.path.remove(str(directory))


class Evil:
    """What a pickle of this does when Python reads it."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {PLANTED}",)


class EvilPersistent(pickle.Pickler):
    def persistent_id(self, value: object) -> object:
        return ("storage", Evil(), "0", "cpu", 12) if value == "here" else None


def persistent(protocol: int) -> bytes:
    stream = io.BytesIO()
    EvilPersistent(stream, protocol).dump({"a": "here"})
    return stream.getvalue()


def program(opcodes: bytes, protocol: int = 2) -> bytes:
    return pickle.PROTO + bytes([protocol]) + opcodes + pickle.STOP


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [Evil(), {"a": Evil()}, [Evil()], ("x", {"y": (Evil(),)})])
def test_a_call_is_refused_in_every_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int, value: object
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(lambda: read_pickle(pickle.dumps(value, protocol)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("protocol", range(1, pickle.HIGHEST_PROTOCOL + 1))
def test_a_call_in_a_persistent_id_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(lambda: read_pickle(persistent(protocol)))
    assert list(tmp_path.iterdir()) == []


NAMING = {
    "GLOBAL": FOREIGN,
    "STACK_GLOBAL": (
        b"".join(
            pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode()
            for text in (PLANTED, "run")
        )
        + pickle.STACK_GLOBAL
    ),
    "INST": pickle.MARK + pickle.INST + PLANTED.encode() + b"\nrun\n",
    "EXT1": pickle.EXT1 + EXTENSION.to_bytes(1, "little"),
    "EXT2": pickle.EXT2 + EXTENSION.to_bytes(2, "little"),
    "EXT4": pickle.EXT4 + EXTENSION.to_bytes(4, "little"),
    "PERSID": pickle.PERSID + b"0\n",
}
CALLING = {
    "nothing": b"",
    "REDUCE": pickle.EMPTY_TUPLE + pickle.REDUCE,
    "BUILD": pickle.EMPTY_DICT + pickle.BUILD,
    "NEWOBJ": pickle.EMPTY_TUPLE + pickle.NEWOBJ,
    "NEWOBJ_EX": pickle.EMPTY_TUPLE + pickle.EMPTY_DICT + pickle.NEWOBJ_EX,
    "BINPERSID": pickle.BINPERSID,
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("calling", CALLING)
@pytest.mark.parametrize("naming", NAMING)
def test_every_opcode_that_can_name_something_is_refused(
    naming: str, calling: str, protocol: int
) -> None:
    error = refused(lambda: read_pickle(program(NAMING[naming] + CALLING[calling], protocol)))
    assert error
    is_named = f"names '{PLANTED}.run'" in error.message
    assert is_named or f"it uses the opcode {naming}" in error.message


@pytest.mark.parametrize("calling", [*CALLING.values(), pickle.MARK + ORDERED_DICT + pickle.OBJ])
def test_an_accepted_name_does_nothing_but_make_a_dict(calling: bytes) -> None:
    for name in ("collections\nOrderedDict", "torch._utils\n_rebuild_tensor_v2"):
        opcodes = pickle.GLOBAL + name.encode() + b"\n" + calling
        is_dict = "OrderedDict" in name and calling == CALLING["REDUCE"]
        assert is_dict == (refused(lambda: read_pickle(program(opcodes))) is None)  # noqa: B023


# --- values that are cheap to write and dear to look at -------------------------------------------


def laughs(depth: int) -> bytes:
    """(((...), (...)), ...): a tuple whose text doubles at each of so many levels."""
    double = pickle.BINPUT + b"\1" + pickle.BINGET + b"\1" + pickle.TUPLE2
    return pickle.EMPTY_TUPLE + double * depth


MADE_OF_LAUGHS = {
    "a module's name": laughs(60) + pickle.SHORT_BINUNICODE + b"\1x" + pickle.STACK_GLOBAL,
    "a name": pickle.SHORT_BINUNICODE + b"\1x" + laughs(60) + pickle.STACK_GLOBAL,
    "a persistent id": laughs(60) + pickle.BINPERSID,
    "arguments": ORDERED_DICT + laughs(60) + pickle.REDUCE,
    "a key": pickle.EMPTY_DICT + laughs(60) + pickle.NONE + pickle.SETITEM,
    "a value": pickle.EMPTY_DICT + pickle.SHORT_BINUNICODE + b"\1x" + laughs(60) + pickle.SETITEM,
    "everything": laughs(60),
}
DEEP = pickle.EMPTY_TUPLE + pickle.TUPLE1 * 100_000


@pytest.mark.parametrize("place", MADE_OF_LAUGHS)
def test_a_tuple_that_doubles_is_never_spelled_out(place: str) -> None:
    """Spelled out it would have 2**60 parts, and no test would end."""
    assert refused(lambda: read_pickle(program(MADE_OF_LAUGHS[place])))


@pytest.mark.parametrize("after", [b"", pickle.BINPERSID, pickle.NONE + pickle.STACK_GLOBAL])
def test_a_tuple_that_is_nested_deep_ends_no_process(after: bytes) -> None:
    assert refused(lambda: read_pickle(program(DEEP + after)))


def test_a_dict_within_itself_is_refused() -> None:
    opcodes = pickle.EMPTY_DICT + pickle.BINPUT + b"\0" + pickle.SHORT_BINUNICODE + b"\1a"
    opcodes += pickle.BINGET + b"\0" + pickle.SETITEM
    error = refused(lambda: read_pickle(program(opcodes)))
    assert error
    assert "holds a value of type dict as 'a'" in error.message


def test_more_opcodes_than_a_model_needs_are_refused() -> None:
    error = refused(lambda: read_pickle(program(pickle.EMPTY_TUPLE * ((1 << 20) + 1))))
    assert error
    assert "has more than 1048576 opcodes" in error.message


@pytest.mark.parametrize(
    "opcodes",
    [
        pickle.INT + b"x" * 100_000 + b"\n",
        pickle.FLOAT + b"x" * 100_000 + b"\n",
        pickle.LONG + b"9" * 100_000 + b"L\n",
        pickle.GLOBAL + b"\x1b[31m" + b"m" * 100_000 + b"\nn\n",
        pickle.GLOBAL + rb"\q" + b"\nn\n",
        pickle.SHORT_BINUNICODE + b"\3\xed\xa0\x80" + pickle.BINPERSID,
    ],
)
def test_what_a_pickle_says_is_quoted_short_and_escaped(opcodes: bytes) -> None:
    error = refused(lambda: read_pickle(program(opcodes)))
    assert error
    assert len(error.message) < 1000


# --- random programs ------------------------------------------------------------------------------

LINES = st.sampled_from(
    [b"0", b"-1", b"os", b"system", b"collections", b"\\x00", b"'a'", b"1.5", b""]
)
# Text or bytes after their length, by the size of that length.
SIZED = {pickletools.TAKEN_FROM_ARGUMENT1: 1, pickletools.TAKEN_FROM_ARGUMENT4: 4}
SIZED |= {pickletools.TAKEN_FROM_ARGUMENT4U: 4, pickletools.TAKEN_FROM_ARGUMENT8U: 8}


def arguments(opcode: pickletools.OpcodeInfo) -> st.SearchStrategy[bytes]:
    """Bytes that may follow an opcode: mostly an argument of its kind."""
    argument = opcode.arg
    if argument is None:
        return st.just(b"")
    if argument.n == pickletools.UP_TO_NEWLINE:
        lines = 2 if "pair" in argument.name else 1
        return st.lists(LINES, min_size=lines, max_size=lines).map(
            lambda parts: b"".join(part + b"\n" for part in parts)
        )
    if argument.n in SIZED:
        n_size = SIZED[argument.n]
        return st.builds(
            lambda content, lie: (len(content) + lie).to_bytes(n_size, "little") + content,
            st.binary(max_size=20),
            st.sampled_from([0, 0, 0, 0, 1, 200]),
        )
    small = st.integers(0, 12).map(lambda number: number.to_bytes(argument.n, "little"))
    return small | st.binary(min_size=argument.n, max_size=argument.n)


ANY_OPCODE = st.one_of(
    *(arguments(opcode).map(lambda rest, code=opcode.code: code.encode("latin-1") + rest)
      for opcode in pickletools.opcodes)
)  # fmt: skip
TENSOR = pickled(tensor_call(storage("0", "F16", 12), (3,), (1,)))[2:-1]
USEFUL = st.sampled_from(
    [
        *(STATE[2:-1], TENSOR, pickled(storage("0", "F16", 12))[2:-1], pickled("a")[2:-1]),
        *(ORDERED_DICT, pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n"),
        *(pickle.EMPTY_TUPLE, pickle.EMPTY_DICT, pickle.MARK, pickle.TUPLE),
        *(pickle.REDUCE, pickle.BUILD, pickle.SETITEM, pickle.SETITEMS, pickle.BINPERSID),
    ]
)


@examples(600)
@given(st.lists(USEFUL | ANY_OPCODE, max_size=25), st.integers(0, 5))
def test_no_program_does_anything(opcodes: list[bytes], protocol: int) -> None:
    refused(lambda: read_pickle(program(b"".join(opcodes), protocol)))
    assert PLANTED not in sys.modules


@examples(600)
@given(st.lists(st.tuples(st.integers(0, len(STATE) - 1), st.integers(0, 255)), max_size=4))
def test_no_changed_byte_does_anything(changes: list[tuple[int, int]]) -> None:
    content = bytearray(STATE)
    for place, value in changes:
        content[place] = value
    refused(lambda: read_pickle(bytes(content)))
