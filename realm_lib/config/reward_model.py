"""The section ``reward_model`` of a profile."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from realm_lib.config.hosted import HostedParams, check_servers

_ELSEWHERE = {
    "nim": ("revision", "quantization", "device_map"),
    "vllm": ("quantization", "device_map", "api_endpoint", "requests_per_minute"),
}
"""What would say nothing of a model that runs elsewhere."""


class RewardModelParams(HostedParams):
    """The reward model that scores (prompt, response)."""

    backend: Literal["inform", "sequence_classification", "nemotron", "probe", "nim", "vllm"]
    """``inform``: INF-ORM-Llama3.1-70B's class and head. ``sequence_classification``: any one-label model.
    ``nemotron``: a causal LM whose reward is the logit of token 0. ``probe``: a language model's first layers and a
    linear head, which 00_offline_models trains. ``nim``: NVIDIA's hosted model.
    ``vllm``: a one-label model that vLLM serves at ``endpoints``."""
    model_id: str
    """A hub id, a folder, or ``run:FOLDER`` for a folder of this run (a model that 00_offline_models trained); for nim
    the service's name, as ``nvidia/llama-3.1-nemotron-70b-reward``."""
    endpoints: Annotated[list[str], Field(min_length=1)] | None = None
    """For vllm: addresses without /v1, as ``http://127.0.0.1:8000``, that serve the same weights; the responses to one
    prompt go to one of them."""
    revision: str | None = None
    """A commit of the hub's model; for vllm that of its tokenizer, and the server's ``--revision``."""
    quantization: Literal["4bit", "8bit"] | None = None
    device_map: str | None = None
    """``auto`` (the GPUs that there are), ``cuda:0``, ``cpu``; null means the CPU."""
    max_length: Annotated[int, Field(ge=8)] = 2048
    """Most tokens of a chat; a longer prompt loses its oldest turns, then the end of its last, the response nothing.
    The service behind nim has a limit of its own."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """For vllm what the server computes in (its ``--dtype``): it does not say so itself, and scores are kept by it."""
    batch_tokens: Annotated[int, Field(ge=1)] = 4096
    """Most tokens in a batch, padding included; halved by itself when memory runs out."""
    long_responses: Literal["refuse", "cut"] = "refuse"
    """What to do with a response that does not fit ``max_length`` by itself: an error, or a score without its end."""
    allow_oversize: bool = False
    """Load a model although the estimate says that it does not fit this machine's memory."""

    @model_validator(mode="after")
    def _service_can_be_asked(self) -> Self:
        if self.backend not in _ELSEWHERE:
            return self
        if set_locally := [key for key in _ELSEWHERE[self.backend] if getattr(self, key) is not None]:
            raise ValueError(f"{set_locally[0]} must be null: backend {self.backend} runs the model elsewhere")
        return self

    @model_validator(mode="after")
    def _endpoints_are_named(self) -> Self:
        if (self.backend == "vllm") != (self.endpoints is not None):
            raise ValueError("backend vllm needs endpoints, a list of addresses, and endpoints need backend vllm")
        check_servers("endpoints", self.endpoints or (), sends_key=self.sends_key())
        if len(set(self.endpoints or ())) < len(self.endpoints or ()):
            raise ValueError("endpoints: an address stands there twice")
        return self

    def sends_key(self) -> bool:
        """A server of one's own is sent a key only where one is named."""
        return self.backend != "vllm" or self.api_key is not None
