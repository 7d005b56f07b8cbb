"""`python -m benchmarks.peers ARGUMENTS`: what `aded ARGUMENTS` does, with the drafters of others to choose from."""

import benchmarks.peers  # noqa: F401 - registers them
from aded.cli import main

if __name__ == "__main__":
    main()
