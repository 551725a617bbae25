"""DPO: its loss against TRL and against sums in float64, its training against a plain loop, and what it leaves."""
# ruff: noqa: ARG001, ARG005, the signature of a reward is what is tested

import copy
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support.dpo_run import make_params, outcome
from support.ppo_run import HELD_OUT, PROMPTS, letters, make_policy, vowels

from realm_lib.config.base import ParamsError
from realm_lib.config.judges import RESERVED_JUDGES
from realm_lib.config.rlhf import DPOParams, LoraParams
from realm_lib.rlhf.dpo.fitting import fit
from realm_lib.rlhf.dpo.held_out import HeldOutPairs
from realm_lib.rlhf.dpo.loss import dpo_losses, implicit_rewards
from realm_lib.rlhf.dpo.pairs import PreferencePairs
from realm_lib.rlhf.dpo.result import DPOResult, ranking_agreement, with_margins
from realm_lib.rlhf.dpo.training import make_pairs, train_dpo
from realm_lib.rlhf.errors import DPOError, RewardError
from realm_lib.rlhf.policies import Policy, encode_prompts, load_policy, response_log_probs, sample
from realm_lib.runs.run import Run
from realm_lib.runs.weights import folder_digest

pytestmark = pytest.mark.slow

LORA = LoraParams(r=4, alpha=8.0)
MANY = [f"{start} bread {n} rise?" for n in range(40) for start in ("Why does", "How can")]
MANY_HELD_OUT = [f"What makes bread {n} rise?" for n in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def pairs(folder: Path) -> PreferencePairs:
    return make_pairs(make_params(folder), letters, PROMPTS)


@pytest.fixture(scope="module")
def held_out(folder: Path) -> HeldOutPairs:
    params = make_params(folder)
    assert params.dpo is not None
    return HeldOutPairs.of(load_policy(params.dpo), make_pairs(params, letters, HELD_OUT), params.dpo, 4)


def trainable(folder: Path, **changes: Any) -> tuple[Policy, DPOParams]:
    params = make_params(folder, **changes).dpo
    assert params is not None
    torch.manual_seed(0)
    return load_policy(params, trainable=True), params


def weights(policy: Policy, *, trained: bool = True) -> dict[str, torch.Tensor]:
    named = policy.model.named_parameters()
    return {name: value.detach().clone() for name, value in named if value.requires_grad or not trained}


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name].float() - second[name].float()).abs().max()) for name in first)


def sums(model: Any, pairs: PreferencePairs, side: str) -> torch.Tensor:
    """log pi(y|x) of each pair, row by row without padding, in the model's own precision."""
    found = []
    for prompt, answer in zip(pairs.table["prompt_ids"], pairs.table[f"{side}_ids"], strict=True):
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0]
        chosen = torch.log_softmax(logits[len(prompt) - 1 : -1], dim=-1)
        found.append(chosen[torch.arange(len(answer)), torch.tensor(answer)].sum())
    return torch.stack(found)


# The loss


def test_the_loss_before_the_first_step_is_that_of_a_coin() -> None:
    assert dpo_losses([0.0, 1.0], [0.0, 1.0]) == pytest.approx([math.log(2)] * 2)
    assert dpo_losses([0.0], [0.0], loss_type="hinge") == [1.0]
    ipo = {"loss_type": "ipo", "beta": 0.1, "chosen_lengths": [3], "rejected_lengths": [4]}
    assert dpo_losses([0.0], [0.0], **ipo) == pytest.approx([25.0])  # type: ignore[arg-type]
    assert dpo_losses([800.0], [-800.0]) == [0.0]
    assert dpo_losses([-800.0], [800.0]) == [1600.0], "no overflow"
    with pytest.raises(ValueError, match="give chosen_lengths and rejected_lengths"):
        dpo_losses([0.0], [0.0], loss_type="ipo")


