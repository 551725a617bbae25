"""What can go wrong in a way that the user can mend."""


class RewardError(RuntimeError):
    """A reward or judge that raised, or whose answer is not one finite number a response; the message says where."""


class SampleError(RuntimeError):
    """Responses kept on disk that cannot be used, or a policy that they could not be told by."""


class PolicyError(RuntimeError):
    """A policy that cannot be loaded or sampled, or prompts that it cannot take; the message says what to do."""


class ProcessError(RuntimeError):
    """Another process of the same training failed; the message says which one, and what it said."""


class PPOError(RuntimeError):
    """PPO that cannot start or go on; the message says what to change."""


class SamplerError(PPOError):
    """A sampler of rollouts that cannot be asked, or whose answer cannot be used; the message says what to change."""


class DPOError(RuntimeError):
    """DPO that cannot start or go on, or pairs that it cannot use; the message says what to change."""
