"""The documents: what they link to and name exists, their numbers are the reference's, and their snippets run."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
import yaml
from support.ppo_run import make_policy
from support.server_process import ServerProcess

from realm_lib import cli
from realm_lib.config.overrides import split_overrides
from realm_lib.config.profile import Params, dump_yaml, load_params
from realm_lib.report.documents import write_documents

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "examples", "notebooks", "params", "realm_lib")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS}
README = TEXTS["README.md"]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
BLOCKS = {name: FENCE.findall(text) for name, text in TEXTS.items()}
PROSE = {name: FENCE.sub("", text) for name, text in TEXTS.items()}
SPANS = {name: re.findall(r"`([^`]+)`", text) for name, text in PROSE.items()}
COMMANDS = [
    (name, line.strip())
    for name in TEXTS
    for code in [*(code for language, code in BLOCKS[name] if language == "bash"), *SPANS[name]]
    for line in code.replace("\\\n", " ").splitlines()
]

PYTHON = [name for name in TEXTS if any(language == "python" for language, _ in BLOCKS[name])]
BASH = [(name, code) for name in TEXTS for language, code in BLOCKS[name] if language == "bash"]
ELSEWHERE = {
    "docker ": "needs a container engine; test_dockerfile.py checks the file",
    "git clone": "needs a network; its make targets are checked here",
    "make": "takes minutes; tests/notebooks runs it, its targets and parameters are checked here",
    "papermill ": "takes minutes and a run; tests/notebooks runs it",
    "python examples/": "needs a run; tests/frameworks/real_clients.py asks as the trainers do",
    "ray ": "needs nodes with GPUs; the flags are those of the versions that examples/README.md names",
    "realm plan full": "asks the hub; tests/test_cli.py plans other profiles",
    "realm prepare full": "takes hours on GPUs; tests/rlhf/test_dpo_shares.py launches two processes",
    "realm evaluate": "needs a whole run; tests/report/test_benchmark.py runs it, its options are checked here",
    "realm serve": "does not end; the snippet of curl is run against it",
    "curl ": "runs with the server",
    "VLLM_": "needs vLLM and a GPU; tests/rlhf/test_samplers.py asks a stand-in",
    "vllm ": "needs vLLM; tests/models/test_vllm.py asks a stand-in, tests/frameworks/real_vllm.py vLLM itself",
}


def elsewhere(line: str) -> bool:
    return line.startswith(tuple(ELSEWHERE))


def section(text: str, heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of a text's Markdown tables, without heads, rules and emphasis."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    rules = [index for index, row in enumerate(cells) if set(row[0]) == {"-"}]
    return [row for index, row in enumerate(cells) if index not in rules and index + 1 not in rules]


# Links, files and names


def slugs(text: str) -> set[str]:
    """The anchors that GitHub gives a document's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", TEXTS)
def test_a_relative_link_leads_to_a_file_and_a_heading(name: str) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", PROSE[name]):
        if target.startswith("https://"):
            continue
        place, _, anchor = target.partition("#")
        file = (ROOT / name).parent / place if place else ROOT / name
        if not file.is_file() or (anchor and anchor not in slugs(file.read_text(encoding="utf-8"))):
            wrong.append(target)
    assert wrong == []


def test_every_document_can_be_reached_from_the_readme() -> None:
    reached, queue = {"README.md"}, ["README.md"]
    while queue:
        name = queue.pop()
        for target in re.findall(r"\]\(([^)#\s]+\.md)", PROSE[name]):
            file = ((ROOT / name).parent / target).resolve().relative_to(ROOT.resolve()).as_posix()
            if file not in reached:
                reached.add(file)
                queue.append(file)
    assert reached == set(TEXTS)


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_that_is_named_exists(name: str) -> None:
    code = "\n".join([*SPANS[name], *(code for _, code in BLOCKS[name])])
    named = set(re.findall(r"(?<![\w./-])((?:params|notebooks|realm_lib|tests|docs|outputs/reference)/[\w./-]*)", code))
    named |= {span for span in SPANS[name] if re.fullmatch(r"[\w.-]+\.(md|toml|txt|yml|cff)|Dockerfile", span)}
    made_up = {"params/X.yaml", "notebooks/07_name.ipynb"}  # a message and an instruction
    assert [file for file in sorted(named - made_up) if not (ROOT / file).exists()] == []


