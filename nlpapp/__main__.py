"""Lets ``python -m nlpapp`` do what ``nlpapp`` does."""

import sys

from nlpapp.cli import main

if __name__ == "__main__":
    sys.exit(main())
