"""Streamed stopping equals a cut of the whole text, shows all it can, and ends at once."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codegen_cli.decoding.stopping import StopWatch

# Pieces of stops and of text around them, so that random texts meet every rule.
FRAGMENTS = [
    *("\n", "\n\n", "def", "de", "f", "print", "prin", "t", "#", "'", "''", '"""', '"', " ", "x"),
    *("<|endoftext|>", "<|endof", "text|>", "\r\n", "\r", "é", "END", "EN", "D"),
]
TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join)
STOPS = st.lists(
    st.sampled_from(["END", "N", "D\n", "\n\n", "xx", "x\nx", "def", "ENDEND", "é#", "\r", "D\r"]),
    max_size=3,
)
UNTIL = st.sampled_from(["function", "none"])


def first(pattern, text):
    match = re.search(pattern, text, re.MULTILINE)
    return match.start() if match else -1


def cut_whole(text, stops, until):
    """The rules on a finished text: the authors' truncation, then the user's stops."""
    cuts = [first(re.escape(stop).replace("\\\n", "\r?\n"), text) for stop in stops]
    if until == "function":
        for word in ("print", "def"):
            cuts += [match.start() for match in re.finditer(f"^{word}", text, re.MULTILINE)][1:2]
        for pattern in ("^#", "^'''", '^"""', r"(\r?\n){3}", re.escape("<|endoftext|>")):
            cuts.append(first(pattern, text))
    return text[: min((cut for cut in cuts if cut >= 0), default=len(text))]


def pieces_of(text, boundaries):
    places = [0, *sorted(min(place, len(text)) for place in boundaries), len(text)]
    return [text[begin:end] for begin, end in pairwise(places)]


def common_prefix(texts):
    first, last = min(texts), max(texts)
    n_common = next((i for i, c in enumerate(first) if c != last[i]), len(first))
    return first[:n_common]


def stream(pieces, stops=(), until="none", prompt=""):
    watch = StopWatch(stops, until, prompt)
    return "".join([*map(watch.feed, pieces), watch.finish()])


@given(TEXTS, st.lists(st.integers(0, 60), max_size=8), STOPS, UNTIL)
@example("ab", [1], [], "none")
def test_streamed_text_equals_the_whole_text_cut(text, boundaries, stops, until):
    assert stream(pieces_of(text, boundaries), stops, until) == cut_whole(text, stops, until)


@given(TEXTS, st.lists(st.integers(0, 60), max_size=8), STOPS, UNTIL)
def test_what_is_shown_is_all_that_no_continuation_can_take_back(text, boundaries, stops, until):
    ends = [*stops, "print", "def", "'''", '"""', "<|endoftext|>", "\n\n\n"]
    ends += [end.replace("\n", "\r\n") for end in ends]
    continuations = [end[i:] for end in ends for i in range(len(end) + 1)] + ["\0"]
    watch = StopWatch(stops, until)
    given_text = shown = ""
    for piece in pieces_of(text, boundaries):
        given_text += piece
        shown += watch.feed(piece)
        outcomes = {cut_whole(given_text + more, stops, until) for more in continuations}
        if not watch.stopped:
            assert shown == common_prefix([*outcomes, given_text])
        assert watch.stopped == (len(outcomes) == 1)
        if watch.stopped:
            assert outcomes == {shown}
            break


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("    return 1\n\ndef g():", "    return 1\n\ndef g():"),
        ("def f(): pass\ndef g(): pass", "def f(): pass\n"),
        ("x\ndef f(): pass\n\ndefault = 1", "x\ndef f(): pass\n\n"),
        ("  def f(): pass\n  def g(): pass\n", "  def f(): pass\n  def g(): pass\n"),
        ("print(1)\nprint(2)", "print(1)\n"),
        ("x\nprint(1)\nx; print(2)\nprint(3)\n", "x\nprint(1)\nx; print(2)\n"),
        ("# text", ""),
        ("x = 1  # text\n# more", "x = 1  # text\n"),
        ("  # text\nx", "  # text\nx"),
        ("'''text'''", ""),
        ('x = """y"""\n"""z"""', 'x = """y"""\n'),
        ("x = 1<|endoftext|>y", "x = 1"),
        ("a\n\nb\n\n\nc", "a\n\nb"),
        ("a\n\n\n\n\nc", "a"),
        ("a\r\n\r\n\r\nb", "a"),
        ("a\r\n\r\nb\r\n\n\r\nc", "a\r\n\r\nb"),
        ("a\r\r\rb\r# c", "a\r\r\rb\r# c"),
        ("def f(): pass\r\ndef g(): pass", "def f(): pass\r\n"),
        ("x = 1\r\n# text", "x = 1\r\n"),
        ("''\n'' x", "''\n'' x"),
    ],
)
def test_a_function_ends_where_the_authors_cut_it(text, kept):
    assert cut_whole(text, (), "function") == kept
    assert stream(text, until="function") == kept


