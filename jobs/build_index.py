"""`wbrag index` as a file for `ray job submit`; `python jobs/build_index.py --help` says what it takes."""

import sys

from wbrag.command.program import main

if __name__ == "__main__":
    raise SystemExit(main(["index", *sys.argv[1:]]))
