"""Reward models that run here: loaded whole or refused, scored in length-ordered batches under a token budget."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from realm_lib.params import RewardModelParams
from realm_lib.preferences import Prompt
from realm_lib.runs import folder_digest, locate_model
from realm_lib.scorers import ScorerError
from realm_lib.scorers.chat import ChatEncoder, EncodedChat
from realm_lib.scorers.inform import INFORMForSequenceClassification, last_real_token

__all__ = ["TransformerScorer"]


class TransformerScorer:
    """A decoder with a one-number score head, read at the last real token (backends inform, sequence_classification).

    Raises :class:`ScorerError` when the checkpoint does not fill the head and the body exactly.
    """

    def __init__(self, params: RewardModelParams, run_folder: Path | None = None) -> None:
        import transformers

        transformers.utils.logging.disable_progress_bar()
        self.params = params
        source = locate_model(params.model_id, run_folder)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, revision=params.revision)
            model, info = self._model_class().from_pretrained(source, output_loading_info=True, **self._load_options())
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ScorerError(f"reward_model.model_id {params.model_id}: cannot be loaded: {error}") from error
        for fault in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if keys := sorted(map(str, info.get(fault) or ())):
                raise ScorerError(
                    f"{params.model_id}: {fault.replace('_', ' ')} in the checkpoint ({', '.join(keys[:4])}): "
                    f"backend {params.backend} is not this model's class, its scores would be random"
                )
        if not (hasattr(model, "model") and hasattr(model, "score")):
            raise ScorerError(f"{params.model_id}: a {type(model).__name__} is not a decoder with a score head")
        if model.config.num_labels != 1:
            raise ScorerError(f"{params.model_id}: has {model.config.num_labels} labels; a reward model has one")
        self.model = model.eval()
        self.encoder = ChatEncoder(tokenizer, params.max_length)
        self.cut_prompts = 0
        """How many texts lost a part of their prompt to ``max_length`` so far."""
        weights = folder_digest(Path(source)) if Path(source).is_dir() else getattr(model.config, "_commit_hash", None)
        self._identity = {
            "backend": params.backend,
            "model": params.model_id,
            "weights": weights,
            "quantization": params.quantization,
            "dtype": params.dtype,
            "max_length": params.max_length,
            "template": self.encoder.template_digest,
        }

    def _model_class(self) -> Any:
        import transformers

        if self.params.backend == "inform":
            return INFORMForSequenceClassification
        return transformers.AutoModelForSequenceClassification

    def _load_options(self) -> dict[str, Any]:
        from transformers import BitsAndBytesConfig

        dtype = getattr(torch, self.params.dtype)
        # Without use_safetensors a folder that has only pytorch_model.bin would be unpickled.
        options: dict[str, Any] = {"dtype": dtype, "revision": self.params.revision, "use_safetensors": True}
        if self.params.device_map is not None:
            options["device_map"] = self.params.device_map
        # The head is two small layers that carry the whole reward: it stays out of the quantisation.
        if self.params.quantization == "4bit":
            options["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
                llm_int8_skip_modules=["score"],
            )
        elif self.params.quantization == "8bit":
            options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["score"])
        return options

    @property
    def identity(self) -> Mapping[str, Any]:
        """Model, weights, precision, template and length limit."""
        return self._identity

    def count_tokens(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of each chat after the cut, int64 [n]."""
        return np.array([len(chat.ids) for chat in self.encoder.encode(prompts, responses)], dtype=np.int64)

    @torch.inference_mode()
    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float32]:
        """Scores, float32 [n]. Raises :class:`ScorerError` naming the first text whose score is not finite."""
        chats = self.encoder.encode(prompts, responses)
        self.cut_prompts += sum(chat.cut > 0 for chat in chats)
        scores = np.empty(len(chats), dtype=np.float32)
        for batch in _batches(chats, self.params.batch_tokens):
            scores[batch] = self._score_batch([chats[place].ids for place in batch])
        bad = np.flatnonzero(~np.isfinite(scores))
        if len(bad):
            raise ScorerError(
                f"{self.params.model_id}: the score of text {bad[0]} is {scores[bad[0]]} ({len(bad)} of {len(scores)} "
                f"are not finite; prompt: {str(prompts[bad[0]])[:60]!r}); try dtype bfloat16 or float32"
            )
        return scores

    def _score_batch(self, rows: Sequence[list[int]]) -> NDArray[np.float32]:
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.long)  # the padding's id is never read: the mask hides it
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        device = self.model.device
        ids, mask = ids.to(device), mask.to(device)
        hidden = self.model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        pooled = hidden[torch.arange(len(rows), device=hidden.device), last_real_token(mask).to(hidden.device)]
        scores: NDArray[np.float32] = self.model.score(pooled).float().squeeze(-1).cpu().numpy()
        return scores


def _batches(chats: Sequence[EncodedChat], budget: int) -> Iterator[list[int]]:
    """Places of the chats, longest first, in batches of at most ``budget`` tokens with padding (one chat at least)."""
    batch: list[int] = []
    for place in sorted(range(len(chats)), key=lambda place: -len(chats[place].ids)):
        longest = len(chats[batch[0]].ids) if batch else 0
        if batch and longest * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
