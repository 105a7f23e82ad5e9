"""The `glcic` command: each entry point of this folder as a verb, and how an error leaves it."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable

from pipeline.errors import ReportedElsewhere

VERBS = {
    "samples": "cut the photographs that ship with the dependencies into class folders",
    "pack": "pack a tree of image classes into shards with masks",
    "verify": "check a packed set to the last byte",
    "repack": "mend damaged shards of a set from its source",
    "index": "make a set of shards that others have packed",
    "preview": "draw packed samples: original, masked image, mask",
    "masks": "write images and masks as files that any model can be evaluated on",
    "train": "train the networks through the three phases",
    "elastic": "train on a number of machines that may change",
    "study": "train a table of arms over seeds, and compare them on a page",
    "evaluate": "measure a checkpoint on the validation shards, or on files",
    "complete": "complete holes in photographs",
    "demo": "open a page to try a network on pictures of one's own",
    "import": "make a network of the weights of another project",
    "export": "write a trained completion network to a folder of its own",
}

# sysexits.h: a Job's failure policy tells bad input, where no retry helps, from a transient error.
EXIT_USAGE, EXIT_DATA, EXIT_NO_INPUT, EXIT_SOFTWARE, EXIT_IO, EXIT_TRY_AGAIN = (
    64,
    65,
    66,
    70,
    74,
    75,
)


def main() -> int:
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help") or arguments[0] not in VERBS:
        lines = [f"  {verb:<10} {purpose}" for verb, purpose in VERBS.items()]
        print("usage: glcic VERB ...   (glcic VERB --help shows more)\n\n" + "\n".join(lines))
        if arguments and arguments[0] not in ("-h", "--help"):
            print(f"\nglcic: there is no verb {arguments[0]!r}", file=sys.stderr)
            return EXIT_USAGE
        return 0 if arguments else EXIT_USAGE
    verb = arguments[0]
    return run(verb, importlib.import_module(f"launch.{verb}").main, arguments[1:])


def run(verb: str, entry: Callable[[list[str]], int], arguments: list[str] | None = None) -> int:
    """Run an entry point. An expected error becomes one message and a status of its kind."""
    try:
        return entry(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        return 130
    except FileNotFoundError as error:
        return _report(verb, error, EXIT_NO_INPUT)
    except ValueError as error:
        return _report(verb, error, EXIT_DATA)
    except OSError as error:
        return _report(verb, error, EXIT_IO)
    except RuntimeError as error:
        return _report(verb, error, EXIT_SOFTWARE)


def _report(verb: str, error: Exception, status: int) -> int:
    if isinstance(error, ReportedElsewhere):
        time.sleep(2)  # the launcher ends all ranks when the first one leaves: rank 0 speaks first
        return status
    if int(os.environ.get("LOCAL_RANK", "0")) != 0 and not _has_process_group():
        # Every rank checks the same things before they meet, and most likely found the same error.
        # If the machine's first rank did, it ends this one while it sleeps.
        time.sleep(2)
    place = f" (rank {os.environ['RANK']})" if os.environ.get("RANK", "0") != "0" else ""
    print(f"glcic {verb}{place}: {error}", file=sys.stderr, flush=True)
    return status


def _has_process_group() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_initialized()


if __name__ == "__main__":
    sys.exit(main())
