"""PPO from a text-level reward: sample, ask the reward, estimate advantages, take clipped steps, watch, resume."""

from realm_lib.rlhf.errors import PPOError
from realm_lib.rlhf.ppo.result import PPOResult
from realm_lib.rlhf.ppo.trainer import PPOTrainer
from realm_lib.rlhf.ppo.training import train_ppo

__all__ = ["PPOError", "PPOResult", "PPOTrainer", "train_ppo"]
