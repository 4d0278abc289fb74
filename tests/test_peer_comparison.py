"""The comparison with peers: what its table says of given trials, and how an engine answers."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoints import random_tensors, small_config, write_checkpoint

from codegen_cli.session.engines import open_engine
from codegen_cli.session.one_part import logits_of
from quantize.quantize_model import quantize

PEERS = Path(__file__).parent.parent / "benchmarks" / "peers"
sys.path.insert(0, str(PEERS))

import table  # noqa: E402
from engine_client import Series, run_whole  # noqa: E402
from engine_process import prompt  # noqa: E402
from report import report  # noqa: E402

INT4, Q4 = Series("codegen", "int4", 2), Series("llamacpp", "Q4_0", 2)
"""The pair that most tests compare."""


def trial(number, series, metric="decode", n=32, other_cores=0.0, **values):
    """A line of rounds.jsonl; by default 100 tokens in a second while memory gave 30 GB/s."""
    defaults = {"n_tokens": 100, "seconds": 1.0, "read_gb": 30.0, "other_cores": other_cores}
    head = {"round": number, **series._asdict(), "metric": metric, "n": n}
    return head | defaults | values


def described(engine, format, size="350M"):
    """What an engine says of itself: 200 MB read per token, a file of 250 MiB."""
    numbers = {"touched_bytes": 200e6, "file_bytes": 250 * 2**20, "bits_per_weight": 5.0}
    return {f"{size} {engine} {format}": numbers | {"version": f"{engine} 1"}}


@pytest.fixture
def rounds_of(tmp_path):
    """Write trials as measure() does, and read them."""

    def read(*trials):
        engines = {}
        for name in ("codegen int4", "codegen int8", "llamacpp Q4_0", "llamacpp Q8_0"):
            engines |= described(*name.split())
        engines |= described("openvino", "int8") | described("codegen", "int4", "2B")
        header = {
            "date": "2026-01-02",
            "cpu": "some CPU",
            "cores": 2,
            "threads": 2,
            "system": "Linux",
            "commit": "abc",
            "engines": engines,
            "verified": {"codegen int4": 0.1},
        }
        path = tmp_path / "rounds.jsonl"
        path.write_text("\n".join(json.dumps(line) for line in (header, *trials)) + "\n")
        return table.Rounds(path)

    return read


def row(rounds, title):
    return next(row for row in table.rows(rounds) if row.title == title)


def test_the_ratio_is_taken_within_each_round(rounds_of):
    """In the second the machine was three times as slow."""
    rounds = rounds_of(
        trial(1, INT4, seconds=1.0),
        trial(1, Q4, seconds=2.0, read_gb=15.0),
        trial(2, INT4, seconds=3.0),
        trial(2, Q4, seconds=6.0, read_gb=5.0),
    )
    assert [*table.ratios(rounds, INT4, Q4, "decode", 32)] == [(2.0, True), (2.0, True)]


@pytest.mark.parametrize(
    ("read_gb", "peer_speed", "counts"),
    [(30, 59, False), (30, 61, True), (15, 29, False), (15, 31, True), (60, 59, False)],
)
def test_a_round_counts_if_the_peer_is_as_fast_as_it_is_known_to_be(
    rounds_of, read_gb, peer_speed, counts
):
    """Q4_0 is known for 80.3 tokens/s where memory gives 30 GB/s; three quarters are needed."""
    peer = trial(1, Q4, seconds=100 / peer_speed, read_gb=read_gb)
    found = [*table.ratios(rounds_of(trial(1, INT4), peer), INT4, Q4, "decode", 32)]
    assert [is_counted for _, is_counted in found] == [counts]


@pytest.mark.parametrize("disturbed", [INT4, Q4])
def test_a_disturbed_round_does_not_count(rounds_of, disturbed):
    trials = [
        trial(number, series, other_cores=0.3 if (number, series) == (1, disturbed) else 0.1)
        for number in (1, 2)
        for series in (INT4, Q4)
    ]
    found = row(rounds_of(*trials), "decode int4 after 32 / llama.cpp Q4_0")
    assert [counts for _, counts in found.values] == [False, True]
    assert found.used == [1.0]


def test_without_a_round_that_counts_all_are_shown_and_it_says_so(rounds_of):
    found = rounds_of(trial(1, INT4, other_cores=1.0), trial(1, Q4, other_cores=1.0))
    assert "| 1 | 1 to 1 | 0 of 1 (all shown) |" in report(found)


def test_the_share_of_the_read_limit_is_of_that_moment(rounds_of):
    """100 tokens/s of 200 MB each are 20 GB/s: all of 20, half of 40."""
    int8 = INT4._replace(format="int8")
    rounds = rounds_of(trial(1, int8, read_gb=20.0), trial(2, int8, read_gb=40.0))
    found = row(rounds, "decode int8: share of the read limit")
    assert found.used == pytest.approx([1.0, 0.5])


def test_memory_is_what_lies_beyond_the_file(rounds_of):
    rounds = rounds_of(
        trial(1, INT4, "whole", peak_rss_mib=400.0, first_byte_seconds=0.3),
        trial(1, Q4, "whole", peak_rss_mib=900.0, first_byte_seconds=0.6, seconds=2.0),
    )
    assert row(rounds, "peak memory beyond the int4 file").used == [150.0]
    assert row(rounds, "whole process, int4 / llama.cpp Q4_0").used == [0.5]
    assert row(rounds, "start to first byte, int4 / llama.cpp Q4_0").used == [0.5]


def test_the_faster_of_our_formats_stands_for_prompts(rounds_of):
    int8, theirs = INT4._replace(format="int8"), Series("openvino", "int8", 2)
    rounds = rounds_of(
        trial(1, INT4, "prefill", 512, seconds=0.5),
        trial(1, int8, "prefill", 512, seconds=0.8),
        trial(1, theirs, "prefill", 512, seconds=1.0),
    )
    assert row(rounds, "prefill 512 / OpenVINO int8").used == [2.0]


def test_two_threads_aim_at_what_reading_memory_gains(rounds_of):
    rounds = rounds_of(
        trial(1, INT4, read_gb=30.0), trial(1, INT4._replace(threads=1), seconds=1.6, read_gb=20.0)
    )
    found = row(rounds, "2 threads / 1 thread: decode int4")
    assert (found.used, found.must, found.aim) == ([1.6], 1.5, 1.5)


def test_the_bound_of_a_speed_is_reading_weights_and_cache_as_fast_as_the_loop(rounds_of):
    """200 MB of weights and 82 positions of 82 kB, of 30 GB/s; the peer makes 100 tokens/s."""
    found = row(rounds_of(trial(1, INT4), trial(1, Q4)), "decode int4 after 32 / llama.cpp Q4_0")
    assert found.used_bounds == [pytest.approx(30e9 / (200e6 + 82 * 81920) / 100)]


def test_the_faster_of_two_loops_is_the_bound(rounds_of):
    """Of trials in the round: the median of those that have one."""
    rounds = rounds_of(
        trial(1, INT4, read_gb=30.0, staged_gb=33.0),
        trial(1, INT4, n=1024, read_gb=30.0, staged_gb=35.0),
        trial(1, Q4, read_gb=30.0),
        trial(2, INT4, read_gb=30.0, staged_gb=20.0),
        trial(2, Q4, read_gb=30.0),
    )
    found = row(rounds, "decode int4 after 32 / llama.cpp Q4_0")
    read_bytes = 200e6 + 82 * 81920
    assert found.used_bounds == pytest.approx([34e9 / read_bytes / 100, 30e9 / read_bytes / 100])


def test_bounds_are_of_the_rounds_that_count(rounds_of):
    """The second round is disturbed, and memory twice as fast in it."""
    rounds = rounds_of(
        trial(1, INT4),
        trial(1, Q4),
        trial(2, INT4, read_gb=60.0, other_cores=0.3),
        trial(2, Q4, read_gb=60.0),
    )
    found = row(rounds, "decode int4 after 32 / llama.cpp Q4_0")
    assert len(found.bounds) == 2
    assert found.used_bounds == [pytest.approx(30e9 / (200e6 + 82 * 81920) / 100)]


def test_decoding_with_drafts_is_compared_with_the_same_trial_of_the_peer(rounds_of):
    drafted = trial(1, INT4, "drafted", seconds=0.5)
    rounds = rounds_of(trial(1, INT4, seconds=1.0), drafted, trial(1, Q4, seconds=2.0))
    assert row(rounds, "decode int4 after 32 / llama.cpp Q4_0").used == [2.0]
    found = row(rounds, "decode int4 after 32 / llama.cpp Q4_0, with drafts")
    assert found.used == [4.0]
    assert not found.bounds


def test_the_bound_of_a_process_is_importing_libraries_and_reading_weights(rounds_of):
    rounds = rounds_of(
        trial(1, INT4),  # in a round in which memory gives 30 GB/s
        trial(1, INT4, "whole", seconds=0.7, first_byte_seconds=0.4, peak_rss_mib=300),
        trial(1, INT4, "undrafted", seconds=0.9, first_byte_seconds=0.4, peak_rss_mib=300),
        trial(1, Q4, "whole", seconds=1.0, first_byte_seconds=0.5, peak_rss_mib=300),
        trial(1, INT4, "libraries", 0, seconds=0.25, first_byte_seconds=0.2, peak_rss_mib=90),
    )
    drafted = row(rounds, "whole process, int4 / llama.cpp Q4_0")
    assert drafted.used == [0.7]
    assert drafted.bounds == []
    whole = row(rounds, "whole process without drafts, int4 / llama.cpp Q4_0")
    assert whole.used == [0.9]
    assert whole.used_bounds == [pytest.approx(0.25 + 64 * 0.2 / 30)]
    first = row(rounds, "start to first byte, int4 / llama.cpp Q4_0")
    assert first.used == [pytest.approx(0.8)]
    assert first.used_bounds == [pytest.approx((0.2 + 0.2 / 30) / 0.5)]
    assert f"| missed | {whole.used_bounds[0]:.3g} |" in report(rounds)


@pytest.mark.parametrize(
    ("value", "at_most", "verdict"),
    [
        (3.0, False, "aim"),
        (1.7, False, "must"),
        (1.0, False, "missed"),
        (0.3, True, "aim"),
        (0.5, True, "must"),
        (0.9, True, "missed"),
    ],
)
def test_a_verdict_knows_which_way_is_better(value, at_most, verdict):
    must, aim = (0.6, 0.4) if at_most else (1.6, 2.2)
    assert table.Row("", [(value, True)], must, aim, at_most).verdict == verdict


def test_the_report_leaves_out_what_was_not_measured(rounds_of):
    page = report(rounds_of(trial(1, INT4), trial(1, Q4)))
    assert "| decode int4 after 32 / llama.cpp Q4_0 | 1 |" in page
    assert "prefill 512 /" not in page
    assert "| codegen int4 | 2 | 100 |" in page


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A small model of the ids that the prompts have."""
    directory = tmp_path_factory.mktemp("peer")
    config = small_config(vocab_size=51200, n_positions=512, n_ctx=512)
    write_checkpoint(directory / "small", config, random_tensors(config, seed=1))
    return quantize(directory / "small", directory / "packed", "int8").path


