"""Preference pairs: those of people as they are, those of the policy as a plain loop makes them, none held out."""
# ruff: noqa: ARG001, ARG005, the signature of a reward is what is tested

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dpo_run import make_params
from support.ppo_run import PROMPTS, letters, make_policy

from realm_lib.config.base import ParamsError
from realm_lib.config.profile import load_params
from realm_lib.config.rlhf import SamplingParams
from realm_lib.rlhf.dpo.material import load_material
from realm_lib.rlhf.dpo.pairs import PreferencePairs, choose_pairs
from realm_lib.rlhf.dpo.training import make_pairs
from realm_lib.rlhf.errors import DPOError, RewardError, SampleError
from realm_lib.rlhf.policies import Policy, PolicyError, encode_prompts, load_policy
from realm_lib.rlhf.samples import SampleStore, policy_identity

pytestmark = pytest.mark.slow

WORDS = st.lists(st.sampled_from(["yeast", "gas", "gluten", "dough"]), max_size=4).map(" ".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    return load_policy(make_params(folder).dpo)  # type: ignore[arg-type]


# From the policy's own responses


def gestalt(first: list[str], second: list[str]) -> int:
    """Matches by Ratcliff and Obershelp: the longest stretch in common, then what is left and right of it."""
    for size in range(len(first), 0, -1):
        for i in range(len(first) - size + 1):
            for j in range(len(second) - size + 1):
                if first[i : i + size] == second[j : j + size]:
                    return size + gestalt(first[:i], second[:j]) + gestalt(first[i + size :], second[j + size :])
    return 0


def common_share(first: str, second: str) -> float:
    left, right = sorted([first.split(), second.split()])
    return 2 * gestalt(left, right) / (len(left) + len(right)) if left or right else 1.0


def by_a_plain_loop(
    responses: list[str], rewards: list[float], ended: list[bool], selection: str, margin: float, near: float
) -> list[tuple[int, int]]:
    first_places = [i for i in range(len(responses)) if responses[i] not in responses[:i]]
    pairs = []
    for i in first_places:
        for j in first_places:
            if ended[i] and rewards[i] > rewards[j] and rewards[i] - rewards[j] >= margin:
                pairs.append((i, j))
    if selection == "best_vs_worst" and pairs:
        best, worst = next(place for place in first_places if ended[place]), first_places[0]
        for place in first_places:
            if ended[place] and rewards[place] > rewards[best]:
                best = place
            if rewards[place] < rewards[worst]:
                worst = place
        pairs = [(best, worst)]
    return sorted(pair for pair in pairs if common_share(responses[pair[0]], responses[pair[1]]) < near)


@settings(max_examples=300, deadline=None)
@given(
    rows=st.lists(
        st.tuples(WORDS, st.sampled_from([-1.0, 0.0, 0.25, 0.5, 2.0]) | st.floats(-3, 3), st.booleans()), max_size=7
    ),
    selection=st.sampled_from(["best_vs_worst", "all_above_margin"]),
    margin=st.sampled_from([0.0, 0.25, 1.5]),
    near=st.sampled_from([0.5, 0.8, 1.0]),
)
def test_pairs_are_those_of_a_plain_loop(rows: Any, selection: Any, margin: float, near: float) -> None:
    responses, rewards, ended = ([row[part] for row in rows] for part in range(3))
    pairs, reason = choose_pairs(responses, rewards, ended, selection=selection, min_margin=margin, near_duplicate=near)
    assert pairs == by_a_plain_loop(responses, rewards, ended, selection, margin, near)
    assert bool(reason) == (not pairs)
    for chosen, rejected in pairs:
        assert rewards[chosen] > rewards[rejected], "a tie never makes a pair"
        assert responses[chosen] != responses[rejected]
        assert ended[chosen], "what was cut is never an example"


@pytest.mark.parametrize(
    ("responses", "rewards", "ended", "reason"),
    [
        (["gas", "gas ", " gas"], [1.0, 2.0, 3.0], [True] * 3, "all samples are identical"),
        (["gas", "yeast"], [1.0, 1.0], [True] * 2, "all samples have the same reward"),
        (["gas", "yeast"], [1.0, 3.0], [False] * 2, "no sample ended within max_new_tokens"),
        (["gas", "yeast"], [1.0, 3.0], [True, False], "the better samples were cut at max_new_tokens"),
        (["gas", "yeast"], [1.0, 1.2], [True] * 2, "no two samples differ by min_margin 0.5"),
        (
            ["gas, yeast, " * 9, "gas, yeast, " * 9 + "!"],
            [1.0, 3.0],
            [True] * 2,
            "chosen and rejected are near-duplicates",
        ),
    ],
)
def test_a_prompt_that_makes_no_pair_has_a_reason(
    responses: list[str], rewards: list[float], ended: list[bool], reason: str
) -> None:
    options = {"min_margin": 0.5, "near_duplicate": 0.9}
    for selection in ("best_vs_worst", "all_above_margin"):
        found = choose_pairs(responses, rewards, ended, selection=selection, **options)  # type: ignore[arg-type]
        assert found == ([], reason)


@pytest.mark.parametrize("selection", ["best_vs_worst", "all_above_margin"])
def test_the_pairs_of_a_policy_are_its_own_samples_ranked_by_the_reward(folder: Path, selection: Any) -> None:
    params = make_params(folder, selection=selection, min_margin=0.02, near_duplicate=1.0)
    found = make_pairs(params, letters, PROMPTS)
    policy = load_policy(params.dpo)  # type: ignore[arg-type]
    encoded = encode_prompts(policy.tokenizer, PROMPTS, params.sampling.max_prompt_tokens)
    identity = policy_identity(params.dpo, None)  # type: ignore[arg-type]
    drawn = SampleStore(None, identity, params.sampling, params.dpo.seed).draw(policy, encoded.ids, range(4))  # type: ignore[union-attr]
    expected = []
    for place, ids, answers in zip(encoded.kept, encoded.ids, drawn, strict=True):
        rewards = [letters([], [answer.text])[0] for answer in answers]
        texts, ended = [one.text for one in answers], [one.ended for one in answers]
        for a, b in by_a_plain_loop(texts, rewards, ended, selection, 0.02, 1.0):
            margin = pytest.approx(rewards[a] - rewards[b])
            expected.append((PROMPTS[place], ids, answers[a].ids, answers[b].ids, margin))
    columns = ["prompt", "prompt_ids", "chosen_ids", "rejected_ids", "margin"]
    assert list(found.table[columns].itertuples(index=False, name=None)) == expected
    assert len(found) + sum(found.dropped.values()) >= found.asked == len(PROMPTS)
    assert found.report().startswith(f"{len(found)} pairs from 23 prompts")


def test_the_reward_is_asked_once_a_sample_and_its_failure_names_the_prompt(folder: Path) -> None:
    asked: list[str] = []

    def counting(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        asked.extend(prompts)
        return letters(prompts, completions)

    make_pairs(make_params(folder), counting, [*PROMPTS, f"  {PROMPTS[0]} "])
    assert len(asked) == 4 * len(PROMPTS), "equal prompts count once"

    def broken(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
        return [math.nan if prompt == PROMPTS[5] else 1.0 for prompt in prompts]

    with pytest.raises(RewardError, match="prompt 5"):
        make_pairs(make_params(folder), broken, PROMPTS)


def test_prompts_that_always_get_the_same_answer_are_counted(folder: Path) -> None:
    frozen = make_params(folder, {"temperature": 1e-4})  # as good as greedy
    found = make_pairs(frozen, letters, PROMPTS)
    assert len(found) == 0
    assert found.dropped == {"all samples are identical": 23}
    assert found.report() == "0 pairs from 23 prompts; left out: 23: all samples are identical"
    tied = make_pairs(make_params(folder), lambda prompts, completions: [0.0] * len(prompts), PROMPTS)
    assert tied.dropped == {"all samples have the same reward": 23}


def test_a_greedy_policy_cannot_make_pairs(folder: Path) -> None:
    with pytest.raises(DPOError, match="temperature must be above 0"):
        make_pairs(make_params(folder, {"temperature": 0.0}), letters, PROMPTS)


def test_long_prompts_are_left_out_and_counted(folder: Path) -> None:
    found = make_pairs(make_params(folder, {"max_prompt_tokens": 20}), letters, PROMPTS)
    assert found.dropped["longer than max_prompt_tokens 20"] > 0
    assert len(set(found.table["prompt"])) == len(found) < len(PROMPTS)


# Held out


def test_no_held_out_prompt_makes_a_pair(folder: Path) -> None:
    held = [PROMPTS[0], f"  {PROMPTS[3].replace(' ', '   ')} ", PROMPTS[7]]
    found = make_pairs(make_params(folder), letters, PROMPTS, held_out=held)
    assert found.asked == 20
    assert not {PROMPTS[0], PROMPTS[3], PROMPTS[7]} & set(found.table["prompt"])
    made_before = make_pairs(make_params(folder), letters, PROMPTS).without_prompts(held)
    pd.testing.assert_frame_equal(made_before.table, found.table)
    assert made_before.dropped["the prompt is held out"] == 3
    with pytest.raises(DPOError, match="all of them are held out"):
        make_pairs(make_params(folder), letters, held, held_out=held)


@pytest.mark.parametrize("pairs", ["on_policy", "human"])
def test_the_material_of_a_profile_holds_its_prompts_out(pairs: str) -> None:
    params = load_params("params/demo.yaml", [f"rlhf.dpo.pairs={pairs}", "rlhf.dpo.rounds=1"])
    data = params.data.model_copy(update={"splits": params.data.splits.model_copy(update={"train": 400, "test": 1600})})
    found = load_material(data, params.rlhf)
    held = {" ".join(prompt.split()) for prompt in found.held_out}
    assert len(held) == params.rlhf.sampling.held_out_prompts
    training = found.training if isinstance(found.training, list) else found.training["history"].tolist()
    assert training
    assert not held & {" ".join(prompt.split()) for prompt in training}
    if pairs == "human":
        assert found.held_out_pairs is not None
        assert {" ".join(prompt.split()) for prompt in found.held_out_pairs["history"]} == held
        assert {domain.split("_")[0] for domain in found.held_out_pairs["domain"]} == {"askbaking", "askphysics"}
    else:
        assert found.held_out_pairs is None


# Of people


def people(rows: int = 6) -> pd.DataFrame:
    """SHP's columns; A is preferred in even rows."""
    return pd.DataFrame(
        {
            "post_id": [f"p{n // 2}" for n in range(rows)],
            "history": [f"Why does bread {n // 2} rise?" for n in range(rows)],
            "human_ref_A": [f"Yeast makes gas {n}." for n in range(rows)],
            "human_ref_B": [f"No idea at all {n}." for n in range(rows)],
            "labels": [1 - n % 2 for n in range(rows)],
        }
    )


def test_people_s_pairs_are_taken_by_their_label(folder: Path, policy: Policy) -> None:
    params = make_params(folder, pairs="human", batch_size=2)
    found = make_pairs(params, letters, people())
    assert (found.kind, found.asked, len(found), found.dropped) == ("human", 6, 6, {})
    for n, row in found.table.iterrows():
        assert row["chosen"].startswith("Yeast" if int(n) % 2 == 0 else "No idea")  # type: ignore[call-overload]
        assert row["rejected"] != row["chosen"]
        ids = policy.tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["chosen"]}],
            return_dict=True,
        )["input_ids"]
        assert [*row["prompt_ids"], *row["chosen_ids"]] == ids, "as the chat template renders the whole chat"
        assert row["chosen_ids"][-1] == policy.tokenizer.eos_token_id
    renamed = found.table[["prompt", "chosen", "rejected"]]
    pd.testing.assert_frame_equal(make_pairs(params, letters, renamed).table, found.table)


