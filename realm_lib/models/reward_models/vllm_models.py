"""Which reward models vLLM serves, as a checkpoint's configuration says it before a server is asked."""

from typing import Any


def why_not_served(config: Any) -> str | None:
    """Why vLLM has no reward of the model of a ``config``, in words; None where it may have one.

    By the architectures that vLLM knows (its registry in 0.32): a class of one label whose head is a single matrix,
    one of its own for each token, or what it makes of a causal model.
    """
    (name,) = (getattr(config, "architectures", None) or [""])[:1]
    if name.startswith("INFORM"):
        return (
            "vLLM does not serve INF-ORM's head of two layers: it would leave it out or refuse the weights. Score it "
            "here with reward_model.backend inform"
        )
    if name.endswith("ForCausalLM"):
        return (
            "vLLM serves a causal model's text, not the logit of token 0 that is Nemotron's reward: score it here with "
            "reward_model.backend nemotron, or ask NVIDIA with nim"
        )
    if name.endswith("ForProcessRewardModel"):
        return "a process reward model has a score for each step and none for the whole response"
    return None


def rewards_tokens(config: Any) -> bool:
    """Whether the model has a reward for every token, of which the last one's is the response's; it has one label,
    which its configuration need not say."""
    (name,) = (getattr(config, "architectures", None) or [""])[:1]
    return bool(name.endswith("ForRewardModel"))
