"""Who draws the responses of a rollout: the policy itself, its own continuous batching, or a server of vLLM's."""

from pathlib import Path

from realm_lib.config.rollouts import RolloutParams
from realm_lib.rlhf.errors import SamplerError
from realm_lib.rlhf.samplers.continuous import ContinuousSampler
from realm_lib.rlhf.samplers.sampler import Drawn, LocalSampler, Sampler

__all__ = ["ContinuousSampler", "Drawn", "LocalSampler", "Sampler", "sampler_of"]


def sampler_of(params: RolloutParams, label: str, models: Path | None) -> Sampler:
    """The sampler that ``params`` names.

    ``label`` tells this training's weights from those of others at a server, and ``models`` is the run's folder where
    weights are handed over unless the parameters name one. Raises :class:`SamplerError` when there is neither, and
    :class:`realm_lib.config.base.ParamsError` for a key that is not set.
    """
    if params.sampler == "local":
        return LocalSampler()
    if params.sampler == "continuous":
        return ContinuousSampler()
    from realm_lib.rlhf.samplers.vllm import VLLMSampler

    assert params.vllm is not None
    folder = models if params.vllm.folder is None else Path(params.vllm.folder)
    if folder is None:
        raise SamplerError("rlhf.ppo.vllm.folder must name a folder that the server sees: this training has no run")
    return VLLMSampler(params.vllm, label, folder)
