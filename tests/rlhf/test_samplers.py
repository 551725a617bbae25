"""Rollouts by others: continuous batching, and a server of vLLM's that is given the weights after each update."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support.ppo_run import CHOOSE_ON, HELD_OUT, PROMPTS, letters, make_params, make_policy
from support.vllm_server import BASE, Fault, VLLMStandIn, running_vllm

from realm_lib.config.base import ParamsError
from realm_lib.config.rlhf import RESERVED_JUDGES, LoraParams
from realm_lib.config.rollouts import VLLMParams
from realm_lib.rlhf.errors import SamplerError
from realm_lib.rlhf.policies import Policy, PolicyError, load_policy, response_log_probs, sample
from realm_lib.rlhf.ppo.result import PPOResult
from realm_lib.rlhf.ppo.trainer import PPOTrainer
from realm_lib.rlhf.ppo.training import train_ppo
from realm_lib.rlhf.samplers import ContinuousSampler, Drawn, sampler_of
from realm_lib.rlhf.samplers.vllm import VLLMSampler
from realm_lib.runs.run import Run

pytestmark = pytest.mark.slow

LORA = LoraParams(r=4, alpha=8.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def server(folder: Path) -> Iterator[VLLMStandIn]:
    with running_vllm(folder) as started:
        yield started


def section(*servers: VLLMStandIn, **changes: Any) -> VLLMParams:
    return VLLMParams(urls=[one.url for one in servers], **{"retry_wait": 0.01, "max_attempts": 3, **changes})


def asked_of(policy: Policy) -> dict[str, Any]:
    ids = [policy.tokenizer(text).input_ids for text in PROMPTS[:8]]
    return {"prompt_ids": ids, "max_new_tokens": 6, "temperature": 0.8, "seeds": range(8), "batch_size": 4}


def trainable(folder: Path, **changes: Any) -> Policy:
    """A policy that is not its base any more."""
    torch.manual_seed(0)
    policy = load_policy(make_params(folder, **changes).ppo, trainable=True)
    with torch.no_grad():
        for value in policy.model.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value), alpha=0.1)
    return policy


def weights(result: PPOResult) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in result.policy.model.named_parameters()}


def drawn(sampler: VLLMSampler, policy: Policy, step: int = 1) -> list[Drawn]:
    return sampler.sample(policy, version=sampler.synchronise(policy, step), **asked_of(policy))


# vLLM


@pytest.mark.parametrize("lora", [LORA, None], ids=["adapter", "all weights"])
def test_a_training_on_the_servers_rollouts_makes_the_updates_of_one_that_samples_for_itself(
    folder: Path, server: VLLMStandIn, tmp_path: Path, lora: LoraParams | None
) -> None:
    same = {"lora": lora, "total_episodes": 24}
    given = {"prompts": PROMPTS, "held_out": HELD_OUT, "choose_on": CHOOSE_ON}
    local = train_ppo(make_params(folder, **same), letters, **given)
    by_server = make_params(folder, sampler="vllm", vllm=section(server), **same)
    served = train_ppo(by_server, letters, **given, run=Run(tmp_path))
    assert local.samples["response"].tolist() == served.samples["response"].tolist()
    assert local.judged["response"].tolist() == served.judged["response"].tolist()
    for name, value in weights(local).items():
        torch.testing.assert_close(weights(served)[name], value, atol=2e-5, rtol=0)
    # Were the weights stale by one update, the server's log-probabilities would be far from the policy's.
    assert served.history["sampler_kl"].max() < 1e-10
    assert served.history["importance_mean"].tolist() == pytest.approx([1.0] * 3, abs=1e-4)
    assert served.history["importance_truncated"].max() == 0
    assert "sampler_kl" not in local.history
    assert set(served.history) <= RESERVED_JUDGES | {"seconds"}
    versions = [body["model"] for body in server.posted("/v1/completions")]
    assert len(set(versions)) == (4 if lora else 1)
    (left,) = (tmp_path / "models").glob(".realm-*/*")
    assert left.name == (versions[-1] if lora else server.version)
    assert list(server.adapters) == ([left.name] if lora else [])


def test_weights_are_handed_over_once_and_again_to_a_server_that_lost_them(
    folder: Path, server: VLLMStandIn, tmp_path: Path
) -> None:
    for lora, path in ((LORA, "/v1/load_lora_adapter"), (None, "/collective_rpc")):
        policy = trainable(folder, lora=lora)
        sampler = VLLMSampler(section(server), "ppo", tmp_path)
        first = drawn(sampler, policy)
        drawn(sampler, policy)
        assert len(server.posted(path)) == 1
        server.restart()
        again = drawn(sampler, policy)
        assert len(server.posted(path)) == 2
        expected = sample(policy, **asked_of(policy))
        assert [row.ids for row in first] == [row.ids for row in again] == [row.ids for row in expected]
        of_policy = response_log_probs(
            policy.model, asked_of(policy)["prompt_ids"], [row.ids for row in first], temperature=0.8
        )
        for row, own in zip(first, of_policy, strict=True):
            assert row.log_probs is not None
            np.testing.assert_allclose(row.log_probs, own, atol=1e-4)


def test_another_process_does_not_take_the_servers_weights_for_its_own(
    folder: Path, server: VLLMStandIn, tmp_path: Path
) -> None:
    """A killed training comes back with weights of an earlier step, or of the same step drawn otherwise."""
    policy, sampler = trainable(folder, lora=LORA), VLLMSampler(section(server), "ppo", tmp_path)
    ahead = sampler.synchronise(policy, 3)
    other = server.adapters["somebody-elses"] = server.adapters[ahead]
    with torch.no_grad():
        for name, value in policy.model.named_parameters():
            if "lora_B" in name:
                value.mul_(2)
    resumed = VLLMSampler(section(server), "ppo", tmp_path)
    version = resumed.synchronise(policy, 3)
    assert version != ahead
    assert server.adapters.keys() == {"somebody-elses", version}
    assert server.adapters["somebody-elses"] is other
    with pytest.raises(SamplerError, match=rf"{ahead} failed: .*answered 404 .*does not exist"):
        sampler.sample(policy, version=ahead, **asked_of(policy))


def test_a_server_that_knows_no_versions_is_given_the_weights_by_each_process(folder: Path, tmp_path: Path) -> None:
    policy = trainable(folder)
    with running_vllm(folder, versions=False) as server:
        sampler = VLLMSampler(section(server), "ppo", tmp_path)
        expected = [row.ids for row in sample(policy, **asked_of(policy))]
        assert [row.ids for row in drawn(sampler, policy)] == expected
        drawn(sampler, policy)
        VLLMSampler(section(server), "ppo", tmp_path).synchronise(policy, 1)
        assert len(server.posted("/collective_rpc")) == len(server.posted("/reset_prefix_cache")) == 2


def test_a_resumed_training_hands_its_weights_over_again(folder: Path, tmp_path: Path) -> None:

    def trainer(server: VLLMStandIn, run: Path) -> PPOTrainer:
        torch.manual_seed(0)
        params = make_params(folder, lora=LORA, total_episodes=32, sampler="vllm", vllm=section(server))
        policy = load_policy(params.ppo, trainable=True)
        return PPOTrainer(params, policy, letters, PROMPTS, held_out=HELD_OUT, run=Run(run))

    with running_vllm(folder) as server:
        whole = trainer(server, tmp_path / "whole").train()
        killed = trainer(server, tmp_path / "killed")
        server.faults.append(Fault(400, stays=True, only_if=lambda path: path == "/v1/completions" and len(done) == 3))
        done = killed.state.history
        with pytest.raises(SamplerError, match="answered 400"):
            killed.train()
    with running_vllm(folder) as elsewhere:  # another port: where the server is does not make it another training
        resumed = trainer(elsewhere, tmp_path / "killed").train()
        assert len(elsewhere.posted("/v1/load_lora_adapter")) == 3, "after updates 2, 3 and 4; not from the start"
    assert resumed.history["step"].tolist() == [1, 2, 3, 4]
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name


def test_requests_are_spread_and_each_server_is_given_the_weights(folder: Path, tmp_path: Path) -> None:
    policy = trainable(folder, lora=LORA)
    with running_vllm(folder, key="s3cret") as one, running_vllm(folder, key="s3cret") as two:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VLLM_API_KEY", "s3cret")
            rows = drawn(VLLMSampler(section(one, two, api_key="${VLLM_API_KEY}"), "ppo", tmp_path), policy)
            patch.setenv("VLLM_API_KEY", "wr0ng")
            wrong = VLLMSampler(section(one, api_key="${VLLM_API_KEY}"), "ppo", tmp_path)
            with pytest.raises(SamplerError, match=r"401 \(the key is not accepted.*Bearer \$\{VLLM_API_KEY\}"):
                wrong.synchronise(policy, 1)
            patch.delenv("VLLM_API_KEY")
            with pytest.raises(ParamsError, match="VLLM_API_KEY is not set"):
                VLLMSampler(section(one, api_key="${VLLM_API_KEY}"), "ppo", tmp_path)
        assert [len(server.posted("/v1/completions")) for server in (one, two)] == [4, 4]
    assert [row.ids for row in rows] == [row.ids for row in sample(policy, **asked_of(policy))]


def test_a_passing_fault_is_asked_again(folder: Path, server: VLLMStandIn, tmp_path: Path) -> None:
    policy, sampler = trainable(folder, lora=LORA), VLLMSampler(section(server), "ppo", tmp_path)
    server.faults += [
        Fault(503, only_if=lambda path: path == "/v1/models"),
        Fault(cut_off=True, only_if=lambda path: path == "/v1/load_lora_adapter"),
        Fault(429, headers={"Retry-After": "0"}, only_if=lambda path: path == "/v1/completions"),
        Fault(cut_off=True, only_if=lambda path: path == "/v1/completions"),
    ]
    assert [row.ids for row in drawn(sampler, policy)] == [row.ids for row in sample(policy, **asked_of(policy))]
    assert server.faults == []
    server.faults.append(Fault(503, stays=True))
    with pytest.raises(SamplerError, match=r"after update 2 could not be handed over: .* 503.*\(tried 3 times\)"):
        sampler.synchronise(policy, 2)


def _choice(answer: dict[str, Any]) -> Any:
    return answer["choices"][0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda answer: answer.update(choices=[]), "not enough values"),
        (lambda answer: answer["choices"].append(_choice(answer)), "too many values"),
        (lambda answer: answer.clear(), "KeyError: 'choices'"),
        (lambda answer: _choice(answer).pop("token_ids"), "KeyError: 'token_ids'"),
        (lambda answer: _choice(answer).update(token_ids=None), "return_token_ids"),
        (lambda answer: _choice(answer)["token_ids"].clear(), "return_token_ids"),
        (lambda answer: _choice(answer).update(logprobs=None), "TypeError"),
        (lambda answer: _choice(answer)["logprobs"]["token_logprobs"].pop(), "log-probabilities for"),
        (lambda answer: _choice(answer)["logprobs"]["token_logprobs"].__setitem__(0, 0.5), "processed|logprobs-mode"),
        (lambda answer: _choice(answer)["prompt_token_ids"].insert(0, 1), "answers another prompt"),
        (lambda answer: _choice(answer).update(finish_reason="abort"), "finish_reason 'abort'"),
        (
            lambda answer: _choice(answer).update(
                token_ids=[5], logprobs={"token_logprobs": [-1.0]}, finish_reason="length"
            ),
            "cut after 1 of 6 tokens: raise the server's --max-model-len",
        ),
    ],
)
def test_an_answer_that_is_not_one_whole_response_is_refused(
    folder: Path, server: VLLMStandIn, tmp_path: Path, change: Callable[[Any], None], says: str
) -> None:
    policy, sampler = trainable(folder, lora=LORA), VLLMSampler(section(server), "ppo", tmp_path)
    server.faults.append(Fault(change=change, only_if=lambda path: path == "/v1/completions"))
    with pytest.raises(SamplerError, match=rf"the answer to prompt \d cannot be used: .*({says})"):
        drawn(sampler, policy)


def test_garbage_and_no_server_are_named(folder: Path, server: VLLMStandIn, tmp_path: Path) -> None:
    policy, sampler = trainable(folder, lora=LORA), VLLMSampler(section(server), "ppo", tmp_path)
    for body in (b"<html>", b"[]", b'{"data": [{}]}'):
        server.faults.append(Fault(body=body))
        with pytest.raises(SamplerError, match="an answer that cannot be read"):
            sampler.synchronise(policy, 1)
    nobody = VLLMParams(urls=["http://127.0.0.1:9"], max_attempts=1)
    with pytest.raises(SamplerError, match=r"the connection to vLLM at http://127.0.0.1:9 failed"):
        VLLMSampler(nobody, "ppo", tmp_path).synchronise(policy, 1)
    with pytest.raises(PolicyError, match="prompt 0 has no tokens"):
        sampler.sample(policy, version="", **{**asked_of(policy), "prompt_ids": [[]] * 8})
    with pytest.raises(SamplerError, match="this training has no run"):
        sampler_of(make_params(folder, sampler="vllm", vllm=section(server)).ppo, "ppo", None)


def test_a_folder_that_the_server_calls_otherwise(folder: Path, server: VLLMStandIn, tmp_path: Path) -> None:
    (tmp_path / "mount").symlink_to(tmp_path / "weights")
    params = section(server, folder_at_server=str(tmp_path / "mount"), model=BASE)
    policy = trainable(folder)
    rows = drawn(VLLMSampler(params, "ppo", tmp_path / "weights"), policy)
    assert [row.ids for row in rows] == [row.ids for row in sample(policy, **asked_of(policy))]
    (call,) = server.posted("/collective_rpc")
    assert call["kwargs"]["weights_path"].startswith(str(tmp_path / "mount" / ".realm-ppo-weights"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"sampler": "vllm"}, "sampler vllm needs the section vllm"),
        ({"vllm": {"urls": ["http://127.0.0.1:1"]}}, "the section needs sampler vllm"),
        ({"sampler": "vllm", "vllm": {"urls": []}}, "urls"),
        ({"sampler": "vllm", "vllm": {"urls": ["http://127.0.0.1:1/v1"]}}, "without /v1"),
        ({"sampler": "vllm", "vllm": {"urls": ["http://me:you@host"]}}, "is not an address"),
        ({"sampler": "vllm", "vllm": {"urls": ["http://node3:1"], "api_key": "${KEY}"}}, "the key travels"),
        ({"importance_cap": 0.5}, "importance_cap"),
    ],
)
def test_parameters_of_samplers_that_do_not_go_together(folder: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        make_params(folder, **changes)


def test_the_parameters_hold_no_key(folder: Path) -> None:
    vllm = {"urls": ["http://127.0.0.1:1"], "api_key": "${VLLM_API_KEY}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_API_KEY", "s3cret")
        params = make_params(folder, sampler="vllm", vllm=vllm)
        sampler = sampler_of(params.ppo, "ppo", folder)
    assert "s3cret" not in json.dumps(params.model_dump(mode="json")) + repr(params) + repr(vars(sampler))


# Continuous batching


@pytest.mark.parametrize("lora", [LORA, None], ids=["adapter", "all weights"])
def test_continuous_batching_draws_from_the_policy_and_says_how_likely_it_was(
    folder: Path, lora: LoraParams | None
) -> None:
    policy, sampler = trainable(folder, lora=lora), ContinuousSampler()
    asked = asked_of(policy)
    before = torch.get_rng_state()
    rows = sampler.sample(policy, version=sampler.synchronise(policy, 1), **asked)
    assert torch.equal(torch.get_rng_state(), before)
    assert [row.ids for row in sampler.sample(policy, version="", **asked)] == [row.ids for row in rows]
    other = sampler.sample(policy, version="", **{**asked, "seeds": range(1, 9)})
    assert [row.ids for row in other] != [row.ids for row in rows]
    own = response_log_probs(policy.model, asked["prompt_ids"], [row.ids for row in rows], temperature=0.8)
    for row, expected in zip(rows, own, strict=True):
        assert row.log_probs is not None
        np.testing.assert_allclose(row.log_probs, expected, atol=1e-5)
        assert row.ended == (row.ids[-1] in policy.end_ids)
        assert row.ended or len(row.ids) == 6
    greedy = {**asked, "temperature": 0.0}
    likeliest = [row.ids for row in sampler.sample(policy, version="", **greedy)]
    assert likeliest == [row.ids for row in sample(policy, **greedy)]


def test_a_training_by_continuous_batching(folder: Path) -> None:
    params = make_params(folder, sampler="continuous", total_episodes=16, evaluate_every=2)
    result = train_ppo(params, letters, PROMPTS, held_out=HELD_OUT)
    assert result.history["sampler_kl"].max() < 1e-8
    assert len(result.history) == 2
