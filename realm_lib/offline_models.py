"""Small stand-ins, trained here from scratch, that make an offline run possible: a tokenizer and a reward model.

They have the architecture of the models they stand in for (a Llama with INF-ORM's head) and are loaded and scored by
the same code; they do not have their strength.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from realm_lib.params import OfflineRewardModelParams
from realm_lib.runs import atomic_path, derive_seed

__all__ = ["train_reward_model", "train_tokenizer"]

# Llama's 0.02 is made for hidden sizes in the thousands; at 64 the attention would take most of an epoch to wake up.
_INITIALIZER_RANGE = 0.08

# The assistant's turn ends at EOS: a newline after it would become a token to predict.
_CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-level BPE tokenizer with a chat template, as a transformers PreTrainedTokenizerFast."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|pad|>", "<|bos|>", "<|eos|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=special[0],
        bos_token=special[1],
        eos_token=special[2],
        extra_special_tokens=special[3:],
        chat_template=_CHAT_TEMPLATE,
    )


def train_reward_model(
    pairs: pd.DataFrame, params: OfflineRewardModelParams, folder: str | Path, *, seed: int, progress: bool = True
) -> list[dict[str, float]]:
    """Train a small Llama with INF-ORM's head on ``pairs`` with TRL's RewardTrainer and save it at ``folder``.

    ``pairs`` must not be among those that the combiner is trained on: on its own training pairs a reward model's score
    is better than it will ever be again, and the combiner would trust it too much.
    Returns the training log: step, loss (Bradley-Terry, in nats) and accuracy on the batches since the last entry.
    The folder appears when everything is in it.
    """
    import datasets
    import torch
    import transformers
    from transformers import LlamaConfig
    from trl import RewardConfig, RewardTrainer

    from realm_lib.scorers.chat import ChatEncoder
    from realm_lib.scorers.inform import INFORMForSequenceClassification

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    texts = pd.concat([pairs["history"], pairs["human_ref_A"], pairs["human_ref_B"]]).unique().tolist()
    tokenizer = train_tokenizer(texts, params.vocab_size)
    torch.manual_seed(derive_seed(seed, "offline reward model"))
    model = INFORMForSequenceClassification(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=params.hidden_size,
            intermediate_size=params.hidden_size * 8 // 3,
            num_hidden_layers=params.num_layers,
            num_attention_heads=params.num_heads,
            num_key_value_heads=params.num_heads,
            max_position_embeddings=params.max_length,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            num_labels=1,
            initializer_range=_INITIALIZER_RANGE,
        )
    )
    encoder = ChatEncoder(tokenizer, params.max_length)
    steps = -(-len(pairs) // params.batch_size) * params.num_epochs
    with atomic_path(folder) as temporary:
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(
                output_dir=str(temporary),
                per_device_train_batch_size=params.batch_size,
                num_train_epochs=params.num_epochs,
                learning_rate=params.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=max(1, steps // 20),
                max_length=None,
                logging_steps=max(1, steps // 40),
                save_strategy="no",
                report_to="none",
                use_cpu=not torch.cuda.is_available(),
                bf16=False,
                gradient_checkpointing=False,
                disable_tqdm=not progress,
                seed=derive_seed(seed, "offline reward model", "order"),
            ),
            train_dataset=datasets.Dataset.from_dict(_encoded(pairs, encoder)),
            processing_class=tokenizer,
        )
        if not progress:
            trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        history = trainer.state.log_history
    return [
        {"step": entry["step"], "loss": entry["loss"], "accuracy": entry["accuracy"]}
        for entry in history
        if "loss" in entry
    ]


def _encoded(pairs: pd.DataFrame, encoder: Any) -> dict[str, list[list[int]]]:
    """The chats as RewardTrainer takes them, encoded as the scorer will encode them."""
    chosen_is_a = pairs["labels"] == 1
    chosen = pairs["human_ref_A"].where(chosen_is_a, pairs["human_ref_B"])
    rejected = pairs["human_ref_B"].where(chosen_is_a, pairs["human_ref_A"])
    prompts = pairs["history"].tolist()
    return {
        "chosen_ids": [chat.ids for chat in encoder.encode(prompts, chosen.tolist())],
        "rejected_ids": [chat.ids for chat in encoder.encode(prompts, rejected.tolist())],
    }
