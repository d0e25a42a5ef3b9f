"""``python -m featcache.cli``."""

import sys

from featcache.cli.app import main

sys.exit(main())
