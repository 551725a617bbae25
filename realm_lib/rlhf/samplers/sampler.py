"""What a sampler is, and the one that is the policy itself."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from realm_lib.rlhf.policies import Policy, Response, sample

Weights = dict[str, Tensor] | None


@dataclass(frozen=True)
class Drawn(Response):
    """A response, and what its sampler says about its tokens."""

    log_probs: NDArray[np.float64] | None = None
    """Log-probability of each token under the distribution that it was drawn from, [tokens]; None where the policy
    itself drew it."""


class Sampler(Protocol):
    """Draws responses of a policy as it is now."""

    needs_weights: bool
    """Whether :meth:`synchronise` reads the policy's weights."""

    def synchronise(self, policy: Policy, step: int, weights: Weights = None) -> str:
        """Make sure that what draws has the weights of ``policy`` (after ``step`` updates); the name of these weights.

        Called before every rollout, by one process of several. ``weights`` are those of a policy that is cut over
        processes, as :func:`realm_lib.rlhf.policies.whole_weights` gathers them.
        """
        ...

    def sample(
        self,
        policy: Policy,
        prompt_ids: Sequence[Sequence[int]],
        *,
        version: str,
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        batch_size: int,
        thinking: Literal["keep", "strip"] = "keep",
    ) -> list[Drawn]:
        """One response to each prompt, in their order, by the weights that :meth:`synchronise` named ``version``.

        ``seeds`` holds one number a prompt; ``thinking`` is that of :class:`realm_lib.config.rlhf.SamplingParams`.
        Raises what :func:`realm_lib.rlhf.policies.sample` raises, and :class:`realm_lib.rlhf.errors.SamplerError`.
        """
        ...


class LocalSampler:
    """:func:`realm_lib.rlhf.policies.sample`: a response depends on its seed and not on the rows beside it."""

    needs_weights = False

    def synchronise(self, policy: Policy, step: int, weights: Weights = None) -> str:  # noqa: ARG002
        """Nothing to do: the policy draws for itself."""
        return ""

    def sample(
        self,
        policy: Policy,
        prompt_ids: Sequence[Sequence[int]],
        *,
        version: str,  # noqa: ARG002
        max_new_tokens: int,
        temperature: float,
        seeds: Sequence[int],
        batch_size: int,
        thinking: Literal["keep", "strip"] = "keep",
    ) -> list[Drawn]:
        """As :meth:`Sampler.sample`; no log-probabilities, since they are the policy's own."""
        responses = sample(
            policy,
            prompt_ids,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            seeds=seeds,
            batch_size=batch_size,
            thinking=thinking,
        )
        return [Drawn(**asdict(response)) for response in responses]
