"""Using the reward: policies, PPO, DPO, and which policy is better."""
