"""Write a run's prompts as OpenRLHF (JSON lines) and verl (Parquet) read them: python write_prompts.py RUN FOLDER."""

import json
import sys
from pathlib import Path

import pandas as pd

from realm_lib import Run, load_params
from realm_lib.data.prompts import load_prompts


def main() -> None:
    """Prompts of the training and test splits of the run's data."""
    run, folder = Run.existing(sys.argv[1]), Path(sys.argv[2])
    params = load_params(run.path("params.yaml"))
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "test"):
        prompts = load_prompts(params.data, params.rlhf.sampling, split, run)
        lines = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
        rows = [
            {
                "data_source": "realm",
                "prompt": [{"role": "user", "content": prompt}],
                "reward_model": {"style": "model", "ground_truth": ""},
                "extra_info": {"index": number, "prompt": prompt},  # all that verl tells a reward of the prompt
            }
            for number, prompt in enumerate(prompts)
        ]
        pd.DataFrame(rows).to_parquet(folder / f"{split}.parquet")
        print(f"{split}: {len(prompts):,} prompts")


if __name__ == "__main__":
    main()
