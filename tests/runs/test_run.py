"""A run's folder: outputs whole or absent, seeds, log, manifest."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realm_lib.config.base import ParamsError
from realm_lib.config.profile import Params
from realm_lib.runs.files import atomic_path, write_json, write_text
from realm_lib.runs.run import MissingStepError, Run, open_run, source_commit
from realm_lib.runs.seeds import derive_seed, seed_everything


def make_params(folder: Path, **more: Any) -> Params:
    return Params.from_sections(run={"name": "trial", "output_dir": str(folder), "seed": 3}, **more)


def names(folder: Path) -> list[str]:
    return sorted(found.name for found in folder.iterdir())


def killed_when_ready(code: str, ready: Path, *arguments: str) -> None:
    """Run ``code`` in a process of its own and kill -9 it as soon as it has made the file ``ready``."""
    with subprocess.Popen([sys.executable, "-c", code, str(ready), *arguments]) as process:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None, "the process ended before it was ready"
            assert time.monotonic() < deadline, "the process never got ready"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL


# Whole or not at all


def test_a_file_appears_only_when_the_block_ends_well(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "metrics.json"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent  # a rename must not cross file systems
        assert temporary.suffix == path.suffix  # writers choose a format by it
        temporary.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert names(path.parent) == ["metrics.json"]


def test_who_reads_the_old_file_goes_on_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old"  # a rename; the old file was not written over
    assert path.read_text() == "new"


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_no_litter(tmp_path: Path, fault: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("hal")
            raise fault

    with pytest.raises(fault):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_block_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(FileNotFoundError), atomic_path(path):
        pass
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_kill_9_in_the_middle_of_a_write_leaves_the_old_file(tmp_path: Path) -> None:
    path, ready = tmp_path / "model.bin", tmp_path / "ready"
    write_text(path, "old")
    code = """
import sys, time, pathlib
from realm_lib.runs.files import atomic_path
ready, path = sys.argv[1:]
with atomic_path(path) as temporary:
    with temporary.open("w") as file:
        file.write("half of the new" * 1000)
        file.flush()
        pathlib.Path(ready).touch()
        time.sleep(60)
"""
    killed_when_ready(code, ready, str(path))
    assert path.read_text() == "old"
    write_text(path, "new")  # what the kill left in the folder is in nobody's way
    assert path.read_text() == "new"


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "models" / "combiner"
    for version in ("old", "new"):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / version).write_text(version)
    assert names(path) == ["new"]
    assert names(path.parent) == ["combiner"]

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / "half").write_text("")
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011  raised two lines above
        write_half()
    assert names(path) == ["new"]
    assert names(path.parent) == ["combiner"]


def test_a_folder_may_take_a_files_place(tmp_path: Path) -> None:
    path = tmp_path / "combiner"
    write_text(path, "a file")
    with atomic_path(path) as temporary:
        temporary.mkdir()
    assert path.is_dir()
    assert names(tmp_path) == ["combiner"]


def test_kill_9_in_the_middle_of_a_folder_leaves_the_old_one(tmp_path: Path) -> None:
    path, ready = tmp_path / "model", tmp_path / "ready"
    path.mkdir()
    (path / "weights").write_text("old")
    code = """
import sys, time, pathlib
from realm_lib.runs.files import atomic_path
ready, path = sys.argv[1:]
with atomic_path(path) as temporary:
    temporary.mkdir()
    (temporary / "weights").write_text("half")
    pathlib.Path(ready).touch()
    time.sleep(60)
