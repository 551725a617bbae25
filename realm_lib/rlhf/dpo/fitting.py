"""TRL's DPOTrainer on pairs that are tokens already, stopped and gone on with at will.

Tokens instead of texts, because a chat template applied again, or a response tokenised again, need not give the tokens
that the policy drew; and a response that was cut must not learn to end where it was cut.

The reference is not held beside the policy: its log-probabilities of all pairs are computed before the first step,
when the policy still is the reference. Where it no longer is, in a later round, they are given.
"""

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from realm_lib.config.rlhf import DPOParams
from realm_lib.config.rollouts import NOT_OF_THE_RESULT
from realm_lib.rlhf.dpo.held_out import HeldOutPairs
from realm_lib.rlhf.dpo.pairs import PreferencePairs
from realm_lib.rlhf.errors import DPOError
from realm_lib.rlhf.policies import Policy
from realm_lib.rlhf.tracking import Tracking
from realm_lib.runs.seeds import derive_seed

_log = logging.getLogger(__name__)

_IDS = ["prompt_ids", "chosen_ids", "rejected_ids"]
_LOGGED = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy"}
_HELD_OUT = "held out"
_NOT_MOVED = 1e-6  # nats, a mean margin that is rounding
_STATE = "trainer_state.json"  # what Trainer writes last into a checkpoint


def training_identity(
    params: DPOParams, policy: str, pairs: PreferencePairs, held_out: PreferencePairs, reward: dict[str, str] | None
) -> str:
    """A hash of all that decides a training: parameters, the policy it starts from, pairs, torch's version.

    And ``reward``, the reward's own identity (:func:`realm_lib.rlhf.rewards.reward_identity`): pairs of another one may
    be the same by chance, but margins, and what is judged by it, are not.
    """
    rows = [made.table[_IDS].to_numpy().tolist() for made in (pairs, held_out)]
    settings = params.model_dump(mode="json", exclude=NOT_OF_THE_RESULT["dpo"])
    content = [settings, policy, rows, reward, torch.__version__]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def largest_move(params: DPOParams, pairs: int) -> float:
    """How far training on so many ``pairs`` can move a weight, about: the sum of the rates of all steps of a round.

    Adam's step is at most about its rate (Kingma and Ba, arXiv 1412.6980, section 2.1). The rate rises in a straight
    line over the first tenth of the steps and falls in one to zero.
    """
    steps, warmup = _steps(params, pairs)
    shares = [step / warmup if step < warmup else (steps - step) / max(1, steps - warmup) for step in range(steps)]
    return params.learning_rate * sum(shares)


