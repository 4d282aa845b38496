"""Never lost: the life of a delivery, the log that it is written into, and the handlers that run."""
