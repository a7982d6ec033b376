"""``python -m molt_worker`` is ``molt-worker``."""

import sys

from molt_worker.cli.serve import main

sys.exit(main())