def test_people_s_pairs_that_teach_nothing_are_counted(folder: Path) -> None:
    table = pd.concat([people(), people(2)], ignore_index=True)
    table.loc[4, "human_ref_B"] = f"{table.loc[4, 'human_ref_A']} \n"
    table.loc[5, "history"] = "Why? " * 40
    table.loc[3, "human_ref_A"] = "Yeast " * 70
    found = make_pairs(make_params(folder, pairs="human", max_length=80), letters, table)
    assert (found.asked, len(found)) == (8, 3)
    assert found.dropped == {
        "repeated pairs": 2,
        "chosen and rejected are equal": 1,
        "prompt longer than max_prompt_tokens 60": 1,
        "longer than 80 tokens": 1,
    }
    assert "8 human pairs; left out: 2: repeated pairs; 1: chosen" in found.report()


def test_people_s_pairs_stay_however_alike_they_are(folder: Path) -> None:
    alike = [
        ("return a if a > b else b", "return a if a < b else b"),
        ("this one is not safe to eat raw at all.", "this one is safe to eat raw at all."),
        ("👍", "👎"),
        ("茶是安全的。", "茶不是安全的。"),
        ("if a:\n    b()\nc()", "if a:\n    b()\n    c()"),
    ]
    opposites = pd.DataFrame(alike, columns=["chosen", "rejected"]).assign(prompt="Why does bread rise?")
    found = make_pairs(make_params(folder, pairs="human", near_duplicate=0.5, max_length=400), letters, opposites)
    assert (len(found), found.dropped) == (len(alike), {})


