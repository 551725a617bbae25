"""A local server that speaks vLLM's protocol for reward models over a small checkpoint, and misbehaves on demand.

It does by default what vLLM 0.32 does: a sigmoid unless a request says ``use_activation: false``, and token ids as they
come. Nothing is shared with the code under test but transformers' own class.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForSequenceClassification

from support.faulty_server import running
from support.vllm_server import VLLMStandIn


class RewardStandIn(VLLMStandIn):
    """The server of the model in a folder.

    ``activation``: as requested, or ``always`` (a version that does not know the field, or ``never``). ``answers``:
    one number a text, one for each token (/pooling), or hidden states. ``route`` is the one that it has.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str | None = None,
        route: str = "/classify",
        activation: Literal["requested", "always", "never"] = "requested",
        answers: Literal["rewards", "tokens", "hidden"] = "rewards",
        max_model_len: int | None = 4096,
        shift: float = 0.0,
        scale: float = 1.0,
        dies_after: int | None = None,
        key: str = "",
    ) -> None:
        self.name, self.route, self.activation, self.answers = name or str(folder), route, activation, answers
        self.max_model_len, self.shift, self.scale, self.dies_after = max_model_len, shift, scale, dies_after
        super().__init__(folder, key=key)

    def restart(self) -> None:
        """Read the weights; it is alive again."""
        self.model: Any = AutoModelForSequenceClassification.from_pretrained(self.base, dtype=torch.float32).eval()
        self.dead = False

    @property
    def texts(self) -> list[list[int]]:
        """The token ids that rewards were asked for, in the order of the requests."""
        return [ids for body in self.posted(self.route) for ids in body["input"]]

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Status and JSON."""
        if path == "/v1/models":
            card = {"id": self.name, "root": str(self.base), "max_model_len": self.max_model_len}
            return 200, {"object": "list", "data": [card]}
        if path != self.route:
            return 404, {"detail": "Not Found"}
        if self.dies_after is not None and len(self.posted(path)) > self.dies_after:
            self.dead = True
        if body["model"] != self.name:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        on = {"always": True, "never": False}.get(self.activation, body.get("use_activation", True))
        rows = [self._row(ids, torch.sigmoid if on else torch.clone) for ids in body["input"]]
        return 200, {"object": "list", "data": [{"index": index, **row} for index, row in enumerate(rows)]}

    @torch.inference_mode()
    def _row(self, ids: list[int], act: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, Any]:
        states = self.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        rewards = act(self.model.score(states) * self.scale + self.shift)
        if self.answers == "hidden":
            return {"data": states[-1].tolist()}
        if self.answers == "tokens":
            return {"data": rewards.tolist()}
        return {"probs": rewards[-1].tolist(), "num_classes": 1}


def running_reward_model(folder: Path, **options: Any) -> AbstractContextManager[RewardStandIn]:
    """A server of the reward model in ``folder`` on a free port of this machine."""
    return running(RewardStandIn(folder, **options))