@pytest.mark.parametrize("loss_type", ["sigmoid", "hinge", "ipo"])
def test_loss_and_implicit_rewards_are_those_of_trl_and_of_float64(
    folder: Path, pairs: PreferencePairs, loss_type: Any, tmp_path: Path
) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class Trainer(DPOTrainer):  # TRL's, but for tokens that need no tokenizer
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    policy, _ = trainable(folder)
    before = load_policy(make_params(folder).dpo)  # type: ignore[arg-type]
    torch.manual_seed(1)
    with torch.no_grad():
        for value in policy.model.parameters():
            value.add_(torch.randn_like(value), alpha=0.02)
    beta = 0.3
    answers = {side: pairs.table[f"{side}_ids"].tolist() for side in ("chosen", "rejected")}
    prompts = pairs.table["prompt_ids"].tolist()
    rewards = {
        side: implicit_rewards(
            response_log_probs(policy.model, prompts, ids), response_log_probs(before.model, prompts, ids), beta
        )
        for side, ids in answers.items()
    }
    lengths = {f"{side}_lengths": [len(row) for row in ids] for side, ids in answers.items()}
    losses = dpo_losses(rewards["chosen"], rewards["rejected"], loss_type=loss_type, beta=beta, **lengths)

    # Sums row by row in float64.
    own, reference = copy.deepcopy(policy.model).double(), copy.deepcopy(before.model).double()
    with torch.no_grad():
        ratios = {
            side: (sums(own, pairs, side) - sums(reference, pairs, side)).numpy() for side in ("chosen", "rejected")
        }
    for side in ("chosen", "rejected"):
        np.testing.assert_allclose(rewards[side], beta * ratios[side], atol=1e-5)
    margins = ratios["chosen"] - ratios["rejected"]
    a_token = ratios["chosen"] / lengths["chosen_lengths"] - ratios["rejected"] / lengths["rejected_lengths"]
    by_hand = {
        "sigmoid": -np.log(1 / (1 + np.exp(-beta * margins))),
        "hinge": np.maximum(0, 1 - beta * margins),
        "ipo": (a_token - 1 / (2 * beta)) ** 2,
    }[loss_type]
    np.testing.assert_allclose(losses, by_hand, rtol=1e-4, atol=1e-5)

    # TRL, all pairs in one batch.
    options = {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none"}
    data = Dataset.from_dict(pairs.table[["prompt_ids", "chosen_ids", "rejected_ids"]].to_dict("list"))
    trainer = Trainer(
        policy.model,
        ref_model=before.model,
        args=DPOConfig(
            str(tmp_path), beta=beta, loss_type=[loss_type], per_device_eval_batch_size=len(pairs), max_length=None,
            disable_tqdm=True, **options,
        ),
        train_dataset=data,
        eval_dataset=data,
        processing_class=policy.tokenizer,
    )  # fmt: skip
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(losses.mean(), rel=1e-4)
    assert found["eval_rewards/chosen"] == pytest.approx(rewards["chosen"].mean(), abs=1e-5)
    assert found["eval_rewards/rejected"] == pytest.approx(rewards["rejected"].mean(), abs=1e-5)
    assert found["eval_rewards/accuracies"] == pytest.approx((margins > 0).mean())


# Training


def by_a_plain_loop(policy: Policy, pairs: PreferencePairs, params: DPOParams, reference: Any) -> list[float]:
    """Whole batches of all pairs: AdamW, clipped gradients, a rate that rises for a tenth and falls to zero."""
    steps, beta = params.num_epochs, params.beta
    trained = [value for value in policy.model.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=params.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    warm = max(1, steps // 10)
    losses = []
    with torch.no_grad():
        before = {side: sums(reference, pairs, side) for side in ("chosen", "rejected")}
    for step in range(steps):
        rate = step / warm if step < warm else (steps - step) / (steps - warm)
        for group in optimiser.param_groups:
            group["lr"] = rate * params.learning_rate
        ratios = {side: sums(policy.model, pairs, side) - before[side] for side in ("chosen", "rejected")}
        loss = torch.nn.functional.softplus(-beta * (ratios["chosen"] - ratios["rejected"])).mean()
        losses.append(float(loss.detach()))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, params.max_grad_norm)
        optimiser.step()
    return losses


@pytest.mark.parametrize("lora", [None, LORA], ids=["all weights", "lora"])
def test_training_is_that_of_a_plain_loop(
    folder: Path, pairs: PreferencePairs, held_out: HeldOutPairs, tmp_path: Path, lora: LoraParams | None
) -> None:
    """The reference of the loop is the policy as it was, that of LoRA the model without the adapter."""
    options = {"lora": lora, "batch_size": len(pairs), "num_epochs": 8, "learning_rate": 2e-3, "beta": 0.5}
    policy, params = trainable(folder, **options)
    by_hand, _ = trainable(folder, **options)
    start = weights(policy, trained=False)
    reference = load_policy(make_params(folder).dpo).model  # type: ignore[arg-type]
    history = fit(policy, pairs, held_out, params, tmp_path, "identity")
    losses = by_a_plain_loop(by_hand, pairs, params, reference)

    found = history[history["split"] == "training"]
    assert found["step"].tolist() == list(range(1, 9))
    np.testing.assert_allclose(found["loss"], losses, atol=2e-4)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[-1] < losses[0] - 0.01
    assert largest_difference(weights(policy, trained=False), weights(by_hand, trained=False)) < 2e-4
    moved = {name for name, value in weights(policy, trained=False).items() if not torch.equal(value, start[name])}
    if lora is not None:
        assert moved
        assert all("lora_" in name for name in moved), "the base stays as it is"
        assert list(policy.model.peft_config) == ["default"], "TRL's frozen copy of the adapter is gone"
        with policy.model.disable_adapter(), torch.no_grad():
            torch.testing.assert_close(sums(policy.model, pairs, "chosen"), sums(reference, pairs, "chosen"))


def test_parts_of_a_batch_and_checkpointed_activations_change_nothing(
    folder: Path, pairs: PreferencePairs, held_out: HeldOutPairs, tmp_path: Path
) -> None:
    found = []
    for number, change in enumerate(({}, {"gradient_accumulation": 4}, {"gradient_checkpointing": True, "lora": None})):
        policy, params = trainable(folder, batch_size=8, num_epochs=2, **change)
        full = PreferencePairs(pairs.table[:16], "on_policy", 16)  # whole batches only
        fit(policy, full, held_out, params, tmp_path / str(number), "identity")
        found.append(weights(policy))
    assert largest_difference(found[0], found[1]) < 1e-4
    assert largest_difference(found[0], found[2]) < 1e-4
    start, _ = trainable(folder)
    assert largest_difference(found[0], weights(start)) > 1e-3


def test_the_reference_is_never_loaded_by_name(
    folder: Path, pairs: PreferencePairs, held_out: HeldOutPairs, tmp_path: Path
) -> None:
    policy, params = trainable(folder)
    policy.model.config._name_or_path = "no-such-organisation/no-such-model"
    policy.model.name_or_path = "no-such-organisation/no-such-model"
    history = fit(policy, pairs, held_out, params, tmp_path, "identity")
    before, *_, after = history.loc[history["split"] == "held out", "margin"]
    assert before == 0.0, "policy and reference are the same"
    assert after != 0.0, "the policy moved, the reference stayed"


def test_an_adapter_on_4_bit_weights_is_trained_in_float32(tmp_path: Path) -> None:
    folder = make_policy(tmp_path / "policy", hidden_size=64, intermediate_size=64)
    options = {"quantization": "4bit", "lora": LORA, "learning_rate": 3e-3, "num_epochs": 6, "dtype": "bfloat16"}
    params = make_params(folder, pairs="human", **options)
    table = pd.DataFrame({"prompt": PROMPTS[:16], "chosen": "Yeast makes gas.", "rejected": "No idea, thank you."})
    watched = table.assign(prompt=HELD_OUT[0]).head(4)
    result = train_dpo(params, letters, table, held_out=HELD_OUT, held_out_pairs=watched, run=Run(tmp_path / "run"))
    trained = {name: value for name, value in result.policy.model.named_parameters() if value.requires_grad}
    assert {value.dtype for value in trained.values()} == {torch.float32}
    assert all("lora_" in name for name in trained)
    frozen = {type(value).__name__ for name, value in result.policy.model.named_parameters() if "q_proj.base" in name}
    assert frozen == {"Params4bit"}
    history = result.history[result.history["split"] == "training"]
    assert history["margin"].iloc[-3:].mean() > history["margin"].iloc[:3].mean() + 0.05
    again = load_policy(params.dpo.model_copy(update={"model_name": "run:models/policy_dpo"}), tmp_path / "run")  # type: ignore[union-attr]
    loaded = dict(again.model.named_parameters())
    for name, value in trained.items():
        torch.testing.assert_close(loaded[name].float(), value.detach())


# What it leaves


@pytest.fixture(scope="module")
def finished(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[DPOResult, Path]:
    run = tmp_path_factory.mktemp("run")
    params = make_params(folder, {"batch_size": 64}, num_epochs=3, learning_rate=3e-3, samples_per_prompt=8)
    result = train_dpo(params, letters, MANY, held_out=MANY_HELD_OUT, judge=vowels, run=Run(run))
    return result, run


def test_training_moves_margin_accuracy_and_answers(finished: tuple[DPOResult, Path]) -> None:
    result, _ = finished
    found = result.metrics()
    json.dumps(found, allow_nan=False)
    assert found["reward_margin"]["before"] == 0
    assert found["reward_margin"]["after"] > 0.1
    assert found["accuracy"]["after"] > found["accuracy"]["before"] == 0.5
    assert found["win_rates"]["realm"]["win_rate"] > 0.5
    assert found["reward"]["after"] > found["reward"]["before"]
    assert (found["pairs"], found["pairs_from"], found["asked"], found["held_out_prompts"]) == (
        len(result.pairs), "on_policy", 80, 40,
    )  # fmt: skip
    assert found["judge"] == "gold"
    assert found["win_rate"] == found["win_rates"]["gold"]["win_rate"]
    columns = {column.removesuffix("_before").removesuffix("_after") for column in result.answers}
    assert columns | found.keys() <= RESERVED_JUDGES | {"realm", "gold"}, "a judge of such a name would overwrite it"


def test_the_policy_is_loaded_and_digested_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, digested = [], []

    def load(params: DPOParams, *arguments: Any, **options: Any) -> Policy:
        loaded.append(params.model_name)
        return load_policy(params, *arguments, **options)

    def digest(where: Path) -> str:
        digested.append(where.name)
        return folder_digest(where)

    monkeypatch.setattr("realm_lib.rlhf.dpo.training.load_policy", load)
    monkeypatch.setattr("realm_lib.rlhf.samples.folder_digest", digest)
    params = make_params(folder, num_epochs=1)
    train_dpo(params, letters, PROMPTS, held_out=HELD_OUT, run=Run(tmp_path))
    assert loaded == [str(folder)]
    assert digested == [folder.name, "policy_dpo"], "the start once, and then what was saved, by which 06 knows it"


def test_its_numbers_are_those_of_its_tables(finished: tuple[DPOResult, Path]) -> None:
    result, _ = finished
    found, answers = result.metrics(), result.answers
    wins = [
        1.0 if after > before else 0.5 if after == before else 0.0
        for before, after in zip(answers["gold_before"], answers["gold_after"], strict=True)
    ]
    assert found["win_rate"] == pytest.approx(np.mean(wins))
    assert found["win_rate_ci"][0] <= found["win_rate"] <= found["win_rate_ci"][1]
    assert answers["gold_after"].tolist() == vowels([], answers["after"])
    assert answers["realm_before"].tolist() == pytest.approx(letters([], answers["before"]))
    margins = result.implicit["chosen"] - result.implicit["rejected"]
    assert found["reward_margin"]["after"] == pytest.approx(margins.mean())
    assert found["accuracy"]["after"] == pytest.approx((margins > 0).mean())
    lengths = [result.pairs.table[f"{side}_ids"].map(len).mean() for side in ("chosen", "rejected")]
    assert found["length_difference"]["tokens"] == pytest.approx(lengths[0] - lengths[1])
    held_out = result.history[result.history["split"] == "held out"]
    steps = 3 * math.ceil(len(result.pairs) / 8)
    assert held_out["step"].tolist() == sorted({*range(0, steps, 3), steps})
    last = held_out.iloc[-1]
    assert last["margin"] == pytest.approx(margins.mean())
    assert last["accuracy"] == found["accuracy"]["after"]
    assert last["loss"] == pytest.approx(np.mean(np.log1p(np.exp(-margins))))
    assert list(result.history["split"].unique()) == ["held out", "training"]
    start = result.history.iloc[0]
    assert (start["step"], start["accuracy"]) == (0, 0.5)
    assert start["loss"] == pytest.approx(math.log(2))


def test_no_held_out_prompt_is_trained_on(finished: tuple[DPOResult, Path], folder: Path) -> None:
    result, _ = finished
    assert set(result.held_out_pairs.table["prompt"]) <= set(MANY_HELD_OUT)
    assert set(result.pairs.table["prompt"]) <= set(MANY)
    # Prompts of the pairs that training is followed by are held out too.
    params = make_params(folder, pairs="human", num_epochs=1, batch_size=4)
    table = pd.DataFrame({"prompt": PROMPTS, "chosen": "Yeast makes gas.", "rejected": "No idea, thank you."})
    again = train_dpo(params, letters, table, held_out=PROMPTS[:2], held_out_pairs=table[10:14])
    assert again.pairs.table["prompt"].tolist() == [*PROMPTS[2:10], *PROMPTS[14:]]
    assert again.held_out_pairs.table["prompt"].tolist() == PROMPTS[10:14]


def test_the_policy_on_disk_is_the_one_that_was_trained(finished: tuple[DPOResult, Path]) -> None:
    result, run = finished
    assert sorted(path.name for path in (run / "models").iterdir()) == ["policy_dpo"]
    assert not list((run / "models" / "policy_dpo").glob("*.bin")), "no pickles"
    saved = load_policy(DPOParams(model_name="run:models/policy_dpo", pairs="on_policy"), run)
    assert largest_difference(weights(saved, trained=False), weights(result.policy, trained=False)) == 0
    ids = encode_prompts(saved.tokenizer, HELD_OUT, 60).ids
    options = {"max_new_tokens": 8, "temperature": 1.0, "seeds": list(range(len(ids))), "batch_size": 4}
    assert sample(saved, ids, **options) == sample(result.policy, ids, **options)  # type: ignore[arg-type]
    lines = [json.loads(line) for line in (run / "logs" / "dpo.jsonl").read_text(encoding="utf-8").splitlines()]
    pd.testing.assert_frame_equal(pd.DataFrame(lines), result.history, check_exact=False)


def test_the_same_seed_gives_the_same_policy_and_another_another(folder: Path) -> None:
    found = [
        outcome(train_dpo(make_params(folder, seed=seed), letters, PROMPTS, held_out=HELD_OUT)) for seed in (1, 1, 2)
    ]
    assert found[0] == found[1]
    assert found[0]["weights"] != found[2]["weights"]


def test_a_checkpoint_of_another_training_is_not_gone_on_from(
    folder: Path, pairs: PreferencePairs, held_out: HeldOutPairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy, params = trainable(folder)
    fit(policy, pairs, held_out, params, tmp_path, "the first identity")
    assert list(tmp_path.glob("the first identi/checkpoint-*"))
    other, _ = trainable(folder)
    with caplog.at_level(logging.WARNING):
        history = fit(other, pairs, held_out, params, tmp_path, "another identity")
    assert "training starts over" in caplog.text
    assert history["step"].min() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["another identity"]
    assert largest_difference(weights(policy), weights(other)) == 0


def test_agreement_is_with_the_label_or_with_gold(pairs: PreferencePairs) -> None:
    right = [(vowels([], [a])[0] > vowels([], [b])[0]) + (vowels([], [a]) == vowels([], [b])) / 2
             for a, b in zip(pairs.table["chosen"], pairs.table["rejected"], strict=True)]  # fmt: skip
    found = ranking_agreement(pairs, vowels)
    assert found is not None
    assert (found["with"], found["pairs"], found["share"]) == ("gold", len(pairs), pytest.approx(np.mean(right)))
    assert found["ci"][0] <= found["share"] <= found["ci"][1]
    assert ranking_agreement(pairs) is None
    people = PreferencePairs(pairs.table[["prompt", "chosen", "rejected"]], "human", len(pairs))
    with_reward = with_margins(people, lambda prompts, completions: [-value for value in letters([], completions)])
    assert with_reward.table["margin"].tolist() == pytest.approx((-pairs.table["margin"]).tolist())
    found = ranking_agreement(with_reward)
    assert found is not None
    low, high = found.pop("ci")
    assert found == {"with": "human label", "pairs": len(pairs), "share": 0.0}
    assert low == 0
    assert 0 < high < 0.3  # none of so many is no proof of never
    assert with_margins(pairs, letters) is pairs


# What is refused


def refused(folder: Path, error: type[Exception], says: str, prompts: Any = PROMPTS, **changes: Any) -> None:
    options = {"held_out": HELD_OUT, **changes.pop("given", {})}
    reward = changes.pop("reward", letters)
    with pytest.raises(error, match=says):
        train_dpo(make_params(folder, **changes), reward, prompts, **options)


def test_fewer_pairs_than_a_batch(folder: Path) -> None:
    says = r"5 pairs from 5 human pairs\. That is fewer than rlhf.dpo.batch_size 8: lower it, or take more prompts"
    table = pd.DataFrame({"prompt": PROMPTS[:5], "chosen": "Yeast makes gas.", "rejected": "No idea, thank you."})
    watched = table.assign(prompt=HELD_OUT[0]).head(4)
    refused(folder, DPOError, says, table, given={"held_out_pairs": watched}, pairs="human")
    tie = {"reward": lambda prompts, completions: [1.0] * len(prompts)}
    refused(folder, DPOError, "0 pairs from 23 prompts; left out: 23: all samples have the same reward", **tie)


def test_nothing_to_follow_the_training_by(folder: Path) -> None:
    def tied_where_held_out(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [
            0.0 if prompt in HELD_OUT else value
            for prompt, value in zip(prompts, letters([], completions), strict=True)
        ]

    refused(folder, DPOError, "held out: 0 pairs from 9 prompts", reward=tied_where_held_out)


def test_an_adapter_where_it_cannot_be_trained(folder: Path) -> None:
    output_layer = LoraParams(r=2, alpha=4.0, target_modules=["lm_head"])
    refused(folder, DPOError, "TRL's DPOTrainer refuses: .*lm_head", lora=output_layer)


def test_low_precision_without_an_adapter_is_warned_of(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train_dpo(make_params(folder, dtype="bfloat16", num_epochs=1), letters, PROMPTS, held_out=HELD_OUT)
    assert "all weights are trained in bfloat16" in caplog.text


def test_a_judge_that_cannot_be_used_is_named(folder: Path) -> None:
    def short(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [1.0]

    says = "judge 'short' answered 1 numbers for the 18"
    refused(folder, RewardError, says, given={"judge": {"short": short}}, num_epochs=1)
    refused(folder, ParamsError, "'length' is taken", given={"judge": {"length": vowels}})


def test_training_is_followed_on_as_many_held_out_prompts_as_asked(folder: Path) -> None:
    params = make_params(folder, num_epochs=1, followed_prompts=4)
    result = train_dpo(params, letters, PROMPTS, held_out=HELD_OUT)
    assert 0 < len(result.held_out_pairs) <= 4
    assert set(result.held_out_pairs.table["prompt"]) <= set(HELD_OUT[:4])
    assert len(result.answers) == len(HELD_OUT), "all are answered"
