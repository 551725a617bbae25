"""A real vLLM with a reward model, beside the same model here: are scores the same, and are its traps found out?

Not a part of ``make test``: vLLM is an environment of its own. Start it on a model's folder, as::

    vllm serve FOLDER --runner pooling --dtype float32 --max-model-len 4096 --port 8000
    python tests/frameworks/real_vllm.py http://127.0.0.1:8000 FOLDER

``python tests/frameworks/real_vllm.py write FOLDER`` makes a small model of random weights that vLLM serves on a CPU.
Compares the texts of 100 pairs of the simulator, whole and cut to 96 tokens, and prints the time of both; then what is
said of a server without rewards, of another model's name and of a longer ``max_length``. An assertion fails where a
score differs by more than 1e-3 of the scores' spread (float32; pass 0.1 as the last argument for bfloat16).
"""

import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]


def write(folder: str) -> None:
    """A Llama of one label; vLLM's attention on a CPU takes heads of 32 and more."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from realm_lib.config.profile import load_params
    from realm_lib.data.pairs import load_pairs
    from realm_lib.models.offline import train_tokenizer

    pairs = load_pairs(load_params(TESTS.parent / "params" / "demo.yaml").data, "test")
    tokenizer = train_tokenizer([*pairs["history"][:200], *pairs["human_ref_A"][:200]], 2000)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    shape = {
        "max_position_embeddings": 4096,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
    }
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(
        LlamaConfig(
            **shape, **ids, num_key_value_heads=4, vocab_size=len(tokenizer), num_labels=1, initializer_range=0.1
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main(endpoint: str, folder: str, tolerance: str = "1e-3") -> None:
    from realm_lib.config.profile import load_params
    from realm_lib.config.reward_model import RewardModelParams
    from realm_lib.data.pairs import all_texts, load_pairs
    from realm_lib.models.reward_models import Scorer, ScorerError, build_scorer

    logging.getLogger("httpx").setLevel(logging.WARNING)
    texts = all_texts(load_pairs(load_params(TESTS.parent / "params" / "demo.yaml").data, "test")[:100])
    prompts, responses = texts["prompt"].tolist(), texts["response"].tolist()

    def built(**changes: Any) -> tuple[Scorer, Scorer]:
        section = {"model_id": folder, "max_length": 2048, "max_attempts": 2, "long_responses": "cut"}
        served = section | {"backend": "vllm", "endpoints": [endpoint], "max_in_flight": 32} | changes
        here = section | {"backend": "sequence_classification"} | {"max_length": served["max_length"]}
        return build_scorer(RewardModelParams(**served)), build_scorer(RewardModelParams(**here))

    for length in (2048, 96):
        served, here = built(max_length=length)
        times, scores = [], []
        for scorer in (served, here):
            began = time.perf_counter()
            scores.append(scorer.score(prompts, responses).astype(np.float64))
            times.append(time.perf_counter() - began)
        spread, difference = np.std(scores[1]), np.abs(scores[0] - scores[1]).max()
        print(
            f"{len(prompts)} texts of at most {length} tokens: largest difference {difference:.1e} of scores of spread "
            f"{spread:.2f}; {times[0]:.1f} s by vLLM, {times[1]:.1f} s here"
        )
        assert difference < float(tolerance) * spread, "another model, other tokens, or an activation"
    for name, changes in (
        ("a longer max_length", {"max_length": 4096 * 64}),
        ("another model's name", {"model_id": str(Path(folder) / ".." / Path(folder).name)}),
        ("a server that is not there", {"endpoints": ["http://127.0.0.1:9"], "retry_wait": 0.1}),
    ):
        try:
            print(f"{name}: {built(**changes)[0].score(prompts[:1], responses[:1])}")
        except ScorerError as error:
            print(f"{name}: {error}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write(*sys.argv[2:])
    elif len(sys.argv) in (3, 4):
        main(*sys.argv[1:])
    else:
        sys.exit(__doc__)
