"""`wbrag ablate` as a file for `ray job submit`; `python jobs/ablate.py --help` says what it takes."""

import sys

from wbrag.command.program import main

if __name__ == "__main__":
    raise SystemExit(main(["ablate", *sys.argv[1:]]))