@pytest.fixture(scope="module")
def engine_command(packed, compiled_kernels):
    return [sys.executable, str(PEERS / "engine_codegen.py"), str(packed), "int8", "1"]


@pytest.fixture(scope="module")
def small(packed, compiled_kernels):
    model = open_engine(packed, n_threads=1)
    yield model
    model.close()


def test_an_engine_answers_and_remembers_what_it_has_read(engine_command, small, tmp_path):
    path = tmp_path / "scores.npy"
    requests = [
        {"do": "read_to", "n_past": 100},
        {"do": "decode", "n_tokens": 3},
        {"do": "read_to", "n_past": 400},
        {"do": "read_to", "n_past": 500},
        {"do": "prefill", "n_tokens": 70},
        {"do": "complete", "n_past": 90, "n_tokens": 20},
        {"do": "scores", "path": str(path)},
        {"do": "describe"},
    ]
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run(engine_command, input=lines, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer.keys() >= {"seconds", "other_cores"} for answer in answers] == [
        request["do"] in ("decode", "prefill", "complete") for request in requests
    ]
    assert (np.load(path) == logits_of(small, prompt(64), small.new_cache(), 1)[-1]).all()
    assert answers[-1]["touched_bytes"] < answers[-1]["file_bytes"]


def test_a_whole_run_writes_the_greedy_tokens(engine_command, small):
    done = subprocess.run(
        [*engine_command, "--once", "32", "4"], capture_output=True, text=True, check=True
    )
    cache, ids, expected = small.new_cache(), prompt(32), []
    for _ in range(4):
        ids = [int(logits_of(small, ids, cache, 1)[-1].argmax())]
        expected += ids
    assert [int(line) for line in done.stdout.split()] == expected


def test_a_process_is_seen_from_outside():
    program = "x = bytearray(300 << 20); print('a', flush=True); x.clear(); print('b')"
    # From a small process, as the kernel counts the starting one's memory, too.
    script = "import json, sys, engine_client as c; print(json.dumps(c.run_whole(sys.argv[1:])))"
    result = json.loads(
        subprocess.check_output(
            [sys.executable, "-c", script, sys.executable, "-c", program], cwd=PEERS
        )
    )
    assert 0 < result["first_byte_seconds"] <= result["seconds"]
    assert 300 < result["peak_rss_mib"] < 600


def test_a_process_that_fails_ends_the_comparison():
    with pytest.raises(SystemExit, match="no such thing"):
        run_whole([sys.executable, "-c", "raise SystemExit('no such thing')"])
