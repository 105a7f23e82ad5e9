"""Open a page to try a trained network on: load a picture, paint the hole, see what comes."""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

if __package__ in (None, ""):  # started as a script: the repository root is not on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])


def main(arguments: list[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.longest_side < 16:
        raise ValueError(f"--longest-side is {options.longest_side}: at least 16 pixels")
    if importlib.util.find_spec("gradio") is None:
        raise RuntimeError("the page needs Gradio: pip install 'glcic-pipeline[demo]'")
    _require_free(options.host, options.port)
    with tempfile.TemporaryDirectory(prefix="glcic-demo-") as folder:
        # Before Gradio is imported: where pictures are kept while the page is served, and that
        # nobody notices.
        os.environ |= {
            "GRADIO_TEMP_DIR": folder,
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        _serve(options)
    return 0


def _require_free(host: str, port: int | None) -> None:
    """Before the network is read, which takes longer."""
    try:
        socket.create_server((host, port or 0)).close()
    except OSError as error:
        place = f"{host}:{port}" if port else host
        raise OSError(f"cannot serve on {place} ({error}); choose another --host or --port") from (
            error
        )


def _serve(options: argparse.Namespace) -> None:

    from pipeline.exports.network_folder import device_for, load_completion_network

    device = device_for(options.checkpoint, options.device)
    network = load_completion_network(options.checkpoint, options.weights, device)

    from pipeline.demo.page import demo_page
    from pipeline.demo.server import serve

    page = demo_page(
        network, device=device, longest_side=options.longest_side, title=options.checkpoint
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the folder goes with it
    address = serve(page, options.host, options.port, open_browser=not options.no_browser)
    print(f"{address}   (Ctrl-C ends it)", flush=True)
    page.block_thread()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="glcic demo",
        description="Try a trained network in the browser: load a picture, paint the hole, see the "
        "raw output, the completion, the blended one and, with DAM, the maps.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="an exported network or ONNX file, a run's folder, a checkpoint",
    )
    parser.add_argument(
        "--host", default="127.0.0.1",
        help="address to listen on (default: this machine alone; the page asks for no password)",
    )  # fmt: skip
    parser.add_argument("--port", type=int, help="(default: the first free one from 7860 on)")
    parser.add_argument("--device", help="such as cpu or cuda:1 (default: a GPU if there is one)")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema")
    parser.add_argument(
        "--longest-side", type=int, default=512, metavar="PIXELS",
        help="larger pictures are scaled down to it (default: 512); best twice the training crop",
    )  # fmt: skip
    parser.add_argument("--no-browser", action="store_true", help="open none, print the address")
    return parser


if __name__ == "__main__":
    from launch.command import run

    sys.exit(run("demo", main))
