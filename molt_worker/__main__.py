"""``python -m molt_worker`` is ``molt-worker``."""

import sys

from molt_worker.cli.main import main

sys.exit(main())
