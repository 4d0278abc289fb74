"""A job from IN to OUT: the same bytes however it is made, and gone on with wherever it ended."""

import json
import random
import re
import sys

import pytest
from typer.testing import CliRunner

import codegen_cli
from codegen_cli.batch import answering
from codegen_cli.batch.answer_file import AnswerFile
from codegen_cli.batch.answer_line import Answer
from codegen_cli.batch.answering import answer_lines
from codegen_cli.batch.job import Job
from codegen_cli.batch.journal import journal_path
from codegen_cli.batch.opening import begin_job, open_output
from codegen_cli.batch.running import run_job
from codegen_cli.batch.settings import Settings
from codegen_cli.batch.source import Source
from codegen_cli.commands.app import app
from codegen_cli.decoding.options import GenerateOptions
from codegen_cli.reports.openai_json import choice_object
from codegen_cli.session import cache_room
from codegen_cli.session.generation import Request
from codegen_cli.session.sample import Sample
from codegen_cli.terminal import progress_lines
from codegen_cli.text.text_side import Prompt
from quantize.files.errors import UserError

pytestmark = pytest.mark.usefixtures("compiled_kernels")

SETTINGS = Settings(
    model="nano:int8", options={"max_tokens": 6, "temperature": 1.0, "until": "none"}
)
URL = "/v1/completions"
LINES = [
    {"id": "first", "prompt": "def add(a, b):", "max_tokens": 40},
    {"prompt": "def area("},
    {"prompt": "def area("},
    "no JSON",
    {"id": "first", "prompt": "twice"},
    {"prompt": "import os\n", "n": 3, "logprobs": 2},
    {"custom_id": "a", "url": URL, "body": {"model": "nano", "prompt": ["x =", "y ="], "n": 2}},
    {"custom_id": "b", "url": URL, "body": {"model": "gpt", "prompt": "x"}},
    {"id": 7, "prompt": "class Stack:", "seed": 5, "top_k": 3, "logprobs": 0},
    {"prompt": "", "id": "empty"},
]
N_BAD = 4


@pytest.fixture(scope="module")
def model():
    with codegen_cli.load("nano", threads=2) as model:
        yield model


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\n".join(json.dumps(line).encode() for line in LINES))
    return path


class Interleaving:
    """A model's completions several at a time, the next piece from whichever chance says."""

    def __init__(self, model, n_texts, seed):
        self._model, self._n_texts = model, n_texts
        self._random = random.Random(seed)

    def generate_many(self, requests, on_shortage=None):
        requests, growing = iter(requests), []
        while True:
            while len(growing) < self._n_texts and (request := next(requests, None)):
                growing.append((request, self._model.begin(request.prompt, request.options)[1]))
            if not growing:
                return
            at = self._random.randrange(len(growing))
            request, generation = growing[at]
            item = next(generation, None)
            if item is None:
                del growing[at]
            else:
                yield request, item


def run(model, source, output, *, settings=SETTINGS):
    """Run a job as the command does; return what its last line says of bad lines, if any."""
    with Source(source, None) as content, open_output(output) as out:
        job = begin_job(content, out, settings, IDENTITY, 7)
        with pytest.raises(UserError) as caught:
            run_job(job, answer_lines(model, job.lines(), settings), "test")
    return caught.value.message


IDENTITY = None


@pytest.fixture(autouse=True, scope="module")
def _identity(model):
    global IDENTITY
    IDENTITY = model.identity


@pytest.fixture(scope="module")
def expected(model, tmp_path_factory):
    """What OUT holds in the end."""
    directory = tmp_path_factory.mktemp("expected")
    path = directory / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    run(model, path, directory / "out.jsonl")
    return (directory / "out.jsonl").read_bytes()


def test_each_line_has_its_answer_and_the_bad_are_counted(model, source, tmp_path, expected):
    message = run(model, source, tmp_path / "out")
    assert message == f"{N_BAD} of {len(LINES)} lines have an error instead of an answer"
    answers = [json.loads(line) for line in expected.splitlines()]
    assert len(answers) == len(LINES)
    codes = [answer["error"]["code"] if answer.get("error") else None for answer in answers]
    assert codes[3:5] == ["invalid_json_line", "duplicate_id"]
    assert (codes[7], codes[9]) == ("mismatched_model", "invalid_request")
    assert answers[1]["seed"] != answers[2]["seed"]


