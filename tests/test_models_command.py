"""`codegen models` as a process of its own: what it tells, asks, checks and changes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from checkpoints import random_tensors, small_config, write_checkpoint
from packed import flip_bit, write_packed

from quantize.packed.packed_file import verify


@pytest.fixture
def models_home(tmp_path):
    """A home with a registered model in two formats and one of a wide name."""
    home = tmp_path / "home"
    for name in ("350M-mono.int4", "350M-mono.int8", "模型.int8"):
        format = name.rpartition(".")[2]
        write_packed(home / "models" / f"{name}.safetensors", format, name=name[:-5])
    return home


@pytest.fixture
def models(codegen, models_home):
    """Run `codegen models ARGUMENTS...` in that home, with a hub cache of its own."""
    places = {"CODEGEN_HOME": str(models_home), "HF_HOME": str(models_home / "hf")}

    def run(*arguments, **options):
        return codegen("models", *arguments, **places | options)

    return run


def stdout_of(result):
    assert result.returncode == 0, result.stderr.decode()
    return result.stdout.decode()


def cells(text):
    """Width in terminal cells: these tests use ideographs, two cells each, and ASCII."""
    return sum(2 if ord(character) > 0x2E80 else 1 for character in text)


def test_the_list_aligns_columns_where_characters_are_wide(models):
    result = models("list")
    lines = stdout_of(result).splitlines()
    assert b"of memory are available" in result.stderr
    assert lines[0].split() == "model download int4 needs int8 needs f16 needs fits".split()
    assert lines.index("") == 1 + 13 + 1
    row = next(line for line in lines if "模型" in line)
    column = cells(lines[0][: lines[0].index("int8 needs")])
    assert cells(row[: row.index("0.2 GB packed")]) == column
    mono = next(line for line in lines if "350M-mono " in line)
    assert re.search("0.8 GB +0.2 GB packed +0.2 GB packed +1.0 GB +", mono)
    notes = result.stderr.decode()
    assert "a name without a format means int4 if that is packed, else int8, else f16" in notes
    header, packed, total = lines[lines.index("") + 1 :]
    assert header.split() == ["on", "disk", "number", "size", "where"]
    size = re.fullmatch(r"packed files +3 +(\d+ kB) +.*/models", packed)[1]
    assert total.split() == ["all", "of", "them", *size.split()]
    assert "prune" not in notes
    bare = models()
    assert (bare.stdout, bare.returncode) == (result.stdout, 0)
    assert next(line for line in lines if "nano" in line).startswith("* nano")


def test_the_list_as_json_tells_the_same_in_numbers(models, models_home):
    listing = json.loads(stdout_of(models("list", "--json")))
    assert listing["models_dir"] == str(models_home / "models")
    assert listing["default"] is None
    by_name = {model["name"]: model for model in listing["models"]}
    assert len(by_name) == 14
    assert by_name["nano"]["is_bundled"]
    assert by_name["nano"]["is_default"]
    int4, int8, f16 = by_name["350M-mono"]["formats"]
    path = models_home / "models" / "350M-mono.int8.safetensors"
    assert int8["path"] == str(path)
    assert int8["file_bytes"] == path.stat().st_size
    assert int8["memory_bytes"] > int4["memory_bytes"] > 100e6
    assert f16["path"] is None
    assert f16["memory_bytes"] == 1_031_590_272
    available = listing["memory_available_bytes"]
    assert int8["fits"] is (None if available is None else int8["memory_bytes"] <= available)
    assert by_name["16B-mono"]["download_bytes"] == 32_206_917_632
    assert by_name["16B-mono"]["checkpoint"] is None
    packed = list((models_home / "models").iterdir())
    n_bytes = sum(each.stat().st_size for each in packed)
    place = {"kind": "packed", "directory": str(models_home / "models"), "count": 3}
    assert listing["disk"] == {
        "places": [place | {"bytes": n_bytes}],
        "bytes": n_bytes,
        "prunable_bytes": 0,
    }


def test_a_damaged_file_is_listed_as_damaged(models, models_home):
    flip_bit(models_home / "models" / "模型.int8.safetensors", 100)
    row = next(line for line in stdout_of(models("list")).splitlines() if "模型" in line)
    assert row.split() == ["模型", "-", "-", "damaged", "-", "none"]
    listing = json.loads(stdout_of(models("list", "--json")))
    model = next(model for model in listing["models"] if model["name"] == "模型")
    assert "SHA-256 of the header" in model["formats"][0]["problem"]


def test_a_file_that_no_name_finds_is_told_of(models, models_home):
    weird = models_home / "models" / "we\x1bird.safetensors"
    weird.touch()
    (models_home / "models" / "notes.txt").touch()
    notes = models("list").stderr.decode()
    weird.unlink()
    [line] = [line for line in notes.splitlines() if "not listed" in line]
    place = models_home / "models" / "we\\x1bird.safetensors"
    assert f"{place} is not listed: a packed file there is called NAME.FORMAT" in line
    assert "codegen models import" in line


def test_a_name_with_escape_codes_reaches_no_terminal_as_such(models, models_home):
    (models_home / "models" / "\x1b[31mred.int8.safetensors").touch()
    result = models("list")
    assert b"\x1b" not in result.stdout + result.stderr
    assert b"\\x1b[31mred" in result.stdout


def test_show_tells_dimensions_licence_files_and_provenance(models, models_home):
    text = stdout_of(models("show", "350m-mono"))
    for pattern in (
        r"name +350M-mono",
        r"origin +Salesforce/codegen-350M-mono",
        r"licence +BSD-3-Clause",
        r"n_layer +2",
        r"download +0.8 GB",
        r"int8 +packed, file 127 kB, needs 0.2 GB of memory",
        r"f16 +not packed, file 0.7 GB, needs 1.0 GB of memory",
        re.escape(str(models_home / "models" / "350M-mono.int4.safetensors")),
        r"source +a test",
    ):
        assert re.search(pattern, text), pattern


def test_show_takes_a_file_a_checkpoint_and_an_unpacked_name(models, tmp_path):
    config = small_config()
    checkpoint = write_checkpoint(tmp_path / "mine", config, random_tensors(config, 1))
    for model in (str(checkpoint), str(write_packed(tmp_path / "some.safetensors"))):
        shown = json.loads(stdout_of(models("show", model, "--json")))
        assert shown["dimensions"]["n_embd"] == 64
        assert all(each["memory_bytes"] > 100e6 for each in shown["formats"])
    shown = json.loads(stdout_of(models("show", "16B-multi", "--json")))
    assert shown["dimensions"]["parameters"] == 16_032_155_648


def test_path_prints_one_path_for_scripts(models, models_home, tmp_path):
    path = models_home / "models" / "350M-mono.int4.safetensors"
    assert stdout_of(models("path", "350M-mono")) == f"{path}\n"
    found = json.loads(stdout_of(models("path", "350m-mono:int8", "--json")))
    assert found == {
        "name": "350M-mono",
        "kind": "packed",
        "path": str(models_home / "models" / "350M-mono.int8.safetensors"),
    }


def test_path_finds_a_downloaded_checkpoint(models, models_home):
    repository = models_home / "hf" / "hub" / "models--Salesforce--codegen-2B-nl"
    snapshot = repository / "snapshots" / ("0" * 40)
    config = small_config()
    write_checkpoint(snapshot, config, random_tensors(config, 1), container="torch")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    assert stdout_of(models("path", "2B-nl")) == f"{snapshot}\n"
    assert json.loads(stdout_of(models("path", "2B-nl", "--json")))["kind"] == "checkpoint"
    row = next(line for line in stdout_of(models("list")).splitlines() if "2B-nl" in line)
    assert row.split()[1] == "done"


@pytest.mark.usefixtures("compiled_kernels")
def test_every_command_takes_the_name_of_a_revision(codegen, models, models_home, home):
    (models_home / "cache").symlink_to(home / "cache")
    places = {"CODEGEN_HOME": str(models_home), "HF_HOME": str(models_home / "hf")}
    repository = models_home / "hf" / "hub" / "models--Salesforce--codegen-2B-nl"
    snapshot = repository / "snapshots" / ("1" * 40)
    config = small_config(vocab_size=51200)
    write_checkpoint(snapshot, config, random_tensors(config, 1), container="torch")
    (repository / "refs" / "refs" / "pr").mkdir(parents=True)
    (repository / "refs" / "refs" / "pr" / "3").write_text("1" * 40)
    name = "2B-nl@refs/pr/3"
    assert models("path", "2B-nl").returncode == 1
    assert stdout_of(models("path", name)) == f"{snapshot}\n"
    stdout_of(codegen("quantize", f"codegen-{name}", "--format", "int4", **places))
    packed = models_home / "models" / "2B-nl@refs~pr~3.int4.safetensors"
    assert stdout_of(models("path", name)) == f"{packed}\n"
    asked = ("complete", "-q", "--json", "-n", "1", "x", "-m")
    assert json.loads(stdout_of(codegen(*asked, name, **places)))["model"] == f"{name}:int4"
    listed = {
        each["name"]: each for each in json.loads(stdout_of(models("list", "--json")))["models"]
    }
    assert (listed[name]["revision"], listed["2B-nl"]["revision"]) == ("refs/pr/3", "main")
    assert (listed[name]["checkpoint"], listed["2B-nl"]["checkpoint"]) == (str(snapshot), None)
    assert json.loads(stdout_of(models("show", name, "--json")))["name"] == name
    stdout_of(models("default", name))
    assert stdout_of(models("default")) == f"{name}\n"
    found = json.loads(stdout_of(models("verify", f"{name}:int4", "--json")))["files"]
    assert [each["path"] for each in found] == [str(packed)]
    stdout_of(models("rm", name, "--yes"))
    assert not packed.exists()
    assert b"error: 2B-nl: '../x' is no revision\n" in models("show", "2B-nl@../x").stderr


def test_the_default_is_set_shown_and_used(models, models_home):
    unset = models("default")
    assert stdout_of(unset) == "nano\n"
    result = models("default", "codegen-350M-mono:int4")
    assert (result.stdout, result.returncode) == (b"", 0)
    assert result.stderr == b""
    assert stdout_of(models("default")) == "350M-mono:int4\n"
    shown = json.loads(stdout_of(models("default", "--json")))
    assert shown == {"default": "350M-mono:int4", "is_chosen": True, "device": "cpu"}
    assert "* 350M-mono" in stdout_of(models("list"))


def test_a_default_that_cannot_run_says_that_it_is_the_default(codegen, models, models_home):
    (models_home / "settings.json").write_text('{"default_model": "gone"}')
    result = codegen("complete", "x", CODEGEN_HOME=str(models_home))
    assert result.returncode == 1
    assert b"gone is the default model; choose another: codegen models default" in result.stderr


def test_a_name_as_default_is_no_path_whatever_lies_here(
    codegen, models_home, monkeypatch, tmp_path
):
    (models_home / "settings.json").write_text('{"default_model": "mine"}')
    config = small_config(vocab_size=51200)
    write_checkpoint(tmp_path / "mine", config, random_tensors(config, 1))
    monkeypatch.chdir(tmp_path)
    result = codegen("complete", "x", CODEGEN_HOME=str(models_home))
    assert (result.returncode, result.stdout) == (1, b"")
    assert b"unknown model 'mine'" in result.stderr


@pytest.mark.usefixtures("compiled_kernels")
def test_a_default_that_nobody_chose_and_that_has_gone_gives_way_to_the_bundled_model(
    codegen, models, models_home, home
):
    (models_home / "cache").symlink_to(home / "cache")
    file = models_home / "models" / "模型.int8.safetensors"
    stdout_of(models("import", str(file), "--name", "mine"))
    settings = json.loads((models_home / "settings.json").read_bytes())
    assert settings == {"default_model": "mine", "automatic_default": "mine"}
    (models_home / "models" / "mine.int8.safetensors").unlink()
    (models_home / "mine").mkdir()  # what is called so in the working directory is another matter
    told = "codegen: mine, the default model, has gone: nano, the small bundled model, takes its"
    result = models("default", "-q")
    assert result.stdout == b"nano\n"
    assert result.stderr.decode().startswith(told)
    assert next(line for line in stdout_of(models("list")).splitlines() if "nano" in line)[0] == "*"
    options = ("complete", "-q", "--json", "-n", "2", "-t", "0", "x")
    result = codegen(*options, CODEGEN_HOME=str(models_home))
    assert json.loads(stdout_of(result))["model"] == "nano:int8"
    assert result.stderr.decode().startswith(told)
    assert len(result.stderr.splitlines()) == 1
    assert models("default", "mine").returncode == 1  # nobody can choose it now
    stdout_of(models("default", "350M-mono"))
    for format in ("int4", "int8"):
        (models_home / "models" / f"350M-mono.{format}.safetensors").unlink()
    result = codegen(*options, CODEGEN_HOME=str(models_home))
    assert result.returncode == 1  # that one was chosen
    assert b"350M-mono is the default model; choose another" in result.stderr


def test_rm_asks_for_yes_in_a_pipe_and_removes_nothing(models, models_home):
    result = models("rm", "350M-mono", stdin=b"y\n")
    assert result.returncode == 2
    assert b"--yes" in result.stderr
    assert len(list((models_home / "models").iterdir())) == 3


def test_rm_removes_one_format_and_then_the_model_with_its_default(models, models_home):
    stdout_of(models("default", "350M-mono"))
    result = models("rm", "350M-mono:int4", "--yes", "--json")
    removed = json.loads(stdout_of(result))
    assert [each["path"] for each in removed["removed"]] == [
        str(models_home / "models" / "350M-mono.int4.safetensors")
    ]
    assert not removed["default_was_reset"]
    result = models("rm", "350M-mono", "--yes")
    assert stdout_of(result) == ""
    assert b"350M-mono was the default model; there is none now" in result.stderr
    assert [path.name for path in (models_home / "models").iterdir()] == ["模型.int8.safetensors"]
    assert stdout_of(models("default")) == "nano\n"


def test_rm_of_the_bundled_model_is_refused(models):
    result = models("rm", "nano", "--yes")
    assert result.returncode == 1
    assert b"cannot be removed" in result.stderr


@pytest.mark.usefixtures("compiled_kernels")
def test_prune_removes_copies_and_parts_that_list_tells_of(
    codegen, models, models_home, home, tmp_path
):
    shutil.copytree(home / "cache" / "kernels", models_home / "cache" / "kernels")
    config = small_config()
    checkpoint = write_checkpoint(tmp_path / "mine", config, random_tensors(config, 1))
    codegen("complete", "-n", "1", "-m", str(checkpoint), "x", CODEGEN_HOME=str(models_home))
    [copy] = (models_home / "cache" / "packed").iterdir()
    part = models_home / "models" / ".2B-mono.int8.safetensors.01234567.part"
    part.write_bytes(bytes(3_000_000))
    kernels = models_home / "cache" / "kernels"
    in_use = sorted(kernels.iterdir())
    old_object = kernels / f"{'0' * 64}.o"
    old_object.write_bytes(bytes(75_000))
    listing = json.loads(stdout_of(models("list", "--json")))
    expected = [
        {"kind": "copy", "path": str(copy), "bytes": copy.stat().st_size, "model": "mine"},
        {"kind": "unfinished", "path": str(part), "bytes": 3_000_000, "model": None},
        {"kind": "kernels", "path": str(old_object), "bytes": 75_000, "model": None},
    ]
    freed = sum(each["bytes"] for each in expected)
    assert (listing["leftovers"], listing["disk"]["prunable_bytes"]) == (expected, freed)
    counted = {(each["kind"], each["count"]) for each in listing["disk"]["places"]}
    assert counted == {("packed", 3), ("unfinished", 1), ("copy", 1), ("kernels", len(in_use) + 1)}
    notes = models("list").stderr.decode()
    assert "codegen models prune would free 5 MB (--dry-run lists what)\n" in notes
    would = models("prune", "--dry-run")
    header, *rows = stdout_of(would).splitlines()
    assert header.split() == ["what", "size", "where"]
    assert [row.split()[-1] for row in rows] == [each["path"] for each in expected]
    assert would.stderr == b"codegen: that would free 5 MB\n"
    would = json.loads(stdout_of(models("prune", "--dry-run", "--json")))
    assert would == {"would_remove": expected, "bytes": freed}
    assert all(path.exists() for path in (copy, part, old_object))
    pruned = models("prune", "--json")
    assert json.loads(stdout_of(pruned)) == {"removed": expected, "bytes": freed}
    assert pruned.stderr.endswith(b"codegen: that freed 5 MB\n")
    assert f"removed {old_object}, 75 kB\n" in pruned.stderr.decode()
    assert not copy.exists()
    assert sorted(kernels.iterdir()) == in_use
    assert len(list((models_home / "models").iterdir())) == 3
    for again in (models("prune"), models("prune", "--dry-run")):
        assert (stdout_of(again), again.stderr) == ("", b"codegen: there is nothing to remove\n")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and locks")
def test_packing_goes_on_with_what_a_killed_run_left_and_waits_for_another(
    codegen, models_home, tmp_path
):
    config = small_config(n_embd=256, n_layer=12)
    checkpoint = write_checkpoint(tmp_path / "tiny", config, random_tensors(config, 1))
    command = [sys.executable, "-m", "codegen_cli", "quantize", "-v", str(checkpoint)]
    environment = os.environ | {"CODEGEN_HOME": str(models_home)}
    directory = models_home / "models"

    def start(until: bytes) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        while until not in process.stderr.readline():
            assert process.poll() is None
        return process

    killed = start(b"[  4/")  # by then the first tensor is in the part
    killed.kill()
    killed.communicate()
    [part] = directory.glob(".*.part")
    other = start(f"going on with {part}".encode())
    other.send_signal(signal.SIGSTOP)
    codegen("models", "prune", CODEGEN_HOME=str(models_home))
    assert list(directory.glob(".*.part")) == [part]
    waiting = start(b"another process is packing")
    other.send_signal(signal.SIGCONT)
    _, notes = other.communicate()
    assert other.returncode == 0, notes.decode()
    _, notes = waiting.communicate()
    assert waiting.returncode == 0, notes.decode()
    assert b"another process has packed" in notes
    assert not list(directory.glob(".*.part"))


def test_verify_finds_all_files_sound(models):
    lines = stdout_of(models("verify")).splitlines()
    assert len(lines) == 4
    assert all(re.match(r"sound    /.* \(\d+ tensors, .* MB in .* s\)$", line) for line in lines)


def test_verify_names_the_damaged_tensor_and_fails(models, models_home):
    path = models_home / "models" / "350M-mono.int8.safetensors"
    flip_bit(path, -1)
    result = models("verify", "350M-mono")
    assert result.returncode == 1
    sound, damaged = result.stdout.decode().splitlines()
    assert sound.startswith("sound ")
    assert f"{path}: lm_head.bias: found SHA-256" in damaged
    report = json.loads(models("verify", "350M-mono:int8", "--json").stdout)
    assert not report["is_sound"]
    [file] = report["files"]
    assert [each["tensor"] for each in file["damaged"]] == ["lm_head.bias"]
    flip_bit(path, 50)
    result = models("verify", str(path))
    assert result.returncode == 1
    assert "is not a packed model" in result.stdout.decode()


def test_import_checks_names_and_prints_the_new_path(models, models_home, tmp_path):
    source = write_packed(tmp_path / "usb" / "x.safetensors", "int4", name="mine")
    target = models_home / "models" / "mine.int4.safetensors"
    result = models("import", str(source))
    assert stdout_of(result) == f"{target}\n"
    assert result.stderr == b""
    assert verify(target) == []
    other = write_packed(tmp_path / "other.safetensors", "int4", name="mine", seed=9)
    refused = models("import", str(other))
    assert refused.returncode == 1
    assert b"--force" in refused.stderr
    forced = json.loads(stdout_of(models("import", str(other), "--force", "--json")))
    assert forced == {"name": "mine", "format": "int4", "path": str(target)}
    assert target.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("show", "350M-momo"), "unknown model '350M-momo'"),
        (("path", "2B-mono"), "2B-mono is not on this machine"),
        (("path", "2B-mono:f16"), "2B-mono:f16 is not on this machine"),
        (("path", "2B-mono:f16"), "codegen quantize 2B-mono --format f16"),
        (("default", "6B-nl"), "6B-nl is not on this machine"),
        (("rm", "2B-mono", "--yes"), "no packed file of '2B-mono'"),
        (("rm", "/etc/passwd", "--yes"), "no packed file of '/etc/passwd'"),
        (("verify", "./missing"), "no such file or directory: ./missing"),
        (("verify", "2B-mono"), "no packed file of '2B-mono'"),
        (("verify", "{checkpoint}"), "is not packed"),
        (("import", "./missing"), "cannot read missing"),
        (("import", "{checkpoint}/config.json"), "is not a packed model"),
    ],
)
def test_bad_requests_get_one_error_and_a_hint(models, tmp_path, arguments, message):
    config = small_config()
    checkpoint = tmp_path / "checkpoint"
    write_checkpoint(checkpoint, config, random_tensors(config, 1), container="safetensors")
    result = models(*(each.replace("{checkpoint}", str(checkpoint)) for each in arguments))
    assert result.returncode == 1
    assert result.stdout == b""
    error, hint = result.stderr.decode().splitlines()
    assert error.startswith("error: ")
    assert hint.startswith("hint: ")
    assert message in error + hint


def test_packing_one_model_twice_at_once_leaves_one_valid_file(tmp_path):
    config = small_config(n_embd=256, n_layer=6)
    write_checkpoint(tmp_path / "tiny", config, random_tensors(config, 1), container="torch")
    command = [sys.executable, "-m", "codegen_cli", "quantize", "-q", str(tmp_path / "tiny")]
    environment = os.environ | {"CODEGEN_HOME": str(tmp_path / "home")}
    processes = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait(timeout=100) for process in processes] == [0, 0, 0]
    [path] = (tmp_path / "home" / "models").iterdir()
    assert path.name == "tiny.int8.safetensors"
    assert verify(path) == []
    settings = json.loads((tmp_path / "home" / "settings.json").read_bytes())
    assert settings == {"default_model": "tiny", "automatic_default": "tiny"}


def test_a_default_whose_index_is_broken_has_gone_and_stops_nothing(codegen, tmp_path):
    repository = tmp_path / "hub" / "hub" / "models--Salesforce--codegen-2B-mono"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    for name in ("config.json", "tokenizer.json", "pytorch_model.bin.index.json"):
        (snapshot / name).write_text("{")
    settings = {"default_model": "2B-mono", "automatic_default": "2B-mono"}
    (tmp_path / "settings.json").write_text(json.dumps(settings))
    home = {"CODEGEN_HOME": str(tmp_path), "HF_HOME": str(tmp_path / "hub")}
    assert b"pytorch_model.bin.index.json" in codegen("quantize", "2B-mono", **home).stderr
    result = codegen("models", "list", **home)
    assert result.returncode == 0
    assert b"2B-mono, the default model, has gone" in result.stderr