def exists(dotted: str) -> bool:
    """Whether a module of the library, or a name that its source holds, is called so."""
    place, parts = ROOT, dotted.split(".")
    while parts and ((place / parts[0]).is_dir() or (place / f"{parts[0]}.py").is_file()):
        place = place / parts.pop(0)
    files = [place.with_suffix(".py"), place / "__init__.py", place / "__init__.pyi"]
    source = "".join(file.read_text(encoding="utf-8") for file in files if file.is_file())
    return all(re.search(rf"\b{part}\b", source) for part in parts)


@pytest.mark.parametrize("name", [name for name in TEXTS if name != "CHANGELOG.md"])  # which names what is gone
def test_a_name_of_the_library_exists(name: str) -> None:
    named = {dotted for span in SPANS[name] for dotted in re.findall(r"realm_lib(?:\.\w+)+", span)}
    assert [dotted for dotted in sorted(named) if not exists(dotted)] == []


# Commands


def test_a_make_command_names_a_target_a_profile_and_parameters_that_exist() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^make (\w+) ", shown, flags=re.MULTILINE))
    profiles = {path.stem for path in (ROOT / "params").glob("*.yaml")}
    commands = [(name, line.partition("#")[0]) for name, line in COMMANDS if re.match(r"make\b(?!\.)", line)]
    assert len(commands) > 20
    for name, line in commands:
        words = re.sub(r'\b[A-Z_]+=("[^"]*"|\S+)', "", line).split()
        assert set(words[1:]) <= targets, f"{name}: {line}"
        profile = (re.findall(r"PROFILE=([\w.]+)", line) or ["demo"])[0]
        assert profile in profiles | {"NAME", "..."}, f"{name}: {line}"
        if found := re.search(r'SET="([^"]*)"', line):
            load_params(ROOT / "params" / f"{profile}.yaml", split_overrides(found[1]))


def test_a_realm_command_has_the_options_that_are_shown() -> None:
    commands: Any = typer.main.get_command(cli.app)
    shown = [
        (line, word, rest)
        for _, line in COMMANDS
        for word, rest in re.findall(r"(?<![\w-])realm ([a-z]+)([^|]*)", line)
    ]
    assert {word for _, word, _ in shown} >= {"predict", "score", "serve", "evaluate", "report"}
    for line, word, rest in shown:
        options = {option for param in commands.commands[word].params for option in param.opts}
        assert set(re.findall(r"(?<!\S)--[\w-]+", rest)) <= options, line


# What they say


def test_no_sentence_stands_twice() -> None:
    sentences = Counter(
        " ".join(sentence.split())
        for text in PROSE.values()
        for paragraph in re.split(r"\n\s*\n|^\s*(?:- |\d\. |#+ |\|.*$)", text, flags=re.MULTILINE)
        for sentence in re.split(r"(?<=[.:!?])\s+", paragraph.strip())
        if len(sentence) > 30
    )
    assert len(sentences) > 200
    assert [sentence for sentence, count in sentences.items() if count > 1] == []


def test_the_readme_is_a_front_door() -> None:
    assert len(README.encode()) < 9_000
    assert re.search(r"^make( +#.*)?$", README, flags=re.MULTILINE)
    assert re.search(r"^make test\b", README, flags=re.MULTILINE)
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README)
    assert len(pictures) == 2
    assert all((ROOT / picture).is_file() for picture in pictures)
    assert {row[0] for row in rows(section(README, "Profiles"))} == {"`demo`", "`local`", "`smol`", "`small`", "`full`"}
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    rooms = [row[0].strip("`/") for row in rows(section(README, "The ten rooms"))]
    assert ["cli", *rooms] == contract["layers"]


def test_no_document_has_a_gap() -> None:
    assert [name for name, text in TEXTS.items() if re.search(r"^[A-Z]+_TABLE$|TODO|TBD", text, re.MULTILINE)] == []


def test_the_demos_numbers_are_the_references() -> None:
    """`make tables` mends it; what it writes is tested in tests/report/test_words_demo.py."""
    assert write_documents(ROOT, check=True) == []


def test_every_measurement_has_a_day_and_a_command() -> None:
    parts = re.split(r"^## ", TEXTS["docs/measurements.md"], flags=re.MULTILINE)[1:]
    measured = [part for part in parts if re.search(r"\d", part)]
    assert len(measured) >= 6
    for part in measured:
        assert re.search(r"\b20\d\d-\d\d-\d\d\b", part), part[:60]
        assert re.search(r"`(make|python tests/(benchmarks|frameworks|rehearsal)/)", part), part[:60]


