"""Models in GGUF files, llama.cpp's format, read through transformers where that is exactly what the file says.

transformers takes from a file what it knows of its architecture, and leaves out the rest without a word: rescaled
positions, a tensor that it has no name for, the way in which a tokenizer splits a text. So only what was compared with
the original is read, and all else is refused; a ``config.json`` and a tokenizer beside the file are taken before what
the file says of them. Weights are those of the file, quantised ones as its format unpacks them
(:mod:`realm_lib.models.gguf_conversion`).
"""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from realm_lib.models.gguf_conversion import converted
from realm_lib.models.gguf_header import GGUFError, read_header, unreadable

_ARCHITECTURES = ("llama", "qwen2", "qwen3")
_SPLITS = ("gpt-2", "smollm")
"""How a byte-level tokenizer splits a text before merging, by the file's name for it."""
_POSITION_FACTORS = "rope_freqs.weight"
"""Llama-3.1's rescaled positions as numbers, which its ``config.json`` says in words."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def find_gguf(source: Path | str) -> Path | None:
    """The GGUF file that a model's place means: itself, or the only one of a folder without other weights.

    None for anything else. Raises :class:`GGUFError` for a folder of several, and for a file that is a part of a model.
    """
    if not isinstance(source, Path):
        return None
    files = [source] if source.is_file() else sorted(source.glob("*.gguf"))
    if not files or (source.is_dir() and any(source.glob("*.safetensors"))):
        return None
    part = re.search(r"-\d{5}-of-(\d{5})$", files[0].stem)
    if part is not None and part[1] != "00001":
        raise GGUFError(
            f"{files[0]}: is one of {int(part[1])} parts: join them with llama.cpp's llama-gguf-split --merge"
        )
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:8])
        raise GGUFError(f"{source}: holds several GGUF files ({names}): name one, as {files[0]}")
    return files[0]


def gguf_config(file: Path) -> Any:
    """The configuration of the model in ``file``: that of a ``config.json`` beside it, or what its metadata say.

    Raises :class:`GGUFError` for an architecture that is not read, and for metadata that would be left out.
    """
    from transformers import AutoConfig
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING

    header = read_header(file)
    kind, said = header.kind, header.metadata
    if kind not in _ARCHITECTURES:
        raise GGUFError(
            f"{file}: its architecture {kind} is not among those read exactly ({', '.join(_ARCHITECTURES)}): take the "
            "model's safetensors"
        )
    if (key := header.lacks()) is not None:
        raise GGUFError(f"{file}: does not say {key}: it is no language model's file, or not whole: download it again")
    if (file.parent / "config.json").is_file():
        return AutoConfig.from_pretrained(file.parent, trust_remote_code=False)
    names = GGUF_CONFIG_MAPPING[kind]
    known = {*names, "attention.key_length", "attention.value_length"}
    unread = sorted(key for key in said if key.startswith(f"{kind}.") and key.removeprefix(f"{kind}.") not in known)
    unread += [name for name in header.tensors if name == _POSITION_FACTORS]
    if unread:
        raise GGUFError(f"{file}: says {unread[0]}, which is not read from it: put the model's config.json beside it")
    values = {name: header.about(key) for key, name in names.items() if name and header.about(key) is not None}
    values.setdefault("vocab_size", said.get("tokenizer.ggml.tokens"))
    if values["vocab_size"] is None:
        raise GGUFError(f"{file}: holds no vocabulary: put the model's config.json and its tokenizer's files beside it")
    for token, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        values[f"{token}_token_id"] = said.get(f"tokenizer.ggml.{key}_token_id")
    # AutoConfig.from_pretrained(gguf_file=...) makes the same of the file in seconds: it reads the whole vocabulary.
    config = AutoConfig.for_model(kind, tie_word_embeddings="output.weight" not in header.tensors, **values)
    if hasattr(config, "head_dim"):
        config.head_dim = header.about("attention.key_length") or config.head_dim
    return config


def gguf_tokenizer(file: Path) -> Any:
    """The tokenizer beside ``file``, else the file's own; with the file's chat template where it has none.

    Raises :class:`GGUFError` for a tokenizer that would be rebuilt otherwise than it was.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    said = read_header(file).metadata
    if any((file.parent / name).is_file() for name in TOKENIZER_FILES):
        tokenizer = AutoTokenizer.from_pretrained(file.parent, trust_remote_code=False)
    else:
        kind, split = (said.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
        if kind != "gpt2" or split not in _SPLITS:
            raise GGUFError(
                f"{file}: its tokenizer ({kind}, {split}) is not rebuilt exactly: put the model's tokenizer.json and "
                "tokenizer_config.json beside it"
            )
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(file.parent, gguf_file=file.name)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise unreadable(file, error) from error
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False)
        digits = pre_tokenizers.Digits(individual_digits=True)  # which transformers does not know of
        parts = pre_tokenizers.Sequence([digits, whole]) if split == "smollm" else whole
        tokenizer.backend_tokenizer.pre_tokenizer = parts
    if not tokenizer.chat_template:
        tokenizer.chat_template = said.get("tokenizer.chat_template")
    return tokenizer


def load_gguf(file: Path, model_class: Any, config: Any, **options: Any) -> tuple[Any, dict[str, Any]]:
    """The model and transformers' loading info; ``options`` are those of ``from_pretrained``, ``dtype`` among them.

    Raises :class:`GGUFError` for tensors that the model has no place for, and for weights that cannot be read where
    they were converted to.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    whole = gguf_config(file)
    places = _check_places(file, AutoModelForCausalLM, whole)
    if model_class is not AutoModelForCausalLM:
        _check_places(file, model_class, whole)
    folder = converted(file, places)
    beside = (file.parent / "generation_config.json").is_file()
    generation = GenerationConfig.from_pretrained(file.parent) if beside else GenerationConfig.from_model_config(config)
    try:
        model, info = model_class.from_pretrained(
            folder,
            config=config,
            generation_config=generation,
            output_loading_info=True,
            use_safetensors=True,
            **options,
        )
    except (OSError, SafetensorError) as error:
        raise GGUFError(
            f"{folder}: the weights of {file} that were kept here cannot be read ({error}): delete this folder, and "
            "they are unpacked again"
        ) from error
    model.name_or_path = model.config.name_or_path = str(file)  # by which an adapter finds its base
    return model, info


def _check_places(file: Path, model_class: Any, config: Any) -> dict[str, str]:
    """The names of a model's tensors, by those of the file.

    Raises :class:`GGUFError` for tensors that the model has no place for.
    """
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    header = read_header(file)
    (architecture,) = (each for each, name in MODEL_ARCH_NAMES.items() if name == header.kind)
    names = get_tensor_name_map(architecture, config.num_hidden_layers)
    with torch.device("meta"):
        skeleton = model_class(config) if hasattr(model_class, "forward") else model_class.from_config(config)
    found = {name: names.get_name(name, (".weight", ".bias")) for name in skeleton.state_dict()}
    places = {place: name for name, place in found.items() if place is not None}
    if unread := sorted(set(header.tensors) - {*places, _POSITION_FACTORS}):
        raise GGUFError(
            f"{file}: holds {unread[0]} ({len(unread)} such), for which a {type(skeleton).__name__} read from GGUF has "
            "no place: take the model's safetensors"
        )
    return places
