"""YAML text: what is written is read back equal, by papermill too."""

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.profiles import profile, put, write

from realm_lib.config.profile import Params, dump_yaml, load_params


def finite(low: float, high: float | None = None) -> st.SearchStrategy[float]:
    return st.floats(low, high, exclude_min=True, allow_nan=False, allow_infinity=False)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(rate=finite(0.0), decay=finite(0.0), ratio=finite(1.0), dropout=st.floats(0.0, 1.0, exclude_max=True))
@example(rate=1e-05, decay=1e22, ratio=1e16, dropout=0.0)
@example(rate=5e-324, decay=1.7976931348623157e308, ratio=2.0, dropout=1e-7)
def test_what_is_written_is_read_back_equal_and_floats_are_floats(
    tmp_path_factory: pytest.TempPathFactory, rate: float, decay: float, ratio: float, dropout: float
) -> None:
    content = profile()
    content["training"] |= {"learning_rate": rate, "weight_decay": decay}
    content["data"]["min_score_ratio"] = ratio
    content["model"]["dropout"] = dropout
    params = Params.from_sections(**content)
    text = dump_yaml(params)
    plain = yaml.safe_load(text)  # what papermill reads
    found = [
        plain["training"]["learning_rate"],
        plain["training"]["weight_decay"],
        plain["data"]["min_score_ratio"],
        plain["model"]["dropout"],
    ]
    assert found == [rate, decay, ratio, dropout]
    assert all(type(value) is float for value in found)
    assert load_params(write(tmp_path_factory.getbasetemp(), text)) == params


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(model_id=st.text(), seed=st.integers(0, 2**32 - 1), domains=st.none() | st.lists(st.text(), max_size=3))
@example(model_id="a\x85\u2028b\u2029\r\n\ufeff", seed=0, domains=["\x85", "\x00\x7f", "\U0001f600", " \n "])
@example(model_id="1e-3", seed=0, domains=["yes", "null", "${X}", "1_000", "0x1f", "2026-01-01"])
def test_any_text_is_written_and_read_back_equal(
    tmp_path_factory: pytest.TempPathFactory, model_id: str, seed: int, domains: list[str] | None
) -> None:
    content = put(put(put(profile(), "reward_model.model_id", model_id), "run.seed", seed), "data.domains", domains)
    params = Params.from_sections(**content)
    assert load_params(write(tmp_path_factory.getbasetemp(), dump_yaml(params))) == params
