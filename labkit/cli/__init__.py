"""Run the command `labkit`.

program    the program itself: its mistakes, its exit codes, and the commands without a file
options    what every command does alike
answering, bench, checkpoints, serve, stats, sweep   commands, by what they call
"""

from labkit.cli.program import main

__all__ = ["main"]
