"""`python -m npdiff` is the command `npdiff`."""

from npdiff.app.cli import main

if __name__ == "__main__":
    main()
