"""Weights that are cut over processes: what accelerate may ask for, and what needs no second process to be seen."""

import json
from pathlib import Path

import pytest
import torch
from support.ppo_run import make_params, make_policy

from realm_lib.config.rlhf import PolicyParams
from realm_lib.rlhf.errors import PPOError
from realm_lib.rlhf.policies import PolicyError, Sharding, alike_within_memory, asked_sharding, load_policy
from realm_lib.rlhf.policies.sharding import clip_gradients, local_weights
from realm_lib.rlhf.ppo.checkpoint import Checkpoints
from realm_lib.rlhf.ppo.checks import check_training
from realm_lib.rlhf.ppo.processes import Processes

FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
SHARDING = Sharding(reshard=True, dtype=None, layers=())


def environment(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_without_fsdp_each_process_holds_all() -> None:
    assert asked_sharding() is None


def test_what_accelerate_is_configured_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    environment(monkeypatch, **FSDP)
    assert asked_sharding() == SHARDING
    environment(monkeypatch, FSDP_RESHARD_AFTER_FORWARD="false", ACCELERATE_MIXED_PRECISION="bf16")
    environment(monkeypatch, FSDP_TRANSFORMER_CLS_TO_WRAP="LlamaDecoderLayer, Other")
    assert asked_sharding() == Sharding(reshard=False, dtype=torch.bfloat16, layers=("LlamaDecoderLayer", "Other"))


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "which DPO takes"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "params/accelerate/fsdp.yaml"),
        ("FSDP_VERSION", "1", "fsdp_version: 2"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "fsdp_cpu_ram_efficient_loading"),
        ("FSDP_OFFLOAD_PARAMS", "true", "fsdp_offload_params"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", "fsdp_activation_checkpointing"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "mixed_precision is fp16"),
    ],
)
def test_what_is_not_done_here_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    environment(monkeypatch, **FSDP)
    environment(monkeypatch, **{variable: value})
    with pytest.raises(PolicyError, match=said):
        asked_sharding()
    with pytest.raises(PPOError, match=said):
        Processes()


def test_parameters_that_do_not_go_with_it_are_refused(tmp_path: Path) -> None:
    folder = make_policy(tmp_path / "policy")
    policy = load_policy(PolicyParams(model_name=str(folder)), trainable=True)
    assert local_weights(policy.model.parameters()) == policy.model.num_parameters()
    processes = Processes()
    processes.sharding = SHARDING
    lora = {"r": 2, "alpha": 4}
    for changes in ({"device_map": "auto"}, {"sampler": "continuous"}, {"quantization": "4bit", "lora": lora}):
        params = make_params(folder, **changes)
        with pytest.raises(PPOError, match=str(next(iter(changes)))):
            check_training(policy, params.ppo, params.sampling, processes)


def test_a_checkpoint_of_other_parts_is_not_started_over(tmp_path: Path) -> None:
    path = tmp_path / ".ppo_checkpoint"
    path.mkdir()
    (path / "latest.json").write_text(json.dumps({"number": 3, "processes": 2}), encoding="utf-8")
    weight = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(PPOError, match="cut into 2 parts, here they are cut into 1"):
        Checkpoints(path, "identity", Processes()).restore({"weight": weight}, torch.optim.AdamW([weight]))


def test_in_step_no_process_takes_fewer_rows_by_itself() -> None:
    def short(rows: list[int]) -> None:
        raise torch.OutOfMemoryError(f"{len(rows)} rows")

    with pytest.raises(PolicyError, match=r"sampling: 4 rows at once .* lower rlhf.sampling.batch_size"):
        list(alike_within_memory([3] * 6, 4, short, "sampling", in_step=True))


def test_whole_gradients_are_clipped_as_ever() -> None:
    weights = [torch.nn.Parameter(torch.full((3,), 2.0)) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.full((3,), 1.0)
    assert clip_gradients(weights, 1.0) == pytest.approx(6**0.5)
    assert float(torch.cat([weight.grad for weight in weights if weight.grad is not None]).norm()) == pytest.approx(1.0)
