"""`nlpapp serve` where only the runtime is installed, as in an image: no PyTorch, no recipes.

python -m nlpapp.deployment.serve_command --host 0.0.0.0 bundle
"""

import argparse
import sys
from collections.abc import Sequence

from nlpapp.deployment.bundle_files import MODEL_FILES
from nlpapp.deployment.serve_models import open_models
from nlpapp.deployment.serve_process import ServerSettings, bind, serve, share_cores
from nlpapp.errors import NlpappError


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    parser = argparse.ArgumentParser(prog="serve_command", description=(__doc__ or "").strip())
    parser.add_argument("models", nargs="+", help="bundles, each as folder or name=folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--precision", choices=list(MODEL_FILES), default="fp32")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: by the cores")
    parser.add_argument(
        "--threads", type=int, default=0, help="batches at a time in a process; 0: by the cores"
    )
    parser.add_argument("--drain-seconds", type=float, default=1.0)
    parser.add_argument("--stop-seconds", type=float, default=30.0)
    options = parser.parse_args(arguments)
    workers, threads = share_cores(options.workers, options.threads)
    try:
        settings = ServerSettings(
            models=options.models,
            precision=options.precision,
            workers=workers,
            threads=threads,
            drain_seconds=options.drain_seconds,
            stop_seconds=options.stop_seconds,
        )
        open_models(settings.models, precision=options.precision, threads=1)
        serve(settings, bind(options.host, options.port))
    except NlpappError as error:
        print(f"serve: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
