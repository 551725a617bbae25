"""The ``rlhf`` section of a profile: policies, how they are sampled, and how they are fine-tuned."""

import re
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from realm_lib.config.base import SecretReference, Section
from realm_lib.config.judges import RESERVED_JUDGES
from realm_lib.config.reward_model import RewardModelParams
from realm_lib.config.rollouts import RolloutParams, TrackedParams, TransformParams


class LoraParams(Section):
    """Low-rank adapters (Hu et al., arXiv 2106.09685): few trained weights beside frozen ones."""

    r: Annotated[int, Field(ge=1)]
    """Rank."""
    alpha: Annotated[float, Field(gt=0)]
    """The adapter's output is scaled by alpha / r."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get an adapter, as ``q_proj``."""


class PolicyParams(Section):
    """A language model to sample from or to train."""

    model_name: str
    """A hub id, a folder, or ``run:FOLDER`` for a folder of this run, as ``run:models/policy_sft``."""
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["4bit"] | None = None
    """Of the frozen weights; what is trained is then a LoRA adapter."""
    device_map: str | None = None
    """Null: this process's device (the GPU, where there is one)."""
    pad_token: str | None = None
    """For tokenizers that have none: a token that stands for padding, as Llama-3.1's ``<|finetune_right_pad_id|>``."""
    lora: LoraParams | None = None
    """Null trains all weights."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""


class SamplingParams(Section):
    """Which prompts a policy is given, and how responses are drawn from it."""

    domains: list[str] | None = None
    """Posts of these domains only are prompts; null takes those of ``data``."""
    max_prompt_tokens: Annotated[int, Field(ge=1)] = 1024
    """Longer prompts are left out and counted; none is cut."""
    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    temperature: Annotated[float, Field(ge=0.0)] = 1.0
    """0 always takes the likeliest token (for comparisons; training needs more than 0)."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Rows at once in generation and in forward passes without gradient: memory and speed, not results."""
    held_out_prompts: Annotated[int, Field(ge=2)] = 128
    """Prompts of the test split on which policies are judged."""
    enable_thinking: bool | None = None
    """Given to chat templates that know it, as Qwen3's; null leaves it to the template."""
    thinking: Literal["keep", "strip"] = "keep"
    """What reward and judges read of a response: all, or what follows its last ``</think>``, which is nothing where
    the thinking never ends. What is learned from are all tokens."""


