"""The handlers that both servers of the comparison run."""

import time


def add_handlers(server, payload_type):
    @server.add_webhook
    async def hook(payload: payload_type):
        return {"ok": True}

    @server.add_webhook
    def quick(payload: payload_type):
        return {"ok": True}

    @server.add_webhook
    def block(payload: payload_type):
        time.sleep(3)
        return {"ok": True}

    @server.add_webhook
    def filled(payload: payload_type, number: int = 1):  # a query parameter, so FastAPI fills it
        return {"ok": True, "number": number}
