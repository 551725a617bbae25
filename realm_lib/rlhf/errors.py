"""What can go wrong in a way that the user can mend."""

__all__ = ["DPOError", "PPOError", "RewardError"]


class PPOError(RuntimeError):
    """PPO that cannot start or go on; the message says what to change."""


class RewardError(PPOError):
    """A reward that raised, or whose answer is not one finite number a response; the message names the prompt."""


class DPOError(RuntimeError):
    """DPO that cannot start or go on, or pairs that it cannot use; the message says what to change."""
