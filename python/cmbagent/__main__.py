"""``python -m cmbagent`` is the command ``cmbagent``."""

from cmbagent.cli import main

if __name__ == "__main__":
    main()
