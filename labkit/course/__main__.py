"""`python -m labkit.course lessons [--execute]` builds the notebooks: what `make sync` calls."""

import sys

from labkit.course.pairing import main

sys.exit(main())
