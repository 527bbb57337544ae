"""Make questions with answers of documents, for who has none to train on.

    python jobs/make_questions.py corpus=DIR out=questions.jsonl count=200 backbone.model=NAME backbone.base_url=URL
    python jobs/train.py benchmark=files benchmark.train=questions.jsonl corpus=DIR run_dir=DIR

The generator asks one question of a passage and answers it back from that passage; what is not found again is left out.
Any backbone will do. Exit codes as those of jobs/train.py.
"""

from __future__ import annotations

import hydra
from command_line import exit_codes, settings, start
from omegaconf import DictConfig

from wbrag.config import QuestionsConfig
from wbrag.run.questions import make_questions


@hydra.main(version_base="1.3", config_path="../conf", config_name="make_questions")
def main(cfg: DictConfig) -> None:
    """Make them, then print how many there are."""
    with exit_codes():
        typed = settings(cfg, QuestionsConfig)
        made, left = make_questions(typed)
        print(f"{typed.out}: {len(made):,} questions; {len(left):,} passages gave none")


if __name__ == "__main__":
    start(main)