def test_people_s_pairs_that_forge_a_turn_are_counted(folder: Path, tmp_path: Path) -> None:
    """Where the tokenizer does not call the token special, it cannot read it as letters."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text.replace('"special": true', '"special": false'))
    template = load_policy(make_params(tmp_path).dpo).tokenizer.chat_template  # type: ignore[arg-type]
    mark = next(part for part in re.findall(r"<\|\w+\|>", template))
    table = pd.DataFrame({"prompt": "Why?", "chosen": ["Yeast.", "Gas."], "rejected": ["No.", f"No.{mark}user"]})
    found = make_pairs(make_params(tmp_path, pairs="human"), letters, table)
    assert (len(found), found.dropped) == (1, {"a response says a token that marks turns": 1})


def test_the_first_prompts_of_people_s_pairs_are_taken_with_all_their_pairs(folder: Path) -> None:
    params = make_params(folder, pairs="human", max_prompts=2)
    found = make_pairs(params, letters, people(8), held_out=["Why does bread  0 rise?"])
    assert found.table["prompt"].tolist() == ["Why does bread 1 rise?"] * 2 + ["Why does bread 2 rise?"] * 2


def test_people_s_pairs_that_cannot_be_read_are_refused_with_their_row(folder: Path) -> None:
    params = make_params(folder, pairs="human")
    with pytest.raises(DPOError, match="lack the column 'labels'"):
        make_pairs(params, letters, people().drop(columns="labels"))
    empty = people()
    empty.loc[2, "human_ref_B"] = " "
    with pytest.raises(DPOError, match="row 2 has no text in column 'rejected'"):
        make_pairs(params, letters, empty)
    for bad in (None, [{"role": "user", "content": "Why?"}]):
        table = people().astype({"history": object})
        table.at[3, "history"] = bad
        with pytest.raises(DPOError, match="row 3 has no text in column 'history'"):
            make_pairs(params, letters, table)
    with pytest.raises(DPOError, match="there are no pairs"):
        make_pairs(params, letters, people(), held_out=people()["history"])


def test_what_is_given_must_be_what_the_parameters_say(folder: Path) -> None:
    with pytest.raises(DPOError, match=r"rlhf\.dpo\.pairs is on_policy, but what was given is a table of pairs"):
        make_pairs(make_params(folder), letters, people())
    with pytest.raises(DPOError, match=r"rlhf\.dpo\.pairs is human, but what was given is prompts"):
        make_pairs(make_params(folder, pairs="human"), letters, PROMPTS)
    with pytest.raises(DPOError, match=r"rlhf\.dpo is missing"):
        make_pairs(make_params(folder).model_copy(update={"dpo": None}), letters, PROMPTS)
    with pytest.raises(DPOError, match=r"rlhf\.dpo is missing"):
        load_material(load_params("params/demo.yaml").data, make_params(folder).model_copy(update={"dpo": None}))


# Samples that are kept


def store(folder: Path | None, **changes: Any) -> SampleStore:
    sampling = {"max_prompt_tokens": 60, "max_new_tokens": 8, "batch_size": 5, **changes}
    return SampleStore(folder, "the policy", SamplingParams(**sampling), 1)


def test_a_response_does_not_depend_on_what_is_drawn_beside_it(policy: Policy, tmp_path: Path) -> None:
    ids = encode_prompts(policy.tokenizer, PROMPTS, 60).ids
    together = store(tmp_path).draw(policy, ids, range(6))
    alone = store(None, batch_size=1).draw(policy, [ids[8]], [4])
    assert alone == [[together[8][4]]]
    assert len({tuple(one.ids) for one in together[8]}) > 1
    again = store(tmp_path).draw(None, [ids[3], ids[3]], [5, 0])  # type: ignore[arg-type]  # nothing is drawn
    assert again == [[together[3][5], together[3][0]]] * 2
    with pytest.raises(AttributeError):
        store(tmp_path, temperature=0.5).draw(None, [ids[3]], [0])  # type: ignore[arg-type]  # other settings


def test_a_broken_file_of_samples_is_named_and_a_half_written_one_is_not_read(policy: Policy, tmp_path: Path) -> None:
    ids = encode_prompts(policy.tokenizer, PROMPTS[:5], 60).ids
    made = store(tmp_path)
    made.draw(policy, ids, [0])
    assert made.folder is not None
    (piece,) = made.folder.glob("*.jsonl")
    (made.folder / ".half.x1.jsonl").write_text(piece.read_text(encoding="utf-8")[:40], encoding="utf-8")
    assert len(store(tmp_path).draw(None, ids, [0])) == 5  # type: ignore[arg-type]
    lines = piece.read_text(encoding="utf-8").splitlines()
    for broken in (lines[1][:30], json.dumps({**json.loads(lines[1]), "ids": []}), json.dumps([1])):
        piece.write_text("\n".join([lines[0], broken, *lines[2:]]), encoding="utf-8")
        with pytest.raises(SampleError, match=rf"{piece.name}, line 2: not a sampled response. Delete the file"):
            store(tmp_path)
    piece.unlink()
    assert store(tmp_path).draw(policy, ids, [0])


def test_samples_are_known_by_the_weights_that_drew_them(folder: Path, tmp_path: Path) -> None:
    params = make_params(folder).dpo
    assert params is not None
    same = make_policy(tmp_path / "same")
    other = make_policy(tmp_path / "other", seed=1)
    identities = [
        policy_identity(params.model_copy(update={"model_name": str(where)}), None) for where in (folder, same, other)
    ]
    assert identities[0] == identities[1] != identities[2]
    assert policy_identity(params.model_copy(update={"dtype": "bfloat16"}), None) != identities[0]


def test_samples_of_a_hub_s_model_are_known_by_its_commit(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a download left it in the hub's cache; when main moves on, other weights answer."""
    params = make_params(Path("some/policy")).dpo
    assert params is not None
    place = tmp_path / "models--some--policy"
    (place / "refs").mkdir(parents=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SampleError, match="some/policy: cannot tell which commit of it is meant; give a revision"):
        policy_identity(params, None)
    found = []
    for commit in ("1" * 40, "2" * 40):
        shutil.copytree(folder, place / "snapshots" / commit)
        (place / "refs" / "main").write_text(commit)
        found.append(policy_identity(params, None))
    assert found[0] != found[1]
    assert found[0] == policy_identity(params.model_copy(update={"revision": "1" * 40}), None)


