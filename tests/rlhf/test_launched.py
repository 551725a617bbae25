"""What ``accelerate launch`` is given: configurations that accelerate reads, and a run that it trains."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from support.small_run import ROOT, write_run

from realm_lib.rlhf import launched
from realm_lib.runs.reading import MissingStepError
from realm_lib.runs.run import Run

KINDS = {"ddp": "MULTI_GPU", "fsdp": "FSDP", "deepspeed_zero3": "DEEPSPEED"}


@pytest.mark.parametrize("file", sorted((ROOT / "params" / "accelerate").iterdir()), ids=lambda path: path.stem)
def test_a_configuration_is_what_its_name_says(file: Path) -> None:
    found = load_config_from_file(str(file))
    assert isinstance(found, ClusterConfig)
    assert found.distributed_type.value == KINDS[file.stem]
    assert found.mixed_precision == "no"
    if file.stem == "fsdp":
        assert found.fsdp_config["fsdp_version"] == 2
        assert found.fsdp_config["fsdp_cpu_ram_efficient_loading"] is False
    if file.stem == "deepspeed_zero3":
        assert found.deepspeed_config["zero_stage"] == 3


@pytest.mark.parametrize("method", ["ppo", "dpo"])
def test_a_run_without_a_reward_names_the_notebook_that_makes_it(method: str, tmp_path: Path) -> None:
    run = Run(write_run(tmp_path, tmp_path / "none"))
    with pytest.raises(MissingStepError, match="02_combiner_training"):
        launched.train(run, method)  # type: ignore[arg-type]
