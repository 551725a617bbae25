"""Features on Ray against features in one process: are they the same numbers, what does it cost, what survives a kill?

Not a part of ``make test``: Ray is an extra. In an environment that has it::

    python tests/frameworks/ray_engine.py FOLDER [TEXTS]

Makes a small reward model and a small embedding model in FOLDER, then takes turns: this process, and one, two and four
actors on a cluster of this machine. Then an actor is killed while it computes, then the driver, which is started again.
Each driver is a process of its own. Prints a line for each; an assertion fails where a number differs in a single bit
from that of this process, where anything but the pieces in flight was asked twice, and where a killed driver leaves
processes behind.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

BATCH = 64
AHEAD = 2  # pieces that an actor has at once
SCORES = ("score_A", "score_B")
COLUMNS = (*SCORES, "similarity_A", "similarity_B")


def drive(folder: Path, name: str, actors: int, texts: int) -> None:
    """What notebook 01 does, in this process or with ``actors``; each actor writes down what it is asked."""
    from realm_lib.config.embedding import EmbeddingParams
    from realm_lib.config.profile import load_params
    from realm_lib.config.reward_model import RewardModelParams
    from realm_lib.config.run import RunParams
    from realm_lib.data.pairs import load_pairs
    from realm_lib.features.engines import build_engine
    from realm_lib.features.extraction import extract
    from realm_lib.features.store import FeatureStore
    from realm_lib.runs.threads import take_threads

    take_threads(1)
    run = RunParams(name=name, threads=1)
    if actors:
        run = RunParams(name=name, threads=1, engine="ray", ray_actors=actors)
        from realm_lib.features.ray import engine as ray_engine
        from realm_lib.features.ray.actors import ModelActor

        class WritingActor(ModelActor):
            """Says what it is asked, and when it has answered."""

            def __init__(self, recipe: Any) -> None:
                super().__init__(recipe)
                self.section = recipe.section

            def _answer(self, number: int, texts: Any) -> Any:
                self.write("begins", texts)
                answer = super()._answer(number, texts)
                self.write("ends", texts)
                return answer

            def write(self, what: str, texts: Any) -> None:
                line = {"what": what, "section": self.section, "process": os.getpid(), "time": time.time()}
                with (folder / name / f"asked-{os.getpid()}.jsonl").open("a") as file:
                    file.write(json.dumps({**line, "texts": list(zip(*texts, strict=True))}) + "\n")

        ray_engine.ModelActor = WritingActor
    pairs = load_pairs(load_params(TESTS.parent / "params" / "demo.yaml").data, "train")
    distinct = (~pairs["history"].duplicated()).cumsum()
    pairs = pairs[distinct <= texts // 3].reset_index(drop=True)
    reward_model = RewardModelParams(
        backend="sequence_classification", model_id=str(folder / "models/Skywork/Skywork-Reward-V2-Qwen3-0.6B")
    )
    minilm = str(folder / "models/sentence-transformers/all-MiniLM-L6-v2")
    embedding = EmbeddingParams(backend="sentence_transformers", model_id=minilm)
    started = time.monotonic()
    with closing(build_engine(run)) as engine:
        scorer, embedder = engine.scorer(reward_model), engine.embedder(embedding)
        ready = time.monotonic()
        store = FeatureStore(folder / name / "store")
        found = extract(pairs, scorer, embedder, store, batch_size=BATCH, progress=False)
    found.table.to_parquet(folder / name / "features.parquet")
    told = {"start": ready - started, "extract": found.counts.seconds, **found.counts.to_dict()}
    told["scoring"] = found.costs["score"].seconds
    (folder / name / "told.json").write_text(json.dumps(told))


class Driver:
    """A process that drives; with a name that was used before, it goes on with that one's store."""

    def __init__(self, folder: Path, name: str, actors: int, texts: int) -> None:
        self.place = folder / name
        self.place.mkdir(parents=True, exist_ok=True)
        arguments = [str(folder), str(texts), name, str(actors)]
        self.process = subprocess.Popen([sys.executable, __file__, *arguments])

    def finished(self) -> tuple[pd.DataFrame, dict[str, float]]:
        assert self.process.wait() == 0, self.place
        return pd.read_parquet(self.place / "features.parquet"), json.loads((self.place / "told.json").read_text())

    def asked(self, section: str = "reward_model") -> list[dict[str, Any]]:
        """What the actors wrote down so far, in the order of its time."""
        texts = [file.read_text() for file in self.place.glob("asked-*.jsonl")]
        lines = [json.loads(line) for text in texts for line in text.split("\n")[:-1]]
        return sorted((line for line in lines if line["section"] == section), key=lambda line: float(line["time"]))

    def wait_for(self, ended: int) -> int:
        """An actor that computes when ``ended`` pieces are done."""
        while True:
            assert self.process.poll() is None, "the driver has ended"
            lines = self.asked()
            last = {line["process"]: line["what"] for line in lines}
            busy = [process for process, what in last.items() if what == "begins"]
            if busy and sum(line["what"] == "ends" for line in lines) >= ended:
                return busy[0]
            time.sleep(0.01)


