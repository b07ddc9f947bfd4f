"""`python -m workbench` is the command line."""

import sys

if __name__ == "__main__":
    try:
        from workbench.cli import main
    except KeyboardInterrupt:  # interrupted while it still loads
        sys.exit(130)
    main()
