"""Parts of the ``rlhf`` section: who draws the responses of a rollout, what they earn, where its numbers are shown."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from realm_lib.config.base import SecretReference, Section
from realm_lib.config.hosted import check_servers

NOT_OF_THE_RESULT: dict[str, Any] = {"reward_server": True, "ppo": {"vllm", "report_to"}, "dpo": {"report_to"}}
"""What a training may change between a kill and going on: where it asks and where it tells, not what it computes. Which
models a reward server has is in the reward's own identity."""


class VLLMParams(Section):
    """vLLM's own HTTP server (``vllm serve``), which draws responses and is given the weights after each update.

    An adapter (``lora``) is loaded at runtime from a folder; all weights (``lora: null``) are read again from one. The
    server must see that folder.
    """

    urls: list[str] = Field(min_length=1)
    """Addresses without /v1, as ``http://127.0.0.1:8000``; requests go to all of them in turn, weights to each."""
    api_key: SecretReference = None
    """As ``${VLLM_API_KEY}``, where the server was started with ``--api-key``; null sends none."""
    model: str | None = None
    """The name that the server gives the base model; null takes the first that it lists."""
    folder: str | None = None
    """Where weights are handed over; null: the folder models of the run."""
    folder_at_server: str | None = None
    """That folder as the server sees it, where its path there is another (a container's mount)."""
    max_in_flight: Annotated[int, Field(ge=1, le=1024)] = 256
    """Requests at once; each is one response."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds to wait for a response, and for weights to be loaded."""
    max_attempts: Annotated[int, Field(ge=1)] = 6
    """How often one request is tried."""
    retry_wait: Annotated[float, Field(gt=0)] = 1.0
    """The first wait between two tries is up to so many seconds; later ones double, up to a minute."""

    @model_validator(mode="after")
    def _addresses_can_be_asked(self) -> Self:
        check_servers("urls", self.urls, sends_key=self.api_key is not None)
        return self


class RolloutParams(Section):
    """How the responses of a rollout are drawn, and what is done about a sampler that is not quite the policy."""

    sampler: Literal["local", "continuous", "vllm"] = "local"
    """``local``: each row has random numbers of its own, so that a rollout repeats itself.
    ``continuous``: transformers' continuous batching over a paged cache, made for a GPU; what is drawn then depends on
    which rows share a batch. ``vllm``: a server of vLLM's, see the section vllm."""
    vllm: VLLMParams | None = None
    """For sampler vllm."""
    importance_cap: Annotated[float, Field(ge=1.0)] | None = 2.0
    """Where the sampler tells its log-probabilities: a token's policy loss is weighted by the policy's probability over
    the sampler's, at most so much (truncated importance sampling: Ionides 2008; V-trace, arXiv 1802.01561); null does
    not weight."""
    importance_level: Literal["token", "sequence"] = "token"
    """The ratio of each token (little variance, some bias), or of the whole response."""

    @model_validator(mode="after")
    def _server_is_named(self) -> Self:
        if (self.sampler == "vllm") != (self.vllm is not None):
            raise ValueError("sampler vllm needs the section vllm with urls, and the section needs sampler vllm")
        return self


class TransformParams(Section):
    """What a training makes of rewards, whose differences mean something within a prompt only."""

    reward_transform: Literal["none", "centred", "log_sigmoid"] = "none"
    """What a response earns for its reward r, less the penalty on its spread. ``centred``: r less its prompt's
    reference. ``log_sigmoid``: log sigmoid(r - reference), the log-probability that it is preferred to a response worth
    the reference: a gain counts the less, the better a response already is, and sums read as "and" (Wang et al., arXiv
    2402.00742). The reference is what the prompt's other responses in the rollout get on average, or see
    ``reference_samples``."""
    reference_samples: Annotated[int, Field(ge=1)] | None = None
    """Responses of the policy before training to each prompt, drawn and rewarded once: what they get is the reference,
    and stays it. Of few it is noisy: it can add as much as it takes off. Null takes the rollout's own, of which there
    must be several to a prompt."""
    reference_quantile: Annotated[float, Field(ge=0, le=1)] | None = None
    """Of those responses' rewards; null is their mean. Wang et al. take a high one (0.85): log_sigmoid then asks for
    responses as good as the start's best."""

    @model_validator(mode="after")
    def _reference_is_used(self) -> Self:
        if self.reward_transform == "none" and self.reference_samples is not None:
            raise ValueError("reference_samples are for reward_transform centred or log_sigmoid: set one, or null")
        if self.reference_samples is None and self.reference_quantile is not None:
            raise ValueError("reference_quantile is one of reference_samples: say how many, or set it to null")
        return self


class TrackedParams(Section):
    """Where the numbers of a training are shown while it runs."""

    report_to: list[str] = Field(default_factory=list)
    """Of tensorboard, wandb and trackio (packages of their own), or the name of a tracker that was registered with
    ``accelerate.tracking.register_tracker_class``. Nothing leaves the machine unless WANDB_MODE says so."""