def times_asked(lines: list[dict[str, Any]]) -> Counter[tuple[str, ...]]:
    return Counter(tuple(text) for line in lines if line["what"] == "begins" for text in line["texts"])


def same(table: pd.DataFrame, wanted: pd.DataFrame, columns: tuple[str, ...] = COLUMNS) -> str:
    """Whether every number is the same, bit for bit."""
    for column in columns:
        assert (table[column].to_numpy() == wanted[column].to_numpy()).all(), column
    return f"{len(columns)} columns of {len(table):,} pairs equal bit for bit"


def main(folder: Path, texts: int) -> None:
    from support.tiny_hub import write_checkpoints

    from realm_lib.config.profile import load_params
    from realm_lib.data.pairs import load_pairs

    shown = load_pairs(load_params(TESTS.parent / "params" / "demo.yaml").data, "test")
    write_checkpoints(folder, [*shown["history"], *shown["human_ref_A"]])
    wanted, told = Driver(folder, "local", 0, texts).finished()
    print(f"local: {told['scored']:,} texts; models {told['start']:.1f} s, scores {told['scoring']:.1f} s", flush=True)
    for actors in (1, 2, 4):
        driver = Driver(folder, f"ray-{actors}", actors, texts)
        table, told = driver.finished()
        lines = driver.asked()
        busy = max(line["time"] for line in lines) - min(line["time"] for line in lines)
        assert set(times_asked(lines).values()) == {1}
        print(
            f"{actors} actors: {same(table, wanted)}; cluster and reading models {told['start']:.1f} s, scores "
            f"{told['scoring']:.1f} s, of which computing {busy:.1f} s",
            flush=True,
        )
    again, told = Driver(folder, "local-again", 0, texts).finished()
    print(f"local again: {same(again, wanted)}; scores {told['scoring']:.1f} s", flush=True)

    driver = Driver(folder, "actor-killed", 2, texts)
    killed = driver.wait_for(ended=8)
    os.kill(killed, signal.SIGKILL)
    table, _ = driver.finished()
    twice = {text: times for text, times in times_asked(driver.asked()).items() if times > 1}
    assert 0 < len(twice) <= AHEAD * BATCH, len(twice)
    assert set(twice.values()) == {2}
    assert killed != driver.asked()[-1]["process"]
    print(f"an actor killed: {same(table, wanted)}; {len(twice)} texts asked twice, of {told['scored']:,}", flush=True)

    driver = Driver(folder, "driver-killed", 2, texts)
    driver.wait_for(ended=8)
    driver.process.kill()
    driver.process.wait()
    processes = {line["process"] for line in driver.asked()}
    patience = time.monotonic() + 60
    while left := [process for process in processes if Path(f"/proc/{process}").exists()]:
        assert time.monotonic() < patience, f"actors are left: {left}"
        time.sleep(0.1)
    before = len(times_asked(driver.asked()))
    driver = Driver(folder, "driver-killed", 2, texts)
    table, told = driver.finished()
    twice = {text: times for text, times in times_asked(driver.asked()).items() if times > 1}
    assert told["cache_hits"] > 0
    assert len(twice) <= 2 * AHEAD * BATCH, len(twice)
    print(
        f"the driver killed: {same(table, wanted)}; {before:,} texts had been asked and {told['cache_hits']:,} were "
        f"stored; the second asked for {told['scored']:,}, {len(twice)} of them again",
        flush=True,
    )


if __name__ == "__main__":
    if len(sys.argv) == 5:
        drive(Path(sys.argv[1]), sys.argv[3], int(sys.argv[4]), int(sys.argv[2]))
    elif len(sys.argv) in (2, 3):
        main(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) == 3 else 3000)
    else:
        sys.exit(__doc__)
