"""The section ``reward_model`` of a profile."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from realm_lib.config.hosted import HostedParams


class RewardModelParams(HostedParams):
    """The reward model that scores (prompt, response)."""

    backend: Literal["inform", "sequence_classification", "nemotron", "nim"]
    """``inform``: INF-ORM-Llama3.1-70B's class and head. ``sequence_classification``: any one-label model.
    ``nemotron``: a causal LM whose reward is the logit of token 0. ``nim``: NVIDIA's hosted model."""
    model_id: str
    """A hub id, a folder, or ``run:FOLDER`` for a folder of this run (a model that 00_offline_models trained); for nim
    the service's name, as ``nvidia/llama-3.1-nemotron-70b-reward``."""
    revision: str | None = None
    quantization: Literal["4bit", "8bit"] | None = None
    device_map: str | None = None
    """``auto`` (the GPUs that there are), ``cuda:0``, ``cpu``; null means the CPU."""
    max_length: Annotated[int, Field(ge=8)] = 2048
    """Most tokens of a chat; a longer prompt loses its oldest turns, then the end of its last, the response nothing.
    The service behind nim has a limit of its own."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_tokens: Annotated[int, Field(ge=1)] = 4096
    """Most tokens in a batch, padding included; halved by itself when memory runs out."""
    long_responses: Literal["refuse", "cut"] = "refuse"
    """What to do with a response that does not fit ``max_length`` by itself: an error, or a score without its end."""
    allow_oversize: bool = False
    """Load a model although the estimate says that it does not fit this machine's memory."""

    @model_validator(mode="after")
    def _nim_can_be_asked(self) -> Self:
        if self.backend != "nim":
            return self
        if set_locally := [key for key in ("revision", "quantization", "device_map") if getattr(self, key) is not None]:
            raise ValueError(f"{set_locally[0]} must be null: backend nim runs the model elsewhere")
        return self
