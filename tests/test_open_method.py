"""A completion of a method ends where the next definition begins, however it is cut in pieces."""

import ast
import re
import textwrap

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_codegen_tokenizer import AUTHORS
from test_stopping import common_prefix, cut_whole, pieces_of, stream

from codegen_cli.decoding.stopping import StopWatch
from codegen_cli.text.codegen_tokenizer import truncate_completion

HEADER = "class A:\n    def area(self):"
BODY = f"{HEADER}\n        return 1"
NESTED = "def outer():\n    def inner(x):\n        return x\n"

FRAGMENTS = [
    *("\n", "\r\n", "    ", "        ", "\t", " ", "def f(x):", "de", "f", "async", "class", "cla"),
    *("@", "#", '"""', "'''", "'", '"', "\\", "x = 1", ")", "d", "\r"),
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join)
PROMPTS = st.one_of(
    TEXTS,
    st.sampled_from([HEADER, BODY, NESTED, HEADER + "\n", BODY + "\n", BODY + "\n\n    "]),
    st.tuples(st.sampled_from([HEADER, BODY]), TEXTS).map("".join),
)


def complete(prompt, text):
    """What is left of a text that is streamed a character at a time."""
    kept = stream(text, until="function", prompt=prompt)
    assert text.startswith(kept)
    return kept


@given(PROMPTS, TEXTS, st.lists(st.integers(0, 60), max_size=8))
@example(BODY, " + 1\n    def g", [5, 9, 10, 11])
def test_pieces_make_no_difference(prompt, text, boundaries):
    whole = stream([text], until="function", prompt=prompt)
    assert stream(pieces_of(text, boundaries), until="function", prompt=prompt) == whole


@given(PROMPTS, TEXTS, st.lists(st.integers(0, 60), max_size=8))
def test_nothing_is_taken_back_and_nothing_held_in_vain(prompt, text, boundaries):
    ends = ["\ndef ", "def ", "class ", "async def ", "print", "'''", '"""', "\n\n\n", "\r\n\r\n"]
    continuations = [end[i:] for end in ends for i in range(len(end))] + ["@", "#", "\0", ""]
    watch = StopWatch(until="function", prompt=prompt)
    given_text = shown = ""
    for piece in pieces_of(text, boundaries):
        given_text += piece
        shown += watch.feed(piece)
        outcomes = {
            stream([given_text + more], until="function", prompt=prompt) for more in continuations
        }
        common = common_prefix([*outcomes, given_text])
        if watch.stopped:
            assert outcomes == {shown}
            break
        assert shown == common


@given(st.lists(st.sampled_from([*FRAGMENTS, "print", "\ndef "]), max_size=14).map("".join))
@pytest.mark.parametrize(
    "prompt", ["", "x = 1\n", "class A:\n", "def f():\n    x = 1\n", f"{BODY}\n\nx = A()\n"]
)
def test_without_an_open_method_the_authors_rules_are_all(prompt, text):
    assert stream([text], until="function", prompt=prompt) == cut_whole(text, (), "function")


LF_FRAGMENTS = [
    *(fragment for fragment in FRAGMENTS if "\r" not in fragment),
    *("print", "\nprint", "\ndef ", "\n\n", "\n#", "<|endoftext|>", "<|endof"),
]
LF_TEXTS = st.lists(st.sampled_from(LF_FRAGMENTS), max_size=14).map("".join)
INDENTED_DEF = re.compile(r"^[ \t]+(async[ \t]+)?def[ \t]", re.MULTILINE)
LF_PROMPTS = LF_TEXTS.map(lambda text: text and f"{text}\n")


@given(LF_PROMPTS.filter(lambda prompt: not INDENTED_DEF.search(prompt)), LF_TEXTS)
@example("def f():\n", "    x\nprint\nprint\ndef g\ndef h")
@example("", "\n\n\n")
def test_until_function_cuts_where_the_tokenizer_truncates_before_the_authors_patterns(
    prompt, text
):
    assert complete(prompt, text) == truncate_completion(text, AUTHORS)


NEXT = "\n        x = 1\n\n    "