class PPOParams(PolicyParams, RolloutParams, TransformParams, TrackedParams):
    """Proximal policy optimisation (Schulman et al., arXiv 1707.06347) of a policy from a text-level reward.

    Counts are over all processes of an ``accelerate launch`` together. Sources by their names: N+ is Huang et al., "The
    N+ Implementation Details of RLHF with PPO" (arXiv 2403.17031), GAE is Schulman et al. (1506.02438), Ziegler et al.
    is 1909.08593.
    """

    total_episodes: Annotated[int, Field(ge=1)]
    """Responses sampled in all; a multiple of ``batch_size``."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Episodes (responses) of a rollout; advantages are whitened over all their tokens (N+)."""
    samples_per_prompt: Annotated[int, Field(ge=1)] = 1
    """Responses to each prompt of a rollout; divides ``batch_size``. Above 1 a response earns its reward less the mean
    of the prompt's other responses (leave-one-out: RLOO, Ahmadian et al., arXiv 2402.14740)."""
    minibatch_size: Annotated[int, Field(ge=1)] = 64
    """Episodes of one optimiser step; divides ``batch_size``."""
    gradient_accumulation: Annotated[int, Field(ge=1)] = 1
    """Parts into which a minibatch is split for memory; the gradient is that of the whole minibatch."""
    num_epochs: Annotated[int, Field(ge=1)] = 4
    """Passes over a rollout, in a new order each (Schulman et al., algorithm 1)."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    """AdamW's rate; it falls in a straight line to zero at the last step (N+)."""
    clip_range: Annotated[float, Field(gt=0)] = 0.2
    """The probability ratio gains nothing beyond 1 +- this (Schulman et al., equation 7)."""
    value_clip_range: Annotated[float, Field(gt=0)] | None = 0.2
    """Values move at most so far from those of the rollout within the loss; null does not clip (N+)."""
    value_coefficient: Annotated[float, Field(ge=0)] = 0.1
    """Weight of the value loss beside the policy's (Schulman et al., equation 9)."""
    value_model: Literal["backbone", "separate", "none"] = "backbone"
    """The value head's input: the policy's own last hidden states, or those of a second copy of the model (N+). none
    takes no value head: rewards alone teach, as in RLOO, with ``samples_per_prompt`` for the baseline."""
    value_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """AdamW's rate for the value head, and for the second copy; null: ``learning_rate``."""
    value_warmup: Annotated[int, Field(ge=0)] = 0
    """First rollouts on which the value head alone learns, by least squares, before the policy follows it."""
    gamma: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Discount of what a later token earns (GAE); 1: a response counts as a whole, however long."""
    gae_lambda: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """How far ahead an advantage looks before it trusts the value head (GAE); 1: to the end, whatever the head says.
    Below 1 a head that has learned nothing leaves the first tokens without credit: ``gae_lambda ** (T - t)`` of it."""
    kl_coefficient: Annotated[float, Field(ge=0)] = 0.05
    """Weight of the per-token KL to the reference in the reward (Ziegler et al.): what a nat costs, in the unit of
    the reward (RealmReward's is log-odds). Its start, with ``kl_target``."""
    kl_target: Annotated[float, Field(gt=0)] | None = None
    """Nats a response that an adaptive coefficient steers to (Ziegler et al., arXiv 1909.08593); null: fixed."""
    kl_horizon: Annotated[int, Field(ge=1)] | None = None
    """Episodes over which an adaptive coefficient reacts (Ziegler et al., section 2.2); null: a tenth of
    ``total_episodes``, so that it can reach its target within the training."""
    kl_budget: Annotated[float, Field(gt=0)] | None = None
    """Nats a response from the reference at which training stops; null sets no limit."""
    whiten_rewards: bool = False
    """Divide per-token rewards by their standard deviation over the rollout, the mean kept (N+)."""
    reward_scaling: bool = False
    """Divide responses' rewards by the deviation of all seen so far (Engstrom et al., arXiv 2005.12729)."""
    missing_eos_penalty: Annotated[float, Field(ge=0)] | None = None
    """Taken off the reward of a response that was cut at ``max_new_tokens`` (N+, where it is a fixed low score)."""
    entropy_bonus: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the mean entropy of the token distribution, in nats, in the loss (Schulman et al., equation 9)."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """The gradient of all that is trained is scaled down to this norm."""
    reward_uncertainty_penalty: Annotated[float, Field(ge=0)] = 0.0
    """Standard deviations over the combiner's ensemble taken off the reward (Coste et al., arXiv 2310.02743)."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    checkpoint_every: Annotated[int, Field(ge=1)] = 10
    """Rollouts between two checkpoints: what a kill can cost."""
    evaluate_every: Annotated[int, Field(ge=1)] = 10
    """Rollouts between two looks at the prompts from which the policy that is kept is chosen."""

    @model_validator(mode="after")
    def _counts_divide(self) -> Self:
        for whole, part in (
            ("total_episodes", "batch_size"),
            ("batch_size", "minibatch_size"),
            ("batch_size", "samples_per_prompt"),
            ("minibatch_size", "gradient_accumulation"),
        ):
            total, size = getattr(self, whole), getattr(self, part)
            if total % size:
                raise ValueError(f"{whole} {total} is not a multiple of {part} {size}: change one")
        if self.reward_transform != "none" and self.reference_samples is None and self.samples_per_prompt == 1:
            raise ValueError(
                f"reward_transform {self.reward_transform} needs a reference: set samples_per_prompt above 1, or "
                "reference_samples"
            )
        if self.value_model == "none" and (self.gae_lambda < 1 or self.value_warmup):
            raise ValueError("value_model none has no values to trust: it needs gae_lambda 1 and value_warmup 0")
        if self.value_warmup * self.batch_size >= self.total_episodes:
            raise ValueError(f"value_warmup {self.value_warmup} leaves the policy no rollout of total_episodes")
        if self.quantization is not None and self.lora is None:
            raise ValueError("quantization 4bit needs lora: quantised weights are not trained")
        if self.lora is None and self.dtype != "float32":
            raise ValueError(f"small updates are lost in {self.dtype} weights: train in float32, or with lora")
        if self.lora is not None and self.lora.dropout > 0:
            raise ValueError(
                "lora.dropout must be 0: PPO compares two passes of one policy, which dropout would make differ"
            )
        return self


class DPOParams(PolicyParams, TrackedParams):
    """Direct preference optimisation (Rafailov et al., arXiv 2305.18290) of a policy on pairs of responses."""

    pairs: Literal["human", "on_policy"] = "on_policy"
    """Those of ``data``, or made here: responses of the policy itself, ranked by the reward."""
    max_prompts: Annotated[int, Field(ge=1)] | None = None
    """Training prompts taken, in the data's order; null takes all."""
    max_length: Annotated[int, Field(ge=2)] | None = None
    """Pairs with more tokens of prompt and response are left out and counted; null: the model's context."""
    samples_per_prompt: Annotated[int, Field(ge=2)] = 4
    """On-policy: responses drawn for each prompt."""
    selection: Literal["best_vs_worst", "all_above_margin"] = "best_vs_worst"
    """On-policy: one pair a prompt, or all pairs of its responses."""
    min_margin: Annotated[float, Field(ge=0)] = 0.0
    """On-policy: reward by which the chosen response must be better; ties never make a pair."""
    balance_length: bool = False
    """Choose pairs so that chosen responses are on average as long as rejected ones: as many with a shorter chosen one
    stay as with a longer one. Best against worst becomes each prompt's best trade of margin for length. The pairs that
    a training is followed by are balanced too."""
    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.9
    """On-policy: two responses with so large a share of their words and signs in common, in the same order, make no
    pair (1: only those that are equal but for white space)."""
    rounds: Annotated[int, Field(ge=1)] = 1
    """On-policy: the prompts are divided into so many parts, and the pairs of each are made by the policy that the
    parts before it have trained. The reference stays the start."""
    loss_type: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the policy is held to where it started: a larger value moves it less."""
    num_epochs: Annotated[int, Field(ge=1)] = 1
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Pairs of one optimiser step."""
    gradient_accumulation: Annotated[int, Field(ge=1)] = 1
    """Parts into which a batch is split for memory; divides ``batch_size``."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-6
    """AdamW's rate; it rises over the first tenth of a round's steps and falls in a straight line to zero. The default
    is what TRL's own example takes for a LoRA adapter, ten times what it takes for all weights of a model. No entry
    moves further than about rate times steps / 2: few steps need a larger rate."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    checkpoint_every: Annotated[int, Field(ge=1)] = 50
    """Steps between two checkpoints: what a kill can cost."""
    evaluate_every: Annotated[int, Field(ge=1)] = 10
    """Steps between two looks at the held-out pairs."""
    followed_prompts: Annotated[int, Field(ge=1)] | None = None
    """On-policy: held-out prompts, the first so many, whose pairs those looks are at; null takes all."""

    @model_validator(mode="after")
    def _can_be_trained(self) -> Self:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of gradient_accumulation {self.gradient_accumulation}"
            )
        if self.quantization is not None and self.lora is None:
            raise ValueError("quantization 4bit needs lora: quantised weights are not trained")
        if self.lora is not None and self.lora.dropout > 0:
            raise ValueError("lora.dropout must be 0: the reference would be compared with a policy under noise")
        if self.rounds > 1 and self.pairs != "on_policy":
            raise ValueError(f"rounds {self.rounds} need pairs on_policy: people's pairs do not change with the policy")
        return self


