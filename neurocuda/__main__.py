"""`python -m neurocuda` is the `neurocuda` command."""

from neurocuda.cli import main

if __name__ == "__main__":
    main()
