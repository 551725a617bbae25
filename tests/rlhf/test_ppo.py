"""PPO: what it solves, what changes nothing, what it watches and warns of, and what it refuses before an update."""
# ruff: noqa: ARG001, ARG002, ARG005, the signature of a reward is what is tested

import copy
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from support.ppo_run import CHOOSE_ON, HELD_OUT, PROMPTS, letters, make_params, make_policy, vowels

from realm_lib.config.base import ParamsError
from realm_lib.config.judges import RESERVED_JUDGES
from realm_lib.config.rlhf import LoraParams, PPOParams, RewardServerParams
from realm_lib.rlhf.errors import PPOError, RewardError
from realm_lib.rlhf.policies import Policy, PolicyError, backbone_of, load_policy, response_log_probs
from realm_lib.rlhf.ppo.held_out import choose
from realm_lib.rlhf.ppo.monitor import warnings_of
from realm_lib.rlhf.ppo.rollout import Episode, learnable
from realm_lib.rlhf.ppo.trainer import PPOTrainer
from realm_lib.rlhf.ppo.training import train_ppo
from realm_lib.runs.run import Run

pytestmark = pytest.mark.slow

LORA = LoraParams(r=4, alpha=8.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


def trainer(folder: Path, reward: Any = letters, *, run: Run | None = None, **changes: Any) -> PPOTrainer:
    params = make_params(folder, **changes)
    torch.manual_seed(0)
    policy = load_policy(params.ppo, trainable=True)
    return PPOTrainer(params, policy, reward, PROMPTS, held_out=HELD_OUT, run=run)


def weights(policy: Policy) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in policy.model.named_parameters()}


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


# What it learns


