"""What users import: every name from the top, for nothing until it is used; and the command by two names."""

import subprocess
import sys
from pathlib import Path

import pytest

import realm_lib

NAMES = (
    *("RealmReward", "Combiner", "Params", "Run", "load_params", "load_pairs", "load_judges"),
    *("build_scorer", "build_embedder", "extract_features", "evaluate_rewards"),
    *("train_ppo", "train_dpo", "compare_policies", "reward_func", "compute_score", "figures", "frameworks"),
)


def test_the_public_names_are_these() -> None:
    assert set(realm_lib.__all__) == set(NAMES)
    assert set(NAMES) <= set(dir(realm_lib))
    assert all(getattr(realm_lib, name) is not None for name in NAMES)
    assert realm_lib.__version__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="RealReward"):
        _ = realm_lib.RealReward


def test_the_frameworks_module_keeps_the_name_that_users_wrote() -> None:
    from realm_lib import frameworks
    from realm_lib.inference.frameworks import compute_score, reward_func

    assert frameworks.reward_func is reward_func is realm_lib.reward_func
    assert frameworks.compute_score is compute_score is realm_lib.compute_score


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["prepair"], 2)])
def test_the_package_is_the_command(arguments: list[str], code: int) -> None:
    command = [sys.executable, "-m", "realm_lib", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code
    shown = done.stdout + done.stderr
    assert "Usage: " in shown
    assert "__main__" not in shown


# What an import costs


def imported(code: str) -> set[str]:
    """The packages that a fresh interpreter has loaded after ``code``."""
    show = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{show}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HEAVY = {"torch", "transformers", "sentence_transformers", "sklearn", "scipy", "matplotlib", "datasets", "trl"}


def test_importing_the_package_loads_no_model_library() -> None:
    assert imported("import realm_lib").isdisjoint({*HEAVY, "pandas", "numpy", "pydantic", "yaml"})


def test_the_commands_that_make_calls_first_load_no_model_library() -> None:
    found = imported("import realm_lib.cli, realm_lib.runs.notebooks, realm_lib.report, realm_lib.runs.verification")
    assert found.isdisjoint({*HEAVY, "pandas", "papermill", "nbconvert"})


def test_the_reward_loads_only_what_it_computes_with() -> None:
    """Model libraries are for the models: importing the class does not load them."""
    found = imported("from realm_lib import RealmReward")
    assert found.isdisjoint({*HEAVY, "fastapi", "uvicorn"})


def test_a_room_is_imported_without_any_of_its_modules() -> None:
    rooms = sorted(path.parent.name for path in Path(realm_lib.__file__).parent.glob("*/__init__.py"))
    assert len(rooms) == 10
    found = imported(f"import {', '.join(f'realm_lib.{room}' for room in rooms)}")
    assert found.isdisjoint({*HEAVY, "pandas", "numpy", "pydantic"})