class ComparisonParams(Section):
    """Which policies are compared, and on how many prompts."""

    prompts: Annotated[int, Field(ge=2)] | None = None
    """The first so many of the held-out prompts; null takes all."""
    answers: Annotated[int, Field(ge=1)] = 4
    """Answers of the start and of each trained policy to a prompt; each is compared with each of another policy's."""
    best_of: list[Annotated[int, Field(ge=2)]] = Field(default=[4, 16], min_length=1)
    """Best-of-n: the starting policy's best of n answers under the reward; n further answers to each prompt for it."""
    resamples: Annotated[int, Field(ge=100)] = 2000
    """Bootstrap resamples of the prompts."""

    @model_validator(mode="after")
    def _each_n_once(self) -> Self:
        if twice := sorted({n for n in self.best_of if self.best_of.count(n) > 1}):
            raise ValueError(f"best_of holds {twice[0]} twice: each n is compared once")
        return self


class RewardServerParams(Section):
    """A ``realm serve`` whose reward is asked for over HTTP, so that one copy of its models serves every process."""

    url: str
    """As ``http://gpu-7:8000``. A token stands in ``token``, never here."""
    token: SecretReference = None
    """The server's, as ``${REALM_SERVER_TOKEN}``; null sends none. Plain http shows it to the network."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Responses in one request; the server takes 256 at most."""
    timeout: Annotated[float, Field(gt=0)] = 180.0
    """Seconds to wait for an answer: more than the server itself takes before it says that it was too slow (120)."""
    max_attempts: Annotated[int, Field(ge=1)] = 10
    """How often one request is tried: with the waits between, two minutes on average for a server to come back."""
    retry_wait: Annotated[float, Field(gt=0)] = 1.0
    """The first wait between two tries is up to so many seconds; later ones double, up to a minute."""

    @field_validator("url")
    @classmethod
    def _url_holds_no_secret(cls, url: str) -> str:
        if not re.fullmatch(r"https?://[^@\s/?#]+(/[^@\s?#]*)?", url):
            raise ValueError("url must be http://HOST:PORT or https://HOST, without a user or a token in it")
        return url.rstrip("/")


