"""Run `labkit` as `python -m labkit.cli`."""

from labkit.cli.program import main

if __name__ == "__main__":
    main()