def test_a_bandit_whose_optimum_is_known_is_solved(folder: Path) -> None:
    """One token, reward r(token): with weight beta on the KL the best policy is reference * exp(r / beta)."""
    beta = 0.5
    params = make_params(
        folder,
        {"max_new_tokens": 1, "batch_size": 256},
        total_episodes=256 * 40,
        batch_size=256,
        minibatch_size=256,
        num_epochs=4,
        learning_rate=1e-2,
        kl_coefficient=beta,
        kl_target=None,
        reward_scaling=False,
        missing_eos_penalty=None,
        evaluate_every=1000,
    )
    policy = load_policy(params.ppo, trainable=True)
    wanted = policy.tokenizer.decode([50])

    def reward(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [float(text == wanted) * 2.0 for text in completions]

    ppo = PPOTrainer(params, policy, reward, ["Why?"], held_out=["What?"])
    ids = torch.tensor([ppo._encoded.ids[0]])
    with torch.no_grad():
        reference = policy.model(ids).logits[0, -1].double().softmax(-1)
    same_text = torch.tensor([policy.tokenizer.decode([token]) == wanted for token in range(len(reference))])
    optimum = reference * torch.exp(2.0 / beta * same_text)
    optimum /= optimum.sum()
    for _ in range(40):
        ppo._record(ppo.update(ppo.collect()))
    with torch.no_grad():
        found = policy.model(ids).logits[0, -1].double().softmax(-1)
    best, before = float(optimum[50]), float(reference[50])
    assert before < 0.02
    assert 0.1 < best < 0.9, "the reward does not simply win: the KL holds against it"
    assert float(found[50]) == pytest.approx(best, rel=0.35)
    with torch.no_grad():
        value = float(ppo.models.evaluate(ppo._encoded.ids[:1], [[50]], 1.0).values[0])
    kl = float((found * (found / reference).log()).sum())
    assert value == pytest.approx(2 * float(found[50]) - beta * kl, abs=0.3)


def test_training_raises_the_reward_and_leaves_a_policy_log_and_tables(folder: Path, tmp_path: Path) -> None:
    run = Run(tmp_path)
    params = make_params(folder, total_episodes=32 * 12, batch_size=32, minibatch_size=16, learning_rate=1e-2)
    result = train_ppo(params, letters, PROMPTS, held_out=HELD_OUT, judge=vowels, run=run)
    found = result.metrics()
    assert found["reward"]["after"] > found["reward"]["before"]
    assert found["reward"]["difference"] == pytest.approx(found["reward"]["after"] - found["reward"]["before"])
    assert found["gold"]["ci_of_difference"][0] <= found["gold"]["difference"] <= found["gold"]["ci_of_difference"][1]
    assert (found["episodes"], found["updates"], found["held_out_prompts"]) == (384, 12, 9)
    assert found["best_step"] == result.best_step > 0
    json.dumps(found, allow_nan=False)

    lines = (tmp_path / "logs" / "ppo.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["step"] for row in rows] == list(range(1, 13)) == result.history["step"].tolist()
    watched = {"reward", "gold", "kl", "kl_coefficient", "clip_fraction", "approximate_kl", "entropy", "value_error"}
    watched |= {"explained_variance", "length", "ended", "episodes_per_second", "warnings"}
    assert watched <= rows[0].keys()
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-4), "the first rollout is the reference's own"

    assert result.evaluations["step"].tolist() == [0, 3, 6, 9, 12]
    log = (tmp_path / "logs" / "ppo_samples.jsonl").read_text(encoding="utf-8").splitlines()
    samples = pd.DataFrame([json.loads(line, parse_constant=pytest.fail) for line in log])
    assert samples.pop("post").tolist() == HELD_OUT * 5
    pd.testing.assert_frame_equal(samples, result.samples)
    curve = result.curve().set_index("step")
    assert curve.loc[0, ["reward", "reward_low", "reward_high"]].tolist() == [0.0] * 3
    assert (curve["reward_low"] <= curve["reward"]).all()
    assert (curve["reward"] <= curve["reward_high"]).all()
    np.testing.assert_allclose(curve["gold"], result.evaluations["gold"] - result.evaluations["gold"][0], atol=1e-12)
    assert curve.loc[result.best_step, "reward"] == found["reward"]["difference"]
    assert set(curve["prompts"]) == {9}
    assert result.samples.groupby("step")["prompt"].apply(list).tolist() == [list(range(9))] * 5
    assert list(result.comparison()["prompt"]) == list(range(9))

    # The policy on disk is the one that was chosen: it gives the held-out answers of that step their rewards' KL.
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["policy_ppo"]
    saved = load_policy(params.ppo.model_copy(update={"model_name": str(tmp_path / "models" / "policy_ppo")}))
    assert largest_difference(weights(saved), weights(result.policy)) == 0
    base = load_policy(params.ppo)
    kept = result.samples[result.samples["step"] == result.best_step].iloc[0]
    prompt = base.tokenizer.apply_chat_template(
        [{"role": "user", "content": HELD_OUT[0]}], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    answer = base.tokenizer(kept["response"])["input_ids"] + [base.tokenizer.eos_token_id] * int(kept["ended"])
    if len(answer) == kept["length"]:  # another split of the same text is possible
        own, reference = (response_log_probs(model, [prompt], [answer])[0] for model in (saved.model, base.model))
        assert float((own - reference).sum()) == pytest.approx(kept["kl"], abs=1e-3)


def test_other_prompts_choose_the_policy_than_those_that_judge_it(folder: Path, tmp_path: Path) -> None:
    params = make_params(folder, total_episodes=32 * 6, batch_size=32, minibatch_size=16, learning_rate=1e-2)
    choose_on = ["Which crumb is open?", "Which crust is thin?", "Which flour is strong?"]
    found = train_ppo(params, letters, PROMPTS, held_out=HELD_OUT, choose_on=choose_on, run=Run(tmp_path))
    assert found.samples.groupby("step")["prompt"].apply(list).to_dict() == {step: [0, 1, 2] for step in (0, 3, 6)}
    assert found.best_step == choose(found.evaluations.to_dict("records"), params.ppo) > 0
    assert found.judged.groupby("step")["prompt"].apply(list).to_dict() == {
        step: list(range(9)) for step in (0, found.best_step)
    }
    metrics = found.metrics()
    assert metrics["held_out_prompts"] == 9
    for step, when in ((0, "before"), (found.best_step, "after")):
        answers = found.judged[found.judged["step"] == step]
        assert metrics["reward"][when] == pytest.approx(answers["reward"].mean())
        assert letters(HELD_OUT, answers["response"].tolist()) == pytest.approx(answers["reward"].tolist())

    curve = found.curve().set_index("step")
    means = found.samples.groupby("step")["reward"].mean()
    pd.testing.assert_series_equal(curve["reward"], means - means[0], check_names=False)
    assert (curve["reward_low"] <= curve["reward"]).all()
    assert (curve["reward"] <= curve["reward_high"]).all()

    lines = (tmp_path / "logs" / "ppo_samples.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["post"] for row in rows] == choose_on * 3
    assert [row["response"] for row in rows] == found.samples["response"].tolist()


def test_every_judge_has_its_column_and_none_has_a_say(folder: Path) -> None:
    judges = {"gold": vowels, "brief": lambda prompts, completions: [-float(len(text)) for text in completions]}
    params = make_params(folder)
    alone, judged = (train_ppo(params, letters, PROMPTS, held_out=HELD_OUT, judge=judge) for judge in (None, judges))
    assert largest_difference(weights(alone.policy), weights(judged.policy)) == 0
    answers = judged.samples["response"]
    assert judged.samples["gold"].tolist() == vowels([], answers)
    assert judged.samples["brief"].tolist() == judges["brief"]([], answers)
    metrics, curve = judged.metrics(), judged.curve()
    assert alone.metrics()["reward"] == metrics["reward"]
    after = judged.judged[judged.judged["step"] == judged.best_step]
    assert metrics["brief"]["after"] == pytest.approx(after["brief"].mean())
    assert curve["brief"].iloc[0] == 0
    bounds = {f"{name}_{side}" for name in judges for side in ("low", "high")}
    tables = (judged.history, judged.evaluations, judged.samples, judged.judged, curve, metrics)
    columns = {column for table in tables for column in table}
    assert columns - bounds - judges.keys() <= RESERVED_JUDGES, "a judge of such a name would overwrite it"
    with pytest.raises(ParamsError, match="'entropy' is taken"):
        train_ppo(params, letters, PROMPTS, held_out=HELD_OUT, judge={"entropy": vowels})


# What changes nothing


def test_accumulation_and_batches_of_forward_passes_change_nothing(folder: Path) -> None:
    usual = trainer(folder)
    others = [trainer(folder, gradient_accumulation=4), trainer(folder, sampling={"batch_size": 3})]
    episodes = usual.collect()
    assert len({len(episode.response_ids) for episode in episodes}) > 1
    metrics = usual.update(episodes)
    for other in others:
        again = other.collect()
        assert [episode.response_ids for episode in again] == [episode.response_ids for episode in episodes]
        found = other.update(again)
        assert largest_difference(weights(usual.models.policy), weights(other.models.policy)) < 1e-5
        assert all(found[name] == pytest.approx(metrics[name], abs=1e-4) for name in metrics if name != "warnings")


@pytest.mark.parametrize("value_model", ["backbone", "separate"])
@pytest.mark.parametrize("lora", [None, LORA])
def test_one_update_is_that_of_a_plain_loop(folder: Path, lora: LoraParams | None, value_model: str) -> None:
    """The whole minibatch loss, row by row and unpadded, by autograd; one step of AdamW."""
    ppo = trainer(
        folder, minibatch_size=8, num_epochs=1, lora=lora, value_model=value_model, entropy_bonus=0.05, gae_lambda=0.9
    )
    episodes = ppo.collect()
    plain = copy.deepcopy(ppo.models)
    ppo.update(episodes)
    params = plain.trained_parameters()
    scores = ppo_scores = np.array([episode.told["reward"] for episode in episodes])
    scores = ppo_scores / ppo_scores.std() - 0.5 * np.array([not episode.ended for episode in episodes])
    data = learnable(episodes, scores, 0.05, ppo.params)
    loss, tokens = torch.tensor(0.0), 0
    for n, episode in enumerate(episodes):
        ids = torch.tensor([episode.prompt_ids + episode.response_ids])
        before = slice(len(episode.prompt_ids) - 1, ids.shape[1] - 1)
        logits = plain.model(ids).logits[0, before]
        read = plain.model if plain._value_backbone is None else plain._value_backbone
        hidden = read(ids, output_hidden_states=True).hidden_states[-1][0, before]
        values = plain.value_head(hidden).squeeze(1)
        log_probs = logits.log_softmax(-1)
        chosen = log_probs[range(len(episode.response_ids)), episode.response_ids]
        kept = slice(0, len(episode.response_ids))
        ratio = (chosen - data.old_log_probs[n, kept].float()).exp()
        advantages, returns = data.advantages[n, kept].float(), data.returns[n, kept].float()
        gain = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        clipped = values.clamp(-0.2, 0.2)  # the old values are zero
        errors = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2) / 2
        loss = loss + (-gain + 0.1 * errors - 0.05 * entropy).sum()
        tokens += len(episode.response_ids)
    (loss / tokens).backward()
    optimiser = torch.optim.AdamW(list(params.values()), lr=3e-3, eps=1e-5, weight_decay=0.0)
    torch.nn.utils.clip_grad_norm_(list(params.values()), 1.0)
    optimiser.step()
    found = {name: value.detach() for name, value in ppo.models.trained_parameters().items()}
    assert largest_difference(found, {name: value.detach() for name, value in params.items()}) < 2e-5


def test_recomputed_activations_change_nothing_and_the_reference_stays(folder: Path) -> None:
    usual, lean = (trainer(folder, lora=LORA, gradient_checkpointing=flag) for flag in (False, True))
    rows = [usual.collect(), lean.collect()]
    before = usual.models.reference_log_probs([rows[0][0].prompt_ids], [rows[0][0].response_ids], 1.0)
    for ppo, episodes in zip((usual, lean), rows, strict=True):
        ppo.update(episodes)
    assert largest_difference(weights(usual.models.policy), weights(lean.models.policy)) < 1e-5
    after = usual.models.reference_log_probs([rows[0][0].prompt_ids], [rows[0][0].response_ids], 1.0)
    assert torch.equal(before, after)
    own = usual.models.evaluate([rows[0][0].prompt_ids], [rows[0][0].response_ids], 1.0)
    assert float((own.log_probs.detach() - before).abs().max()) > 1e-4


@pytest.mark.parametrize("value_model", ["backbone", "separate"])
def test_activations_are_recomputed_where_asked(folder: Path, value_model: str) -> None:
    calls = {}
    for flag in (False, True):
        ppo = trainer(folder, gradient_checkpointing=flag, value_model=value_model, minibatch_size=8, num_epochs=1)
        episodes = ppo.collect()
        seen: list[int] = []
        models = [ppo.models.model, ppo.models._value_backbone or ppo.models.model]
        for model in models:
            backbone_of(model).layers[0].self_attn.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        ppo.update(episodes)
        calls[flag] = len(seen)
    assert calls[True] == 2 * calls[False]


def test_blocks_of_the_output_layer_change_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, lean = trainer(folder), trainer(folder, gradient_checkpointing=True)
    episodes = usual.collect()
    answers = [[episode.prompt_ids for episode in episodes], [episode.response_ids for episode in episodes]]
    expected = response_log_probs(usual.models.model, *answers)
    usual.update(episodes)
    monkeypatch.setattr(
        "realm_lib.rlhf.policies.log_probs.BLOCK", 7 * 300
    )  # a vocabulary of 293: seven tokens at a time
    sizes: list[int] = []
    lean.models.model.get_output_embeddings().register_forward_hook(lambda _, __, out: sizes.append(len(out)))
    again = lean.collect()
    for episode, other, row in zip(episodes, again, expected, strict=True):
        np.testing.assert_allclose(other.log_probs, episode.log_probs, atol=1e-5)
        np.testing.assert_allclose(other.reference_log_probs, row, atol=1e-5)
        assert other.entropy == pytest.approx(episode.entropy, abs=1e-5)
    np.testing.assert_allclose(response_log_probs(lean.models.model, *answers)[0], expected[0], atol=1e-5)
    sizes.clear()
    lean.update(again)
    assert max(sizes) == 7
    assert largest_difference(weights(usual.models.policy), weights(lean.models.policy)) < 1e-5


def test_an_adapter_on_four_bit_weights_learns_and_nothing_else_moves(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes", reason="4 bit needs bitsandbytes")
    folder = make_policy(tmp_path / "wide", hidden_size=64, intermediate_size=64)  # 4-bit blocks hold 64 weights
    options = {"quantization": "4bit", "lora": LORA, "dtype": "bfloat16", "learning_rate": 1e-2, "kl_coefficient": 0.0}
    options["missing_eos_penalty"] = None
    params = make_params(
        folder, total_episodes=32 * 6, batch_size=32, minibatch_size=32, gradient_checkpointing=True, **options
    )
    policy = load_policy(params.ppo, trainable=True)
    layers = {type(value).__name__ for value in policy.model.parameters() if not value.requires_grad}
    assert "Params4bit" in layers
    before = {name: value.detach().clone() for name, value in policy.model.named_parameters()}
    result = PPOTrainer(params, policy, letters, PROMPTS, held_out=HELD_OUT, run=Run(tmp_path)).train()
    moved = {name for name, value in policy.model.named_parameters() if not torch.equal(value, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    assert {value.dtype for value in policy.model.parameters() if value.requires_grad} == {torch.float32}
    assert result.history["kl"].iloc[0] == pytest.approx(0.0, abs=0.05)
    assert result.metrics()["reward"]["difference"] > 0
    assert not (tmp_path / "models" / "policy_ppo" / "model.safetensors").exists()


def test_a_checkpoint_is_of_one_training_only(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = trainer(folder, run=Run(tmp_path))
    first._record(first.update(first.collect()))
    first._save_checkpoint()
    again = trainer(folder, run=Run(tmp_path))
    again._resume()
    assert again.state.step == 1
    assert largest_difference(weights(again.models.policy), weights(first.models.policy)) == 0
    other = trainer(folder, run=Run(tmp_path), learning_rate=1e-3)
    other._resume()
    assert other.state.step == 0
    assert "a checkpoint of other parameters, prompts, reward or weights: training starts over" in caplog.text
    (tmp_path / "models" / ".ppo_checkpoint").write_bytes(b"broken")
    with pytest.raises(PPOError, match=r"cannot be read: .* Delete it: training starts over"):
        trainer(folder, run=Run(tmp_path))._resume()


# The reward


class Explained:
    """A reward that explains itself, and how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, prompts: Any, completions: Any) -> list[float]:
        raise AssertionError("explain() has all parts in one call")

    def explain(self, prompts: Sequence[Any], completions: Sequence[Any]) -> pd.DataFrame:
        self.calls += 1
        rewards = letters(prompts, completions)
        spreads = [0.5 * (len(text) % 2) for text in completions]
        return pd.DataFrame({"reward": rewards, "spread": spreads, "score": 1.0, "similarity": 0.5})


def test_the_parts_are_asked_for_once_and_spread_is_a_penalty(folder: Path) -> None:
    reward = Explained()
    ppo = trainer(folder, reward, reward_uncertainty_penalty=2.0, reward_scaling=False, missing_eos_penalty=None)
    episodes = ppo.collect()
    assert reward.calls == 1
    told = pd.DataFrame([episode.told for episode in episodes])
    assert set(told) == {"reward", "floored", "spread", "score", "similarity"}
    np.testing.assert_allclose(ppo.learner.scores(episodes), told["reward"] - 2.0 * told["spread"])
    assert ppo.update(episodes)["score"] == 1.0
    with pytest.raises(RewardError, match="tells no spread"):
        trainer(folder, reward_uncertainty_penalty=1.0).collect()


def test_messages_are_answered_with_messages(folder: Path) -> None:
    seen: list[Any] = []

    def reward(prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        seen.extend(completions)
        return [0.0] * len(completions)

    prompts = [[{"role": "user", "content": text}] for text in PROMPTS]
    params = make_params(folder)
    PPOTrainer(params, load_policy(params.ppo, trainable=True), reward, prompts, held_out=HELD_OUT).collect()
    assert all(isinstance(turns, list) and turns[0]["role"] == "assistant" for turns in seen)


def failing(prompts: Any, completions: Any) -> list[float]:
    raise OSError("no route to the reward model")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda n: [math.nan] * n, r"answered nan for prompt \d+ "),
        (lambda n: [0.0] * (n - 1) + [-math.inf], r"answered -inf for prompt \d+ "),
        (lambda n: [None] * n, r"answered None for prompt \d+ "),
        (lambda n: ["1.0"] * n, r"answered '1.0' for prompt \d+ "),
        (lambda n: [0.0] * (n + 1), r"answered 9 numbers for the 8 responses to prompts \d+ to \d+"),
        (lambda n: 1.0, "answered float, not a list"),
    ],
)
def test_a_reward_that_cannot_be_used_stops_training_before_an_update(
    folder: Path, answer: Callable[[int], Any], says: str
) -> None:
    ppo = trainer(folder, lambda prompts, completions: answer(len(completions)))
    before = weights(ppo.models.policy)
    with pytest.raises(RewardError, match=says):
        ppo.collect()
    assert largest_difference(before, weights(ppo.models.policy)) == 0


def test_a_reward_that_raises_is_named_with_its_prompts(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RewardError, match=r"failed on prompts 0, 1, 2, .*, \.\.\.: OSError: no route") as caught:
        train_ppo(make_params(folder), failing, PROMPTS, held_out=HELD_OUT, run=Run(tmp_path))
    assert isinstance(caught.value.__cause__, OSError)
    assert not (tmp_path / "models" / "policy_ppo").exists()


def test_rewards_as_numpy_and_torch_numbers_are_taken(folder: Path) -> None:
    for numbers in (np.float32, torch.tensor):
        ppo = trainer(folder, lambda prompts, completions, numbers=numbers: [numbers(1.5)] * len(completions))
        assert {episode.told["reward"] for episode in ppo.collect()} == {1.5}


# What is refused


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"total_episodes": 20}, "total_episodes 20 is not a multiple of batch_size 8"),
        ({"minibatch_size": 3}, "batch_size 8 is not a multiple of minibatch_size 3"),
        ({"gradient_accumulation": 3}, "minibatch_size 4 is not a multiple of gradient_accumulation 3"),
        ({"quantization": "4bit"}, "quantization 4bit needs lora"),
        ({"dtype": "bfloat16"}, "small updates are lost in bfloat16 weights"),
        ({"lora": LoraParams(r=1, alpha=1.0, dropout=0.1)}, "lora.dropout must be 0"),
    ],
)
def test_parameters_that_do_not_go_together(folder: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        make_params(folder, **changes)


def test_what_cannot_be_trained_is_refused(folder: Path) -> None:
    with pytest.raises(PPOError, match="more than the policy's context of 128"):
        trainer(folder, sampling={"max_prompt_tokens": 120})
    with pytest.raises(PPOError, match="temperature must be above 0"):
        trainer(folder, sampling={"temperature": 0.0})
    params = make_params(folder)
    frozen = load_policy(params.ppo)
    with pytest.raises(PPOError, match="no trainable weights"):
        PPOTrainer(params, frozen, letters, PROMPTS, held_out=HELD_OUT)
    endless = load_policy(params.ppo, trainable=True)
    endless.tokenizer.eos_token = None
    with pytest.raises(PPOError, match="no EOS token"):
        PPOTrainer(params, endless, letters, PROMPTS, held_out=HELD_OUT)
    with pytest.raises(PolicyError, match="training: prompt 1 is empty"):
        train_ppo(params, letters, ["Why?", ""], held_out=HELD_OUT)
    with pytest.raises(PolicyError, match="choosing: there are no prompts"):
        train_ppo(params, letters, PROMPTS, held_out=HELD_OUT, choose_on=[])


def test_prompts_that_are_too_long_are_counted(folder: Path) -> None:
    params = make_params(folder, {"max_prompt_tokens": 40}, total_episodes=8)
    result = train_ppo(params, letters, [*PROMPTS, "bread " * 60], held_out=HELD_OUT)
    assert result.dropped.startswith("training: 1 of 24 prompts left out")


# Budget, choice, warnings


def test_a_kl_budget_stops_training_and_the_kept_policy_is_within_it(folder: Path) -> None:
    params = make_params(
        folder, total_episodes=800, learning_rate=3e-2, kl_coefficient=0.0, kl_target=None, kl_budget=0.3
    )
    result = train_ppo(params, letters, PROMPTS, held_out=HELD_OUT)
    assert "passed kl_budget 0.3" in result.stopped
    assert len(result.history) < 100
    kept = result.evaluations.set_index("step").loc[result.best_step]
    assert kept["kl"] <= 0.3


def test_the_choice_is_the_best_objective_within_the_budget(folder: Path) -> None:
    rows = [
        {"step": step, "objective": objective, "kl": kl, "gold": -step}
        for step, objective, kl in ((0, 1.0, 0.0), (1, 3.0, 4.0), (2, 3.0, 4.5), (3, 9.0, 6.0))
    ]
    assert choose(rows, make_params(folder).ppo) == 3
    assert choose(rows, make_params(folder, kl_budget=5.0).ppo) == 1
    assert choose(rows, make_params(folder, kl_budget=1.0).ppo) == 0


def row(**changes: float) -> dict[str, float]:
    usual = {"kl": 1.0, "entropy": 5.0, "length": 20.0, "reward_std": 1.0, "tokens": 500, "explained_variance": 0.0}
    return {**usual, **changes}


@pytest.mark.parametrize(
    ("last", "says"),
    [
        (row(), None),
        (row(kl=30.0), "KL is running away: 30.0 nats"),
        (row(entropy=0.5), "entropy has collapsed"),
        (row(length=50.0), "responses have grown from 20 to 50 tokens"),
        (row(reward_std=0.01), "the reward is saturating"),
        (row(tokens=10), "too few to whiten"),
    ],
)
def test_warnings_are_said_in_words(folder: Path, last: dict[str, float], says: str | None) -> None:
    params: PPOParams = make_params(folder, kl_target=None).ppo
    found = warnings_of([row()] * 6 + [last], params)
    assert [says in warning for warning in found] == [True] if says else found == []
    trusting: PPOParams = make_params(folder, kl_target=None, gae_lambda=0.95).ppo
    blind = warnings_of([row()], trusting)
    assert "explains 0% of the returns" in blind[0]
    assert "the first of 20 tokens gets 0.38 of what a response earns" in blind[0]
    assert warnings_of([row(explained_variance=0.5)], trusting) == []
    steered = warnings_of([row(), row(kl=3.0)], make_params(folder, kl_target=1.0).ppo)
    assert "2 times kl_target" in steered[0]


def test_an_episode_knows_its_kl() -> None:
    own, reference = np.array([-1.0, -2.0]), np.array([-1.5, -1.0])
    episode = Episode(0, [1], [2, 3], "", True, own, reference, np.zeros(2), 0.0, {"reward": 2.0, "spread": 0.5})
    assert episode.kl == pytest.approx(-0.5)
    assert episode.kl_k3 == pytest.approx(np.exp(-0.5) - 1 + 0.5 + np.e - 1 - 1)
    assert episode.worth(2.0) == 1.0


def test_held_out_prompts_are_not_learned_from_whatever_their_spaces_and_case(folder: Path) -> None:
    params = make_params(folder)
    prompts = [*PROMPTS[:3], f"  {HELD_OUT[0].upper()}\n", CHOOSE_ON[1].replace(" ", "  ")]
    ppo = PPOTrainer(
        params, load_policy(params.ppo, trainable=True), letters, prompts, held_out=HELD_OUT, choose_on=CHOOSE_ON
    )
    assert {ppo._asked(number).index for number in range(9)} == {0, 1, 2}
    assert "2 of 5 prompts left out: they are held out" in ppo.dropped
    with pytest.raises(PPOError, match="every prompt to learn from is held out"):
        PPOTrainer(params, load_policy(params.ppo, trainable=True), letters, HELD_OUT, held_out=HELD_OUT)


class Known:
    """A reward that tells who it is."""

    def __init__(self, weights: str) -> None:
        self.models = {"reward_model": f"tiny@{weights}"}

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any]) -> list[float]:
        return letters(prompts, completions)


def test_where_the_reward_is_asked_is_not_what_is_trained(folder: Path) -> None:
    """Else a training that was killed would start over because its reward server has moved."""
    params = make_params(folder)
    moved = params.model_copy(update={"reward_server": RewardServerParams(url="http://gpu-7:8000")})
    other = params.model_copy(update={"floor_reward": -5.0})
    identities = [
        PPOTrainer(each, load_policy(each.ppo, trainable=True), letters, PROMPTS, held_out=HELD_OUT)._identity
        for each in (params, moved, other)
    ]
    assert identities[0] == identities[1] != identities[2]


def test_a_training_under_another_reward_does_not_go_on_from_this_one(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path)
    first = trainer(folder, Known("a"), run=run)
    first._record(first.update(first.collect()))
    first._save_checkpoint()
    same = trainer(folder, Known("a"), run=run)
    same._resume()
    assert same.state.step == 1
    other = trainer(folder, Known("b"), run=run)
    other._resume()
    assert other.state.step == 0
    assert "a checkpoint of other parameters, prompts, reward or weights" in caplog.text
