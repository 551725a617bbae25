"""``python -m realm_lib`` is the command ``realm``."""

from realm_lib.cli import main

if __name__ == "__main__":
    main()
