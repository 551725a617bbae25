"""TRL's DPOTrainer on pairs that are tokens already, stopped and gone on with at will.

Tokens instead of texts, because a chat template applied again, or a response tokenised again, need not give the tokens
that the policy drew; and a response that was cut must not learn to end where it was cut.

The reference is not held beside the policy: its log-probabilities of all pairs are computed before the first step,
when the policy still is the reference. Where it no longer is, in a later round, they are given.
"""

import hashlib
import json
import logging
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from realm_lib.config.rlhf import DPOParams
from realm_lib.config.rollouts import NOT_OF_THE_RESULT
from realm_lib.rlhf.dpo import shares
from realm_lib.rlhf.dpo.held_out import HeldOutPairs, side_log_probs, summed
from realm_lib.rlhf.dpo.pairs import PreferencePairs
from realm_lib.rlhf.dpo.shares import IDS
from realm_lib.rlhf.dpo.trainer import HELD_OUT, make_trainer, steps_and_warmup
from realm_lib.rlhf.errors import DPOError
from realm_lib.rlhf.policies import Policy
from realm_lib.rlhf.processes import Peers
from realm_lib.rlhf.tracking import Tracking
from realm_lib.runs.files import atomic_path, write_text

_log = logging.getLogger(__name__)

_LOGGED = {"loss": "loss", "rewards/margins": "margin", "rewards/accuracies": "accuracy"}
_NOT_MOVED = 1e-6  # nats, a mean margin that is rounding
_COLUMNS = ["step", "split", *_LOGGED.values()]
_WEIGHTS, _HISTORY = "weights.safetensors", "history.json"
_STATE = "trainer_state.json"  # what Trainer writes last into a checkpoint


def training_identity(
    params: DPOParams, policy: str, pairs: PreferencePairs, held_out: PreferencePairs, reward: dict[str, str] | None
) -> str:
    """A hash of all that decides a training: parameters, the policy it starts from, pairs, torch's version.

    And ``reward``, the reward's own identity (:func:`realm_lib.rlhf.rewards.reward_identity`): pairs of another one may
    be the same by chance, but margins, and what is judged by it, are not.
    """
    rows = [made.table[IDS].to_numpy().tolist() for made in (pairs, held_out)]
    settings = params.model_dump(mode="json", exclude=NOT_OF_THE_RESULT["dpo"])
    content = [settings, policy, rows, reward, torch.__version__]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def largest_move(params: DPOParams, pairs: int) -> float:
    """How far training on so many ``pairs`` can move a weight, about: the sum of the rates of all steps of a round.

    Adam's step is at most about its rate (Kingma and Ba, arXiv 1412.6980, section 2.1). The rate rises in a straight
    line over the first tenth of the steps and falls in one to zero.
    """
    steps, warmup = steps_and_warmup(params, pairs)
    shares = [step / warmup if step < warmup else (steps - step) / max(1, steps - warmup) for step in range(steps)]
    return params.learning_rate * sum(shares)


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
    keep: bool = False,
) -> pd.DataFrame:
    """Train ``policy`` in place on ``pairs``; its history by step, on training batches and on ``held_out``.

    Columns: step, split ("training", "held out"), loss, margin and accuracy of implicit rewards. Held-out pairs are
    looked at before the first step, every ``evaluate_every`` and after the last. A training of this ``identity`` that
    left a checkpoint in ``checkpoints`` goes on from there, and reaches the weights that it would have reached; one of
    another identity is removed, which the log says. ``tracking`` is told each row as it comes, with the steps of
    earlier rounds (``steps_before``) counted in.

    ``number`` is the round's, from 0, by which its order of pairs is drawn. ``reference`` holds log pi_ref of each
    pair's responses by side (chosen, rejected); None: the policy is the reference as it comes in. ``keep`` leaves the
    end in a form that a later call in any number of processes reads; training with cut weights always does.

    Checkpoints hold the weights as safetensors. Trainer keeps the optimiser's state as PyTorch's own file, which it
    reads with ``weights_only=True``: tensors and numbers, no code. ``training_args.bin``, a pickle, is never read.
    """
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    # Checkpoints of a small policy come within a second; that they are ordered by their numbers then needs no warning.
    logging.getLogger("transformers.trainer_utils").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    peers = Peers()
    shares.check_shares(params, peers)
    if peers.count > 1 and reference is None:
        reference = summed(side_log_probs(policy, pairs, held_out.batch_size))
    places = _Places.of(checkpoints, identity, peers)
    last = peers.of_main(places.last)
    if places.finished.is_dir():
        return _read_finished(places.finished, policy)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # TRL's own use of it
        trainer = make_trainer(policy, pairs, held_out, params, places.home, number, reference, progress)
        if tracking is not None:
            trainer.add_callback(_telling(tracking, steps_before))
        try:
            trainer.train(resume_from_checkpoint=last)
        except OSError as error:
            raise DPOError(f"{places.home}: a checkpoint cannot be written or read: {error}") from error
    _take_back(policy)
    history = _history(trainer.state.log_history)
    cut = trainer.model is not policy.model
    if cut:
        shares.take_whole(policy, trainer.model)
    if (cut or keep) and peers.is_main:
        _write_finished(places, policy, history)
    peers.wait()
    return history


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


