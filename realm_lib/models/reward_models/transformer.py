"""Reward models that run here: each distinct text and each shared prefix once, longest first under a token budget."""

from collections.abc import Hashable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.chats import Prompt, as_text
from realm_lib.models.reward_models import ScorerError
from realm_lib.models.reward_models.chat import EncodedChat, name_text
from realm_lib.models.reward_models.encoding import EncodingScorer
from realm_lib.models.reward_models.forward import last_states, pooled_states
from realm_lib.models.reward_models.loading import LoadedModel, load_model
from realm_lib.models.reward_models.outline import log
from realm_lib.models.reward_models.packing import Row, plan_batches
from realm_lib.models.reward_models.text_pair import build_encoder
from realm_lib.runs.memory import within_memory
from realm_lib.runs.threads import side_by_side, workers


class TransformerScorer(EncodingScorer):
    """A reward model in this process (backends inform, sequence_classification, nemotron, probe).

    A decoder is read at the last real token and shares the prefix of texts with the same prompt, where its kind allows
    (:func:`realm_lib.models.reward_models.forward.why_not_shared`); an encoder classifier reads each text whole.
    ``loaded`` is a model that is in memory already; without it the one that ``params`` name is loaded.
    Raises :class:`ScorerError` when the model cannot be loaded whole or does not fit.
    """

    def __init__(
        self, params: RewardModelParams, run_folder: Path | None = None, *, loaded: LoadedModel | None = None
    ) -> None:
        self._loaded = loaded = loaded or load_model(params, run_folder)
        super().__init__(params, build_encoder(loaded.tokenizer, params, pairs=loaded.body is None), loaded.weights)
        self.model = loaded.model
        self.taps = loaded.taps
        """What the head of a probe reads; None of other models."""
        self.not_shared = loaded.not_shared
        """Why prefixes are not shared; None when they are."""
        self.cut_prompts = 0
        """How many texts lost a part of their prompt to ``max_length`` so far."""
        self.cut_responses = 0
        """How many lost the end of their response as well, which ``long_responses: cut`` allows."""
        self.tokens_computed = 0
        """Tokens that went through the model so far, padding left out: shared ones count once."""
        self.budget = params.batch_tokens
        """Most tokens in a batch now: ``batch_tokens``, halved each time that memory ran out."""

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float32]:
        """Scores, float32 [n].

        Raises :class:`ScorerError` naming the first text whose score is not finite, or that alone takes more memory
        than there is.
        """
        scores = self.values(prompts, responses)
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            raise ScorerError(
                f"{self.params.model_id}: the score of {name_text(bad[0], prompts[bad[0]], responses[bad[0]])} is "
                f"{scores[bad[0]]} ({len(bad)} of {len(scores)} are not finite); try dtype bfloat16 or float32",
                bad.tolist(),
            )
        return scores

    def values(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float32]:
        """What the head says of each text, finite or not, float32 [n]; [n, outputs] of a head that says several things.

        Raises :class:`ScorerError` for a text that alone takes more memory than there is.
        """
        chats = self.encoder.encode(prompts, responses)
        keys = [(*chat.ids, -1, chat.start, *(chat.types or ())) for chat in chats]
        firsts: dict[tuple[int, ...], int] = {}
        for index, key in enumerate(keys):
            firsts.setdefault(key, index)
        distinct = list(firsts.values())
        try:
            values = self._values_of_distinct([chats[n] for n in distinct], [as_text(prompts[n]) for n in distinct])
        except _AloneTooLarge as error:
            index = distinct[error.index]
            raise ScorerError(
                f"{name_text(index, prompts[index], responses[index])}: its {len(chats[index].ids)} tokens alone take "
                "more memory than there is: lower reward_model.max_length, quantize the model, or give it more memory",
                [place for place, key in enumerate(keys) if key == keys[index]],
            ) from error
        self.cut_prompts += sum(chat.cut > 0 for chat in chats)
        self.cut_responses += sum(chat.response_cut > 0 for chat in chats)
        slots = {key: slot for slot, key in enumerate(firsts)}
        return values[[slots[key] for key in keys]]

    def _values_of_distinct(self, chats: Sequence[EncodedChat], groups: Sequence[Hashable]) -> NDArray[np.float32]:
        """Of each of ``chats``; when memory runs out, what is left is planned again under half the budget."""
        values: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(chats)
        left = list(range(len(chats)))
        while left:
            done: set[int] = set()
            batches = plan_batches(
                [chats[index].ids for index in left],
                [groups[index] for index in left],
                self.budget,
                attention_length=None if self.not_shared else self._attention_length,
                pass_cost=self._pass_cost,
            )
            places = [[left[index] for row in batch for index in row.indices] for batch in batches]
            work = [
                (batch, [chats[index] for index in indices]) for batch, indices in zip(batches, places, strict=True)
            ]
            found = side_by_side(lambda each: within_memory(partial(self._values_of, *each)), work, self._at_once(work))
            for batch, indices, of_batch in zip(batches, places, found, strict=True):
                if of_batch is None:
                    if len(indices) == 1:
                        raise _AloneTooLarge(indices[0])
                    self._halve_budget(batch)
                    break
                for index, value in zip(indices, of_batch, strict=True):
                    values[index] = value
                self.tokens_computed += sum(row.length for row in batch)
                done.update(indices)
            left = [index for index in left if index not in done]
        return np.array(values, dtype=np.float32)

    def _at_once(self, work: Sequence[object]) -> int:
        """How many batches are computed at the same time.

        Only by decoders whose code was read: others change themselves in a pass, as positions do that depend on the
        longest text of a batch.
        """
        return min(workers(self.model), len(work)) if self.not_shared is None else 1

    @torch.inference_mode()
    def _values_of(self, batch: Sequence[Row], chats: Sequence[EncodedChat]) -> NDArray[np.float32]:
        """Of a batch's texts in their order."""
        found = self._decode(batch, chats) if self._loaded.body is not None else self._classify(chats)
        values: NDArray[np.float32] = found.float().cpu().numpy()
        return values

    def _halve_budget(self, batch: Sequence[Row]) -> None:
        taken = len(batch) * max(row.length for row in batch)
        self.budget = max(1, min(self.budget, taken) // 2)
        log.warning(
            "%s: out of memory with %d tokens in a batch; going on with %d (set reward_model.batch_tokens to it)",
            self.params.model_id,
            taken,
            self.budget,
        )

    def _decode(self, batch: Sequence[Row], chats: Sequence[EncodedChat]) -> torch.Tensor:
        body, head, taps = self._loaded.body, self._loaded.head, self._loaded.taps
        assert body is not None
        assert head is not None
        device, positions = self.model.device, self.not_shared is None
        if taps is None:
            return head(last_states(body, batch, device, positions=positions))
        starts = [chat.start for chat in chats]
        states = pooled_states(body, batch, starts, device, taps.layers, positions=positions)
        return head(taps.of(states, taps.layers))

    def _classify(self, chats: Sequence[EncodedChat]) -> torch.Tensor:
        """An encoder's logits [n]; its own pooling reads the first token, which padding does not move."""
        ids = [torch.tensor(chat.ids) for chat in chats]
        padding = self.model.config.pad_token_id or 0  # some count positions by what is not padding
        inputs = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=padding),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        }
        if chats[0].types is not None:
            inputs["token_type_ids"] = pad_sequence([torch.tensor(chat.types) for chat in chats], batch_first=True)
        logits: torch.Tensor = self.model(**{name: part.to(self.model.device) for name, part in inputs.items()}).logits
        return logits.squeeze(-1)

    @property
    def _pass_cost(self) -> float:
        """Tokens that a pass costs beside its own.

        A GPU waits for kernels to be started, 25 to 36 ms a pass on an H200, and 40 to 50 ms more where no pass of
        these lengths came before (docs/measurements.md, "Scoring on a GPU"); 4 and 8 bit are unpacked first.
        """
        if self.model.device.type != "cpu":
            return 1024.0
        return 64.0 if self.params.quantization is None else 256.0

    @property
    def _attention_length(self) -> float:
        """Tokens in a row at which attention takes as many operations as the linear layers (Llama's shapes)."""
        config = self.model.config
        heads = config.num_attention_heads
        shrink = (getattr(config, "num_key_value_heads", None) or heads) / heads
        weights = 2 * config.hidden_size**2 * (1 + shrink) + 3 * config.hidden_size * config.intermediate_size
        return float(2 * weights / (4 * config.hidden_size))


class _AloneTooLarge(RuntimeError):
    """A single text for which there is not enough memory; ``index`` among those asked for."""

    def __init__(self, index: int) -> None:
        super().__init__(f"out of memory with text {index} alone")
        self.index = index