@pytest.mark.parametrize(
    "definition",
    [
        "def perimeter(self):",
        "async def perimeter(self):",
        "async  \t def perimeter(self):",
        "def\tperimeter(self):",
        "@property\n    def perimeter(self):",
        "@cache\n    async def perimeter(self):",
        "class B:",
    ],
)
@pytest.mark.parametrize("indent", ["    ", "  ", ""])
def test_a_definition_beside_or_around_the_method_ends_it(definition, indent):
    for line_end in ("\n", "\r\n"):
        kept = "\n        x = 1\n\n".replace("\n", line_end)
        text = f"{kept}{indent}{definition}{line_end}        return 2{line_end}"
        assert complete(HEADER.replace("\n", line_end), text) == kept


@pytest.mark.parametrize(
    "line",
    [
        "        def inner(): pass",
        "     def inner(): pass",
        "        @decorated",
        "        class Local: pass",
        "    default = 1",
        "    define(x)",
        "    classes = 2",
        "    asynchronous = 3",
        "    async with x: pass",
        "    # def g():",
        "    # @decorated",
        "    x = 'def g():'; y = lambda: 1",
        "    print('def')",
        "    )",
    ],
)
def test_what_begins_no_definition_beside_the_method_is_part_of_it(line):
    text = f"\n        x = 1\n{line}\n        y = 2\n"
    assert complete(HEADER, text) == text
    assert complete(HEADER, f"{text}    def g(self):\n") == text


@pytest.mark.parametrize(
    "string",
    [
        '"""Docs.\n\n    def example(self):\n    class B:\n    @x\n    """',
        "'''Docs.\n    def example(self):\n    '''",
        'r"""\\\n    def example(self): \\"""\n    def more(self):\n    """',
        '"""It\'s "quoted" ""\n    def example(self):\n    """',
        '("""a"""\n            """\n    def example(self):\n    """)',
        "'one line \\\n    def example(self):'",
        '("" \'\' """\n    def example(self):\n    """)',
    ],
)
def test_lines_inside_a_string_end_nothing(string):
    text = f"\n        x = {string}\n        return x\n"
    ast.parse(f"class A:\n    def area(self):{text}")
    assert complete(HEADER, f"{text}\n    def g(self):\n") == f"{text}\n"
    # The prompt may hold the string, or a part of it.
    for place in range(0, len(text), 3):
        rest = text[place:] + "        y = 1\n"
        assert complete(HEADER + text[:place], f"{rest}    def g(self):\n") == rest


def test_quotes_that_open_no_string_hide_nothing():
    text = "\n        x = 1  # don't\n        y = '#' # '''\n        z = '\"\"\"'\n"
    assert complete(HEADER, f"{text}    def g(self):\n") == text


@pytest.mark.parametrize("blanks", ["", "\n", "\n\n", "\n    ", "\n\n    ", "\r\n\r\n    "])
@pytest.mark.parametrize("body", ["return 1", "return [\n            1,\n        ]"])
def test_after_a_whole_method_the_next_one_comes_and_it_alone(blanks, body):
    prompt = f"{HEADER}\n        {body}{blanks}"
    line_start = "" if blanks.endswith("    ") else "    "
    line_end = "" if blanks else "\n"
    method = f"{line_end}{line_start}def g(self):\n        def inner():\n            return 2\n\n"
    assert complete(prompt, f"{method}    def h(self):\n") == method
    assert complete(prompt, f"{method}def main():\n") == method


@pytest.mark.parametrize(
    ("prompt", "kept"),
    [
        # What the completion has before it: blank lines, comments, decorators.
        (BODY, "\n\n    # The next one.\n    @property\n    @cache\n    def g(self):\n        x\n"),
        (f"{BODY}\n\n    @prop", "erty\n    def g(self):\n        x\n"),
        (f"{BODY}\n\n    @property\n", "    def g(self):\n        x\n"),
        (f"{BODY}\n\n    de", "f g(self):\n        x\n"),
        (f"{BODY}\n\n    def", " g(self):\n        x\n"),
        (f"{BODY}\n\n    def g(self):", "\n        x\n"),
        # Around the method: a function or a class, whole.
        (f"{BODY}\n", "\n\ndef main():\n    def inner(): pass\n    x\n"),
        (f"{BODY}\n", "\n\nclass B:\n    def f(self): pass\n    def g(self): pass\n"),
        (f"{BODY}\n", "\n\n@dataclass\nclass B:\n    def f(self): pass\n"),
    ],
)
def test_a_completion_that_begins_with_a_definition_is_that_one(prompt, kept):
    assert complete(prompt, f"{kept}def more():\n") == kept
    assert complete(prompt, f"{kept}@decorated\ndef more():\n") == kept