def test_the_citation_says_what_the_readme_says() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    authors = ", ".join(f"{one['given-names']} {one['family-names']}" for one in citation["authors"])
    assert f"author = {{{authors}}}" in README
    assert f"title = {{{citation['title']}}}" in README
    assert f"url = {{{citation['repository-code']}}}" in README
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["license"], citation["cff-version"]) == (project["license"], "1.2.0")


# Snippets


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, run_folder: Path) -> Path:
    """A folder with outputs/demo, its profile, a policy and pairs where the snippets want them."""
    folder = tmp_path_factory.mktemp("docs")
    run = folder / "outputs" / "demo"
    shutil.copytree(run_folder, run)
    make_policy(run / "models" / "policy_sft", max_position_embeddings=1024)
    (folder / "params").mkdir()
    # The tokenizer of this policy knows fewer words than that of a run.
    changes = ["run.name=demo", "rlhf.sampling.max_prompt_tokens=900"]
    profile = dump_yaml(load_params(ROOT / "params" / "test.yaml", changes))
    for path in (folder / "params" / "demo.yaml", run / "params.yaml"):
        path.write_text(profile, encoding="utf-8")
    pair = {"prompt": "Why does bread rise?", "chosen": "Yeast makes gas.", "rejected": "No idea."}
    (folder / "pairs.jsonl").write_text(json.dumps(pair) + "\n", encoding="utf-8")
    return folder


def run_in(place: Path, command: list[str]) -> str:
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_snippet_is_run_or_has_a_reason() -> None:
    assert {language for blocks in BLOCKS.values() for language, _ in blocks} == {"python", "bash", "yaml", "bibtex"}
    firsts = [code.split("\n")[0] for _, code in BASH]
    assert [start for start in ELSEWHERE if not any(line.startswith(start) for line in firsts)] == []
    for name, code in BASH:
        if not elsewhere(code):
            assert not any(map(elsewhere, code.splitlines())), f"{name}: one block, one way of testing it"


def test_the_yaml_of_a_document_is_sections_of_a_profile() -> None:
    codes = [code for blocks in BLOCKS.values() for language, code in blocks if language == "yaml"]
    shown = [Params.from_sections(**yaml.safe_load(code)) for code in codes]
    kinds = {signal.kind for params in shown if "signals" in params.sections for signal in params.signals.values()}
    assert kinds == {"reward_model", "embedding", "length", "python"}, "an example of each"


@pytest.mark.slow
@pytest.mark.parametrize("name", PYTHON)
def test_the_python_of_a_document_runs_from_top_to_bottom(place: Path, name: str) -> None:
    code = "\n".join(code for language, code in BLOCKS[name] if language == "python")
    # A policy of one's own, and what a CPU needs: TRL's configs default to bf16 on a GPU.
    code = code.replace("path/to/your/policy", "outputs/demo/models/policy_sft")
    small = "max_steps=1, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to='none', save_strategy='no'"
    code = code.replace(
        "max_steps=2", f"{small}, max_completion_length=4, num_generations=2, per_device_train_batch_size=2"
    )
    shown = run_in(place, [sys.executable, "-c", code])
    if name == "realm_lib/rlhf/README.md":
        assert "DPO" in shown
        models = place / "outputs" / "demo" / "models"
        assert all((models / policy / "model.safetensors").exists() for policy in ("policy_ppo", "policy_dpo"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "code", [code for _, code in BASH if not elsewhere(code)], ids=lambda code: code.split("\n")[0]
)
def test_the_shell_of_a_document_runs(place: Path, code: str) -> None:
    shown = run_in(place, ["bash", "-euo", "pipefail", "-c", code])
    if code.startswith("realm predict"):
        assert shown.count('"reward": ') == 5
    elif code.startswith("realm score"):
        scored = pd.read_parquet(place / "scored.parquet")
        assert {"score_chosen", "score_rejected"} <= set(scored.columns)
    else:
        pytest.fail("what should this block give?")


@pytest.mark.slow
def test_the_server_answers_the_snippet_of_curl(place: Path) -> None:
    (curl,) = [code for _, code in BASH if code.startswith("curl")]
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    with ServerProcess(place / "outputs" / "demo") as server:
        server.wait_ready()
        shown = run_in(place, ["bash", "-c", curl.replace("http://127.0.0.1:8000", server.url)])
    assert '"reward":' in shown
