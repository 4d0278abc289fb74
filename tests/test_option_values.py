"""Every option of every command and of the API: a strange value is taken, or refused by name."""

import threading
import time
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import typer
from real_tokenizer import TOKENIZER
from test_generate import Recital

from codegen_cli.commands.app import app
from codegen_cli.contract.deadline import remaining
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.session.completion_run import CompletionRun
from codegen_cli.session.generation import generate
from quantize.files.errors import UserError

NUMBERS = [
    *("0", "-0.0", "1", "-1", "-1e300", "1e3", "1e10", "1e300", "1e400", "inf", "-inf", "Infinity"),
    *("nan", "5s", "abc", "", " ", " 7 ", "1_0", "1,5", "0x10", "٣", "１２", "½", "1e", "--"),
    *("9" * 400, "9" * 4000, "9" * 5000, "-" + "9" * 5000, "0." + "0" * 400 + "1"),
]
WORDS = ["nonsense", "2", "-1", "nan", "function none", "✓"]


def options():
    """(the command's name, the command, the option) of all options that there are."""
    commands = [("", typer.main.get_command(app))]
    while commands:
        name, command = commands.pop()
        commands += [
            (f"{name} {sub}".strip(), each)
            for sub, each in getattr(command, "commands", {}).items()
        ]
        for parameter in command.params:
            if parameter.param_type_name == "option":
                yield name, command, parameter


def kind(parameter):
    return type(parameter.type).__name__.removesuffix("ParamType").removesuffix("Range")


OPTIONS = list(options())
NUMBER_OPTIONS = [each for each in OPTIONS if kind(each[2]) in ("Int", "Float")]


def named(each):
    return f"{each[0]} {each[2].name}"


def arguments_of(command):
    """One argument wherever a command needs some."""
    return ["x" for each in command.params if each.param_type_name == "argument" and each.required]


def parse(name, command, arguments):
    """Return the context, or the message in which the arguments are refused."""
    try:
        return command.make_context(name, [*arguments, *arguments_of(command)])
    except typer.BadParameter as error:
        return error.format_message() if error.exit_code == 2 else ""


def judge(outcome, parameter, name):
    """Fail unless the value was taken or refused in one line that says where it came from."""
    if not isinstance(outcome, str):
        value = outcome.params[parameter.name]
        assert value is None or type(value) in (int, float)
        return
    assert "\n" not in outcome
    assert name in outcome


def test_all_number_options_are_found():
    found = {named(each) for each in NUMBER_OPTIONS}
    assert {
        *(f"complete {name}" for name in ("max_tokens", "temperature", "top_p", "top_k", "seed")),
        *(f"complete {name}" for name in ("samples", "logprobs", "draft", "threads", "max_time")),
        *("bench rounds", "bench threads", "doctor threads", "score threads", "embed threads"),
    } <= found


@pytest.mark.parametrize("each", NUMBER_OPTIONS, ids=named)
def test_a_number_given_is_taken_or_refused_by_name(each):
    name, command, parameter = each
    refused = [
        value
        for value in NUMBERS
        for outcome in [parse(name, command, [parameter.opts[0], value])]
        if judge(outcome, parameter, parameter.opts[0]) or isinstance(outcome, str)
    ]
    assert {"nan", "-inf", "5s", "abc", "", " ", "-1", "--"} <= set(refused)
    assert "1" not in refused
    assert hasattr(parameter.type, "max") <= ("9" * 400 in refused)  # a range has two ends


@pytest.mark.parametrize("each", [each for each in NUMBER_OPTIONS if each[2].envvar], ids=named)
def test_a_number_in_the_environment_is_taken_or_refused_by_name(each, monkeypatch):
    name, command, parameter = each
    for value in NUMBERS:
        monkeypatch.setenv(parameter.envvar, value)
        outcome = parse(name, command, [])
        judge(outcome, parameter, parameter.envvar)
        given = parse(name, command, [parameter.opts[0], value])
        # What is set to nothing is not set, as everywhere in a shell.
        assert isinstance(outcome, str) == (isinstance(given, str) and value != "")


@pytest.mark.parametrize(
    "each",
    [each for each in OPTIONS if each[2].envvar and kind(each[2]) in ("Bool", "Choice")],
    ids=named,
)
def test_a_word_in_the_environment_that_means_nothing_is_refused_by_name(each, monkeypatch):
    name, command, parameter = each
    for value in WORDS:
        monkeypatch.setenv(parameter.envvar, value)
        outcome = parse(name, command, [])
        assert isinstance(outcome, str)
        judge(outcome, parameter, parameter.envvar)


@pytest.mark.parametrize(
    "each", [each for each in NUMBER_OPTIONS if each[0] == "complete"], ids=named
)
def test_a_number_that_is_taken_can_be_run_with(each, monkeypatch, capfdbinary):
    def prepare(self, prompt, *_):
        model = Recital(TOKENIZER.encode("\n    pass\n" * 3))
        vocabulary = TOKENIZER.vocabulary(model.config)
        for index, sample in enumerate(self.samples):
            ids = TOKENIZER.encode(prompt)
            for item in generate(model, vocabulary, ids, sample.options, prompt):
                yield index, item

    monkeypatch.setattr(CompletionRun, "_begin", prepare)
    name, command, parameter = each
    for value in NUMBERS:
        context = parse(name, command, [parameter.opts[0], value, "--json", "def f():"])
        if not isinstance(context, str):
            with pytest.raises(typer.Exit) as end, context:
                command.invoke(context)
            assert end.value.exit_code == 0
    assert capfdbinary.readouterr().err == b""


