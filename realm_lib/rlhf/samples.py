"""Responses drawn once and kept on disk: a sampling that was stopped goes on where it was.

A response is a function of policy, prompt, settings and its own seed (see ``policies.sampling``), so it can be
looked up by them. Pieces of one batch are written whole or not at all and never changed; a kill loses the batch in
flight, and two processes that draw the same write the same.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from tqdm.auto import tqdm

from realm_lib.config.rlhf import PolicyParams, SamplingParams
from realm_lib.rlhf.errors import SampleError
from realm_lib.rlhf.policies import Policy, Response, adapter_base, is_adapter, sample
from realm_lib.runs.files import write_text
from realm_lib.runs.run import Run
from realm_lib.runs.seeds import derive_seed
from realm_lib.runs.weights import folder_digest, hub_commit, locate_model

_FIELDS = {"key", "ids", "text", "ended"}


def policy_identity(params: PolicyParams, run_folder: Path | None) -> str:
    """A hash of what decides the answers of the policy that ``params`` names: weights, tokenizer, precision.

    It reads all its files. Raises :class:`SampleError` for a model of the hub whose commit cannot be told: answers
    kept under its name alone would be taken for those of its next version.
    """
    source = locate_model(params.model_name, run_folder)
    weights = [_weights(source, params.revision)]
    if isinstance(source, Path) and is_adapter(source):  # its base lies elsewhere
        weights.append(_weights(*adapter_base(source)))
    return _digest([weights, params.dtype, params.quantization])


def _weights(source: Path | str, revision: str | None) -> str:
    if isinstance(source, Path):
        return folder_digest(source)
    commit = hub_commit(source, revision)
    if commit is None:
        raise SampleError(f"{source}: cannot tell which commit of it is meant; give a revision, or a folder")
    return f"{source}@{commit}"


class SampleStore:
    """The responses of one policy under one sampling setting, in ``folder``/DIGEST/*.jsonl.

    ``folder`` None keeps them in memory only.
    """

    def __init__(self, folder: Path | None, identity: str, sampling: SamplingParams, seed: int) -> None:
        self.identity, self.sampling, self.seed = identity, sampling, seed
        settings = [identity, sampling.max_new_tokens, sampling.temperature, sampling.thinking, seed]
        self.folder = folder / _digest(settings)[:16] if folder is not None else None
        self._responses: dict[str, Response] = {}
        for piece in sorted(self.folder.glob("*.jsonl")) if self.folder is not None else []:
            if not piece.name.startswith("."):  # what a kill left half-written
                self._read(piece)

    @classmethod
    def of(cls, policy: PolicyParams, sampling: SamplingParams, seed: int, run: Run | None) -> Self:
        """The responses of the policy that ``policy`` names, kept in the folder samples of ``run``.

        Its weights are digested here, once for the life of the store.
        """
        identity = policy_identity(policy, None if run is None else run.folder)
        return cls(None if run is None else run.path("samples"), identity, sampling, seed)

    def draw(
        self,
        policy: Policy,
        prompt_ids: Sequence[Sequence[int]],
        numbers: Sequence[int],
        *,
        progress: bool = False,
    ) -> list[list[Response]]:
        """The responses of each prompt (its token ids) with these ``numbers``, in order; only what is missing is drawn.

        Response k of a prompt is the same whichever prompts and numbers are asked for beside it.
        """
        keys = [[_digest([list(ids), number]) for number in numbers] for ids in prompt_ids]
        missing: dict[str, tuple[Sequence[int], int]] = {}
        for ids, own_keys in zip(prompt_ids, keys, strict=True):
            for number, key in zip(numbers, own_keys, strict=True):
                if key not in self._responses:
                    missing[key] = (ids, derive_seed(self.seed, "response", key, number))
        order = sorted(missing, key=lambda key: (-len(missing[key][0]), key))  # rows of like length together
        with tqdm(total=len(order), desc="sampling", unit="response", disable=not progress) as bar:
            for start in range(0, len(order), self.sampling.batch_size):
                batch = order[start : start + self.sampling.batch_size]
                self._keep(batch, self._sample(policy, [missing[key] for key in batch]))
                bar.update(len(batch))
        return [[self._responses[key] for key in own_keys] for own_keys in keys]

    def _sample(self, policy: Policy, asked: Sequence[tuple[Sequence[int], int]]) -> list[Response]:
        return sample(
            policy,
            [ids for ids, _ in asked],
            max_new_tokens=self.sampling.max_new_tokens,
            temperature=self.sampling.temperature,
            seeds=[seed for _, seed in asked],
            batch_size=self.sampling.batch_size,
            thinking=self.sampling.thinking,
        )

    def _keep(self, keys: Sequence[str], responses: Sequence[Response]) -> None:
        if self.folder is not None:
            rows = [{"key": key, **asdict(response)} for key, response in zip(keys, responses, strict=True)]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            write_text(self.folder / f"{_digest(list(keys))[:32]}.jsonl", lines)
        self._responses.update(zip(keys, responses, strict=True))

    def _read(self, piece: Path) -> None:
        for number, line in enumerate(piece.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict) or set(row) != _FIELDS or not row["ids"]:
                raise SampleError(f"{piece}, line {number}: not a sampled response. Delete the file: it is drawn again")
            self._responses[row["key"]] = Response(row["ids"], row["text"], row["ended"])


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
