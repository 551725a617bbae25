"""The class of infly/INF-ORM-Llama3.1-70B: a Llama with a two-layer score head, read at the last real token.

The stock ``LlamaForSequenceClassification`` has one bias-free linear head; loading an INF-ORM checkpoint into it leaves
a random head with only a warning. The layout here is that of the model's card.
"""

from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaModel, LlamaPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast


class INFORMForSequenceClassification(LlamaPreTrainedModel):  # type: ignore[misc]
    """LlamaModel, then Linear(hidden, hidden), ReLU, Linear(hidden, num_labels)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = LlamaModel(config)
        self.score = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.ReLU(),
            nn.Linear(config.hidden_size, config.num_labels),
        )
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> SequenceClassifierOutputWithPast:
        """Logits [n, num_labels] of the last real token; ``input_ids`` and ``attention_mask`` are [n, tokens]."""
        if input_ids is None:
            raise ValueError("INFORMForSequenceClassification needs input_ids")
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        kwargs.pop("return_dict", None)
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), last_real_token(attention_mask)]
        return SequenceClassifierOutputWithPast(logits=self.score(pooled))


def last_real_token(attention_mask: torch.Tensor) -> torch.Tensor:
    """Positions [n] of the last token that ``attention_mask`` [n, tokens] keeps, for padding on either side.

    Read off the mask, not off the ids: a pad token may also occur in the chat (RLHFlow/RLHF-Reward-Modeling issue 49).
    """
    positions = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (positions * attention_mask).argmax(dim=1)