def test_a_completion_with_code_of_the_method_does_not_go_on_to_the_next():
    for text in ("\n", " + 2\n\n", "\n        x\n", "  # one\n"):
        kept = text if text.strip() else None
        assert complete(BODY, f"{text}    def g(self): pass\n") == (
            kept or f"{text}    def g(self): pass\n"
        )


@pytest.mark.parametrize(
    ("prompt", "ends"),
    [
        (HEADER, True),
        (f"{BODY}\n", True),
        ("if x:\n    def f():", True),
        ("class A:\n\tdef area(self):", True),
        ("class A:\n    async def area(self):\n        x\n\n# comment\n", True),
        ("class A:\n    def area(\n        self,\n    ):", True),
        ("class A:\n    def area(\n        self,\n    ) -> int:\n", True),
        (f'{HEADER}\n        """\ndef text():\n"""\n', True),
        (f"{BODY}\nx = 1\n", False),
        (f"{BODY}\n    x = 1\n", False),
        (f"{BODY}\nclass B:\n", False),
        ("def f():\n    return 1\n", False),
        ("class A:\n    pass\n", False),
        ("class A:\n", False),
        ("def outer():\n    def inner():\n        x\n    return inner\n", False),
        ('"""\n    def area(self):\n"""\n', False),
        ("# class A:\n#    def area(self):\n", False),
        ("    default = 1\n", False),
    ],
)
def test_the_method_is_the_innermost_function_open_where_the_prompt_ends(prompt, ends):
    code = "\n        x = 1\n"
    kept = code if ends else f"{code}    def g(self): pass\n"
    assert complete(prompt, f"{code}    def g(self): pass\n") == kept


def test_of_functions_within_each_other_the_innermost_counts():
    prompt = "class A:\n    def f(self):\n        def inner():\n"
    text = "            return 1\n"
    assert complete(prompt, f"{text}        def other():\n") == text
    assert complete(prompt, f"{text}            def deeper():\n") != text
    assert complete(f"{prompt}{text}        x = 1\n", "        def other():\n    def g") == (
        "        def other():\n"
    )


def test_a_tab_reaches_to_a_multiple_of_eight():
    prompt = "class A:\n\tdef area(self):"
    text = "\n\t\tx = 1\n\t\tdef inner(): pass\n"
    for line in ("\tdef g", "    def g", "        def g", "  \tdef g"):
        assert complete(prompt, f"{text}{line}(self):\n") == text
    kept = f"{text}         def inner(self): pass\n"
    assert complete(prompt, kept) == kept


def test_the_authors_rules_hold_in_a_method_too():
    for end in ("\n\n\n", "\r\n\r\n\r\n", "<|endoftext|>"):
        assert complete(HEADER, f"\n        x{end}y") == "\n        x"
    for end in ("# x", '"""x"""', "'''x'''"):
        assert complete(HEADER, f"\n        x\n{end}") == "\n        x\n"


def test_indentation_is_held_back_only_where_a_definition_would_end_the_text():
    watch = StopWatch(until="function", prompt=HEADER)
    pieces = ["\n ", "       x", "\n ", "   ", " ", "y\n    ", "d", "x\n    de", "f", " "]
    shown = ["\n ", "       x", "\n", "", "     ", "y\n", "", "    dx\n", "", ""]
    assert [watch.feed(piece) for piece in pieces] == shown
    assert watch.stopped


def test_a_long_prompt_takes_a_moment():
    method = textwrap.indent('def f(self):\n    """Text."""\n    return "1"\n\n', "    ")
    prompt = "class A:\n" + method * 20_000
    text = "    def g(self):\n        x\n"
    assert complete(prompt, f"{text}    def h(self):\n") == text
