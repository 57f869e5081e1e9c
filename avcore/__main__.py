"""``python -m avcore`` is the command ``avcore``, for environments whose scripts are not on the path."""

from avcore.cli import main

if __name__ == "__main__":
    main(prog_name="avcore")
