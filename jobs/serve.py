"""Serve a knowledge base: `python jobs/serve.py KB`; `--help` says how."""

from __future__ import annotations

from wbrag.serve import main

if __name__ == "__main__":
    raise SystemExit(main())
