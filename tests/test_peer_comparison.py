"""The comparison with peers: what its table says of given trials."""

import json
import sys
from pathlib import Path

import pytest

PEERS = Path(__file__).parent.parent / "benchmarks" / "peers"
sys.path.insert(0, str(PEERS))

import table  # noqa: E402
from engine_client import Series  # noqa: E402
from report import report  # noqa: E402
from trials import Rounds, slow_rounds  # noqa: E402

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
    """Write trials as measure() does, and read them; header: what differs in the first line."""

    def read(*trials, **header):
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
            "kernels": "avx2",
            "engines": engines,
            "verified": {"codegen int4": 0.1},
        } | header
        path = tmp_path / "rounds.jsonl"
        path.write_text("\n".join(json.dumps(line) for line in (header, *trials)) + "\n")
        return Rounds(path)

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


def decoded(*measures):
    """Trials of both engines in turn, a round each: (peer's seconds, GB/s beside it and ours)."""
    for number, (seconds, read_gb) in enumerate(measures, 1):
        yield trial(number, INT4, read_gb=read_gb)
        yield trial(number, Q4, seconds=seconds, read_gb=read_gb)


@pytest.mark.parametrize(
    ("measures", "slow"),
    [
        ([(9.0, 30.0)], []),
        ([(1.0, 30.0), (1.3, 30.0), (1.4, 30.0)], []),
        ([(9.0, 30.0), (9.1, 30.0), (8.9, 30.0)], []),
        ([(1.0, 30.0), (1.0, 30.0), (1.4, 30.0)], [3]),
        ([(1.0, 30.0), (0.5, 30.0), (1.0, 30.0)], []),
        ([(1.0, 30.0), (1.0, 30.0), (2.0, 15.0)], []),
        ([(1.0, 30.0), (1.0, 30.0), (2.8, 15.0)], [3]),
        ([(1.0, 30.0), (1.0, 30.0), (1.0, 60.0)], []),
    ],
    ids=[
        "one round has no other to be judged by",
        "what lies near the median counts",
        "slow in all rounds is what this machine gives",
        "far slower than the median does not count",
        "one fast round does not condemn the others",
        "as slow as memory was",
        "slower than memory was",
        "faster memory asks for nothing",
    ],
)
def test_a_peer_is_judged_by_its_own_rounds(rounds_of, measures, slow):
    rounds = rounds_of(*decoded(*measures))
    assert slow_rounds(rounds, Q4, "decode", 32) == set(slow)
    counted = [counts for _, counts in table.ratios(rounds, INT4, Q4, "decode", 32)]
    assert counted == [number not in slow for number, _ in enumerate(measures, 1)]


def test_memory_that_was_slow_for_the_peer_alone_excuses_nothing(rounds_of):
    """In the third round the peer met a moment that ours did not: their ratio says nothing."""
    rounds = rounds_of(
        *decoded((1.0, 30.0), (1.0, 30.0)),
        trial(3, INT4, read_gb=30.0),
        trial(3, INT4._replace(format="int8"), read_gb=30.0),
        trial(3, Q4, seconds=2.0, read_gb=15.0),
    )
    assert slow_rounds(rounds, Q4, "decode", 32) == {3}


def test_disturbed_rounds_do_not_say_what_is_usual(rounds_of):
    trials = [trial(number, Q4, seconds=9.0, other_cores=0.5) for number in (1, 2, 3)]
    rounds = rounds_of(*trials, trial(4, Q4, seconds=1.0), trial(5, Q4, seconds=1.1))
    assert slow_rounds(rounds, Q4, "decode", 32) == {1, 2, 3}


@pytest.mark.parametrize(("metric", "n"), [("prefill", 512), ("whole", 32)])
def test_peers_are_judged_where_no_memory_was_measured(rounds_of, metric, n):
    """The middle one of a round's trials stands for it, as it does in the ratio."""
    rounds = rounds_of(
        *(trial(1, Q4, metric, n, seconds=each) for each in (1.0, 1.0, 5.0)),
        *(trial(2, Q4, metric, n, seconds=each) for each in (1.1, 1.0, 0.9)),
        *(trial(3, Q4, metric, n, seconds=each) for each in (2.0, 2.0, 1.0)),
    )
    for each in rounds.trials:
        del each["read_gb"]
    assert slow_rounds(rounds, Q4, metric, n) == {3}


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


def test_texts_at_once_are_compared_where_they_were_measured(rounds_of):
    """As many tokens a second of all of them together; earlier rounds have no such trial."""
    texts = [
        trial(1, series, "many", n_tokens=1024, seconds=seconds)
        for series, seconds in ((INT4, 2.0), (Q4, 3.0))
    ]
    found = rounds_of(*texts)
    line = row(found, "8 texts after 32, int4 / llama.cpp Q4_0 with 8 sequences")
    assert (line.used, line.must, line.aim) == ([1.5], 1.3, 2.0)
    assert "| 8 texts 32 |" in report(found)
    assert "8 texts" not in report(rounds_of(trial(1, INT4), trial(1, Q4)))


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


def test_another_commit_has_its_lines_where_it_was_measured(rounds_of):
    baseline = Series("baseline", "int4", 2)
    trials = [trial(1, INT4, "prefill", 512), trial(1, baseline, "prefill", 512, seconds=1.5)]
    found = rounds_of(*trials)
    found.header["engines"] |= described("baseline", "int4")
    assert row(found, "prefill 512 int4 / baseline").used == [1.5]
    assert "| baseline int4 | 2 |" in report(found)
    assert "baseline" not in report(rounds_of(trials[0]))


@pytest.mark.parametrize(
    ("cpu", "folder"),
    [
        ("AMD EPYC, family 26 model 2", "amd-epyc-family-26-model-2-avx2"),
        (
            "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz, family 6 model 143",
            "intel-xeon-platinum-8481c-family-6-model-143-avx2",
        ),
        ("AMD Ryzen 9 7950X 16-Core Processor", "amd-ryzen-9-7950x-16-core-avx2"),
        ("Neoverse-N1/..", "neoverse-n1-avx2"),
        ("some CPU v1.5", "some-v1.5-avx2"),
    ],
)
def test_a_folder_of_results_says_which_cpu(rounds_of, cpu, folder):
    assert rounds_of(cpu=cpu).machine == folder


RESULTS = sorted((PEERS / "results").iterdir())


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_results_are_what_their_rounds_say(folder):
    rounds = Rounds(folder / "rounds.jsonl")
    assert rounds.machine == folder.name
    assert (folder / "results.md").read_text("utf-8") == report(rounds)
    assert (folder / "decode.svg").is_file()


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_the_pages_name_every_cpu_measured_with_its_date(folder):
    date = Rounds(folder / "rounds.jsonl").header["date"]
    link = f"benchmarks/peers/results/{folder.name}/results.md"
    for page, path in (("README.md", link), ("docs/performance.md", f"../{link}")):
        lines = (PEERS.parent.parent / page).read_text("utf-8").splitlines()
        assert any(f"]({path})" in line and date in line for line in lines), page
