"""A small server for the Hugging Face Hub's webhooks, to be copied into any Gradio repository."""

from . import zerogpu  # noqa: F401 - before anything imports gradio
from .delivery import Delivery, GiveUp
from .payload import (
    ObjectId,
    WebhookPayload,
    WebhookPayloadComment,
    WebhookPayloadDiscussion,
    WebhookPayloadDiscussionChanges,
    WebhookPayloadEvent,
    WebhookPayloadMovedTo,
    WebhookPayloadRepo,
    WebhookPayloadUpdatedRef,
    WebhookPayloadUrl,
    WebhookPayloadWebhook,
)
from .server import WebhooksServer, webhook_endpoint
from .settings import SetupError, read_settings

__version__ = "0.2.0"

__all__ = [
    "Delivery",
    "GiveUp",
    "ObjectId",
    "SetupError",
    "WebhookPayload",
    "WebhookPayloadComment",
    "WebhookPayloadDiscussion",
    "WebhookPayloadDiscussionChanges",
    "WebhookPayloadEvent",
    "WebhookPayloadMovedTo",
    "WebhookPayloadRepo",
    "WebhookPayloadUpdatedRef",
    "WebhookPayloadUrl",
    "WebhookPayloadWebhook",
    "WebhooksServer",
    "read_settings",
    "webhook_endpoint",
]