class RlhfParams(Section):
    """Using the reward: how policies are sampled, fine-tuned and compared."""

    reward_server: RewardServerParams | None = None
    """Where the reward is asked for over HTTP; null loads the run's own in every process."""
    floor_reward: float | None = None
    """The reward of a response that is empty, or that the reward cannot score for its length: below what a poor answer
    gets. Null stops the run at such a response, and it would be drawn again. Each is counted."""
    sampling: SamplingParams = SamplingParams()
    ppo: PPOParams
    dpo: DPOParams | None = None
    comparison: ComparisonParams = ComparisonParams()
    judges: dict[str, str | RewardModelParams] = Field(default_factory=dict)
    """Judges of your own beside ``realm`` and, for simulated pairs, ``gold``: name to ``module:function``, a callable
    (prompts, completions) -> one number a completion, or to a reward model, with the keys of ``reward_model``."""

    @model_validator(mode="after")
    def _judges_have_names(self) -> Self:
        for name, function_path in self.judges.items():
            if name in {"realm", "gold", *RESERVED_JUDGES} or not name.isidentifier():
                raise ValueError(f"judges: {name!r} is taken or not a plain name: choose another")
            if not isinstance(function_path, str):
                continue
            module, colon, function = function_path.partition(":")
            if not (colon and all(part.isidentifier() for part in [*module.split("."), *function.split(".")])):
                raise ValueError(f"judges.{name}: write module:function, as my_judges:politeness")
        return self
