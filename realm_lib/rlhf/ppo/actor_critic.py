"""The policy, its value head and its frozen reference: what one forward pass says about every token of a response."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from realm_lib.config.rlhf import PPOParams
from realm_lib.rlhf.policies import Policy, Sharding, Shards, backbone_of, next_token_logits, pad_right, process_state
from realm_lib.rlhf.policies.log_probs import check_output_layer, in_blocks, log_probs_of, places_before_responses
from realm_lib.rlhf.policies.sharding import run

Ids = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Tokens:
    """What a pass says about the responses' tokens, row after row, each [n] in float32."""

    log_probs: Tensor
    values: Tensor
    """Value of the state before the token."""
    entropies: Tensor | None
    """Of the distribution that the token was drawn from, in nats; None where they were not asked for."""


class ActorCritic:
    """A trainable policy with a value head, and the reference that it must not leave too far.

    The reference is the policy itself with its LoRA adapter switched off, or a frozen copy of a policy without one.
    The value head reads the policy's last hidden states (one pass gives log-probabilities and values), or those of a
    second copy of the model. It starts at zero: every state is worth nothing until the first update, and for good with
    ``value_model: none``. Dropout is off throughout (Huang et al., arXiv 2403.17031), so that the first ratio of every
    rollout is 1.

    With ``sharding`` the policy, its reference and the value model are cut over processes; the value head, which is
    small, is whole in each.
    """

    def __init__(self, policy: Policy, params: PPOParams, sharding: Sharding | None = None) -> None:
        self.model = policy.model.eval()
        self.has_adapter = hasattr(self.model, "disable_adapter")
        self._frozen = None if self.has_adapter else copy.deepcopy(self.model).requires_grad_(False)
        self._value_backbone = None
        if params.value_model == "separate":
            self._value_backbone = backbone_of(copy.deepcopy(self.model))
        self._recompute = params.gradient_checkpointing
        if params.gradient_checkpointing:
            for part in (self.model, self._value_backbone):
                if part is not None:
                    part.activation_checkpointing_enable({"use_reentrant": False})
        self._frozen_shards = _cut(self._frozen, sharding)
        self._value_shards = _cut(self._value_backbone, sharding)
        self.policy = replace(policy, shards=_cut(self.model, sharding))
        run(self.policy.shards, lambda: check_output_layer(self.model))
        self.let_go()
        width = self.model.config.get_text_config().hidden_size
        self.value_head = nn.Linear(width, 1).to(self.model.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.value_head.requires_grad_(params.value_model != "none")
        self._policy_parameters = _trained(self.model)
        self._value_parameters = _trained(self.value_head, "value_head.")
        if self._value_backbone is not None:
            self._value_parameters |= _trained(self._value_backbone, "value_model.")

    @property
    def device(self) -> Any:
        """Where token ids go."""
        return self.model.device

    def policy_parameters(self) -> dict[str, Tensor]:
        """What is trained of the policy, by name: what a saved policy is made of."""
        return self._policy_parameters

    def trained_parameters(self) -> dict[str, Tensor]:
        """All that is trained, by name: policy, value head, and the value model where there is one."""
        trained = {f"policy.{name}": value for name, value in self.policy_parameters().items()}
        return trained | self.value_parameters()

    def value_parameters(self) -> dict[str, Tensor]:
        """What is trained for the values alone, by name: the head, and the value model where there is one."""
        return self._value_parameters

    def let_go(self) -> None:
        """Keep of cut weights this process's share alone: after passes that no backward pass follows."""
        for shards in (self.policy.shards, self._frozen_shards, self._value_shards):
            if shards is not None:
                shards.let_go()

    def evaluate(self, prompts: Ids, responses: Ids, temperature: float, *, entropy: bool = True) -> Tokens:
        """One pass over the rows; only states that predict a response's token reach output layer and value head.

        The entropies are another pass over all logits: they are left out where nobody reads them.
        """

        def block(states: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
            logits = next_token_logits(self.model, states).float() / temperature
            total = torch.logsumexp(logits, dim=-1)
            log_probs = logits.gather(1, targets[:, None]).squeeze(1) - total
            if not entropy:
                return (log_probs,)
            # H = log Z - E[logit]; exp(logits - total) are the probabilities.
            return log_probs, total - (torch.exp(logits - total[:, None]) * logits).sum(dim=-1)

        def work() -> tuple[Tensor, ...]:
            states = self._states(backbone_of(self.model), prompts, responses)
            blocks = in_blocks(self.model, states, self._targets(responses))
            if self._recompute and torch.is_grad_enabled():
                told = [torch_checkpoint(block, *part, use_reentrant=False) for part in blocks]
            else:
                told = [block(*part) for part in blocks]
            return states, *(torch.cat(parts) for parts in zip(*told, strict=True))

        states, log_probs, *entropies = run(self.policy.shards, work)
        if self._value_backbone is not None:
            states = self._states_for_values(prompts, responses)
        values = self.value_head(states.float()).squeeze(1)
        return Tokens(log_probs, values, entropies[0] if entropy else None)

    @torch.no_grad()
    def value_states(self, prompts: Ids, responses: Ids) -> Tensor:
        """What the value head reads before each token, float32 [n, hidden]."""
        return self._states_for_values(prompts, responses).float()

    def _states_for_values(self, prompts: Ids, responses: Ids) -> Tensor:
        if self._value_backbone is not None:
            return run(self._value_shards, lambda: self._states(self._value_backbone, prompts, responses))
        return run(self.policy.shards, lambda: self._states(backbone_of(self.model), prompts, responses))

    @torch.no_grad()
    def reference_log_probs(self, prompts: Ids, responses: Ids, temperature: float) -> Tensor:
        """Log-probability of each token under the reference, [n]."""

        def work(model: Any) -> Tensor:
            states = self._states(backbone_of(model), prompts, responses)
            blocks = in_blocks(model, states, self._targets(responses))
            return torch.cat([log_probs_of(model, *block, temperature) for block in blocks])

        with self._reference() as model:
            shards = self.policy.shards if self._frozen is None else self._frozen_shards
            return run(shards, lambda: work(model))

    @contextmanager
    def _reference(self) -> Iterator[Any]:
        if self._frozen is not None:
            yield self._frozen
        else:
            with self.model.disable_adapter():
                yield self.model

    @contextmanager
    def training(self) -> Iterator[None]:
        """Lets transformers recompute activations, which its layers do in training mode only.

        Set on those layers alone and not on what is in them: dropout stays off.
        """
        parts = [self.model, *([] if self._value_backbone is None else [self._value_backbone])]
        modules = [module for part in parts for module in part.modules()]
        layers = [module for module in modules if getattr(module, "gradient_checkpointing", False)]
        for layer in layers:
            layer.training = True
        try:
            yield
        finally:
            for layer in layers:
                layer.training = False

    def _states(self, backbone: Any, prompts: Ids, responses: Ids) -> Tensor:
        """The last hidden states that predict the responses' tokens, [n, hidden]."""
        ids = pad_right([[*p, *r] for p, r in zip(prompts, responses, strict=True)], self.device)
        hidden: Tensor = backbone(input_ids=ids, use_cache=False).last_hidden_state
        return hidden.flatten(0, 1)[places_before_responses(prompts, responses, ids.shape[1], self.device)]

    def _targets(self, responses: Ids) -> Tensor:
        return torch.tensor([token for response in responses for token in response], device=self.device)


def _cut(model: Any, sharding: Sharding | None) -> Shards | None:
    """``model`` cut over processes; None where it is to stay whole, or where there is none."""
    return None if model is None or sharding is None else Shards(model, sharding, process_state().device)


def _trained(model: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    return {f"{prefix}{name}": value for name, value in model.named_parameters() if value.requires_grad}
