"""Build the notebooks: `python -m labkit.course lessons [--execute]`, which `make sync` calls."""

import sys

from labkit.course.pairing import main

sys.exit(main())
