"""The owner's pages: what arrived and what came of it, replays, test events, webhooks on the Hub."""
