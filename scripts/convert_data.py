"""accelerate launch scripts/convert_data.py --config ... runs nlpapp convert-data."""

import sys

if __name__ == "__main__":
    # Python looks here first, and evaluate.py would hide the library of that name.
    sys.path.pop(0)
    from nlpapp.cli import main

    sys.exit(main(["convert-data", *sys.argv[1:]]))
