"""Names that a judge cannot have, nor a signal."""

_REWARD = {"reward", "score", "similarity", "spread", "outside", "floored"}
_ANSWERS = {"policy", "prompt", "post", "row", "number", "answer", "response", "before", "after", "weight", "picked"}
_ANSWERS |= {"log_ratio"}
_MEASURES = {"length", "characters", "ended", "entropy", "distinct_1", "distinct_2"}
_KL = {"kl", "kl_error", "kl_k3", "kl_kind", "against_best_of_n"}
_WINS = {"judge", "by_judge", "win_rate", "win_rates", "win_rate_ci", "ci", "length_controlled", "length_controlled_ci"}
_WINS |= {"longer", "shorter"}
_DPO = {"pairs", "pairs_from", "asked", "dropped", "held_out_pairs", "held_out_prompts", "agreement", "accuracy"}
_DPO |= {"reward_margin", "length_difference", "seconds"}
_PPO = {"step", "episodes", "updates", "best_step", "stopped", "prompts", "objective", "reward_low", "reward_high"}
_PPO_LOG = {"reward_std", "kl_coefficient", "policy_loss", "value_loss", "clip_fraction", "approximate_kl", "warnings"}
_PPO_LOG |= {"value_error", "explained_variance", "grad_norm", "learning_rate", "tokens", "episodes_per_second"}
_PPO_LOG |= {"seconds_sampling", "seconds_reward", "seconds_forward", "seconds_update"}
_PPO_LOG |= {"transformed", "between_prompts"}
_PPO_LOG |= {"sampler_kl", "importance_mean", "importance_max", "importance_truncated"}
RESERVED_JUDGES = frozenset(_REWARD | _ANSWERS | _MEASURES | _KL | _WINS | _DPO | _PPO | _PPO_LOG)
"""What stands beside the judges in tables and metrics of policies: a judge of that name would overwrite it. Written out
here, because a profile is checked before anything that makes those tables is loaded; the tests of PPO, DPO and the
comparison hold that none of their columns is missing."""

_MODELS = {"reward_model", "embedding", "combiner", "realm_lib", "models", "signals"}
_REWARDS = {"realm", "gold", "linear", "trees", "ceiling", "feature_ceiling"}
_REWARDS |= {"posts", "responses", "score_ratio", "word_count"}  # what the evaluation counts beside them
_OF_PAIRS = {"human_ref", "votes", "rating", "labels", "chosen", "rejected"}
RESERVED_SIGNALS = RESERVED_JUDGES | _MODELS | _REWARDS | _OF_PAIRS
"""What a signal cannot be called: it would overwrite a column of the pairs, a reward of the evaluation or a model."""
