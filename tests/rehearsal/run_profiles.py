"""Runs ``make PROFILE=small`` and ``make PROFILE=full`` from the download to the report, without the hub and Google.

``python tests/rehearsal/run_profiles.py FOLDER [PROFILE ...]`` with the environment's own Python, from anywhere.
FOLDER gets a new cache of the hub, the feature store and the runs. A local server speaks the hub's protocol and has,
under the names that the profiles say, tiny checkpoints of the same classes and an SHP-like set; another one speaks
Gemini's. What is changed is listed in CHANGES: the device, and sizes that bring the time down to minutes. A word
after ``--`` is a change of yours, as in SET. Not a part of ``make test``: a run takes four minutes on two cores.
"""

import os
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.faulty_server import running  # noqa: E402
from support.gemini_server import GeminiServer  # noqa: E402
from support.hub_server import TOKEN, HubServer  # noqa: E402
from support.shp_like import rows, write_shp  # noqa: E402
from support.tiny_hub import GATED, write_checkpoints  # noqa: E402

PAIRS = 240
"""Of each split of the SHP-like set."""
CHANGES = [
    *("reward_model.device_map=cpu", "data.splits.train=160", "data.splits.validation=60", "data.splits.test=80"),
    *("model.ensemble=2", "training.num_epochs=3"),
    *("rlhf.sampling.max_new_tokens=24", "rlhf.sampling.held_out_prompts=8"),
    *(
        "rlhf.ppo.total_episodes=16",
        "rlhf.ppo.batch_size=8",
        "rlhf.ppo.minibatch_size=8",
        "rlhf.ppo.samples_per_prompt=4",
    ),
    *("rlhf.ppo.gradient_accumulation=2", "rlhf.ppo.checkpoint_every=1", "rlhf.ppo.evaluate_every=1"),
    *("rlhf.dpo.max_prompts=16", "rlhf.dpo.batch_size=4", "rlhf.dpo.gradient_accumulation=2"),
    *("rlhf.dpo.checkpoint_every=2", "rlhf.dpo.evaluate_every=2"),
    *("rlhf.comparison.prompts=8", "rlhf.comparison.answers=2", "rlhf.comparison.best_of=[2,4]"),
    "rlhf.comparison.resamples=200",
]


def main() -> int:
    """Run the profiles one after another; the exit status of the first that fails, or 0."""
    given = sys.argv[1:]
    mine = given[given.index("--") + 1 :] if "--" in given else []
    folder, *profiles = given[: len(given) - len(mine) - ("--" in given)]
    place = Path(folder).resolve()
    repositories = place / "repositories"
    if not repositories.exists():
        write_shp(repositories, PAIRS)
        texts = islice(rows("train", ("askbaking", "askphysics")), PAIRS)
        write_checkpoints(repositories, [row[name][:2000] for row in texts for name in ("history", "human_ref_A")])
    with running(HubServer(repositories, GATED)) as hub, running(GeminiServer()) as gemini:
        for profile in profiles or ["small", "full"]:
            changes = [*CHANGES, f"run.output_dir={place}/outputs", f"data.preprocessing.cache_dir={place}/cache"]
            if profile == "full":
                changes.append(f"embedding.api_endpoint={gemini.url}")
            environment = os.environ | {
                **{"PYTHONPATH": str(ROOT)},
                **{"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": f"{place}/home"},
                **{"GEMINI_API_KEY": "a-key-of-this-test", "OMP_NUM_THREADS": "1"},
            }
            start = time.monotonic()
            status = subprocess.run(
                # -o: whoever runs this has installed the project; nothing is installed.
                [
                    "make",
                    "-o",
                    f"{BIN}/.installed",
                    f"BIN={BIN}",
                    f"PROFILE={profile}",
                    f"SET={' '.join([*changes, *mine])}",
                ],
                cwd=ROOT,
                env=environment,
                check=False,
            ).returncode
            print(
                f"{profile}: {'done' if status == 0 else 'failed'} after {time.monotonic() - start:.0f} s", flush=True
            )
            if status:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
