#!/usr/bin/env python
"""Django's command line for the demo. Run it from the project root, where the worker finds its exports too."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Run the command that the arguments name."""
    # Python has put this file's folder first in sys.path, but the demo is imported from the project root.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.django_app.settings")

    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
