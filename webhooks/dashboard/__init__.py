"""Show the owner what arrived and what came of it; replay, send test events, create webhooks on the Hub."""
