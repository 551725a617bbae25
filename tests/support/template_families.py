"""Tokenizers with chat templates that do what those of well-known families do, in words of our own."""

from typing import Any

FAMILIES = {
    # A system turn as any other; thoughts of answers before the last question left out, an empty one before the last.
    "qwen3": (
        ["<|im_start|>", "<|im_end|>"],
        "{% set state = namespace(last=0) %}"
        "{% for m in messages %}{% if m.role == 'user' %}{% set state.last = loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% if m.role == 'assistant' %}{% set thought = '' %}{% set said = m.content %}"
        "{% if '</think>' in said %}"
        "{% set thought = said.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
        "{% set said = said.split('</think>')[-1].lstrip('\n') %}{% endif %}"
        "{% if loop.index0 > state.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ said }}"
        "{% else %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    ),
    # The system turn first and unmarked; thoughts of all answers left out.
    "deepseek-r1": (
        ["<bos>", "<eos>", "<|User|>", "<|Assistant|>"],
        "<bos>{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}"
        "{% for m in messages if m.role != 'system' %}"
        "{% if m.role == 'user' %}<|User|>{{ m.content }}"
        "{% else %}<|Assistant|>{{ m.content.split('</think>')[-1] }}<eos>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}",
    ),
    # The system turn within the last user turn; turns must take turns.
    "mistral-v3": (
        ["<bos>", "<eos>", "[INST]", "[/INST]"],
        "<bos>{% set told = messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join %}"
        "{% set turns = messages | rejectattr('role', 'equalto', 'system') | list %}"
        "{% for m in turns %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}"
        "{% if m.role == 'user' %}[INST] "
        "{% if told and (loop.last or loop.index0 == turns | length - 2) %}{{ told }}\n\n{% endif %}"
        "{{ m.content }}[/INST]{% else %} {{ m.content | trim }}<eos>{% endif %}{% endfor %}",
    ),
    # No system turn; contents trimmed; the assistant is called model.
    "gemma": (
        ["<bos>", "<start_of_turn>", "<end_of_turn>"],
        "<bos>{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    ),
    # A system turn with today's date, whether somebody wrote one or not; contents trimmed.
    "llama-3.2": (
        ["<bos>", "<|start|>", "<|end|>", "<|eot|>"],
        "<bos>{% if strftime_now is defined %}{% set today = strftime_now('%d %b %Y') %}{% endif %}"
        "{% set told = messages[0].content | trim if messages[0].role == 'system' else '' %}"
        "<|start|>system<|end|>\n\nToday: {{ today }}\n\n{{ told }}<|eot|>"
        "{% for m in messages if m.role != 'system' %}"
        "<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}",
    ),
}


def family_tokenizer(name: str, template: str | None = None) -> Any:
    """A byte-level tokenizer with the special tokens and the template of a family, or ``template``."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special, own = FAMILIES[name]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[*special, "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Why does bread rise? Yeast makes gas."], trainer)
    end = next(token for token in reversed(special) if "end" in token or "eo" in token)
    told = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        pad_token="<pad>",
        extra_special_tokens=special,
        chat_template=template or own,
    )
    told.add_tokens(["<think>", "</think>"])
    return told
