"""TRL's DPOTrainer, made to take pairs that are tokens already, in one process or in several."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from realm_lib.config.rlhf import DPOParams
from realm_lib.rlhf.dpo import shares
from realm_lib.rlhf.dpo.held_out import HeldOutPairs
from realm_lib.rlhf.dpo.pairs import PreferencePairs
from realm_lib.rlhf.errors import DPOError
from realm_lib.rlhf.policies import Policy
from realm_lib.rlhf.processes import Peers
from realm_lib.runs.seeds import derive_seed

_log = logging.getLogger(__name__)

HELD_OUT = "held out"


def steps_and_warmup(params: DPOParams, pairs: int) -> tuple[int, int]:
    """Optimiser steps, and how many of them the rate rises for."""
    steps = -(-pairs // params.batch_size) * params.num_epochs
    return steps, max(1, steps // 10)


def make_trainer(
    policy: Policy,
    pairs: PreferencePairs,
    held_out: HeldOutPairs,
    params: DPOParams,
    home: Path,
    number: int,
    reference: dict[str, list[float]] | None,
    progress: bool,
) -> Any:
    """The trainer of one round on ``pairs``, which looks at ``held_out`` on the way and keeps checkpoints in ``home``.

    It trains the policy's own model, or, where weights are cut over processes, a copy. Several processes need a
    ``reference``. The other arguments are those of :func:`realm_lib.rlhf.dpo.fitting.fit`.
    """
    import transformers
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    peers = Peers()
    cut = peers.count > 1 and shares.cutting() is not None
    batch = params.batch_size // params.gradient_accumulation
    columns: dict[str, list[Any]] = {name: pairs.table[name].tolist() for name in shares.IDS}
    columns |= {f"ref_{side}_logps": values for side, values in (reference or {}).items()}
    if peers.count > 1:
        columns = shares.filled(columns, batch)

    class TokenisedDPOTrainer(DPOTrainer):  # type: ignore[misc]
        """Takes columns prompt_ids, chosen_ids, rejected_ids as they are."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, *arguments: Any) -> Any:
            return dataset if reference is not None else super()._precompute_ref_logps(dataset, *arguments)

        def create_model_card(self, *_: Any, **__: Any) -> None:
            """None: checkpoints are not published."""

    class SharingDPOTrainer(TokenisedDPOTrainer):
        """Gives this process its part of every batch."""

        def create_accelerator_and_postprocess(self) -> None:
            super().create_accelerator_and_postprocess()
            # Under FSDP TRL would load a reference by the model's name; ours is in the data set.
            self.fsdp = bool(vars(self)["is_fsdp_enabled"])
            self.is_fsdp_enabled = False
            if shares.cutting() == "fsdp" and not self.fsdp:
                _log.warning("accelerate cuts weights on GPUs alone: here each process holds the whole policy")

        def _move_model_to_device(self, model: Any, device: Any) -> None:
            if not cut:  # a model that is cut never lies whole on a device
                super()._move_model_to_device(model, device)

        def _set_signature_columns_if_needed(self) -> None:
            super()._set_signature_columns_if_needed()
            self._signature_columns: list[str] = [*self._signature_columns, shares.FILLER]

        def _get_train_sampler(self, *_: Any) -> Any:
            rows = len(columns[shares.FILLER])
            return shares.Order(len(pairs), rows, self.args.seed, lambda: self.state.epoch)

        def _compute_loss(self, model: Any, inputs: Any, return_outputs: bool) -> Any:
            fillers = inputs.pop(shares.FILLER)
            loss = super()._compute_loss(model, inputs, return_outputs)
            return shares.without_fillers(loss, fillers, len(inputs["input_ids"]) // 2, self, params)

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
            if peers.count == 1:
                rewards = held_out.implicit(policy)
            elif state.global_step == 0 and number == 0:  # the policy still is the reference
                rewards = held_out.rewards(held_out.reference)
            else:
                rewards = held_out.rewards(shares.log_probs(trainer, held_out.pairs, held_out.batch_size))
            state.log_history.append({"step": state.global_step, HELD_OUT: held_out.look(rewards)})

    _, warmup = steps_and_warmup(params, len(pairs))
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
        per_device_train_batch_size=batch // peers.count,
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
    model = shares.model_to_cut(policy) if cut else policy.model
    # TRL makes adapters on 4-bit weights bfloat16, where updates of 5e-7 vanish, and what a round before has learned.
    trained = model.named_parameters() if params.lora is not None else ()
    own = {name: value.detach().clone() for name, value in trained if value.requires_grad}
    kind = TokenisedDPOTrainer if peers.count == 1 else SharingDPOTrainer
    try:
        with _no_bars():
            trainer = kind(
                model=model,
                args=config,
                train_dataset=Dataset.from_dict(columns),
                processing_class=policy.tokenizer,
            )
    except ValueError as error:  # an adapter on the output layer, several GPUs without a launcher, ...
        raise DPOError(f"TRL's DPOTrainer refuses: {error}") from error
    for name, value in model.named_parameters():
        if name in own:
            value.data = own[name].float()
    if peers.count > 1:
        trainer.is_fsdp_enabled = trainer.fsdp
        trainer.data_collator = shares.Collator(trainer.data_collator)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.add_callback(Look())
    return trainer


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