def test_a_policy_without_tokenizer_or_chat_template_is_refused(tmp_path: Path) -> None:
    bare = make_policy(tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(PolicyError, match="no chat template"):
        make_pairs(make_params(bare), letters, PROMPTS)
    for path in bare.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(PolicyError, match="holds no tokenizer"):
        make_pairs(make_params(bare), letters, PROMPTS)


def test_the_parameters_refuse_what_cannot_be_trained() -> None:
    for change, says in (
        ("rlhf.dpo.gradient_accumulation=3", "not a multiple of gradient_accumulation"),
        ("rlhf.dpo.quantization=4bit", "needs lora"),
        ("rlhf.dpo.lora={r: 4, alpha: 8.0, dropout: 0.1}", "dropout must be 0"),
        ("rlhf.dpo.beta=0", "greater than 0"),
        ("rlhf.dpo.samples_per_prompt=1", "greater than or equal to 2"),
        ("rlhf.dpo.selection=worst", "best_vs_worst"),
    ):
        with pytest.raises(ParamsError, match=says):
            load_params("params/demo.yaml", [change])


def test_pairs_made_elsewhere_need_only_their_tokens() -> None:
    table = pd.DataFrame({"prompt": ["a  b", "b"], "chosen_ids": [[1], [2]], "rejected_ids": [[3], [4]]})
    made = PreferencePairs(table, "on_policy", 2)
    assert made.without_prompts(["c"]) is made
    assert len(made.without_prompts([[{"role": "user", "content": "a b "}]])) == 1
