"""Language models that a reward fine-tunes: loading, prompts as tokens, sampling, and responses' log-probabilities."""

from realm_lib.rlhf.errors import PolicyError
from realm_lib.rlhf.policies.adapters import adapter_base, is_adapter
from realm_lib.rlhf.policies.batches import alike, alike_within_memory
from realm_lib.rlhf.policies.dropout import switch_off_dropout
from realm_lib.rlhf.policies.loading import Policy, load_policy, process_state, save_policy, whole_weights
from realm_lib.rlhf.policies.log_probs import (
    SequenceKL,
    backbone_of,
    next_token_logits,
    pad_right,
    response_log_probs,
    sequence_kl,
)
from realm_lib.rlhf.policies.prompts import EncodedPrompts, encode_prompts
from realm_lib.rlhf.policies.sampling import Response, check_prompts, response_of, sample
from realm_lib.rlhf.policies.sharding import Sharding, Shards, asked_sharding, full_state_dict, local_part

__all__ = [
    "EncodedPrompts",
    "Policy",
    "PolicyError",
    "Response",
    "SequenceKL",
    "Sharding",
    "Shards",
    "adapter_base",
    "alike",
    "alike_within_memory",
    "asked_sharding",
    "backbone_of",
    "check_prompts",
    "encode_prompts",
    "full_state_dict",
    "is_adapter",
    "load_policy",
    "local_part",
    "next_token_logits",
    "pad_right",
    "process_state",
    "response_log_probs",
    "response_of",
    "sample",
    "save_policy",
    "sequence_kl",
    "switch_off_dropout",
    "whole_weights",
]
