"""The keys that reward models and embedding models at a service share."""

from typing import Any

import pytest

from realm_lib.config.base import ParamsError
from realm_lib.config.hosted import HostedParams
from realm_lib.config.profile import Params

NIM = ("reward_model", {"backend": "nim", "model_id": "nvidia/llama-3.1-nemotron-70b-reward"})
GEMINI = ("embedding", {"backend": "gemini", "model_id": "gemini-embedding-001"})
BOTH = pytest.mark.parametrize(("section", "model"), [NIM, GEMINI], ids=["nim", "gemini"])


@BOTH
def test_both_sections_have_the_keys_flat_and_after_the_model(section: str, model: dict[str, Any]) -> None:
    params = Params.from_sections(**{section: model | {"timeout": 5.0, "api_key": "${MY_KEY}"}})
    hosted = getattr(params, section)
    assert isinstance(hosted, HostedParams)
    assert (hosted.timeout, hosted.api_key, hosted.max_in_flight, hosted.max_attempts) == (5.0, "${MY_KEY}", 8, 6)
    assert list(type(hosted).model_fields)[:2] == ["backend", "model_id"]


@BOTH
@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("requests_per_minute", 0, r"\.requests_per_minute: Input should be greater than or equal to 1"),
        ("max_in_flight", 65, r"\.max_in_flight: Input should be less than or equal to 64"),
        ("timeout", 0.0, r"\.timeout: Input should be greater than 0"),
        ("max_attempts", 0, r"\.max_attempts: Input should be greater than or equal to 1"),
        ("retry_wait", -1.0, r"\.retry_wait: Input should be greater than 0"),
        ("api_endpoint", "http://proxy.example", ": api_endpoint must be https://HOST"),
        ("api_endpoint", "http://127.0.0.1.evil.example", ": api_endpoint must be https://HOST"),
        ("api_endpoint", "https://user:word@proxy.example", ": api_endpoint must be https://HOST"),
        ("api_endpoint", "ftp://proxy.example", ": api_endpoint must be https://HOST"),
        ("api_endpoint", "proxy.example", ": api_endpoint must be https://HOST"),
    ],
)
def test_what_cannot_be_asked_is_refused(section: str, model: dict[str, Any], key: str, value: Any, says: str) -> None:
    with pytest.raises(ParamsError, match=f"parameters cell: {section}{says}"):
        Params.from_sections(**{section: model | {key: value}})


@BOTH
@pytest.mark.parametrize(
    "address", ["https://proxy.example", "http://127.0.0.1:9", "http://localhost/", "http://[::1]:8"]
)
def test_a_key_travels_over_https_or_within_this_machine(section: str, model: dict[str, Any], address: str) -> None:
    assert (
        getattr(Params.from_sections(**{section: model | {"api_endpoint": address}}), section).api_endpoint == address
    )


def test_an_address_has_a_path_for_nim_only() -> None:
    path = {"api_endpoint": "https://proxy.example/v1"}
    assert Params.from_sections(reward_model=NIM[1] | path).reward_model.api_endpoint == "https://proxy.example/v1"
    with pytest.raises(ParamsError, match="embedding: api_endpoint must be https://HOST without a path"):
        Params.from_sections(embedding=GEMINI[1] | path)


VLLM = {"backend": "vllm", "model_id": "some/model", "endpoints": ["http://gpu-7:8000"]}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"endpoints": None}, "backend vllm needs endpoints"),
        ({"endpoints": []}, "List should have at least 1 item"),
        ({"backend": "inform"}, "endpoints need backend vllm"),
        ({"endpoints": ["http://gpu-7:8000/v1"]}, "without /v1"),
        ({"endpoints": ["gpu-7:8000"]}, "is not an address"),
        ({"endpoints": ["http://a:1", "http://a:1"]}, "stands there twice"),
        ({"api_key": "${VLLM_API_KEY}"}, "endpoints must be https://HOST"),
        ({"quantization": "4bit"}, "quantization must be null: backend vllm"),
        ({"requests_per_minute": 60}, "requests_per_minute must be null: backend vllm"),
        ({"api_endpoint": "https://proxy.example"}, "api_endpoint must be null: backend vllm"),
    ],
)
def test_endpoints_of_a_served_model(changes: dict[str, Any], says: str) -> None:
    assert Params.from_sections(reward_model=VLLM).reward_model.endpoints == VLLM["endpoints"]
    with pytest.raises(ParamsError, match=says):
        Params.from_sections(reward_model=VLLM | changes)
