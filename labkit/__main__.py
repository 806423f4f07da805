"""Run `labkit` as a module, as launchers of several processes do: `torchrun -m labkit train`."""

from labkit.cli import main

if __name__ == "__main__":
    main()
