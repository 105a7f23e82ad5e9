"""Serve the demo page so that neither it nor the browser asks anything of anyone else."""

from __future__ import annotations

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.demo.picture import MAX_FILE_MB, MAX_PIXELS

# What the page may load: nothing but what this server sends, and the browser enforces it. The
# editor's canvas writes functions for its shaders at run time, hence unsafe-eval.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "frame-ancestors 'none'",
    )
)
_FONTS = ["system-ui", "sans-serif"]  # the system's own
_STYLE = """
.gradio-container {max-width: 1180px !important; margin: auto}
.pane .image-container {padding: 34px 8px 8px}
.pane img {object-fit: contain !important; width: 100%; height: 100%}
#examples .caption-label {display: none}
#examples .grid-wrap {padding-top: 34px; overflow: hidden}
#examples .grid-container {grid-template-columns: repeat(5, minmax(0, 1fr))}
h1 {margin: 0}
"""


_MAX_WAITING = 32  # for the network
_MAX_SESSIONS = 64  # whose pictures are kept in memory


class OwnOriginOnly:
    """Adds the policy to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (b"content-security-policy", _POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                ]
                message["headers"] = [*message.get("headers", []), *headers]
            await send(message)

        await self._app(scope, receive, send_with_policy)


def serve(page: gr.Blocks, host: str, port: int | None, *, open_browser: bool = False) -> str:
    """Serve at the address that it returns at once; `page.close()` ends the server.

    Without a port, a free one from 7860 on. Raises OSError where the port is taken.
    """
    # Pillow refuses what has twice as many, be it in a picture or in what was painted.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2
    _, address, _ = page.queue(max_size=_MAX_WAITING).launch(
        server_name=host,
        server_port=port,
        inbrowser=open_browser,
        prevent_thread_lock=True,
        share=False,
        quiet=True,
        show_error=True,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        max_file_size=f"{MAX_FILE_MB}mb",
        state_session_capacity=_MAX_SESSIONS,
        app_kwargs={"middleware": [Middleware(OwnOriginOnly)]},
        theme=gr.themes.Default(primary_hue="indigo", font=_FONTS, font_mono=["monospace"]),
        css=_STYLE,
    )
    return address
