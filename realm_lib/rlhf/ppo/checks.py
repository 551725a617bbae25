"""What cannot be trained is refused before anything is sampled."""

from realm_lib.config.rlhf import PPOParams, SamplingParams
from realm_lib.rlhf.errors import PPOError
from realm_lib.rlhf.policies import Policy
from realm_lib.rlhf.ppo.processes import Processes


def check_training(policy: Policy, params: PPOParams, sampling: SamplingParams, processes: Processes) -> None:
    """Raise :class:`PPOError` for a policy and parameters that do not go together, in these processes."""
    if processes.sharding is not None:
        _check_sharding(params)
    share = processes.count * params.gradient_accumulation
    if params.minibatch_size % share:
        raise PPOError(
            f"rlhf.ppo.minibatch_size {params.minibatch_size} is not a multiple of gradient_accumulation "
            f"{params.gradient_accumulation} times {processes.count} processes"
        )
    if policy.tokenizer.eos_token_id is None:
        raise PPOError("the tokenizer has no EOS token: responses would never end")
    if sampling.temperature <= 0:
        raise PPOError("rlhf.sampling.temperature must be above 0 to train: a greedy policy explores nothing")
    longest = sampling.max_prompt_tokens + sampling.max_new_tokens
    if policy.context is not None and longest > policy.context:
        raise PPOError(
            f"rlhf.sampling: max_prompt_tokens {sampling.max_prompt_tokens} and max_new_tokens "
            f"{sampling.max_new_tokens} are more than the policy's context of {policy.context} tokens"
        )
    if not any(value.requires_grad for value in policy.model.parameters()):
        raise PPOError("the policy has no trainable weights: load it with trainable=True")


def _check_sharding(params: PPOParams) -> None:
    """Raise :class:`PPOError` for parameters whose weights cannot be cut over processes."""
    if params.device_map is not None:
        raise PPOError(f"rlhf.ppo.device_map {params.device_map} and FSDP both place weights: set device_map null")
    if params.quantization is not None:
        raise PPOError(
            f"{params.quantization} weights are not cut over processes: set rlhf.ppo.quantization null and (with lora) "
            "dtype bfloat16, or launch without FSDP"
        )
    if params.sampler == "continuous":
        raise PPOError("rlhf.ppo.sampler continuous needs whole weights in a process: take local or vllm under FSDP")
