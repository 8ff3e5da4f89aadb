"""`python -m conestool.cli` is `cones`."""

from conestool.cli.main import main

if __name__ == "__main__":
    main()
