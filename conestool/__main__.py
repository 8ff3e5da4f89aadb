"""`python -m conestool` is `cones`, as torchrun and accelerate start it: `torchrun -m conestool find ...`."""

from conestool.cli.main import main

if __name__ == "__main__":
    main()
