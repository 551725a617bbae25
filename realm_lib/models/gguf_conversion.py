"""The weights of GGUF files as safetensors: unpacked once, and read from there ever after.

They lie in the folder ``realm/gguf`` of HF_HOME, by the SHA-256 of their file, so that a file that moved or has another
name is not unpacked again. Any of these folders may be deleted.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from realm_lib.models.gguf_header import GGUFError, read_header, unreadable
from realm_lib.runs.files import atomic_path, write_json
from realm_lib.runs.weights import file_digest

_log = logging.getLogger(__name__)

_PLAIN = {"F16": torch.float16, "BF16": torch.bfloat16}
"""Types of tensors that are kept as they are; quantised ones are unpacked to float32."""
_PART = 2 * 2**30
"""Bytes of weights that are held in memory before they are written."""
_GIB = 2**30


def unpacked_folder(file: Path) -> Path:
    """Where the weights of ``file`` are kept once they are unpacked; its SHA-256 is taken."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME, "realm", "gguf", file_digest(file))


def unpacked_size(file: Path) -> int:
    """Bytes that the weights of ``file`` take once they are unpacked."""
    return sum(prod(tensor.shape) * _dtype(tensor.type).itemsize for tensor in read_header(file).tensors.values())


def converted(file: Path, names: Mapping[str, str]) -> Path:
    """The folder that holds the weights of ``file`` as safetensors; the first that asks for it converts them.

    ``names`` are those of transformers, by the file's own; a tensor without one is left out. Raises
    :class:`GGUFError` for a file that ends too early, and for a disk that is too small.
    """
    folder = unpacked_folder(file)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():  # now that no other process converts it
            for left in folder.parent.glob(f".{folder.name}.*"):  # by one that was killed
                shutil.rmtree(left)
            _convert(file, names, folder)
    return folder


def _convert(file: Path, names: Mapping[str, str], folder: Path) -> None:
    size = unpacked_size(file)
    free = shutil.disk_usage(folder.parent).free
    if size > free:
        raise GGUFError(
            f"{file}: its weights take {size / _GIB:.1f} GiB once they are unpacked, {free / _GIB:.1f} GiB are free at "
            f"{folder.parent}: free some, or let HF_HOME name a folder on a larger disk"
        )
    _log.info("%s: its weights are unpacked, once, into %s (%.1f GiB)", file, folder, size / _GIB)
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        _write(temporary, _unpacked(file, names))


def _unpacked(file: Path, names: Mapping[str, str]) -> Iterator[tuple[str, Tensor]]:
    """The tensors by transformers' names, as its classes have them: a Llama's heads are stored in another order."""
    from gguf import GGUFReader, dequantize
    from transformers import modeling_gguf_pytorch_utils as reading

    header = read_header(file)
    heads = header.about("attention.head_count")
    shared = header.about("attention.head_count_kv") or heads
    ordered = reading.TENSOR_PROCESSORS.get(header.kind, reading.TensorProcessor)(
        config={"num_attention_heads": heads, "num_key_value_heads": shared}
    )
    try:
        tensors = [tensor for tensor in GGUFReader(file).tensors if tensor.name in names]
    except (ValueError, IndexError, KeyError) as error:  # as a key that is there twice, which read_header takes
        raise unreadable(file, error) from error
    for tensor in tensors:
        weights = ordered.process(dequantize(tensor.data, tensor.tensor_type), tensor.name).weights
        yield names[tensor.name], torch.tensor(weights, dtype=_dtype(tensor.tensor_type.name))


def _write(folder: Path, weights: Iterator[tuple[str, Tensor]]) -> None:
    """As transformers writes a model of several files, with at most one of them in memory."""
    from safetensors.torch import save_file

    places: dict[str, str] = {}
    part: dict[str, Tensor] = {}

    def save() -> None:
        name = f"model-{len(set(places.values())):05}.safetensors"
        save_file(part, folder / name, {"format": "pt"})
        places.update(dict.fromkeys(part, name))
        part.clear()

    for name, tensor in weights:
        part[name] = tensor
        if sum(held.nbytes for held in part.values()) > _PART:
            save()
    save()
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def _dtype(ggml: str) -> torch.dtype:
    """What the tensors of a type are unpacked to."""
    return _PLAIN.get(ggml, torch.float32)
