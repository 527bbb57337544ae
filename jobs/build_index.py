"""Build a base index from a corpus, or adopt a flat FAISS index that others built of it.

    python jobs/build_index.py corpus=corpus.jsonl store=DIR encoder=e5_base_v2
    python jobs/build_index.py corpus=corpus.jsonl store=DIR encoder=e5_base_v2 adopt=e5_Flat.index

Exit codes as those of jobs/train.py; the same command again resumes a build that was killed. What is adopted becomes a
flat store.
"""

from __future__ import annotations

import hydra
from command_line import exit_codes, settings, start
from omegaconf import DictConfig

from wbrag.config import BuildConfig
from wbrag.run.pipeline import build_index


@hydra.main(version_base="1.3", config_path="../conf", config_name="build_index")
def main(cfg: DictConfig) -> None:
    """Build or adopt, then print what the store holds."""
    with exit_codes():
        typed = settings(cfg, BuildConfig)
        made = build_index(typed)
        print(
            f"{typed.store}: version {made.version}, {made.rows:,} passages, {made.spec.kind}, encoder {made.encoder}"
        )


if __name__ == "__main__":
    start(main)
