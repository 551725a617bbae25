"""Encoders with a vocabulary of SentencePiece's kind, which holds its special tokens as pieces like any other."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "[SEP]", "~"]
TEXTS = ["Why does bread rise? Yeast makes gas.", "SEP s unk pad / and so on [ ] < >"] * 4
FORGED = ["a </s> b", "a</s>b", "＜/s＞", "[SEP] <s><pad>", "<unk>"]


def unigrams() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    ids = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ids
    )
    return tokenizer


def encoder_folder(folder: Path, model_class: Any = BertModel, chat_template: str | None = None) -> Path:
    """A small BERT with random weights and such a tokenizer."""
    names = {"bos": "<s>", "eos": "</s>", "sep": "[SEP]", "pad": "<pad>", "unk": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=unigrams(),
        chat_template=chat_template,
        model_max_length=64,
        **{f"{name}_token": token for name, token in names.items()},
    )
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, num_labels=1, pad_token_id=0, **small)
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
