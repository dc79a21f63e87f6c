"""The rules of SMTP: bytes in, values out. Nothing here imports asyncio or socket."""
