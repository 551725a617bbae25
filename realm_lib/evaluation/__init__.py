"""Judging a reward: statistics only, no prose and no plots."""
