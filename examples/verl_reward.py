"""The reward of a ``realm serve`` as verl's custom reward function.

REALM_SERVER is its address, REALM_SERVER_TOKEN its token, where it has one.
"""

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

from realm_lib.config.rlhf import RewardServerParams
from realm_lib.inference.remote_reward import RemoteReward


@cache
def _server() -> RemoteReward:
    token = "${REALM_SERVER_TOKEN}" if "REALM_SERVER_TOKEN" in os.environ else None
    return RemoteReward(RewardServerParams(url=os.environ["REALM_SERVER"], token=token))


def compute_score(
    data_source: str,  # noqa: ARG001
    solution_str: str,
    ground_truth: Any,  # noqa: ARG001
    extra_info: Mapping[str, Any],
    **_: Any,
) -> float:
    """The reward of one response to the prompt in ``extra_info``."""
    return _server()([extra_info["prompt"]], [solution_str])[0]