def _steps(params: DPOParams, pairs: int) -> tuple[int, int]:
    """Optimiser steps, and how many of them the rate rises for."""
    steps = -(-pairs // params.batch_size) * params.num_epochs
    return steps, max(1, steps // 10)


def fit(
    policy: Policy,
    pairs: PreferencePairs,
    held_out: HeldOutPairs,
    params: DPOParams,
    checkpoints: Path,
    identity: str,
    *,
    number: int = 0,
    reference: dict[str, list[float]] | None = None,
    progress: bool = False,
    tracking: Tracking | None = None,
    steps_before: int = 0,
) -> pd.DataFrame:
    """Train ``policy`` in place on ``pairs``; its history by step, on training batches and on ``held_out``.

    Columns: step, split ("training", "held out"), loss, margin and accuracy of implicit rewards. Held-out pairs are
    looked at before the first step, every ``evaluate_every`` and after the last. A training of this ``identity`` that
    left a checkpoint in ``checkpoints`` goes on from there, and reaches the weights that it would have reached; one of
    another identity is removed, which the log says. ``tracking`` is told each row as it comes, with the steps of
    earlier rounds (``steps_before``) counted in.

    ``number`` is the round's, from 0, by which its order of pairs is drawn. ``reference`` holds log pi_ref of each
    pair's responses by side (chosen, rejected); None: the policy is the reference as it comes in.

    Checkpoints hold the weights as safetensors. Trainer keeps the optimiser's state as PyTorch's own file, which it
    reads with ``weights_only=True``: tensors and numbers, no code. ``training_args.bin``, a pickle, is never read.
    """
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    # Checkpoints of a small policy come within a second; that they are ordered by their numbers then needs no warning.
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    home = checkpoints / identity[:16]
    for other in checkpoints.glob("*") if checkpoints.is_dir() else ():
        if other != home:
            _log.warning("%s: a checkpoint of other parameters, pairs or weights: training starts over", other)
            shutil.rmtree(other)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # TRL's own use of it
        trainer = _trainer(policy, pairs, held_out, params, home, number, reference, progress)
        if tracking is not None:
            trainer.add_callback(_telling(tracking, steps_before))
        try:
            trainer.train(resume_from_checkpoint=_last_checkpoint(home))
        except OSError as error:
            raise DPOError(f"{home}: a checkpoint cannot be written or read: {error}") from error
    _take_back(policy)
    return _history(trainer.state.log_history)


def _trainer(
    policy: Policy,
    pairs: PreferencePairs,
    held_out: HeldOutPairs,
    params: DPOParams,
    home: Path,
    number: int,
    reference: dict[str, list[float]] | None,
    progress: bool,
) -> Any:
    import transformers
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class TokenisedDPOTrainer(DPOTrainer):  # type: ignore[misc]
        """Takes columns prompt_ids, chosen_ids, rejected_ids as they are."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *arguments: Any) -> Any:
            return dataset if reference is not None else super()._precompute_ref_logps(dataset, *arguments)

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """None: checkpoints are not published."""

    class Look(transformers.TrainerCallback):  # type: ignore[misc]
        """Writes the held-out pairs' numbers into the history that checkpoints keep.

        Trainer's own evaluation gives means of batches' means, in which a last batch of one pair weighs as much as a
        whole one.
        """

        def on_train_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step == 0:
                self._look(state)

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step % params.evaluate_every == 0 or state.global_step == state.max_steps:
                self._look(state)

        def _look(self, state: Any) -> None:
            state.log_history.append({"step": state.global_step, _HELD_OUT: held_out.look(policy)})

    batch = params.batch_size // params.gradient_accumulation
    _, warmup = _steps(params, len(pairs))
    columns = pairs.table[_IDS].to_dict("list")
    columns |= {f"ref_{side}_logps": values for side, values in (reference or {}).items()}
    config = DPOConfig(
        output_dir=str(home),
        beta=params.beta,
        loss_type=[params.loss_type],
        learning_rate=params.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=warmup,
        weight_decay=0.0,
        max_grad_norm=params.max_grad_norm,
        num_train_epochs=params.num_epochs,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=params.gradient_accumulation,
        activation_checkpointing=params.gradient_checkpointing,
        max_length=None,  # nothing is cut
        precompute_ref_log_probs=True,
        logging_steps=1,
        save_strategy="steps",
        save_steps=params.checkpoint_every,
        save_total_limit=1,
        report_to="none",
        use_cpu=not torch.cuda.is_available(),
        bf16=False,  # the weights' own precision; adapters are float32
        disable_tqdm=not progress,
        seed=derive_seed(params.seed, "dpo", "order", *([number] if number else [])),
    )
    # TRL makes adapters on 4-bit weights bfloat16, where updates of 5e-7 vanish, and what a round before has learned.
    trained = policy.model.named_parameters() if params.lora is not None else ()
    own = {name: value.detach().clone() for name, value in trained if value.requires_grad}
    try:
        with _no_bars():
            trainer = TokenisedDPOTrainer(
                model=policy.model,
                args=config,
                train_dataset=Dataset.from_dict(columns),
                processing_class=policy.tokenizer,
            )
    except ValueError as error:  # an adapter on the output layer, several GPUs without a launcher, ...
        raise DPOError(f"TRL's DPOTrainer refuses: {error}") from error
    for name, value in policy.model.named_parameters():
        if name in own:
            value.data = own[name].float()
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(Look())
    return trainer


def _telling(tracking: Tracking, steps_before: int) -> Any:
    """A callback that tells what is new in the history; steps are counted on from those of earlier rounds."""
    import transformers

    class Tell(transformers.TrainerCallback):  # type: ignore[misc]
        seen = 0

        def on_log(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            for row in _history(state.log_history[self.seen :]).to_dict("records"):
                numbers = {str(name): value for name, value in row.items() if name != "split"}
                numbers["step"] += steps_before
                tracking.tell(row["split"].replace(" ", "_"), numbers)
            self.seen = len(state.log_history)

    return Tell()


@contextmanager
def _no_bars() -> Iterator[None]:
    """Without the bars that TRL draws of its passes over the reference, whatever the arguments say."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        del os.environ["TQDM_DISABLE"]
        if before is not None:
            os.environ["TQDM_DISABLE"] = before


def _last_checkpoint(home: Path) -> str | None:
    """The newest whole checkpoint; what a kill left half-written is removed."""
    whole = []
    for folder in home.glob("checkpoint-*"):
        try:
            step = int(json.loads((folder / _STATE).read_text(encoding="utf-8"))["global_step"])
        except (OSError, ValueError, KeyError):
            shutil.rmtree(folder)
            continue
        whole.append((step, str(folder)))
    return max(whole)[1] if whole else None


def _take_back(policy: Policy) -> None:
    """The policy as it was but for its weights: evaluation mode, no second adapter."""
    adapters = getattr(policy.model, "peft_config", {})
    if "ref" in adapters:  # TRL's frozen copy of the adapter
        policy.model.delete_adapter("ref")
    policy.model.eval()


def _history(log: list[dict[str, Any]]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for entry in log:
        step = int(entry["step"])
        if _HELD_OUT in entry:
            rows.append({"step": step, "split": _HELD_OUT, **entry[_HELD_OUT]})
        elif "rewards/margins" in entry:
            values = {name: float(entry[key]) for key, name in _LOGGED.items()}
            if abs(values["margin"]) < _NOT_MOVED:
                values["accuracy"] = 0.5  # the policy is the reference: every pair ties, which TRL counts as wrong
            rows.append({"step": step, "split": "training", **values})
    return pd.DataFrame(rows, columns=["step", "split", *_LOGGED.values()])
