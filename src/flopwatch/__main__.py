"""`python -m flopwatch` is `flopwatch`."""

from flopwatch.cli import main

if __name__ == "__main__":
    main()
