"""What vLLM may answer instead of rewards, and that it is found out before a text of the user's is asked for."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.small_scorers import stock_folder
from support.vllm_reward_server import RewardStandIn, running_reward_model

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.models.hosted import RemoteError
from realm_lib.models.reward_models import ScorerError
from realm_lib.models.reward_models.vllm_endpoint import VLLMEndpoint

TEXTS = [[3, 20, 31, 40], [3, 25, 28]]
Running = Callable[..., tuple[RewardStandIn, VLLMEndpoint]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any, tiny_config: Any) -> Path:
    return stock_folder(tmp_path_factory.mktemp("served") / "llama", tiny_tokenizer, tiny_config, "llama", False)


@pytest.fixture
def running(folder: Path) -> Any:
    """Starts a server with what it does wrong; its endpoint has not been looked at."""
    with ExitStack() as stack:

        def start(**options: Any) -> tuple[RewardStandIn, VLLMEndpoint]:
            server = stack.enter_context(running_reward_model(folder, **options))
            params = RewardModelParams(
                backend="vllm",
                model_id=str(folder),
                endpoints=[server.url],
                max_length=512,
                max_attempts=1,
            )
            return server, VLLMEndpoint(server.url, params)

        yield start


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"activation": "always"}, r"lie within \[0, 1\]: a sigmoid .*--pooler-config '\{\"use_activation\": false\}'"),
        ({"activation": "always", "shift": 60.0}, "two different texts have the reward 1: a softmax"),
        ({"scale": 0.0}, "two different texts have the reward 0"),
        ({"answers": "hidden", "route": "/pooling"}, "answers 64 numbers to a text, not one reward: hidden states"),
        ({"route": "/v1/completions"}, "has no rewards: start it as `vllm serve .* --runner pooling`"),
        ({"max_model_len": 256}, "reads 256 tokens, reward_model.max_length is 512: start it with --max-model-len 512"),
        ({"name": "other/model"}, "serves other/model, not /.*--served-model-name"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_no_reward_is_found_out(running: Running, wrong: dict[str, Any], says: str) -> None:
    server, endpoint = running(**wrong)
    if "name" in wrong:
        server.base = Path("/another/folder")  # what the name stands for is another model's folder, too
    with pytest.raises(ScorerError, match=says):
        endpoint.check(TEXTS)
    assert not endpoint.checked


def test_rewards_within_0_and_1_are_taken_where_a_sigmoid_would_change_them(running: Running) -> None:
    small = {"scale": 0.01, "shift": 0.5}
    _, endpoint = running(**small)
    rewards = endpoint.check(TEXTS)
    assert ((rewards > 0) & (rewards < 1)).all()
    _, unproven = running(**small, activation="never")
    with pytest.raises(ScorerError, match="lie within"):
        unproven.check(TEXTS)


def test_a_text_with_another_reward_each_time_is_found_out(running: Running) -> None:
    server, endpoint = running()
    answer = server.answer

    def drifting(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        server.shift += 1.0
        return answer(path, body)

    server.answer = drifting  # type: ignore[method-assign]
    with pytest.raises(ScorerError, match="one text has the rewards"):
        endpoint.check(TEXTS)


def test_a_server_without_a_limit_of_its_own_is_taken(running: Running) -> None:
    server, endpoint = running(max_model_len=None)
    np.testing.assert_array_equal(endpoint.check(TEXTS), endpoint.rewards(TEXTS))
    assert all(body["use_activation"] is False for body in server.posted("/classify"))


def test_a_server_that_is_gone_is_no_fault_of_a_text(running: Running) -> None:
    server, endpoint = running()
    server.dead = True
    with pytest.raises(RemoteError, match=r"the connection to vLLM at http://127\.0\.0\.1:.* failed") as caught:
        endpoint.check(TEXTS)
    assert endpoint.fail(caught.value)
    assert not endpoint.fail(caught.value)
    server.restart()
    endpoint.check(TEXTS)
    endpoint.take()
    assert endpoint.failure is None
