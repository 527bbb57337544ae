"""`python -m wbrag`: the command `wbrag`."""

from wbrag.command.program import main

if __name__ == "__main__":
    raise SystemExit(main())