"""
    killed_when_ready(code, ready, str(path))
    assert (path / "weights").read_text() == "old"


def test_outputs_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    old = os.umask(0o022)
    try:
        write_text(path, "text")
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o644  # a temporary file of tempfile's own would be 0600


# JSON


def test_json_takes_numpy_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    content = {"a": np.float32(0.5), "b": np.arange(3), "c": {"d": (1, np.int64(2)), "e": None}, "f": "é", "g": True}
    write_json(path, content)
    assert json.loads(path.read_text()) == {
        "a": 0.5,
        "b": [0, 1, 2],
        "c": {"d": [1, 2], "e": None},
        "f": "é",
        "g": True,
    }
    assert path.read_text().endswith("}\n")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, np.float32("nan"), np.array([0.0, np.nan])])
def test_nan_is_refused_by_key_and_the_old_file_stays(tmp_path: Path, bad: Any) -> None:
    path = tmp_path / "m.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError, match=r"m\.json: a value is NaN or infinite: rewards\.1\.accuracy"):
        write_json(path, {"pairs": 5, "rewards": [{"accuracy": 0.5}, {"accuracy": bad}]})
    assert json.loads(path.read_text()) == {"loss": 1.0}
    assert names(tmp_path) == ["m.json"]


def test_json_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot write set as JSON"):
        write_json(tmp_path / "m.json", {"a": {1, 2}})
    assert names(tmp_path) == []


# Seeds


def test_derived_seeds_are_these_for_ever() -> None:
    # Outputs of every published run depend on these numbers.
    assert derive_seed(42) == PUBLISHED[()]
    assert derive_seed(42, "validation", 3) == PUBLISHED[("validation", 3)]
    assert derive_seed(42, "simulator", "train") == PUBLISHED[("simulator", "train")]


PUBLISHED = {
    (): 3094027937,
    ("validation", 3): 1042948285,
    ("simulator", "train"): 2250415347,
}


@pytest.mark.parametrize("hash_seed", ["0", "1", "random"])
def test_derived_seeds_are_the_same_in_every_process(hash_seed: str) -> None:
    code = "from realm_lib.runs.seeds import derive_seed; print(derive_seed(42, 'validation', 3))"
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(answer.stdout) == derive_seed(42, "validation", 3)


def test_derived_seeds_differ_by_every_part_and_fit_32_bits() -> None:
    parts = [(), ("a",), ("b",), ("a", "b"), ("ab",), ("a", 1), ("a", "1"), (1,)]
    seeds = [derive_seed(seed, *names) for seed in range(200) for names in parts]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_seeding_makes_random_numbers_repeat() -> None:
    import random

    def draw() -> tuple[float, float]:
        seed_everything(5)
        return random.random(), float(np.random.random())

    assert draw() == draw()


# A run


def test_require_names_the_notebook(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(MissingStepError, match=r"train\.parquet is missing: run notebook 01_feature_extraction first"):
        run.require("features", "train.parquet", made_by="01_feature_extraction")
    write_text(run.path("features", "train.parquet"), "")
    assert run.require("features", "train.parquet", made_by="01") == tmp_path / "features" / "train.parquet"


def test_metrics_are_returned_as_written(tmp_path: Path) -> None:
    run = Run(tmp_path)
    shown = run.write_metrics("combiner", {"best_epoch": np.int64(4), "loss": np.float32(0.5), "ci": (0.1, 0.2)})
    assert shown == {"best_epoch": 4, "loss": 0.5, "ci": [0.1, 0.2]} == run.read_metrics("combiner")


def strict(line: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    loaded: dict[str, Any] = json.loads(line, parse_constant=refuse)
    return loaded


def test_log_lines_are_strict_json(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.log("started", text='a "quoted"\nline', number=np.float32(0.5), many=np.arange(2))
    run.log("diverged", loss=math.nan, nested={"loss": [np.float32("inf")], 3: -math.inf})
    first, second = map(strict, run.path("logs", "run.jsonl").read_text().splitlines())
    assert (first["event"], first["text"], first["number"]) == ("started", 'a "quoted"\nline', 0.5)
    assert first["many"] == [0, 1]
    assert (second["loss"], second["nested"]) == ("nan", {"loss": ["inf"], "3": "-inf"})
    assert first["time"].endswith("+00:00")


def test_a_figure_is_saved_twice_over_with_the_same_bytes(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    run = Run(tmp_path)
    contents = []
    for _ in range(2):
        figure = Figure()
        figure.subplots().plot([0, 1], [1, 0])
        run.save_figure(figure, "line")
        contents.append([run.path("figures", name).read_bytes() for name in ("line.png", "line.svg")])
    assert contents[0] == contents[1]
    assert contents[0][0].startswith(b"\x89PNG")
    assert names(run.path("figures")) == ["line.png", "line.svg"]
    assert "<dc:date>" not in run.path("figures", "line.svg").read_text()


@pytest.mark.slow
def test_a_step_records_its_end(tmp_path: Path) -> None:
    params = make_params(tmp_path, data={"source": "local", "path": "x", "seed": 8}, training={"seed": 9})
    run = open_run(params)
    with run.step("01", params):
        assert run.manifest["steps"]["01"]["exit"] == "running"
        assert run.manifest["steps"]["01"]["seconds"] is None
        time.sleep(0.1)
    for name, fault in (("02", ValueError), ("03", KeyboardInterrupt)):
        with pytest.raises(fault), run.step(name, params):
            raise fault
    steps = run.manifest["steps"]
    assert {name: step["exit"] for name, step in steps.items()} == {"01": "ok", "02": "failed", "03": "interrupted"}
    assert 0.1 <= steps["01"]["seconds"] < 30
    events = [strict(line) for line in run.path("logs", "run.jsonl").read_text().splitlines()]
    assert [(event["name"], event["exit"]) for event in events] == [
        ("01", "ok"),
        ("02", "failed"),
        ("03", "interrupted"),
    ]


def test_the_manifest_says_what_ran_where(tmp_path: Path) -> None:
    params = make_params(tmp_path, data={"source": "local", "path": "x", "seed": 8}, training={"seed": 9})
    run = open_run(params)
    with run.step("01", params):
        pass
    manifest = run.manifest
    assert set(manifest) == {
        "run",
        "commit",
        "params_sha256",
        "seeds",
        "hardware",
        "python",
        "packages",
        "steps",
    }
    assert manifest["run"] == "trial"
    assert manifest["seeds"] == {"run": 3, "data": 8, "training": 9}
    assert len(manifest["params_sha256"]) == 64
    assert manifest["packages"]["numpy"] == np.__version__
    assert manifest["python"].startswith("3.")
    assert set(manifest["hardware"]) == {"machine", "system", "cores", "memory_gib", "gpus"}
    assert manifest["hardware"]["memory_gib"] > 0
    assert set(manifest["commit"]) == {"id", "dirty"}


def test_a_notebook_with_some_sections_keeps_the_seeds_of_the_others(tmp_path: Path) -> None:
    whole = make_params(tmp_path, data={"source": "local", "path": "x", "seed": 8}, training={"seed": 9})
    run = open_run(whole)
    with run.step("02", whole):
        pass
    with run.step("03", make_params(tmp_path)):
        pass
    assert run.manifest["seeds"] == {"run": 3, "data": 8, "training": 9}


@pytest.mark.slow
def test_the_manifest_names_the_parameters_on_disk(tmp_path: Path) -> None:
    run = open_run(make_params(tmp_path))
    write_text(run.path("params.yaml"), "run: {name: trial}\n")
    hashes = []
    for name, more in (("01", {}), ("02", {"training": {"seed": 9}})):
        with run.step(name, make_params(tmp_path, **more)):
            hashes.append(run.manifest["params_sha256"])
    write_text(run.path("params.yaml"), "run: {name: other}\n")
    with run.step("03", make_params(tmp_path)):
        hashes.append(run.manifest["params_sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.slow
def test_a_killed_step_stays_running_and_can_be_run_again(tmp_path: Path) -> None:
    code = """
