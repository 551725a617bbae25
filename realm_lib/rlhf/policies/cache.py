"""The keys and values of rows that are being written, with room for the tokens to come."""

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

_ROOM = 32
"""Tokens for which a layer takes memory ahead: it is copied once for so many of them, where it was once for each."""


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A :class:`DynamicLayer` whose keys and values [rows, heads, tokens, size] are the used part of larger tensors."""

    keys: Tensor
    values: Tensor
    _buffers: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens behind the others; all keys and values, views of what the layer keeps."""
        if not self.is_initialized:
            return tuple(super().update(key_states, value_states, *args, **kwargs))
        before, after = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._buffers is None or self._buffers[0].shape[-2] < after:
            self._buffers = _with_room(self.keys, after + _ROOM), _with_room(self.values, after + _ROOM)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, before:after] = states
        self.keys, self.values = (buffer[:, :, :after] for buffer in self._buffers)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take these rows, in this order and as often as they are named."""
        super().reorder_cache(beam_idx)
        self._buffers = None


def roomy_cache(model: Any) -> DynamicCache:
    """An empty cache for ``model``; layers that keep all tokens are :class:`RoomyLayer`, others those of the model."""
    cache = DynamicCache(config=model.config)
    cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _with_room(states: Tensor, tokens: int) -> Tensor:
    """A copy of ``states`` [rows, heads, some, size] at the beginning of [rows, heads, ``tokens``, size]."""
    rows, heads, some, size = states.shape
    wider = states.new_empty(rows, heads, tokens, size)
    wider[:, :, :some] = states
    return wider