@dataclass(frozen=True)
class _Places:
    """Where the checkpoints of one training lie."""

    checkpoints: Path
    home: Path
    """Trainer's own; where weights are cut, in a form that those processes alone can read."""
    finished: Path
    """What training with cut weights came to, for any number of processes."""

    @classmethod
    def of(cls, checkpoints: Path, identity: str, peers: Peers) -> Self:
        cutting = shares.cutting() if peers.count > 1 else None
        # FSDP's are read by any number of processes, DeepSpeed's by as many.
        form = {None: "", "fsdp": "_fsdp", "deepspeed": f"_deepspeed_{peers.count}"}[cutting]
        return cls(checkpoints, checkpoints / f"{identity[:16]}{form}", checkpoints / f"{identity[:16]}_finished")

    def last(self) -> str | None:
        """The newest whole checkpoint; those of other trainings, and what a kill left half-written, are removed."""
        for other in self.checkpoints.glob("*") if self.checkpoints.is_dir() else ():
            if other not in (self.home, self.finished):
                _log.warning("%s: a checkpoint of other parameters, pairs or weights: training starts over", other)
                shutil.rmtree(other)
        whole = []
        for folder in self.home.glob("checkpoint-*"):
            try:
                step = int(json.loads((folder / _STATE).read_text(encoding="utf-8"))["global_step"])
            except (OSError, ValueError, KeyError):
                shutil.rmtree(folder)
                continue
            whole.append((step, str(folder)))
        return max(whole)[1] if whole else None


def _write_finished(places: _Places, policy: Policy, history: pd.DataFrame) -> None:
    trained = {name: value for name, value in policy.model.named_parameters() if value.requires_grad}
    with atomic_path(places.finished) as folder:
        folder.mkdir()
        save_file({name: value.detach().cpu().contiguous() for name, value in trained.items()}, folder / _WEIGHTS)
        write_text(folder / _HISTORY, json.dumps(history.to_dict("records")))
    shutil.rmtree(places.home, ignore_errors=True)


def _read_finished(folder: Path, policy: Policy) -> pd.DataFrame:
    _log.warning("%s: trained before; delete the folder to train again", folder)
    own = dict(policy.model.named_parameters())
    with torch.no_grad():
        for name, value in load_file(folder / _WEIGHTS).items():
            own[name].copy_(value)
    return pd.DataFrame(json.loads((folder / _HISTORY).read_text(encoding="utf-8")), columns=_COLUMNS)


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
        if HELD_OUT in entry:
            rows.append({"step": step, "split": HELD_OUT, **entry[HELD_OUT]})
        elif "rewards/margins" in entry:
            values = {name: float(entry[key]) for key, name in _LOGGED.items()}
            if abs(values["margin"]) < _NOT_MOVED:
                values["accuracy"] = 0.5  # the policy is the reference: every pair ties, which TRL counts as wrong
            rows.append({"step": step, "split": "training", **values})
    return pd.DataFrame(rows, columns=_COLUMNS)