import sys, time, pathlib
from realm_lib.config.profile import Params
from realm_lib.runs.run import open_run
ready, folder = sys.argv[1:]
params = Params.from_sections(run={"name": "trial", "output_dir": folder, "seed": 3})
with open_run(params).step("02", params):
    pathlib.Path(ready).touch()
    time.sleep(60)
"""
    killed_when_ready(code, tmp_path / "ready", str(tmp_path))
    params = make_params(tmp_path)
    run = open_run(params)
    assert run.manifest["steps"]["02"]["exit"] == "running"
    with run.step("02", params):
        pass
    assert run.manifest["steps"]["02"]["exit"] == "ok"


@pytest.mark.slow
def test_steps_in_parallel_all_reach_the_manifest(tmp_path: Path) -> None:
    code = """
import sys
from realm_lib.config.profile import Params
from realm_lib.runs.run import open_run
folder, name = sys.argv[1:]
params = Params.from_sections(run={"name": "trial", "output_dir": folder, "seed": 3})
run = open_run(params)
for number in range(5):
    with run.step(f"{name}{number}", params):
        pass
"""
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "abc"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    steps = Run(tmp_path / "trial").manifest["steps"]
    assert sorted(steps) == [f"{name}{number}" for name in "abc" for number in range(5)]
    assert {step["exit"] for step in steps.values()} == {"ok"}


@pytest.mark.parametrize("place", ["a-file", "/proc/nowhere"])
def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").write_text("")
    params = make_params(tmp_path / place)  # an absolute place stays as it is
    with pytest.raises(ParamsError, match=r"run\.output_dir: cannot write to .*trial: .*; choose another folder"):
        open_run(params)


def test_opening_a_run_seeds_it(tmp_path: Path) -> None:
    import random

    open_run(make_params(tmp_path))
    first = random.random()
    open_run(make_params(tmp_path))
    assert random.random() == first


def test_the_commit_is_null_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert source_commit() == {"id": None, "dirty": None}
