"""Entry point of `python -m flask_on_metal.simulate`."""

import sys

from flask_on_metal.simulate.cli import main

sys.exit(main())
