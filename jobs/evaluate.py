"""Measure a trained knowledge base on another test file: the settings of the training, with another benchmark.test.

    python jobs/evaluate.py benchmark=files benchmark.train=F benchmark.test=OTHER corpus=F run_dir=DIR

Sweeps and exit codes as those of jobs/train.py.
"""

from __future__ import annotations

import hydra
from command_line import point, print_results, settings, start
from omegaconf import DictConfig

from wbrag.config import TrainConfig
from wbrag.run.pipeline import evaluate


@hydra.main(version_base="1.3", config_path="../conf", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    """Evaluate, then print the table of results and where the report is."""
    with point() as session:
        typed = settings(cfg, TrainConfig)
        folder, metrics = evaluate(typed, session)
        print_results(metrics, typed.k, folder)


if __name__ == "__main__":
    start(main)
