"""`python -m istd` is the command `istd`; under torchrun, `-m istd`."""

from .cli import main

main()
