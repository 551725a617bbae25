"""Language models that a reward fine-tunes: loading, prompts as tokens, sampling, and responses' log-probabilities."""

from realm_lib.rlhf.policies.loading import Policy, PolicyError, load_policy, process_state, save_policy
from realm_lib.rlhf.policies.log_probs import (
    SequenceKL,
    alike,
    backbone_of,
    next_token_logits,
    pad_right,
    response_log_probs,
    sequence_kl,
)
from realm_lib.rlhf.policies.prompts import EncodedPrompts, encode_prompts
from realm_lib.rlhf.policies.sampling import Response, check_prompts, response_of, sample

__all__ = [
    "EncodedPrompts",
    "Policy",
    "PolicyError",
    "Response",
    "SequenceKL",
    "alike",
    "backbone_of",
    "check_prompts",
    "encode_prompts",
    "load_policy",
    "next_token_logits",
    "pad_right",
    "process_state",
    "response_log_probs",
    "response_of",
    "sample",
    "save_policy",
    "sequence_kl",
]
