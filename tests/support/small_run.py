"""A run that can score: its parameters, the tiny reward model, a store of its own."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def write_run(folder: Path, reward_model: Path) -> Path:
    """The folder of a run in ``folder``, whose store is ``folder``/cache."""
    profile = yaml.safe_load((ROOT / "params" / "test.yaml").read_text())
    profile["reward_model"] |= {"model_id": str(reward_model), "max_length": 120}
    profile["data"]["preprocessing"] = {"cache_dir": str(folder / "cache"), "batch_size": 8}
    (folder / "run").mkdir()
    (folder / "run" / "params.yaml").write_text(yaml.safe_dump(profile))
    return folder / "run"
