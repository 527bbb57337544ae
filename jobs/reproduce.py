"""`wbrag reproduce` as a file for `ray job submit`; `python jobs/reproduce.py --help` says what it takes."""

import sys

from wbrag.command.program import main

if __name__ == "__main__":
    raise SystemExit(main(["reproduce", *sys.argv[1:]]))
