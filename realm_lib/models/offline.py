"""Small stand-ins, trained here from scratch, that make an offline run possible: a reward model and a policy.

They have the architecture of the models they stand in for (a Llama with INF-ORM's head, a Llama that answers) and are
loaded and used by the same code; they do not have their strength.
"""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from realm_lib.config.training import OfflineModelParams, OfflinePolicyParams, OfflineRewardModelParams
from realm_lib.data.chats import as_messages
from realm_lib.data.pairs import all_texts, chosen_and_rejected
from realm_lib.data.seen import keys_of
from realm_lib.models.chat_tokens import letter_ids, tokenize_chats
from realm_lib.runs.files import atomic_path
from realm_lib.runs.seeds import derive_seed
from realm_lib.runs.trained_on import write_trained_on

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

    Training is in float64 (:mod:`realm_lib.models.double_precision`), what is saved in float32.

    ``pairs`` must not be among those that the combiner is trained on: on its own training pairs a reward model's score
    is better than it will ever be again, and the combiner would trust it too much.
    Returns the training log: step, loss (Bradley-Terry, in nats) and accuracy on the batches since the last entry.
    The folder appears when everything is in it.
    """
    import datasets
    import torch
    import transformers
    from trl import RewardConfig, RewardTrainer

    from realm_lib.models.double_precision import double_llama, rounded
    from realm_lib.models.reward_models.chat import ChatEncoder
    from realm_lib.models.reward_models.inform import INFORMForSequenceClassification

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = _tokenizer_of(pairs, params.vocab_size)
    config = _llama_config(tokenizer, params, num_labels=1)
    encoded = _encoded_pairs(pairs, ChatEncoder(tokenizer, params.max_length))
    lengths = [max(map(len, sides)) for sides in zip(*encoded.values(), strict=True)]
    torch.manual_seed(derive_seed(seed, "offline reward model"))
    with atomic_path(folder) as temporary:
        order = derive_seed(seed, "offline reward model", "order")
        trainer = RewardTrainer(
            model=double_llama(lambda: INFORMForSequenceClassification(config)),
            args=RewardConfig(
                **_arguments(temporary, params, len(pairs), order, progress), train_sampling_strategy="sequential"
            ),
            train_dataset=datasets.Dataset.from_dict(encoded).select(in_batches(lengths, params.batch_size, order)),
            processing_class=tokenizer,
        )
        history = _train(trainer, ("loss", "accuracy"), progress)
        _save(rounded(trainer.model, INFORMForSequenceClassification(config)), tokenizer, pairs, temporary)
        return history


def train_policy(
    pairs: pd.DataFrame, params: OfflinePolicyParams, folder: str | Path, *, seed: int, progress: bool = True
) -> list[dict[str, float]]:
    """Train a small Llama on the comments of ``pairs`` with TRL's SFTTrainer, so that it answers posts.

    It learns from all comments, preferred or not, so that it leaves something to improve. Only the comment's tokens
    and the EOS after it carry loss. Comments longer than ``max_length`` with their post are left out.
    Returns the training log: step and loss (cross-entropy in nats a token) since the last entry.
    Raises ValueError when no comment fits. The folder appears when everything is in it.
    """
    import datasets
    import torch
    import transformers
    from transformers import LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    tokenizer = _tokenizer_of(pairs, params.vocab_size)
    examples = _encoded_comments(pairs, tokenizer, params)
    torch.manual_seed(derive_seed(seed, "offline policy"))
    model = LlamaForCausalLM(_llama_config(tokenizer, params, tie_word_embeddings=True))
    with atomic_path(folder) as temporary:
        order = derive_seed(seed, "offline policy", "order")
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                **_arguments(temporary, params, len(examples["input_ids"]), order, progress),
                train_sampling_strategy="group_by_length",
                dataset_kwargs={"skip_prepare_dataset": True},
            ),
            train_dataset=datasets.Dataset.from_dict(examples),
            processing_class=tokenizer,
        )
        history = _train(trainer, ("loss",), progress)
        _save(trainer.model, tokenizer, pairs, temporary)
        return history


def in_batches(lengths: Sequence[int], batch_size: int, seed: int) -> list[int]:
    """The places of texts of these ``lengths`` in an order whose batches hold near lengths, the batches shuffled.

    There is little padding then: 1.5 times fewer tokens than in a random order, for the demo's pairs. (A sampler that
    goes from long to short texts again and again, as "group_by_length" does, cost the demo's reward model 3 points.)
    """
    generator = random.Random(seed)
    places = sorted(range(len(lengths)), key=lambda place: (lengths[place], generator.random()))
    whole = len(places) // batch_size * batch_size
    batches = [places[start : start + batch_size] for start in range(0, whole, batch_size)]
    generator.shuffle(batches)
    return [place for batch in [*batches, places[whole:]] for place in batch]


def _tokenizer_of(pairs: pd.DataFrame, vocab_size: int) -> Any:
    texts = pd.concat([pairs["history"], pairs["human_ref_A"], pairs["human_ref_B"]]).unique().tolist()
    return train_tokenizer(texts, vocab_size)


def _llama_config(tokenizer: Any, params: OfflineModelParams, **more: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
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
        initializer_range=_INITIALIZER_RANGE,
        **more,
    )


def _arguments(folder: Path, params: OfflineModelParams, examples: int, seed: int, progress: bool) -> dict[str, Any]:
    """What TRL's configurations have in common here."""
    import torch

    steps = -(-examples // params.batch_size) * params.num_epochs
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": params.batch_size,
        "num_train_epochs": params.num_epochs,
        "learning_rate": params.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": max(1, steps // 20),
        "max_length": None,
        "logging_steps": max(1, steps // 40),
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": not torch.cuda.is_available(),
        "bf16": False,
        "activation_checkpointing": False,
        "disable_tqdm": not progress,
        "seed": seed,
    }


def _train(trainer: Any, logged: tuple[str, ...], progress: bool) -> list[dict[str, float]]:
    """Train, and return what was logged."""
    import transformers

    if not progress:
        trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    return [
        {"step": entry["step"], **{name: entry[name] for name in logged}}
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def _save(model: Any, tokenizer: Any, pairs: pd.DataFrame, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_trained_on(folder, keys_of(pairs))  # all of them: the tokenizer has read those that training left out


def _encoded_comments(pairs: pd.DataFrame, tokenizer: Any, params: OfflinePolicyParams) -> dict[str, list[list[int]]]:
    """Posts, each with its distinct comments, as SFTTrainer takes them; labels mask the post's tokens."""
    texts = all_texts(pairs).sort_index(kind="stable").drop_duplicates().head(params.max_comments)
    chats = [as_messages(post) for post in texts["prompt"]]
    prompt_ids = [row.ids for row in tokenize_chats(tokenizer, chats, add_generation_prompt=True)]
    comment_ids = letter_ids(tokenizer, texts["response"].tolist())
    examples: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    for before, after in zip(prompt_ids, comment_ids, strict=True):
        answer = [*after, tokenizer.eos_token_id]
        if len(before) + len(answer) <= params.max_length:
            examples["input_ids"].append([*before, *answer])
            examples["labels"].append([-100] * len(before) + answer)
    if not examples["input_ids"]:
        raise ValueError(f"offline_models.policy.max_length is {params.max_length}: no post fits with its comment")
    return examples


def _encoded_pairs(pairs: pd.DataFrame, encoder: Any) -> dict[str, list[list[int]]]:
    """The chats as RewardTrainer takes them, encoded as the scorer will encode them."""
    chosen, rejected = chosen_and_rejected(pairs)
    prompts = pairs["history"].tolist()
    return {
        "chosen_ids": [chat.ids for chat in encoder.encode(prompts, chosen.tolist())],
        "rejected_ids": [chat.ids for chat in encoder.encode(prompts, rejected.tolist())],
    }
