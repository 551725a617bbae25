"""What cannot be trained is refused before anything is sampled."""

from realm_lib.config.rlhf import PPOParams, SamplingParams
from realm_lib.rlhf.errors import PPOError
from realm_lib.rlhf.policies import Policy


def check_training(policy: Policy, params: PPOParams, sampling: SamplingParams, processes: int) -> None:
    """Raise :class:`PPOError` for a policy and parameters that do not go together, in so many processes."""
    share = processes * params.gradient_accumulation
    if params.minibatch_size % share:
        raise PPOError(
            f"rlhf.ppo.minibatch_size {params.minibatch_size} is not a multiple of gradient_accumulation "
            f"{params.gradient_accumulation} times {processes} processes"
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
