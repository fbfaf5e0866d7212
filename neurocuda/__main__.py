"""`python -m neurocuda` is the `neurocuda` command."""

from neurocuda.cli.app import main

if __name__ == "__main__":
    main()
