"""`python -m muq_jax COMMAND`."""

import sys

from muq_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
