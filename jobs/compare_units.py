"""`wbrag compare_units` as a file for `ray job submit`; `python jobs/compare_units.py --help` says what it takes."""

import sys

from wbrag.command.program import main

if __name__ == "__main__":
    raise SystemExit(main(["compare_units", *sys.argv[1:]]))
