"""The server of `huggingface_hub`, which records nothing, on the uvicorn that its own Space would have."""

import sys

sys.modules["uvloop"] = sys.modules["httptools"] = None  # they are there because our requirements.txt has them

import gradio  # noqa: F401  # or it says that gradio is missing
from handlers import add_handlers
from huggingface_hub import WebhookPayload, WebhooksServer

server = WebhooksServer()
add_handlers(server, WebhookPayload)
server.launch(share=False, server_port=int(sys.argv[1]))
