"""`python -m aded.cli`."""

from aded.cli import main

main()
