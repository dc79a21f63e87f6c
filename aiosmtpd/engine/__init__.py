"""The one room that knows asyncio: connections, their driver, timers, TLS."""
