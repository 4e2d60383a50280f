"""Entry point of `python -m flask_on_metal.bench`."""

import sys

from flask_on_metal.bench.cli import main

sys.exit(main())
