"""Fine-tuning the layers under a probe's head by low-rank adapters, which are merged into them."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch.nn.functional import logsigmoid
from tqdm import tqdm

from realm_lib.config.training import ProbeParams
from realm_lib.data.pairs import chosen_and_rejected
from realm_lib.models.hidden_states import as_read
from realm_lib.models.reward_models.forward import pooled_states
from realm_lib.models.reward_models.loading import load_model
from realm_lib.models.reward_models.packing import Row
from realm_lib.models.reward_models.text_pair import build_encoder
from realm_lib.runs.seeds import derive_seed


def tune(
    folder: Path, pairs: pd.DataFrame, params: ProbeParams, *, seed: int, progress: bool = True
) -> list[dict[str, float]]:
    """Train the probe in ``folder`` further on ``pairs``, layers and head, by the Bradley-Terry loss; it is replaced.

    Returns step and loss (nats a pair) of each step. Raises :class:`ValueError` without ``params.tuning``.
    """
    from peft import LoraConfig, get_peft_model

    if params.tuning is None:
        raise ValueError("params.tuning is null: there is nothing to tune")
    reading = as_read(params, str(folder.resolve()))
    loaded = load_model(reading)
    model, taps, head = loaded.model, loaded.taps, loaded.head
    assert taps is not None
    assert head is not None
    lora = params.tuning.lora
    torch.manual_seed(derive_seed(seed, "probe", "tuning"))
    model.requires_grad_(False)
    model.score.requires_grad_(True)
    adapted = get_peft_model(
        model.model,
        LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=lora.target_modules),
        autocast_adapter_dtype=True,  # float32: small updates are lost in bfloat16
    )
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=params.tuning.learning_rate)
    encoder = build_encoder(loaded.tokenizer, reading, pairs=False)
    sides = [encoder.encode(pairs["history"].tolist(), side.tolist()) for side in chosen_and_rejected(pairs)]
    size = params.tuning.batch_size
    order = np.random.default_rng(derive_seed(seed, "probe", "order"))
    batches: list[NDArray[np.int64]] = []
    for _ in range(params.tuning.num_epochs):
        batches += np.split(order.permutation(len(pairs)), range(size, len(pairs), size))
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, len(batches))
    history = []
    for step, some in enumerate(tqdm(batches, desc="tuning", disable=not progress), start=1):
        rewards = []
        for side in sides:
            chats = [side[index] for index in some]
            rows = [Row((), [chat.ids], [number]) for number, chat in enumerate(chats)]
            starts = [chat.start for chat in chats]
            states = pooled_states(model.model, rows, starts, model.device, taps.layers, positions=False)
            rewards.append(head(taps.of(states, taps.layers)))
        loss = -logsigmoid(rewards[0] - rewards[1]).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        schedule.step()
        history.append({"step": float(step), "loss": loss.item()})
    model.model = adapted.merge_and_unload()
    model.save_pretrained(folder)
    return history
