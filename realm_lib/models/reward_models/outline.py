"""What there is to know of a reward model before its weights are read: where it lies, its kind, what it takes."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from realm_lib.config.reward_model import RewardModelParams
from realm_lib.models.checkpoints import position_limit
from realm_lib.models.gguf import find_gguf, gguf_config, gguf_tokenizer
from realm_lib.models.hub import hub_fault
from realm_lib.models.reward_models import ScorerError
from realm_lib.models.reward_models.chat import ChatEncoder, Encoder
from realm_lib.models.reward_models.inform import INFORMForSequenceClassification
from realm_lib.models.reward_models.memory import MemoryEstimate, check_memory, estimate_memory, lay_out
from realm_lib.models.reward_models.probe import ProbeError, ProbeModel, Taps
from realm_lib.models.reward_models.text_pair import build_encoder
from realm_lib.models.reward_models.vllm_models import rewards_tokens, why_not_served
from realm_lib.models.special_tokens import cut_special_tokens
from realm_lib.runs.weights import folder_digest, hub_commit, locate_model

_RESCALED_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")

log = logging.getLogger("realm_lib.models.reward_models")


@dataclass(frozen=True)
class Checkpoint:
    """A model's place, and what lies there beside its weights."""

    source: Path | str
    """A folder, a GGUF file, or a hub id."""
    commit: str | None
    """The hub's, where it is known."""
    file: Path | None
    """Its GGUF file, where it is one."""
    config: Any
    tokenizer: Any


@dataclass(frozen=True)
class Outline(Checkpoint):
    """A checkpoint that was looked at, and what its model takes."""

    memory: MemoryEstimate


def open_checkpoint(params: RewardModelParams, run_folder: Path | None = None) -> Checkpoint:
    """Configuration and tokenizer of the model that ``params`` name; a hub's are small downloads.

    Raises :class:`ScorerError` where they cannot be read.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    source = locate_model(params.model_id, run_folder)
    # A branch may move between two reads: configuration, tokenizer and weights are of one commit.
    commit = None if isinstance(source, Path) else hub_commit(source, params.revision)
    revision = commit or params.revision
    try:
        file = find_gguf(source)
        if file is not None:
            config, tokenizer = gguf_config(file), gguf_tokenizer(file)
        else:
            config = transformers.AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    # The last two: transformers looks into whatever JSON it finds.
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise explain_failure(params, error) from error
    cut_special_tokens(tokenizer)
    return Checkpoint(source, commit, file, config, tokenizer)


def read_outline(params: RewardModelParams, run_folder: Path | None = None, *, here: bool = True) -> Outline:
    """The checkpoint of the model that ``params`` name, looked at.

    ``here`` says whether the model is to run on this machine. Raises :class:`ScorerError` for a model that is not of
    the backend's kind, or that does not fit the machine.
    """
    checkpoint = open_checkpoint(params, run_folder)
    config, tokenizer = checkpoint.config, checkpoint.tokenizer
    if checkpoint.file is not None and not (checkpoint.file.parent / "config.json").is_file():
        # A GGUF file does not say how many labels its model has: whether it has a head is seen by its weights.
        config.num_labels = 1
    _check_config(config, params)
    if tokenizer.chat_template:
        _check_template(tokenizer, params)
    estimate = estimate_memory(model_class(params), config, params)
    if here:
        check_memory(estimate, params)
    return Outline(**vars(checkpoint), memory=estimate)


def weights_version(checkpoint: Checkpoint, params: RewardModelParams) -> str:
    """What tells this version of the weights from another: a digest of the folder, or the hub's commit.

    Raises :class:`ScorerError` where the hub does not say which commit it is.
    """
    if isinstance(checkpoint.source, Path):
        return folder_digest(checkpoint.source)
    if checkpoint.commit is None:
        raise ScorerError(
            f"{params.model_id}: the hub does not say which commit {params.revision or 'its main branch'} is: set "
            "reward_model.revision to a commit (40 digits), so that its scores are not taken for another's"
        )
    if checkpoint.commit != params.revision:
        log.warning(
            "%s: this is commit %s; write it into reward_model.revision: later runs then score with the same weights",
            params.model_id,
            checkpoint.commit,
        )
    return checkpoint.commit


def model_class(params: RewardModelParams) -> Any:
    """The class that ``backend`` loads."""
    import transformers

    own = {
        "inform": INFORMForSequenceClassification,
        "nemotron": transformers.AutoModelForCausalLM,
        "probe": ProbeModel,
    }
    return own.get(params.backend, transformers.AutoModelForSequenceClassification)


def outlined_encoder(outline: Outline, params: RewardModelParams) -> Encoder:
    """The encoder that a scorer of this model will have; its layers are laid out, without weights, to see its kind."""
    pairs = is_encoder(lay_out(model_class(params), outline.config), params)
    return build_encoder(outline.tokenizer, params, pairs=pairs)


def head_name(params: RewardModelParams) -> str:
    """What the layer that makes the reward is called in a decoder of the backend's class."""
    return "lm_head" if params.backend == "nemotron" else "score"


def is_encoder(model: Any, params: RewardModelParams) -> bool:
    """Whether ``model`` is a classifier that is called whole: no head on a body can be told apart."""
    apart = getattr(model, head_name(params), None) is not None and model.base_model is not model
    return not apart and params.backend in ("sequence_classification", "vllm") and hasattr(model, "classifier")


def _check_config(config: Any, params: RewardModelParams) -> None:
    limit = position_limit(config)
    if limit is not None and params.max_length > limit:
        raise ScorerError(
            f"{params.model_id}: reads {limit} tokens at most; reward_model.max_length is {params.max_length}: lower it"
        )
    if params.backend == "vllm" and (fault := why_not_served(config)):
        raise ScorerError(f"{params.model_id}: {fault}")
    if params.backend == "probe":
        try:
            Taps.read(config)
        except ProbeError as error:
            raise ScorerError(f"{params.model_id}: {error}") from error
    if params.backend == "nemotron":
        if rescaled := [key for key in _RESCALED_LOGITS if getattr(config, key, None) not in (None, 1, 1.0)]:
            raise ScorerError(f"{params.model_id}: rescales its logits ({rescaled[0]}): not a model of Nemotron's kind")
    elif config.num_labels != 1 and not (params.backend == "vllm" and rewards_tokens(config)):
        raise ScorerError(
            f"{params.model_id}: has {config.num_labels} labels; a reward model has one. A classifier of two (good and "
            "bad) has no reward of its own: choose a model with one label"
        )


def _check_template(tokenizer: Any, params: RewardModelParams) -> None:
    if not ChatEncoder(tokenizer, params.max_length).kept.thoughts:
        log.warning(
            "%s: its chat template leaves out what a response says up to </think>: thoughts are not scored, as the "
            "model was trained",
            params.model_id,
        )


def explain_failure(params: RewardModelParams, error: BaseException) -> ScorerError:
    """What a failure to load means and what to do, looked for in ``error`` and in what caused it."""
    where = f"reward_model.model_id {params.model_id}: "
    return ScorerError(f"{where}{hub_fault(error) or f'cannot be loaded: {str(error).strip()[:600]}'}")