def test_a_choice_is_what_its_index_as_a_sample_gives_alone(model, expected):
    answer = json.loads(expected.splitlines()[5])
    for index, choice in enumerate(answer["choices"]):
        sample = Sample(
            GenerateOptions(
                **SETTINGS.options, seed=answer["seed"], sample=index, draft=0, logprobs=2
            )
        )
        for item in model.begin(Prompt("import os\n", 6), sample.options)[1]:
            sample.take(item)
        assert choice == choice_object(index, sample.text, sample.end, tokens=sample.tokens)
        assert len(choice["logprobs"]["tokens"]) == 6


@pytest.mark.parametrize("seed", range(3))
def test_neither_the_order_nor_drafts_nor_how_many_at_once_change_a_byte(
    model, source, tmp_path, expected, seed
):
    settings = Settings(model=SETTINGS.model, options=SETTINGS.options, draft=0)
    run(Interleaving(model, 1 + 3 * seed, seed), source, tmp_path / "out", settings=settings)
    assert (tmp_path / "out").read_bytes() == expected


def test_threads_change_no_byte(source, tmp_path, expected):
    with codegen_cli.load("nano", threads=1) as model:
        run(model, source, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == expected


def test_a_prompt_that_had_to_be_cut_is_told(model, tmp_path, capfd):
    long = "x = 1\n" * 600
    body = {"model": "nano", "prompt": [long, "x"], "max_tokens": 1}
    lines = [{"prompt": "x"}, {"custom_id": "a", "url": URL, "body": body}, {"prompt": 1}]
    (tmp_path / "in").write_text("\n".join(map(json.dumps, lines)))
    for _ in range(2):  # the second has the answers of the first
        run(model, tmp_path / "in", tmp_path / "out")
        assert "the prompt was too long in 1 of 3 lines" in capfd.readouterr().err
    short, cut, _ = map(json.loads, (tmp_path / "out").read_bytes().splitlines())
    assert set(short["usage"]) == {"prompt_tokens", "completion_tokens", "total_tokens"}
    fitted, _ = model.begin(Prompt(long, 1), GenerateOptions())
    usage = cut["response"]["body"]["usage"]
    assert usage["prompt_tokens"] == len(fitted.ids) + 1
    assert usage["prompt_characters_dropped"] == fitted.n_dropped_characters > 0


def test_from_wherever_it_was_cut_it_goes_on_to_the_same_bytes(model, source, tmp_path, expected):
    output = tmp_path / "out"
    run(model, source, output)
    chance = random.Random(4)
    for n_bytes in [0, 1, len(expected) - 1, *chance.sample(range(len(expected)), 4)]:
        output.write_bytes(expected[:n_bytes])
        run(model, source, output)
        assert output.read_bytes() == expected


def test_room_that_a_power_cut_left_empty_is_filled(model, source, tmp_path, expected):
    output = tmp_path / "out"
    run(model, source, output)
    first = expected.index(b"\n") + 1
    output.write_bytes(expected[: first + 9] + bytes(len(expected) - first - 30) + b"\n}\n")
    run(model, source, output)
    assert output.read_bytes() == expected


def test_what_is_there_is_not_made_again(source, tmp_path, expected, capfd):
    run_model = Interleaving(None, 1, 0)  # would fail if it were asked
    output = tmp_path / "out"
    output.write_bytes(expected)
    with codegen_cli.load("nano") as model:
        (tmp_path / "first").mkdir()
        run(model, source, tmp_path / "first" / "out")
    journal_path(tmp_path / "first" / "out").rename(journal_path(output))
    capfd.readouterr()
    assert run(run_model, source, output).startswith(f"{N_BAD} of {len(LINES)} lines")
    assert f"{output} has all {len(LINES)} answers already" in capfd.readouterr().err
    assert output.read_bytes() == expected


@pytest.fixture
def begun(model, source, tmp_path, expected):
    """An OUT with two answers, and its journal."""
    output = tmp_path / "out"
    run(model, source, output)
    output.write_bytes(b"".join(expected.splitlines(keepends=True)[:2]))
    return output


def refusal(source, output, *, settings=SETTINGS, seed=7, identity=None):
    before = output.read_bytes()
    opened = Source(source, None)
    with opened as content, pytest.raises(UserError) as caught, open_output(output) as out:
        begin_job(content, out, settings, identity or IDENTITY, seed)
    assert output.read_bytes() == before
    return caught.value


def test_an_out_of_another_job_is_refused_and_what_differs_is_named(source, begun, model):
    def changed(**changes):
        return Settings(
            **{"model": SETTINGS.model, "options": SETTINGS.options, "created": 0} | changes
        )

    was = f"{begun} was begun with another "
    error = refusal(source, begun, settings=changed(model="nano:int4"))
    assert error.message == was + "model: it was 'nano:int8', is 'nano:int4'"
    assert error.hint == (
        "Go on as it was begun, or choose another OUT with -o; to begin anew, remove "
        f"{begun} and {begun}.journal."
    )
    options = SETTINGS.options | {"max_tokens": 9}
    error = refusal(source, begun, settings=changed(options=options))
    assert error.message == was + "option; max_tokens: it was 6, is 9"
    assert refusal(source, begun, seed=8).message == was + "seed: it was 7, is 8"
    error = refusal(source, begun, settings=changed(created=3))
    assert error.message == was + "--created: it was 0, is 3"
    error = refusal(source, begun, identity=model.identity._replace(model="other", numerics=99))
    assert error.message == was + "state of the model (model, numerics)"
    source.write_bytes(source.read_bytes() + b"\n\n")
    assert refusal(source, begun).message == was + "input"


def test_a_seed_that_nobody_gave_is_kept(model, source, begun):
    with Source(source, None) as content, open_output(begun) as out:
        assert begin_job(content, out, SETTINGS, IDENTITY, None).seed == 7


def test_a_file_that_no_job_began_is_left_alone(source, tmp_path):
    output = tmp_path / "out"
    output.write_text("mine")
    error = refusal(source, output)
    assert error.message == f"{output} is there already, and no job began it"
    assert f"{output}.journal is missing" in error.hint


@pytest.mark.parametrize(
    "content", [b"mine", b"{}", b'{"codegen_batch": "1"}', b'{"codegen_batch": 1, "seed": "x"}']
)
def test_a_file_in_the_place_of_the_journal_is_left_alone(source, tmp_path, content):
    output = tmp_path / "out"
    journal_path(output).write_bytes(content)
    output.touch()
    assert refusal(source, output).message == f"{output}.journal is no journal of a batch"
    assert journal_path(output).read_bytes() == content


def test_a_journal_of_another_form_is_refused(source, begun):
    path = journal_path(begun)
    path.write_text(path.read_text().replace('"codegen_batch": 1', '"codegen_batch": 2'))
    assert refusal(source, begun).message == f"{path} is a journal of form 2, need 1"


def test_an_answer_that_was_changed_is_not_gone_on_with(source, begun, expected):
    answers = expected.splitlines(keepends=True)
    begun.write_bytes(answers[0] + answers[2])
    error = refusal(source, begun)
    assert error.message == (
        f"{begun} has been changed: its line 2 is no answer to line 2 of the input"
    )
    begun.write_bytes(expected + b"one more\n")
    assert "line 11 is no answer to any line" in refusal(source, begun).message


@pytest.mark.skipif(sys.platform == "win32", reason="no locks there")
def test_one_process_at_a_time_writes_an_out(source, begun):
    with AnswerFile(begun):
        error = refusal(source, begun)
    assert error.message == f"another process is writing {begun}"


def test_an_out_that_nothing_came_of_goes_again(source, tmp_path):
    with pytest.raises(ZeroDivisionError), open_output(tmp_path / "out"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [source]


def test_an_input_that_changes_meanwhile_is_told(model, source, tmp_path, monkeypatch):
    with Source(source, None) as content, open_output(tmp_path / "out") as out:
        source.write_bytes(source.read_bytes().replace(b"first", b"other"))
        job = begin_job(content, out, SETTINGS, IDENTITY, 7)
        with pytest.raises(UserError, match="has changed while it was read"):
            run_job(job, answer_lines(model, job.lines(), SETTINGS), "test")


def test_a_pipe_gets_answers_and_no_journal(model, source, tmp_path, expected, capfdbinary):
    pieces = [source.read_bytes(), b""]
    with open_output(None) as out:
        job = begin_job(Source(None, lambda: pieces.pop(0)), out, SETTINGS, IDENTITY, 7)
        with pytest.raises(UserError, match="lines have an error"):
            run_job(job, answer_lines(model, job.lines(), SETTINGS), "test")
    assert capfdbinary.readouterr().out == expected
    assert list(tmp_path.iterdir()) == [source]


def test_answers_to_a_pipe_are_not_mixed_with_others(source, begun):
    with pytest.raises(UserError) as caught, open_output(begun) as out:
        begin_job(Source(None, lambda: b""), out, SETTINGS, IDENTITY, 7)
    assert caught.value.message == f"{begun} is there already"
    assert "only a job that reads a file goes on" in caught.value.hint


class Refusing(Interleaving):
    """A model whose machine has no memory left."""

    def generate_many(self, requests, on_shortage=None):
        for request in requests:
            yield request, UserError("not enough memory", "Close other programs.")


def test_what_no_line_is_to_blame_for_ends_the_job(source, tmp_path):
    with Source(source, None) as content, open_output(tmp_path / "out") as out:
        job = begin_job(content, out, SETTINGS, IDENTITY, 7)
        with pytest.raises(UserError, match="line 1: not enough memory"):
            run_job(job, answer_lines(Refusing(None, 1, 1), job.lines(), SETTINGS), "test")
    assert (tmp_path / "out").read_bytes() == b""


class Hoarding:
    """Begins all that it is given before it ends any, the first last."""

    def __init__(self, model):
        self._model = model
        self.rounds = []

    def generate_many(self, requests, on_shortage=None):
        taken: list[Request] = list(requests)
        self.rounds.append(len(taken))
        for request in reversed(taken):
            for item in self._model.begin(request.prompt, request.options)[1]:
                yield request, item


@pytest.mark.parametrize("line", [{"prompt": "a", "max_tokens": 1}, {"prompt": ""}])
def test_lines_are_read_no_further_ahead_than_is_bounded(model, tmp_path, monkeypatch, line):
    monkeypatch.setattr(answering, "_AHEAD_BYTES", 10 * answering._LINE_BYTES)
    path = tmp_path / "in"
    path.write_text(f"{json.dumps(line)}\n" * 35)
    hoarding = Hoarding(model)
    with Source(path, None) as content:
        job = Job(content, None, 7)
        answers = [each.place for each in answer_lines(hoarding, job.lines(), SETTINGS)]
    assert sorted(answers) == list(range(35))
    assert len(hoarding.rounds) == 4
    assert max(hoarding.rounds) <= 11


def test_where_memory_is_short_it_is_told_once_and_no_byte_changes(
    model, source, tmp_path, expected, monkeypatch
):
    n_bytes = model._engine().cache_bytes(46)
    free = model._engine().token_bytes + int(3.5 * n_bytes)
    monkeypatch.setattr(cache_room, "available_bytes", lambda: free)
    monkeypatch.setattr(answering, "_AHEAD_BYTES", 4 * answering._LINE_BYTES)  # several rounds
    options = ("-m", "nano", "-n", "6", "-t", "1", "--until", "none", "--seed", "7")
    arguments = ["batch", str(source), "-o", str(tmp_path / "out"), *options]
    result = CliRunner().invoke(app, arguments)
    told = re.findall(r"codegen: (\d) texts of \d+ tokens fit .* \(.* free\): .*", result.stderr)
    assert told == ["2"]
    answers = (tmp_path / "out").read_bytes()
    assert answers == expected


def test_answers_are_written_in_the_order_of_lines():
    written = []

    class Output:
        append = staticmethod(written.append)

    job = Job(Source(None, lambda: b""), Output(), 7)
    answers = [Answer(place, b"%d\n" % place) for place in (2, 1, 0, 4, 3)]
    assert [answer.place for answer in job.write(answers)] == [0, 1, 2, 3, 4]
    assert written == [b"0\n", b"1\n", b"2\n", b"3\n", b"4\n"]


def test_a_log_is_told_how_far_it_is_and_how_fast(model, source, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(progress_lines, "EVERY_SECONDS", 0.0)
    run(model, source, tmp_path / "out")
    first, *lines, last = capfd.readouterr().err.splitlines()
    assert first == f"codegen: seed 7, kept in {tmp_path / 'out'}.journal"
    assert len(lines) == len(LINES)
    for count, line in enumerate(lines, start=1):
        share = f"{count / len(LINES):.0%}"
        assert re.fullmatch(rf"codegen: test: {share}, [\d.]+ tokens/s, \d+ s left", line)
    assert re.fullmatch(r"codegen: 10 answers, \d+ tokens in \d+ s \([\d.]+ tokens/s\)", last)
