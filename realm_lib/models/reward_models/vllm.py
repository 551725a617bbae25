"""A reward model that vLLM serves: templated, cut and tokenised here as a local one, asked for by token ids."""

import hashlib
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.data.chats import Prompt, as_text
from realm_lib.models.hosted import RemoteError, ask_all
from realm_lib.models.reward_models import ScorerError, gathered
from realm_lib.models.reward_models.chat import name_text
from realm_lib.models.reward_models.encoding import EncodingScorer
from realm_lib.models.reward_models.outline import log, outlined_encoder, read_outline, weights_version
from realm_lib.models.reward_models.text_pair import TextPairEncoder
from realm_lib.models.reward_models.vllm_endpoint import VLLMEndpoint, are_close

_TEXTS = 32
"""Most responses in a request: of a prompt with many, what is answered is not lost with what is not."""
_PAUSE = 60.0
"""Seconds for which an endpoint without an answer is asked last."""
_PROBES = ["Yeast turns sugar into gas, which the dough holds.", "No."]


class VLLMScorer(EncodingScorer):
    """A one-label reward model behind one or several of vLLM's servers, with the numbers of a local one.

    The responses to one prompt are asked for one after another, at one endpoint, whose prefix cache then has the
    prompt; an endpoint that does not answer in its tries is left out for a minute, and the others take its texts.
    All are looked at before the first text (:meth:`VLLMEndpoint.check`), and one that comes back is again.
    Raises :class:`ScorerError` for a model that vLLM does not serve.
    """

    def __init__(self, params: RewardModelParams, run_folder: Path | None = None) -> None:
        self.outline = outline = read_outline(params, run_folder, here=False)
        encoder = outlined_encoder(outline, params)
        if isinstance(encoder, TextPairEncoder) and "token_type_ids" in outline.tokenizer.model_input_names:
            raise ScorerError(
                f"{params.model_id}: tells prompt from response by token types, which vLLM is not sent: score it here "
                "with reward_model.backend sequence_classification"
            )
        # Kept under a backend of its own, since an engine adds in another order; and under no address: the same model
        # elsewhere is the same.
        super().__init__(params, encoder, weights_version(outline, params))
        self._lock = threading.Lock()
        self._servers: list[VLLMEndpoint] = []
        self._looked = False
        """Whether all endpoints were looked at; one that fails and comes back is looked at by itself."""
        self._first: tuple[VLLMEndpoint, NDArray[np.float64]] | None = None
        """The endpoint that was looked at first, and its rewards: the others must have the same."""

    def score(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> NDArray[np.float32]:
        """Scores, float32 [n]. Raises :class:`ScorerError` when any text failed; :meth:`stream` gives the others."""
        self.encoder.encode(prompts, responses)  # all that cannot be scored are named before one is asked for
        return gathered(self.stream(prompts, responses), len(responses))

    def stream(
        self, prompts: Sequence[Prompt], responses: Sequence[str]
    ) -> Generator[tuple[list[int], NDArray[np.float32]]]:
        """Indices of texts and their scores in the order of the answers, each distinct text asked for once.

        Texts become tokens when their turn comes. The first failure that neither retries nor another endpoint cure
        stops the asking; what is in flight is still given, and then :class:`ScorerError` says why; its ``places`` are
        those of the text at fault, none where it is the servers'. Raises ParamsError when the key is not set.
        """
        asked = list(_requests(prompts, responses))
        if not asked:
            return
        if not self._looked:
            self.check_endpoints()
        done, failure = 0, None
        for number, answer in ask_all(
            asked,
            lambda texts, stopped: self._ask([(prompts[same[0]], responses[same[0]]) for same in texts], stopped),
            max_in_flight=self.params.max_in_flight * len(self.params.endpoints or ()),
            expected=(RemoteError, ScorerError),
        ):
            if isinstance(answer, Exception):
                failure = failure or (number, answer)
                continue
            indices = [index for same in asked[number] for index in same]
            done += len(indices)
            counts = [len(same) for same in asked[number]]
            yield indices, np.repeat(answer, counts).astype(np.float32)
        if failure:
            texts, fault = asked[failure[0]], failure[1]
            places = [index for place in getattr(fault, "places", ()) for index in texts[place]]
            index = places[0] if places else texts[0][0]
            raise ScorerError(
                f"{done} of {len(responses)} texts were scored; {name_text(index, prompts[index], responses[index])} "
                f"failed. Why: {fault}",
                places,
            )

    def check_endpoints(self) -> str:
        """Look at every endpoint, all at once; says how many answer.

        Raises :class:`ScorerError` when none does, for one that refuses, and for one that answers no rewards.
        """
        endpoints = self._endpoints()
        with ThreadPoolExecutor(len(endpoints)) as pool:
            faults = [fault for fault in pool.map(self._fault_of, endpoints) if fault]
        lasting = [fault for fault in faults if not getattr(fault, "retryable", False)]
        if lasting or len(faults) == len(endpoints):
            raise ScorerError(str((lasting or faults)[0]))
        self._looked = True
        return f"{len(endpoints) - len(faults)} of {len(endpoints)} endpoints answer rewards"

    def _fault_of(self, endpoint: VLLMEndpoint) -> Exception | None:
        try:
            self._look_at(endpoint)
        except (RemoteError, ScorerError) as error:
            return error
        return None

    def _ask(self, texts: Sequence[tuple[Prompt, str]], stopped: threading.Event) -> NDArray[np.float64]:
        """The rewards of some responses to one prompt; an error's places are those within ``texts``."""
        with self._lock:  # a tokenizer is not for many threads
            chats = self.encoder.encode([prompt for prompt, _ in texts], [response for _, response in texts])
        rewards = self._asked([chat.ids for chat in chats], texts[0][0], stopped)
        bad = np.flatnonzero(~np.isfinite(rewards)).tolist()
        if bad:
            raise ScorerError(f"{self.params.model_id}: the reward is not finite; try --dtype bfloat16", bad)
        return rewards

    def _asked(self, ids: Sequence[Sequence[int]], prompt: Prompt, stopped: threading.Event) -> NDArray[np.float64]:
        failure = None
        for endpoint in self._in_turn(prompt):
            try:
                self._look_at(endpoint)
                return endpoint.rewards(ids, stopped)
            except RemoteError as error:
                if not error.retryable:
                    raise
                failure = error
                self._note(endpoint, error)
        several = f"none of {len(self._servers)} endpoints answers; the last: " if len(self._servers) > 1 else ""
        raise ScorerError(f"{several}{failure}")

    def _note(self, endpoint: VLLMEndpoint, error: RemoteError) -> None:
        """That an endpoint did not answer: said once, until it does."""
        if endpoint.fail(error) and len(self._servers) > 1:
            log.warning("%s: for %.0f s the other endpoints take its texts", error, _PAUSE)

    def _in_turn(self, prompt: Prompt) -> list[VLLMEndpoint]:
        """The endpoints in the order in which this prompt asks them, always the same but for those that fail."""
        servers, now = self._servers, time.monotonic()
        start = int.from_bytes(hashlib.blake2b(as_text(prompt).encode(errors="replace"), digest_size=8).digest())
        turned = [servers[(start + step) % len(servers)] for step in range(len(servers))]
        return sorted(turned, key=lambda server: server.failed_at + _PAUSE > now)

    def _look_at(self, endpoint: VLLMEndpoint) -> None:
        """Check an endpoint that was not, once however many threads want it."""
        wanted_at = time.monotonic()
        with endpoint.checking:
            if endpoint.checked:
                return
            if endpoint.failure is not None and endpoint.failed_at >= wanted_at:
                raise endpoint.failure  # as another thread found while this one waited
            with self._lock:
                probes = self.encoder.encode(["Why does bread rise?"] * len(_PROBES), _PROBES)
            try:
                rewards = endpoint.check([probe.ids for probe in probes])
            except RemoteError as error:
                self._note(endpoint, error)
                raise
            with self._lock:
                self._first = self._first or (endpoint, rewards)
                other, expected = self._first
            if not are_close(rewards, expected):
                raise ScorerError(
                    f"{endpoint} and {other} have other rewards for the same texts ({rewards.tolist()} and "
                    f"{expected.tolist()}): they do not serve the same weights"
                )
            endpoint.take()

    def _endpoints(self) -> list[VLLMEndpoint]:
        with self._lock:
            if not self._servers:
                self._servers = [VLLMEndpoint(url, self.params) for url in self.params.endpoints or ()]
            return self._servers


def _requests(prompts: Sequence[Prompt], responses: Sequence[str]) -> Iterator[list[list[int]]]:
    """What is asked together, in the order of the texts: some responses to one prompt, each as the text's indices."""
    by_prompt: dict[str, dict[str, list[int]]] = {}
    for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        by_prompt.setdefault(as_text(prompt), {}).setdefault(response, []).append(index)
    for texts in by_prompt.values():
        same = list(texts.values())
        yield from (same[start : start + _TEXTS] for start in range(0, len(same), _TEXTS))
