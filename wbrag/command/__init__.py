"""The command `wbrag`. program.py: its subcommands; jobs.py: those with settings, also for `ray job submit`;
reproduce.py: the paper's grid; check.py: what would fail; kb.py, units.py, runs.py: those that look at stores and runs.
command_line.py: what jobs share; overrides.py: settings as people type them; faults.py: errors in one sentence.
"""