@pytest.mark.parametrize(
    ("prompt", "is_line_start"),
    [
        ("", True),
        ("x = 1\n", True),
        ("x = 1\r\n", True),
        ("x = 1  ", False),
        ("    ", False),
        ("x = 1\r", False),  # no line end, neither to Git nor to today's editors
    ],
)
def test_a_completion_begins_at_a_line_start_if_the_prompt_ends_with_a_line_end(
    prompt, is_line_start
):
    for text in ("# text\n", "'''text", '"""text'):
        assert stream(text, until="function", prompt=prompt) == ("" if is_line_start else text)
    text = "default\nprint\ndef\nprint\ndef\n"
    kept = 14 if is_line_start else 18
    assert stream(text, until="function", prompt=prompt) == text[:kept]


@pytest.mark.parametrize(
    ("text", "stop", "kept"),
    [
        ("a\r\nb", "\n", "a"),
        ("a\nb", "\r\n", "a"),
        ("a\r\nEND", "\nEND", "a"),
        ("a\r\nb", "\r", "a"),
        ("a\rb\nc", "\n", "a\rb"),
        ("a\r\nb", "\n\n", "a\r\nb"),
    ],
)
def test_line_ends_of_stops_and_texts_match_each_other(text, stop, kept):
    assert stream(text, [stop]) == stream([text], [stop]) == kept


def test_without_until_nothing_but_the_users_stops_ends_the_text():
    text = "# a\n\n\n'''\ndef f\ndef g\nprint\nprint\n<|endoftext|>"
    assert stream(text) == text
    assert stream(text, stops=["\ndef g"]) == "# a\n\n\n'''\ndef f"


@pytest.mark.parametrize(
    ("pieces", "shown"),
    [
        (["return 1", "\n", "\n", "x"], ["return 1", "", "", "\n\nx"]),
        (["d", "ef f\n", "de", "l x"], ["d", "ef f", "\n", "del x"]),
        (["'", "''"], ["", ""]),
        (["x'", "''"], ["x'", "''"]),
        (["a<", "|end", "|"], ["a", "", "<|end|"]),
    ],
)
def test_text_is_held_back_until_it_cannot_begin_a_stop(pieces, shown):
    watch = StopWatch(until="function")
    assert [watch.feed(piece) for piece in pieces] == shown


def test_held_text_is_shown_when_the_completion_ends():
    watch = StopWatch(["STOP"])
    assert watch.feed("a STO") == "a "
    assert watch.finish() == "STO"
    assert not watch.stopped


def test_the_stop_that_starts_first_wins_though_another_ends_before():
    watch = StopWatch(["abcdef", "cd"])
    assert [watch.feed(piece) for piece in ("xabcd", "e")] == ["x", ""]
    assert not watch.stopped
    assert watch.feed("f") == ""
    assert watch.stopped


@pytest.mark.parametrize("end", ["z", None])
def test_a_stop_inside_one_that_fails_still_counts(end):
    watch = StopWatch(["abcdef", "cd"])
    assert watch.feed("xabcd") == "x"
    assert (watch.feed(end) if end else watch.finish()) == "ab"
    assert watch.stopped


def test_nothing_is_shown_after_a_stop():
    watch = StopWatch(["."])
    assert watch.feed("a.b") == "a"
    assert watch.stopped
    assert watch.feed("c") == ""
    assert watch.finish() == ""
