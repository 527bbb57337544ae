"""`wbrag questions` as a file for `ray job submit`; `python jobs/make_questions.py --help` says what it takes."""

import sys

from wbrag.command.program import main

if __name__ == "__main__":
    raise SystemExit(main(["questions", *sys.argv[1:]]))
