"""This server, with its log in the folder `log`."""

import sys

from handlers import add_handlers

from webhooks import WebhookPayload, WebhooksServer

server = WebhooksServer(data_dir="log")
add_handlers(server, WebhookPayload)
server.launch(server_port=int(sys.argv[1]))
