"""The README's snippets of DPO and of the comparison run as they stand, one after the other, on a small run."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.ppo_run import make_policy

ROOT = Path(__file__).parents[2]
SECTION = re.search(
    r"^## DPO and comparison\n(.*?)^## ",
    (ROOT / "README.md").read_text(encoding="utf-8"),
    flags=re.MULTILINE | re.DOTALL,
)
assert SECTION is not None
SNIPPETS = re.findall(r"^```python\n(.*?)^```$", SECTION[1], flags=re.MULTILINE | re.DOTALL)


@pytest.mark.slow
def test_the_snippets_train_and_compare(
    tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run_folder, tmp_path / "outputs" / "demo")
    make_policy(tmp_path / "outputs" / "demo" / "models" / "policy_sft", max_position_embeddings=1024)
    (tmp_path / "params").mkdir()
    profile = (ROOT / "params" / "test.yaml").read_text(encoding="utf-8")
    # The tokenizer of this policy knows fewer words than that of a run.
    profile = profile.replace("max_prompt_tokens: 200", "max_prompt_tokens: 900")
    (tmp_path / "params" / "demo.yaml").write_text(profile, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert len(SNIPPETS) == 2
    names: dict[str, Any] = {}
    for code in SNIPPETS:
        exec(code, names)
    found = names["result"].metrics()
    assert found["judge"] == "gold"
    assert found["pairs"] >= 4
    assert "DPO" in capsys.readouterr().out
    assert (tmp_path / "outputs" / "demo" / "models" / "policy_dpo" / "model.safetensors").exists()
