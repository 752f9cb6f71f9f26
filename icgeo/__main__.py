"""`python -m icgeo` is the command `icgeo`."""

import sys

from icgeo.cli import main

sys.exit(main())
