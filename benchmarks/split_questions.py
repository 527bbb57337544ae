"""Another split of a folder of questions: `python benchmarks/split_questions.py DIR OUT --seed 1`.

All questions of DIR/train.jsonl and DIR/test.jsonl are shuffled by the seed; OUT gets the first as training and test
questions (`--train` and `--test`, 500 each), and the corpus. `make real DATA=OUT` runs on them.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path


def main() -> None:
    """Write OUT; an id that both files use would be two questions with one name, so every id gets its file's name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--test", type=int, default=500)
    args = parser.parse_args()
    rows = []
    for name in ("train", "test"):
        with (args.folder / f"{name}.jsonl").open(encoding="utf-8") as lines:
            told = [json.loads(line) for line in lines]
        rows += [row | {"id": f"{name}/{row['id']}"} for row in told]
    if args.train + args.test > len(rows):
        parser.error(f"{args.folder} has {len(rows)} questions, asked for are {args.train} + {args.test}")
    random.Random(args.seed).shuffle(rows)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, some in (("train", rows[: args.train]), ("test", rows[args.train : args.train + args.test])):
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in some)
        (args.out / f"{name}.jsonl").write_text(text, encoding="utf-8")
    shutil.copyfile(args.folder / "corpus.jsonl", args.out / "corpus.jsonl")


if __name__ == "__main__":
    main()
