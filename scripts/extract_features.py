"""accelerate launch scripts/extract_features.py --config ... runs nlpapp extract-features."""

import sys

if __name__ == "__main__":
    # Python looks here first, and evaluate.py would hide the library of that name.
    sys.path.pop(0)
    from nlpapp.cli import main

    sys.exit(main(["extract-features", *sys.argv[1:]]))