@pytest.mark.usefixtures("compiled_kernels")
@pytest.mark.parametrize("seconds", ["inf", "1e10", "1e300", "9" * 400])
def test_a_time_that_never_comes_is_no_limit(codegen, seconds):
    for arguments, environment in (
        (("--max-time", seconds), {}),
        ((), {"CODEGEN_MAX_TIME": seconds}),
    ):
        result = codegen("complete", "-q", "-n", "2", *arguments, "x", **environment)
        assert (result.returncode, result.stderr) == (0, b"")


def test_a_wait_is_never_longer_than_the_system_can_wait():
    for deadline in (float("inf"), 1e10, 1e300):
        assert 0 < remaining(deadline) <= threading.TIMEOUT_MAX
    assert remaining(float("-inf")) == remaining(-1e300) == 0
    threading.Event().wait(timeout=remaining(time.monotonic() + 0.001))


@pytest.mark.parametrize("option", [*GenerateOptions.__dataclass_fields__])
def test_none_is_the_default(option):
    options, default = GenerateOptions(**{option: None}), GenerateOptions()
    if option == "seed":
        assert 0 <= options.seed < 2**32
    else:
        assert getattr(options, option) == getattr(default, option)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("max_tokens", np.int64(3), 3),
        ("max_tokens", np.uint8(3), 3),
        ("max_tokens", 3.0, 3),
        ("max_tokens", np.float32(3), 3),
        ("seed", np.uint64(2**64 - 1), 2**64 - 1),
        ("temperature", np.float32(0.5), 0.5),
        ("temperature", np.int32(1), 1.0),
        ("temperature", 0, 0.0),
        ("top_p", Fraction(1, 2), 0.5),
        ("deadline", float("inf"), float("inf")),
        ("deadline", 5, 5.0),
        ("stop", "ab", ("ab",)),
        ("stop", ["a", "b"], ("a", "b")),
        ("stop", (text for text in "ab"), ("a", "b")),
        ("stop", np.array(["a", "b"]), ("a", "b")),
        ("stop", [], ()),
    ],
)
def test_a_value_becomes_one_of_the_options_type(option, value, expected):
    taken = getattr(GenerateOptions(**{option: value}), option)
    assert taken == expected
    assert type(taken) is type(expected)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("max_tokens", "3", "max_tokens is '3', need a whole number, at least 1"),
        ("max_tokens", 2.5, "max_tokens is 2.5, need a whole number, at least 1"),
        ("max_tokens", True, "max_tokens is True, need a whole number, at least 1"),
        ("max_tokens", np.True_, "max_tokens is np.True_, need a whole number, at least 1"),
        ("max_tokens", float("inf"), "max_tokens is inf, need a whole number, at least 1"),
        ("max_tokens", float("nan"), "max_tokens is nan, need a whole number, at least 1"),
        ("max_tokens", [3], "max_tokens is [3], need a whole number, at least 1"),
        ("top_k", np.float64(1.5), "top_k is np.float64(1.5), need a whole number, at least 0"),
        ("seed", "7", "seed is '7', need a whole number, 0 to 2**64 - 1"),
        ("sample", -1, "sample is -1, need 0 to 2**64 - 1"),
        ("draft", False, "draft is False, need a whole number, 0 to 64"),
        ("temperature", "0.2", "temperature is '0.2', need a number"),
        ("temperature", True, "temperature is True, need a number"),
        ("temperature", 1j, "temperature is 1j, need a number"),
        ("temperature", Decimal("0.2"), "temperature is Decimal('0.2'), need a number"),
        ("top_p", None.__class__, "top_p is <class 'NoneType'>, need a number"),
        ("deadline", "soon", "deadline is 'soon', need a number"),
        ("deadline", float("nan"), "deadline is nan, need seconds of time.monotonic()"),
        ("until", "nonsense", "until is 'nonsense', need 'function' or 'none'"),
        ("until", ["none"], "until is ['none'], need 'function' or 'none'"),
        ("until", np.array(["none", "x"]), "until is array("),
        ("stop", [1], "stop is (1,), need texts that are not empty"),
        ("stop", b"x", "stop is b'x', need texts that are not empty"),
        ("stop", [b"x"], "stop is (b'x',), need texts that are not empty"),
        ("stop", 7, "stop is 7, need texts that are not empty"),
        ("stop", "", "stop is ('',), need texts that are not empty"),
        ("stop", ["a", None], "stop is ('a', None), need texts that are not empty"),
        ("stop", "\udcff", r"stop '\udcff' is not Unicode text: found the lone surrogate U+DCFF"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_with_its_option(option, value, message):
    with pytest.raises(UserError) as caught:
        GenerateOptions(**{option: value})
    assert caught.value.message.startswith(message)


def test_a_number_that_python_does_not_print_is_taken_or_refused_all_the_same():
    assert GenerateOptions(max_tokens=10**5000).max_tokens == 10**5000
    for option in ("temperature", "top_p", "seed", "draft", "deadline"):
        with pytest.raises(UserError, match=f"{option} is a whole number of 16610 bits, need "):
            GenerateOptions(**{option: 10**5000})
    with pytest.raises(
        UserError, match="max_tokens is a whole number of 16610 bits, need at least 1"
    ):
        GenerateOptions(max_tokens=-(10**5000))
